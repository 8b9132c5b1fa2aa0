"""Distillation: let a student say what a teacher would say, token by token, on the student's own answers or on the data's.

    prompt → answer → the teacher's distribution at every token → a divergence to the student's, or a reward per token → new weights

A teacher is any model with the student's tokenizer. Answers of the student make it on-policy: it is corrected where it really goes.
Sources: Agarwal et al. 2023 (GKD), https://arxiv.org/abs/2306.13649; Gu et al. 2023 (MiniLLM), https://arxiv.org/abs/2306.08543.
Page: docs/algorithms/distill.md
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from corollary.algorithms.base import Algorithm, Engines
from corollary.config import Config, Variant, by_name, choice, variant
from corollary.data.collate import as_kind, filled, policy_batch, token_batch
from corollary.declare import entries
from corollary.engines.base import Sampler, Teacher, Trainer
from corollary.losses.bind import DISTILLATION, Around, Bound
from corollary.losses.distillation import reverse_kl, teacher_advantage
from corollary.losses.policy import PolicyObjective, Reinforce, Surrogate
from corollary.losses.probe import probe, probe_average
from corollary.ops.reduce import Average, TokenMean, segment_mean
from corollary.types import (
    DistillBatch,
    Group,
    Metrics,
    PolicyBatch,
    Prompt,
    Rollout,
    Sampling,
    Step,
    Terms,
    TokenBatch,
)

if TYPE_CHECKING:
    DistillLoss = Variant
else:
    DistillLoss = choice([entry.variant for entry in entries("distillation")], DISTILLATION)


class StudentAnswers(Config):
    """The student's own answers: on-policy."""

    type: Literal["student"] = "student"
    group_size: int = Field(default=1, ge=1)
    """answers to each prompt"""
    temperature: float = Field(default=1.0, gt=0)
    """of the sampling, and of both distributions that are compared"""
    max_tokens: int = Field(default=256, ge=1)
    """of one answer"""


class DataAnswers(Config):
    """The data's answers: off-policy."""

    type: Literal["data"] = "data"
    answer: str = "{answer}"
    """the answer, made of columns of the data set"""


TOP_K = 64
"""of the teacher's likeliest tokens, where a recipe names no number"""


class Divergence(Config):
    """A divergence between the two distributions at every token, with its whole gradient."""

    type: Literal["divergence"] = "divergence"
    loss: DistillLoss = variant(reverse_kl)()  # type: ignore[call-arg]
    """forward or reverse KL or generalised JSD, on the whole vocabulary or on the teacher's likeliest tokens"""
    top_k: int | None = Field(default=None, ge=1)
    """how many of those, for a loss that takes them; null: 64"""

    @model_validator(mode="after")
    def _read(self) -> Divergence:
        if self.top_k is not None and "teacher_ids" not in type(self.loss).inputs:
            raise ValueError(
                f"top_k: {self.loss.type} takes the whole vocabulary; leave top_k out, or take a loss of top_k"
            )
        return self


class PolicyGradient(Config):
    """log P - log Q of each sampled token as its advantage: the reverse KL by the policy gradient; on the student's answers only."""

    type: Literal["policy_gradient"] = "policy_gradient"
    loss: Surrogate = Reinforce()
    """the surrogate"""


Answers = Annotated[StudentAnswers | DataAnswers, Field(discriminator="type"), BeforeValidator(by_name)]
Objective = Annotated[Divergence | PolicyGradient, Field(discriminator="type"), BeforeValidator(by_name)]


class DistillConfig(Algorithm):
    """All that a distillation may vary."""

    type: Literal["distill"] = "distill"
    teacher: str = Field(min_length=1)
    """the model that is learnt from: a name, a folder or a hub id; its tokenizer is the student's"""
    prompts_per_step: int = Field(default=16, ge=1)
    """prompts of one optimizer step"""
    answers: Answers = StudentAnswers()
    """whose answers"""
    objective: Objective = Divergence()
    """what is minimised"""
    average: Average = TokenMean()
    """of the step's loss over tokens and sequences"""

    @model_validator(mode="after")
    def _drawn_from_the_student(self) -> DistillConfig:
        if isinstance(self.objective, PolicyGradient) and isinstance(self.answers, DataAnswers):
            raise ValueError("objective policy_gradient needs answers: student; the data's were not drawn from it")
        return self

    @property
    def longest_answer(self) -> int:
        return self.answers.max_tokens if isinstance(self.answers, StudentAnswers) else 0

    @property
    def teacher_path(self) -> str:
        return self.teacher

    def probe(self) -> None:
        probe(self.objective.loss, DistillBatch if isinstance(self.objective, Divergence) else PolicyBatch)
        probe_average(self.average)

    def steps(self, engines: Engines) -> Iterator[Step]:
        return steps(
            self,
            trainer=engines.trainer,
            sampler=engines.sampler,
            teacher=engines.teacher,
            encode=engines.encode,
            prompts=engines.prompts,
            first=engines.first,
        )


def steps(
    config: DistillConfig,
    *,
    trainer: Trainer,
    sampler: Sampler,
    teacher: Teacher,
    encode: Callable[[str], Sequence[int]],
    prompts: Iterator[list[Prompt]],
    first: int = 0,
) -> Iterator[Step]:
    """One optimizer step per item. `encode` turns an answer's text into tokens that end with end-of-sequence."""
    for number, asked in enumerate(prompts, start=first):
        groups: list[Group] = []
        if isinstance(config.answers, StudentAnswers):
            groups = answered(config.answers, sampler, asked, number)
            batch = policy_batch(groups, torch.zeros(len(groups), config.answers.group_size), config.average)
        else:
            texts = [filled(config.answers.answer, prompt, "algorithm.answers.answer") for prompt in asked]
            batch = token_batch(asked, [encode(text) for text in texts], config.average)
        if isinstance(config.objective, Divergence):
            taught, loss = compared(config.objective, batch, teacher)
            metrics = trainer.step(taught, loss)
        else:
            assert isinstance(batch, PolicyBatch), "the student's answers are a policy's"
            batch = replace(batch, advantages=teacher_advantage(teacher.logprobs(batch), batch.sampler_logprobs))
            drift = segment_mean(-batch.advantages.flatten(), batch.trained.flatten()).item()
            metrics = trainer.step(batch, PolicyObjective(surrogate=config.objective.loss)) | {"reverse_kl": drift}
        sampler.sync(trainer)
        yield Step(metrics | lengths(groups), groups)


def answered(how: StudentAnswers, sampler: Sampler, prompts: Sequence[Prompt], number: int) -> list[Group]:
    """The student's answers as rollouts that nobody judges: each counts alike."""
    sampling = Sampling(temperature=how.temperature, max_tokens=how.max_tokens)
    answers = sampler.generate(prompts, how.group_size, sampling, names=("rollout", number))
    return [
        [Rollout(prompt=prompt, completion=completion, reward=0.0) for completion in completions]
        for prompt, completions in zip(prompts, answers, strict=True)
    ]


def lengths(groups: Sequence[Group]) -> Metrics:
    """Tokens of the sampled answers, and the share that was cut; `{}` without any."""
    completions = [rollout.completion for group in groups for rollout in group]
    tokens = float(sum(len(c.token_ids) for c in completions))
    cut = sum(c.truncated for c in completions)
    return (
        {"tokens": tokens, "length": tokens / len(completions), "truncated": cut / len(completions)} if groups else {}
    )


def compared(objective: Divergence, batch: TokenBatch, teacher: Teacher) -> tuple[DistillBatch, Taught]:
    """The batch with what the teacher says of it, and the loss that reads it.

    The whole vocabulary goes as the teacher's hidden states, whose logits the trainer forms for a few tokens at a time; the k
    likeliest tokens go as they are.
    """
    states, head, bound = teacher.states(batch), teacher.head(), Bound(objective.loss)
    if "teacher_logits" in bound.needs:
        return as_kind(DistillBatch, batch, teacher_hidden=states), Taught(bound, head)
    logprobs, ids = top_k(states, head, objective.top_k or TOP_K, batch.temperature)
    return as_kind(DistillBatch, batch, teacher_logprobs=logprobs, teacher_ids=ids), Taught(bound, head)


@torch.no_grad()
def top_k(states: Tensor, head: Tensor, k: int, temperature: float, *, chunk: int = 512) -> tuple[Tensor, Tensor]:
    """The k likeliest tokens of each state.

        log P_i = z_i - LSE(z)      z = states·headᵀ / τ

    Args:
        states: `[B, T, D]`.
        head: `[V, D]`.
        k: at most V.
        temperature: τ > 0.
        chunk: states whose logits exist at one time.

    Returns:
        (log-probabilities under the whole distribution `[B, T, k]` nats, ids `[B, T, k]`).

    >>> top_k(torch.eye(3)[None, :1], torch.eye(3), 2, 1.0)[0].exp().round(decimals=2)  # logits 1, 0, 0
    tensor([[[0.5800, 0.2100]]])
    """
    found = []
    for part in states.flatten(0, 1).to(head.device).split(chunk):
        z = F.linear(part, head) / temperature
        logp = z.log_softmax(-1, dtype=torch.promote_types(z.dtype, torch.float32))
        found.append(logp.topk(min(k, len(head)), dim=-1))
    logprobs, ids = (torch.cat(column).view(*states.shape[:2], -1).cpu() for column in zip(*found, strict=True))
    return logprobs, ids


@dataclass(frozen=True, slots=True)
class Taught(Around):
    """A loss on distributions whose teacher comes as hidden states."""

    head: Tensor  # [V, D] the teacher's

    def __call__(self, logits: Tensor, batch: DistillBatch) -> Terms:
        if batch.teacher_hidden is not None:
            with torch.no_grad():
                theirs = F.linear(batch.teacher_hidden, self.head) / batch.temperature
            batch = replace(batch, teacher_logits=theirs)
        return self.loss(logits, batch)
