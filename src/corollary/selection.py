"""What a step of rollouts is trained on: which prompts are asked, which groups count, and which are seen again.

A group teaches only where its answers earned different rewards. Three ways to have more of them: leave the others out and ask
for more (DAPO), ask what is neither solved nor hopeless (a curriculum by the running pass rate), and see good groups again.
What they remember is JSON in the run's memory, so that a resumed run chooses the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from corollary.config import Config, by_name
from corollary.ops.advantage import has_signal
from corollary.rollout import group_rewards
from corollary.types import Completion, Group, Prompt, Rollout, Sampling

Memory = dict[str, Any]


class KeepAll(Config):
    """Every group is trained on, those whose answers all earned the same too (their advantage is 0)."""

    type: Literal["keep_all"] = "keep_all"
    max_batches: Literal[1] = 1

    def __call__(self, group: Group) -> bool:
        return True


class DynamicSampling(Config):
    """Only groups whose rewards differ; more prompts are asked until the step is full (DAPO)."""

    type: Literal["dynamic"] = "dynamic"
    max_batches: int = Field(default=4, ge=1)
    """batches of prompts asked at most for one step; then the step goes with what there is"""

    def __call__(self, group: Group) -> bool:
        return informative(group)


def informative(group: Group) -> bool:
    """Whether its answers earned different rewards."""
    return bool(has_signal(group_rewards([group]))[0])


class EveryPrompt(Config):
    """Prompts as they come."""

    type: Literal["none"] = "none"
    max_batches: Literal[1] = 1

    def asks(self, prompt: Prompt, memory: Memory) -> bool:
        return True

    def learns(self, groups: Sequence[Group], full_mark: float, memory: Memory) -> None:
        pass


class PassRate(Config):
    """Prompts whose running pass rate lies in a band; the others are asked again after a while, since the model changes.

    p ← (1 - a)·p + a·(share of the group with full marks)      a prompt that was never asked is in the band
    """

    type: Literal["pass_rate"] = "pass_rate"
    low: float = Field(default=0.05, ge=0, le=1)
    """a prompt below it is left out for now"""
    high: float = Field(default=0.95, ge=0, le=1)
    """a prompt above it is left out for now"""
    rate: float = Field(default=0.5, gt=0, le=1)
    """a, what the newest group counts"""
    again: int = Field(default=3, ge=1)
    """how many times a prompt is left out before it is asked again"""
    max_batches: int = Field(default=4, ge=1)
    """batches of prompts looked through at most for one step"""

    @model_validator(mode="after")
    def _a_band(self) -> PassRate:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        return self

    def asks(self, prompt: Prompt, memory: Memory) -> bool:
        """Whether the prompt is answered; counts where it is not."""
        known = memory.setdefault("pass_rates", {}).get(prompt.id)
        if known is None or self.low <= known["rate"] <= self.high or known["left_out"] >= self.again:
            return True
        known["left_out"] += 1
        return False

    def learns(self, groups: Sequence[Group], full_mark: float, memory: Memory) -> None:
        """Take over what the groups say of their prompts."""
        rates = memory.setdefault("pass_rates", {})
        for group in groups:
            judged = [r.reward for r in group if r.reward is not None]
            if judged:
                passed = sum(reward >= full_mark for reward in judged) / len(judged)
                before = rates.get(group[0].prompt.id, {"rate": passed})["rate"]
                rates[group[0].prompt.id] = {"rate": (1 - self.rate) * before + self.rate * passed, "left_out": 0}


class NoReplay(Config):
    """Each group is trained on once."""

    type: Literal["none"] = "none"

    def adds(self, groups: list[Group], memory: Memory) -> list[Group]:
        return groups


class Replay(Config):
    """Groups that teach nothing make room for earlier ones that do: off-policy, so π_old is the policy that sampled them.

    Kept are the newest; seen again first is the group whose rewards differ most, and each is seen again once.
    """

    type: Literal["informative"] = "informative"
    capacity: int = Field(default=64, ge=1)
    """groups kept"""
    max_age: int = Field(default=8, ge=1)
    """optimizer steps after which a group is forgotten"""

    def adds(self, groups: list[Group], memory: Memory) -> list[Group]:
        """The step's groups, the silent ones replaced as far as the store goes; fresh informative ones go into the store."""
        version = max(rollout.completion.version for group in groups for rollout in group)
        kept = [restored(stored) for stored in memory.get("replay", [])]
        kept = [group for group in kept if version - group[0].completion.version <= self.max_age]
        fresh = [group for group in groups if informative(group)]
        kept.sort(key=spread, reverse=True)
        room = len(groups) - len(fresh)
        again, rest = kept[:room], kept[room:]
        newest = sorted([*rest, *fresh], key=lambda group: group[0].completion.version, reverse=True)
        memory["replay"] = [stored(group) for group in newest[: self.capacity]]
        silent = [group for group in groups if not informative(group)]
        return [*fresh, *again, *silent[: room - len(again)]]


def spread(group: Group) -> float:
    """Variance of the rewards of a group's judged answers.

    >>> from corollary.types import Completion, Prompt, Rollout, Sampling
    >>> said = Completion(token_ids=(), logprobs=(), text="", truncated=False, version=0, sampling=Sampling())
    >>> spread([Rollout(prompt=Prompt(id="p", token_ids=(1,)), completion=said, reward=r) for r in (0.0, 1.0, None)])
    0.25
    """
    rewards = [r.reward for r in group if r.reward is not None]
    mean = sum(rewards) / max(1, len(rewards))
    return sum((reward - mean) ** 2 for reward in rewards) / max(1, len(rewards))


def stored(group: Group) -> dict[str, Any]:
    """A group as JSON data; the prompt once."""
    answers = [
        {"completion": asdict(r.completion), "reward": r.reward, "parts": dict(r.parts), "faults": r.faults}
        for r in group
    ]
    return {"prompt": asdict(group[0].prompt), "answers": answers}


def restored(data: dict[str, Any]) -> Group:
    """The group that `stored` made the data of, also after JSON made lists of its tuples."""
    prompt = Prompt(**_tuples(data["prompt"]))
    return [
        Rollout(
            prompt=prompt,
            completion=_completion(answer["completion"]),
            reward=answer["reward"],
            parts=answer["parts"],
            faults=tuple(answer["faults"]),
        )
        for answer in data["answers"]
    ]


def _completion(data: dict[str, Any]) -> Completion:
    sampling = Sampling(**_tuples(data["sampling"]))
    return Completion(**{**_tuples(data), "sampling": sampling})


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


Filter = Annotated[KeepAll | DynamicSampling, Field(discriminator="type"), BeforeValidator(by_name)]
Curriculum = Annotated[EveryPrompt | PassRate, Field(discriminator="type"), BeforeValidator(by_name)]
Replays = Annotated[NoReplay | Replay, Field(discriminator="type"), BeforeValidator(by_name)]
