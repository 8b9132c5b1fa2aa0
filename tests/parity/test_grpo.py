"""GRPO and its relatives: two steps of `trl.GRPOTrainer` on the same answers and two of ours.

At the first step every ratio is 1; at the second the policy has left the answers' own, so that clips and weights act.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from corollary.algorithms.grpo import GRPOConfig
from corollary.data.collate import token_batch
from corollary.data.sources import DataConfig
from corollary.engines.base import Trainer
from corollary.engines.trainer import EmbeddedScorer, TrainerConfig
from corollary.models.load import load_model
from corollary.rewards.base import Reward
from corollary.rewards.parts import Part
from corollary.types import Completion, Prompt, Sampling
from parity import ours, theirs
from parity.taken import CLOSE, Taken, agree, residual

pytestmark = pytest.mark.filterwarnings("ignore")
trl = theirs.trl

LONGEST = 16  # tokens of an answer
CUT = "…"  # stands at the end of an answer that was stopped by the limit
ANSWERS = {
    "What is two and two?": ("4", "It is four.", "two and two and two" + CUT, "Five?"),
    "Name an animal.": ("An ant", "Bee", "banana banana banana" + CUT, "a, e, i, o and u"),
    "Hi": ("Hi.", "Oh", "Hello there", "mmm"),
}
OPTIMIZER = ours.OPTIMIZER.model_copy(update={"lr": 0.3})
"""far enough that some ratios leave the clip, near enough that others do not"""


def vowels(completions: Sequence[Any], **_: Any) -> list[float | None]:
    """A TRL reward function; both sides call it."""
    texts = [c[0]["content"] for c in completions]
    return [None if text == "mmm" else sum(letter in "aeiou" for letter in text) / 4 for text in texts]


def brevity(completions: Sequence[Any], **_: Any) -> list[float]:
    return [1 / (1 + len(c[0]["content"])) for c in completions]


def answer_ids(words: Any, text: str) -> tuple[int, ...]:
    ids = tuple(words(text.removesuffix(CUT))["input_ids"])
    return ids[:LONGEST] if text.endswith(CUT) else (*ids, words.eos_token_id)


@dataclass(frozen=True)
class Replay:
    """A sampler whose answers are given; their log-probabilities are those of the model in `folder`."""

    folder: Path

    def generate(
        self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling, *, names: Iterable[str | int]
    ) -> list[list[Completion]]:
        policy = load_model(str(self.folder))
        scorer = EmbeddedScorer(policy.model, TrainerConfig())

        def said(prompt: Prompt, text: str) -> Completion:
            ids = answer_ids(policy.tokenizer, text)
            logprobs = scorer.logprobs(token_batch([prompt], [ids]))[0]
            return Completion(
                token_ids=ids, logprobs=tuple(logprobs.tolist()), text=policy.decode(ids),
                truncated=text.endswith(CUT), version=0, sampling=sampling,
            )  # fmt: skip

        return [[said(prompt, text) for text in ANSWERS[prompt.columns["question"]]] for prompt in prompts]

    def sync(self, trainer: Trainer) -> None: ...


def replay(prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
    """The same for TRL, as its `rollout_func`."""
    words, asked = trainer.processing_class, Counter[str]()
    answers = []
    for prompt in prompts:
        question = prompt[-1]["content"]
        answers.append(answer_ids(words, ANSWERS[question][asked[question]]))
        asked[question] += 1
    rendered = words.apply_chat_template(prompts, add_generation_prompt=True, tokenize=True, return_dict=True)
    return {"prompt_ids": rendered["input_ids"], "completion_ids": [*map(list, answers)], "logprobs": None}


def our_steps(
    folder: Path, questions: Sequence[str] = tuple(ANSWERS)[:2], judges: Sequence[Any] = (vowels,), **settings: Any
) -> Iterator[Taken]:
    """A step of the algorithm, and a second one on the same answers."""
    sizes = {"prompts_per_step": len(questions), "group_size": 4, "max_tokens": LONGEST}
    config = GRPOConfig.model_validate(sizes | {"advantage": {"type": "group_std", "eps": 1e-4}} | settings)
    path = ours.rows_file(folder / "rows.jsonl", [{"question": q} for q in questions])
    lent = ours.engines(
        folder / "policy", DataConfig(path=str(path), template="{question}"), config,
        reference=folder / "reference", optimizer=OPTIMIZER, sampler=Replay(folder / "policy"),
        reward=Reward([Part.given(judge, isolated=False) for judge in judges]),
    )  # fmt: skip
    yield ours.step(config, lent)
    assert isinstance(lent.trainer, ours.Watched)
    first = lent.trainer.seen
    sampled_by = EmbeddedScorer(load_model(str(folder / "policy")).model, TrainerConfig())
    second = replace(first, old_logprobs=sampled_by.logprobs(first))
    yield ours.taken(lent.trainer, lent.trainer.step(second, config.objective))


def their_steps(
    folder: Path, questions: Sequence[str] = tuple(ANSWERS)[:2], judges: Sequence[Any] = (vowels,), **settings: Any
) -> list[Taken]:
    twice = {
        "per_device_train_batch_size": 4 * len(questions), "num_generations": 4, "max_completion_length": LONGEST,
        "num_iterations": 2, "max_steps": 2, "learning_rate": OPTIMIZER.lr,
    }  # fmt: skip
    trainer = trl.GRPOTrainer(
        theirs.model(folder / "policy"),
        reward_funcs=[*judges],
        args=theirs.arguments(trl.GRPOConfig, folder, **twice | settings),
        train_dataset=theirs.dataset([{"prompt": [{"role": "user", "content": q}]} for q in questions]),
        processing_class=theirs.tokenizer(folder / "policy"),
        rollout_func=replay,
    )
    if trainer.ref_model is not None:
        trainer.ref_model.load_state_dict(theirs.model(folder / "reference").state_dict())
    return theirs.trained(trainer).steps


Settings = dict[str, Any]
SEQUENCE: Settings = {"importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4}
CASES: dict[str, tuple[Settings, Settings]] = {
    "grpo": ({}, {}),
    "grpo, temperature": ({"temperature": 0.7}, {"temperature": 0.7}),
    "grpo, batch": ({"scale_rewards": "batch"}, {"advantage": {"type": "batch_std", "of": "rewards", "eps": 1e-4}}),
    "grpo, two rewards": (
        {"multi_objective_aggregation": "normalize_then_sum"}, {"advantage": {"type": "gdpo", "eps": 1e-4}}
    ),
    "grpo, delta": ({"delta": 1.5}, {"loss": {"type": "ppo_clip", "dual_clip": 1.5}}),
    "grpo, beta": ({"beta": 0.04}, {"kl": {"type": "in_loss", "coef": 0.04}}),
    "grpo, beta, the paper's": (
        {"beta": 0.04, "use_bias_correction_kl": False}, {"kl": {"type": "in_loss", "coef": 0.04, "estimator": "k3"}}
    ),
    "grpo, sequence": (SEQUENCE, {"loss": "gspo"}),
    "dr_grpo": ({"scale_rewards": "none"}, {"advantage": "group_mean", "average": {"type": "constant", "length": LONGEST}}),
    "dapo": ({"epsilon_high": 0.28}, {"loss": {"type": "ppo_clip", "clip_high": 0.28}, "average": "token_mean"}),
    "bnpo": ({}, {"average": "token_mean"}),
    "cispo": ({"epsilon_high": 5.0}, {"loss": {"type": "cispo", "clip_high": 4.0}, "average": "token_mean"}),
    "sapo": ({}, {"loss": "sapo"}),
    "luspo": (SEQUENCE, {"loss": "luspo"}),
    "vespo": ({}, {"loss": "vespo", "average": "token_mean"}),
}  # fmt: skip
"""TRL's loss type → its settings, and ours beside GRPO's own"""


@pytest.mark.parametrize("name", CASES)
def test_two_steps_are_the_same(name: str, folder: Path, start: dict[str, Tensor]) -> None:
    settings, mine = CASES[name]
    judges = (vowels, brevity) if "two rewards" in name else (vowels,)
    other = their_steps(folder, judges=judges, **{"loss_type": name.partition(",")[0]} | settings)
    for number, (a, b) in enumerate(zip(our_steps(folder, judges=judges, **mine), other, strict=True), start=1):
        agree(f"{name}, step {number}", a, b, start)


def test_the_second_step_clips_some_tokens_and_not_others(folder: Path) -> None:
    """What the comparison rests on: there are ratios on either side of the bounds."""
    clipped = [step.metrics["clipped"] for step in our_steps(folder)]
    assert clipped[0] == 0
    assert 0.1 < clipped[1] < 0.9


KEPT = {"train_truncated": False}


def times(taken: Taken, factor: float) -> Taken:
    """The step as it would be with a loss that many times as large; its update is left."""
    scaled = {name: gradient * factor for name, gradient in taken.gradients.items()}
    return replace(taken, loss=taken.loss * factor, gradients=scaled)


def test_the_epsilon_beside_the_deviation_is_theirs_to_choose(folder: Path, start: dict[str, Tensor]) -> None:
    """1e-4 there, 1e-6 here unless it is set: a thousandth of an advantage where rewards hardly differ."""
    apart = residual(next(our_steps(folder, advantage="group_std")), their_steps(folder, loss_type="grpo")[0], start)
    assert CLOSE < apart.gradient < 1e-2


def test_answers_left_out_for_their_length_count_in_their_mean_over_sequences_alone(
    folder: Path, start: dict[str, Tensor]
) -> None:
    """Two of eight answers were cut: their mean divides by 8, ours by the 6 that are trained on."""
    other = their_steps(folder, loss_type="grpo", mask_truncated_completions=True)[0]
    mine = next(our_steps(folder, overlong=KEPT))
    assert len(mine.rows) == len(other.rows) == 6
    assert residual(mine, times(other, 8 / 6), start).gradient < CLOSE


def test_a_mean_over_tokens_leaves_out_cut_answers_on_both_sides(folder: Path, start: dict[str, Tensor]) -> None:
    other = their_steps(folder, loss_type="dapo", mask_truncated_completions=True)[0]
    mine = next(our_steps(folder, average="token_mean", overlong=KEPT))
    agree("dapo, cut answers left out", mine, other, start)


def test_an_answer_that_could_not_be_judged_counts_in_their_mean_alone(folder: Path, start: dict[str, Tensor]) -> None:
    """One of twelve has no reward. It teaches nothing on either side, but theirs divides by it."""
    questions = tuple(ANSWERS)
    mine = next(our_steps(folder, questions))
    other = their_steps(folder, questions, loss_type="grpo")[0]
    assert residual(mine, times(other, 12 / 11), start).gradient < CLOSE


def test_a_group_that_earned_the_same_counts_on_both_sides(
    folder: Path, start: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours does not compute it, and yet divides by it."""
    monkeypatch.setitem(ANSWERS, "Hi", ("Hi", "ill", "is", "pip"))
    questions = tuple(ANSWERS)
    mine, other = next(our_steps(folder, questions)), their_steps(folder, questions, loss_type="grpo")[0]
    assert len(mine.rows) == 8
    assert len(other.rows) == 12
    assert residual(mine, other, start).gradient < CLOSE


def test_bnpo_depends_on_how_it_is_split_and_nothing_of_ours_does(folder: Path, start: dict[str, Tensor]) -> None:
    """Its mean over tokens is one of each accumulated batch; dapo's is the step's, as ours."""
    split: Settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    mine = next(our_steps(folder, average="token_mean"))
    agree("dapo, split", mine, their_steps(folder, loss_type="dapo", **split)[0], start)
    assert residual(mine, their_steps(folder, loss_type="bnpo", **split)[0], start).gradient > 1e-2


class ReplayedRLOO(trl.RLOOTrainer):
    """TRL's RLOO has no `rollout_func`, so its generation is given the answers."""

    def _generate_single_turn(self, prompt_ids: Sequence[Sequence[int]], *_: Any) -> list[list[int]]:
        asked = [next(q for q in ANSWERS if q in self.processing_class.decode(ids)) for ids in prompt_ids]
        prompts = [[{"role": "user", "content": question}] for question in asked]
        return replay(prompts, self)["completion_ids"]


@pytest.mark.parametrize("beta", [0.0, 0.05])
def test_rloo_s_first_step_has_the_same_gradient(beta: float, folder: Path, start: dict[str, Tensor]) -> None:
    """Its value is another: theirs is of the ratio of whole answers, which is 1, ours of logπ."""
    kl: Settings = {"kl": {"type": "in_reward", "coef": beta}} if beta else {}
    settings: Settings = {"advantage": "leave_one_out", "loss": "reinforce", "average": "sequence_sum"} | kl
    questions = tuple(ANSWERS)[:2]
    arguments = theirs.arguments(
        trl.RLOOConfig, folder, per_device_train_batch_size=8, num_generations=4, max_completion_length=LONGEST, beta=beta,
        learning_rate=OPTIMIZER.lr,
    )  # fmt: skip
    trainer = ReplayedRLOO(
        theirs.model(folder / "policy"),
        reward_funcs=vowels,
        args=arguments,
        train_dataset=theirs.dataset([{"prompt": [{"role": "user", "content": q}]} for q in questions]),
        processing_class=theirs.tokenizer(folder / "policy"),
    )
    if trainer.ref_model is not None:
        trainer.ref_model.load_state_dict(theirs.model(folder / "reference").state_dict())
    mine, other = next(our_steps(folder, **settings)), theirs.step(trainer)
    agree(f"RLOO, beta {beta}", replace(mine, loss=other.loss), other, start)
