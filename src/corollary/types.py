"""What flows from the prompt to the loss. All frozen; each field says its shape.

Shapes: P prompts, G answers per prompt, B sequences (P·G), T response tokens.
`[B, T]` speaks of what follows the prompt: index t is response token t in every field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, NamedTuple, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

Metrics = dict[str, float]
Message = Mapping[str, str]  # {"role": "user", "content": "…"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One question, as data and as the token ids that the model reads."""

    id: str  # unique in its data set, stable from run to run
    token_ids: tuple[int, ...]  # chat template applied
    messages: tuple[Message, ...] = ()  # the conversation, or () where the data set gave plain text
    text: str = ""  # the prompt as plain text; the rendered conversation where there are messages
    columns: Mapping[str, Any] = field(default_factory=dict)  # the row's other columns, for the reward
    target_ids: tuple[int, ...] = ()  # what follows it in the data: the rest of a conversation to learn from
    target_trained: tuple[bool, ...] = ()  # of each of them, whether the assistant says it

    def __post_init__(self) -> None:
        if len(self.target_ids) != len(self.target_trained):
            raise ValueError(f"{len(self.target_ids)} target tokens but {len(self.target_trained)} target_trained")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """The distribution that answers are drawn from. Log-probabilities hold under this one and no other."""

    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0  # (0, 1], probability mass kept
    top_k: int = 0  # tokens kept; 0 keeps all
    max_tokens: int = 256  # of one answer
    stop: tuple[str, ...] = ()  # strings that end an answer, besides end-of-sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One sampled answer, of one turn or of several. `token_ids` are what was sampled, never re-encoded text."""

    token_ids: tuple[int, ...]  # end-of-sequence included where it was sampled
    logprobs: tuple[float, ...]  # nats, one per token, under `sampling`; 0 where it was not sampled
    text: str  # decoded, without special tokens and stop string; of the last turn where there are several
    truncated: bool  # stopped by a limit of tokens or turns, not by itself nor by its environment's own end
    version: int  # of the weights that sampled it
    sampling: Sampling
    sampled: tuple[
        bool, ...
    ] = ()  # False: an observation, put in between the turns, never trained; (): all were sampled
    messages: tuple[Message, ...] = ()  # the turns, where there are several: assistant, tool or user, assistant, …

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.logprobs):
            raise ValueError(f"{len(self.token_ids)} tokens but {len(self.logprobs)} logprobs")
        if self.sampled and len(self.token_ids) != len(self.sampled):
            raise ValueError(f"{len(self.token_ids)} tokens but {len(self.sampled)} sampled")


def transcript(completion: Completion) -> str:
    """An answer in words: its text, or its turns where there are several."""
    if len(completion.messages) < 2:
        return completion.text
    return "\n".join(f"{message['role']}: {message['content']}" for message in completion.messages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """An answer with what it earned."""

    prompt: Prompt
    completion: Completion
    reward: float | None  # weighted sum; None: could not be judged, left out of its group
    parts: Mapping[str, float | None] = field(default_factory=dict)  # each reward by its name, unweighted
    faults: tuple[str, ...] = ()  # what failed in judging it and was masked, a line each
    turn_rewards: tuple[float, ...] = ()  # what each turn earned, where an environment gave it
    counts: Mapping[str, float] = field(default_factory=dict)  # what an environment counted in it, for the log


Group = list[Rollout]  # the G answers to one prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatch:
    """Sequences to train on or to score; `prompt_of` lets them share a prompt.

    A split keeps `unit` rows together. Fields of shape `[B, T, …]` and `[B]` are cut with the rows; what has no dimension
    speaks of the whole optimizer step and goes with every part of it.
    """

    unit: ClassVar[int] = 1

    prompts: tuple[tuple[int, ...], ...]  # distinct prompts, token ids
    prompt_of: Tensor  # [B] int64, index into `prompts`
    targets: Tensor  # [B, T] int64, response tokens; anything behind the end
    lengths: Tensor  # [B] int64, response tokens of each sequence
    weights: Tensor  # [B, T] float, what each token's term counts in the step's loss; 0 behind the end
    temperature: float = 1.0  # logits are divided by it, as they were at sampling
    entropy: Tensor | None = None  # [B, T] nats, with gradient; the trainer's, for a loss that takes it
    mean_logprobs: Tensor | None = None  # [B, T] mean over the vocabulary of log p; likewise
    values: Tensor | None = None  # [B, T] what the scalar head says before each token; likewise

    def __post_init__(self) -> None:
        shape = tuple(self.targets.shape)
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor) and value.dim() and tuple(value.shape[:2]) not in (shape, shape[:1]):
                raise ValueError(f"{f.name} has shape {tuple(value.shape)}, targets have {shape}")
        if shape[0] % self.unit:
            raise ValueError(f"{shape[0]} sequences do not make groups of {self.unit}")
        if not len(self.prompt_of) == len(self.lengths) == shape[0]:
            raise ValueError(
                f"{shape[0]} sequences, but {len(self.prompt_of)} prompt_of and {len(self.lengths)} lengths"
            )

    def take(self, rows: Sequence[int] | Tensor) -> Self:
        """The sequences `rows`, in that order, with the weights that they carry; cut to the longest of them."""
        index = torch.as_tensor(rows, dtype=torch.long, device=self.targets.device)
        lengths = self.lengths[index]
        width = int(lengths.max()) if len(index) else 0
        used, prompt_of = torch.unique(self.prompt_of[index], return_inverse=True)
        cut = {
            f.name: value[index, :width] if value.dim() > 1 else value[index]
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor) and value.dim()
        }
        prompts = tuple(self.prompts[i] for i in used.tolist())
        return replace(self, **cut | {"prompts": prompts, "prompt_of": prompt_of, "lengths": lengths})

    def to(self, device: torch.device) -> Self:
        """The same on `device`; itself where it is there already."""
        moved = {f.name: v.to(device) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        return replace(self, **moved)

    def tokens(self, index: Tensor) -> Self:
        """The tokens `index` `[n]` (as b·T + t), each as a sequence of its own, `[n, 1, …]`; without their prompts."""
        rows = index // self.targets.shape[1]
        cut = {
            f.name: value.flatten(0, 1)[index][:, None] if value.dim() > 1 else value[rows]
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor) and value.dim()
        }
        ones = torch.ones_like(index)
        return replace(self, **cut | {"prompts": ((),), "prompt_of": ones * 0, "lengths": ones})

    @property
    def trained(self) -> Tensor:
        """`[B, T]` True where a token is trained on."""
        return self.weights != 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyBatch(TokenBatch):
    """One optimizer step of rollouts."""

    advantages: Tensor  # [B, T] reward units
    sampler_logprobs: Tensor  # [B, T] nats, at sampling
    old_logprobs: Tensor | None = None  # [B, T] nats, the trainer's before the update; None: its own first forward
    ref_logprobs: Tensor | None = None  # [B, T] nats, of the reference policy


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceBatch(TokenBatch):
    """Pairs: row 2i is a chosen answer and row 2i + 1 the rejected one to the same prompt."""

    unit: ClassVar[int] = 2

    ref_logprobs: Tensor | None = None  # [B, T] nats, of the reference policy
    margins: Tensor | None = None  # [B] how much better the chosen answer is, on both rows of a pair
    mean_chosen_length: Tensor | None = None  # [] tokens of a chosen answer, mean over the step


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpairedBatch(TokenBatch):
    """Answers that are each called desirable or not."""

    desirable: Tensor  # [B] bool
    ref_logprobs: Tensor | None = None  # [B, T] nats
    baseline: Tensor | None = None  # [] nats, KTO's z0 of the whole step
    shift: Tensor | None = None  # [] BCO's running mean reward


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorCriticBatch(PolicyBatch):
    """One optimizer step of rollouts for a policy whose own scalar head is the critic."""

    returns: Tensor  # [B, T] reward units
    old_values: Tensor  # [B, T] reward units, the critic's before the update


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueBatch(TokenBatch):
    """What a critic learns from. The model's output is `values [B, T]`."""

    returns: Tensor  # [B, T] reward units
    old_values: Tensor  # [B, T] reward units, the critic's before the update


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillBatch(TokenBatch):
    """What a student learns from. The model's output is `logits [B, T, V]`."""

    teacher_logits: Tensor | None = None  # [B, T, V]
    teacher_hidden: Tensor | None = (
        None  # [B, T, D] the teacher's final hidden states: V/D times smaller than its logits
    )
    teacher_logprobs: Tensor | None = None  # [B, T, K] nats, of the teacher's likeliest tokens
    teacher_ids: Tensor | None = None  # [B, T, K] int64, which those are


@dataclass(frozen=True, slots=True)
class Step:
    """What an algorithm yields: the metrics of one step, and the rollouts behind them where there are any."""

    metrics: Metrics
    groups: Sequence[Group] = ()
    advantages: Tensor | None = None  # [P, G]


class Terms(NamedTuple):
    """What a loss returns: unreduced. One set of weights averages all of it."""

    loss: Tensor  # [B, T] to be minimised; or [B] or [N pairs], and `losses.bind` puts it on each of their tokens
    metrics: dict[str, Tensor]  # name → of the same shape


@runtime_checkable
class Loss(Protocol):
    """What a trainer takes; `losses.bind.bind` makes one of any formula."""

    @property
    def needs(self) -> frozenset[str]:
        """Names of its inputs; the trainer computes `entropy` and `mean_logprobs` only where they are among them."""
        ...

    @property
    def cross_sample(self) -> bool:
        """Whether a term depends on other samples of the step, so that the step cannot be split before it."""
        ...

    def __call__(self, output: Tensor, batch: Any, /) -> Terms:
        """(what the model says, with gradient; the batch that it speaks of) → terms `[B, T]`."""
        ...


Formula = Callable[..., Any]
"""A `Loss`, or a function of inputs by their names (or of `(logprobs, batch)`) that a trainer binds on the spot."""
