"""A recipe's engines, built and put together: the same for every algorithm."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from corollary.algorithms.base import Engines
from corollary.data.chat import encode_text
from corollary.data.datasets import DataReport, load_prompts
from corollary.data.loader import PromptLoader
from corollary.engines.clock import Clock, TimedSampler, TimedScorer, TimedTrainer
from corollary.engines.sampler import EmbeddedSampler
from corollary.engines.trainer import EmbeddedScorer, EmbeddedTrainer
from corollary.errors import ConfigError, CorollaryError, UserCodeError
from corollary.models.catalogue import Entry
from corollary.models.load import LoadedModel, load_model, load_tokenizer
from corollary.rewards.base import Reward
from corollary.rollout import Score
from corollary.run.checkpoint import Checkpoint
from corollary.run.loggers import Loggers
from corollary.run.own_code import blamed, files, source_of
from corollary.run.recipe import Recipe
from corollary.run.record import Record
from corollary.types import Completion, Metrics, Prompt, Step


class Console(Protocol):
    """What a run tells while it goes; the command line draws it, a test may listen."""

    def note(self, text: str) -> None: ...
    def data(self, name: str, report: DataReport) -> None: ...
    def step(self, number: int, total: int, metrics: Metrics, timing: Metrics) -> None: ...


@dataclass(slots=True)
class Run:
    """A recipe with its engines built: what the loop needs, and what a checkpoint holds."""

    recipe: Recipe
    record: Record
    model: LoadedModel
    trainer: EmbeddedTrainer
    sampler: EmbeddedSampler
    loader: PromptLoader
    held_out: list[Prompt]
    clock: Clock
    loggers: Loggers
    steps: Iterator[Step] = field(default_factory=lambda: iter(()))
    memory: dict[str, Any] = field(default_factory=dict)  # the algorithm's own
    reward: Reward | None = None
    done: int = 0  # steps taken

    def close(self) -> None:
        """End the reward's processes and the trackers."""
        if self.reward is not None:
            self.reward.close()
        self.loggers.close()


def build(recipe: Recipe, record: Record, console: Console, saved: Checkpoint | None) -> Run:
    """Load the model and the data and put the engines together; from a checkpoint where there is one."""
    probe(recipe)
    device = recipe.model.torch_device()
    announce = _announce(console)
    model = load_model(recipe.model.path, dtype=recipe.model.resolved_dtype(), announce=announce)
    model.place(device)
    prompts, report = load_prompts(recipe.data, model.tokenizer, announce=announce)
    console.data("training", report)
    reports = {"training": report}
    held_out: list[Prompt] = []
    if recipe.evaluation:
        held_out, reports["evaluation"] = load_prompts(recipe.evaluation.data, model.tokenizer, announce=announce)
        console.data("evaluation", reports["evaluation"])
    _fits(recipe, model, prompts, held_out)
    reference = _reference(recipe, model)  # before a checkpoint's weights come into the model
    trainer = EmbeddedTrainer(model.model, recipe.trainer, recipe.optimizer, total_steps=recipe.run.steps)
    loader = PromptLoader(prompts, batch_size=recipe.algorithm.batch_size, seed=recipe.run.seed)
    if saved:
        trainer.load_state_dict(saved.tensors)
        loader.load_state_dict(saved.state["loader"])
    sampler = embedded_sampler(recipe, model)
    sampler.sync(trainer)
    settings = recipe.run
    loggers = Loggers(settings.loggers, settings.name, record.folder, recipe.model_dump(mode="json"), console.note)
    run = Run(
        recipe, record, model, trainer, sampler, loader, held_out, Clock(), loggers,
        memory=saved.state.get("memory", {}) if saved else {}, done=saved.step if saved else 0,
    )  # fmt: skip
    if recipe.rewards:
        run.reward = Reward(recipe.rewards)
        try:
            run.reward.check(prompts)
        except CorollaryError:
            run.close()
            raise
    with blamed(recipe, "before its first step"):
        run.steps = recipe.algorithm.steps(_engines(run, reference, console))
    if saved is None:  # nothing that the user gave can fail any more
        record.begin(recipe, settings.seed, reports, files(recipe))
    return run


def _engines(run: Run, reference: EmbeddedScorer | None, console: Console) -> Engines:
    """What the algorithm is lent: each engine with its time counted."""
    tokenizer, end = run.model.tokenizer, run.model.eos_token_ids[0]
    optional: dict[str, Any] = {}
    if run.reward is not None:
        optional["reward"] = TimedReward(run.reward, run.clock, console)
    if reference is not None:
        optional["reference"] = TimedScorer(reference, run.clock)
    return Engines(
        trainer=TimedTrainer(run.trainer, run.clock),
        sampler=TimedSampler(run.sampler, run.clock),
        prompts=iter(run.loader),
        first=run.loader.position // run.recipe.algorithm.batch_size,
        encode=lambda text: [*encode_text(tokenizer, text).token_ids, end],
        memory=run.memory,
        **optional,
    )


def probe(recipe: Recipe) -> None:
    """Try the user's own functions on made-up data: a broken one is told before anything expensive.

    Raises:
        UserCodeError: one breaks the contract.
    """
    if lack := recipe.algorithm.lack():
        file, line = source_of(type(recipe.algorithm))
        raise UserCodeError(f"{recipe.algorithm.type} {lack}", where=f"{file}:{line}", hint="contract clause: inputs")
    with blamed(recipe, "on made-up data"):
        recipe.algorithm.probe()


def _fits(recipe: Recipe, model: LoadedModel, prompts: Sequence[Prompt], held_out: Sequence[Prompt]) -> None:
    """Refuse a prompt that with its answer would leave the positions that the model knows.

    Raises:
        ConfigError: one does.
    """
    limits = [("data", prompts, recipe.algorithm.longest_answer)]
    if recipe.evaluation:
        limits.append(("evaluation.data", held_out, recipe.evaluation.max_tokens))
    for key, asked, answer in limits:
        longest = max(asked, key=lambda prompt: len(prompt.token_ids))
        room = (model.max_positions or len(longest.token_ids) + answer) - answer
        if len(longest.token_ids) > room:
            raise ConfigError(
                f"prompt {longest.id} has {len(longest.token_ids)} tokens and its answer up to {answer}; the model knows "
                f"{model.max_positions} positions",
                where=key,
                hint=f"set {key}.max_prompt_tokens={max(room, 1)} and {key}.over_long=drop, or lower max_tokens",
            )


def _announce(console: Console) -> Callable[[Entry], None]:
    return lambda entry: console.note(f"fetching {entry.notice()}")


def check(recipe: Recipe, model: str, console: Console) -> None:
    """Read a recipe's data with the tokenizer of `model`, load its rewards and try the user's own functions.

    What is wrong is told before anything expensive.

    Raises:
        CorollaryError: something cannot be used.
    """
    probe(recipe)
    announce = _announce(console)
    tokenizer = load_tokenizer(model, announce=announce)
    prompts, _ = load_prompts(recipe.data, tokenizer, announce=announce)
    if recipe.evaluation:
        load_prompts(recipe.evaluation.data, tokenizer, announce=announce)
    if recipe.rewards:
        with Reward(recipe.rewards) as reward:
            reward.check(prompts)


def embedded_sampler(recipe: Recipe, model: LoadedModel) -> EmbeddedSampler:
    """A sampler that shares the model's weights."""
    model.place(recipe.model.torch_device())
    return EmbeddedSampler(
        model.model,
        decode=model.decode,
        eos_token_ids=model.eos_token_ids,
        seed=recipe.run.seed,
        max_sequences=recipe.sampler.max_sequences,
    )


def _reference(recipe: Recipe, model: LoadedModel) -> EmbeddedScorer | None:
    """A frozen copy of the starting weights, where the algorithm wants one."""
    if not recipe.algorithm.needs_reference:
        return None
    return EmbeddedScorer(copy.deepcopy(model.model).eval().requires_grad_(False), recipe.trainer)


class TimedReward:
    """A reward whose time counts as `reward`, and whose masked faults are told once each."""

    def __init__(self, inner: Reward, clock: Clock, console: Console) -> None:
        self.inner, self.clock, self.console, self.told = inner, clock, console, set[str]()

    @property
    def full_mark(self) -> float:
        return self.inner.full_mark

    def score(
        self, groups: Sequence[tuple[Prompt, Sequence[Completion]]], *, step: int = 0
    ) -> Sequence[Sequence[Score]]:
        with self.clock.phase("reward"):
            scores = self.inner.score(groups, step=step)
        for fault in sorted({fault for group in scores for score in group for fault in score.faults} - self.told):
            self.console.note(f"masked: {fault}")
            self.told.add(fault)
        return scores
