"""The embedded sampler: a prompt is computed once for its group, the KV cache is allocated once, finished answers leave.

In a conversation nobody waits for anybody: every sequence takes one token per step, sampled or from what its partner replied, so
that what was said before is never computed again and no turn of one sequence holds up another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from corollary.engines.base import Partner, Trainer
from corollary.engines.layout import adopt, hidden_states, lay_out, output_head
from corollary.errors import ModelError, NumericsError
from corollary.seeding import stream
from corollary.types import Completion, Prompt, Sampling, TokenBatch

_COMPACT_BELOW = 0.8  # finished answers leave once the living are fewer than this share of the rows


@dataclass(slots=True)
class Cache:
    """Keys and values of B sequences, prompts right-aligned at column `start`, so that all of them write the same column.

    As an `Attention` it serves both the prefill (which fills it) and each decoding step (which appends one column).
    """

    keys: list[Tensor]  # per layer [B, Hkv, C, D]
    values: list[Tensor]
    first: Tensor  # [B] first column in use
    column: int  # where the next token is written

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, scaling: float, window: int | None) -> Tensor:
        """One new token per sequence: q `[Hq, B, D]` → `[B, Hq, D]`."""
        keys, values = self.keys[layer], self.values[layer]
        keys[:, :, self.column], values[:, :, self.column] = k.transpose(0, 1), v.transpose(0, 1)
        end = self.column + 1
        at = torch.arange(end, device=q.device)
        seen = at >= self.first[:, None]
        if window is not None:
            seen = seen & (at > self.column - window)
        grouped = q.transpose(0, 1).unflatten(1, (keys.shape[1], -1))  # [B, Hkv, Hq/Hkv, D]: heads that share keys
        out = F.scaled_dot_product_attention(
            grouped, keys[:, :, :end], values[:, :, :end], attn_mask=seen[:, None, None], scale=scaling
        )
        return out.flatten(1, 2)

    def keep(self, rows: Tensor) -> None:
        """Only these sequences stay."""
        self.first = self.first[rows]
        for tensors in (self.keys, self.values):
            tensors[:] = [t[rows] for t in tensors]


@dataclass(slots=True)
class _Prefill:
    """Runs the layout's attention and keeps what it saw, copied to every answer of the group."""

    inner: Callable[..., Tensor]
    index: Tensor  # [P, Tp] flat token of each prompt position, right-aligned
    group_size: int
    room: int  # columns for new tokens
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, scaling: float, window: int | None) -> Tensor:
        assert layer == len(self.keys), "layers run in order"
        for store, x in ((self.keys, k), (self.values, v)):
            prompt = x[:, self.index].transpose(0, 1).repeat_interleave(self.group_size, 0)
            room = prompt.new_zeros(*prompt.shape[:2], self.room, prompt.shape[3])
            store.append(torch.cat([prompt, room], dim=2))
        return self.inner(layer, q, k, v, scaling=scaling, window=window)


class Answers(Protocol):
    """What takes tokens as they are drawn."""

    def extend(self, rows: list[int], tokens: list[int], logprobs: list[float]) -> tuple[list[int], list[bool]]:
        """One token for each row, with its log-probability; the tokens that are to be read on, and which rows go on."""
        ...


class EmbeddedSampler:
    """Samples from a transformers model in this process; shares the trainer's weights where it is given the same model.

    Args:
        model: a causal language model.
        decode: token ids → text, without special tokens.
        eos_token_ids: ids that end an answer.
        seed: the run's seed; streams are named by the caller.
        max_sequences: decoded at one time.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        decode: Callable[[Sequence[int]], str],
        eos_token_ids: Sequence[int],
        seed: int = 0,
        max_sequences: int = 128,
    ) -> None:
        self.model, self.decode, self.seed, self.max_sequences = adopt(model), decode, seed, max_sequences
        self.eos = frozenset(eos_token_ids)
        self.version = 0

    def sync(self, trainer: Trainer) -> None:
        """The weights are shared; only the version is taken over."""
        self.version = trainer.version

    def generate(
        self,
        prompts: Sequence[Prompt],
        group_size: int,
        sampling: Sampling,
        *,
        names: Iterable[str | int],
        partner: Partner | None = None,
    ) -> list[list[Completion]]:
        """`group_size` answers to each prompt. Answer g of prompt i draws from the stream (seed, *names, i, g), its token t from the
        stream's number t."""
        names = tuple(names)
        at_once = max(1, self.max_sequences // group_size)
        groups: list[list[Completion]] = []
        for start in range(0, len(prompts), at_once):
            part = prompts[start : start + at_once]
            draws = [
                stream(self.seed, *names, start + i, g).random(sampling.max_tokens)
                for i in range(len(part))
                for g in range(group_size)
            ]
            places = [(start + i, g) for i in range(len(part)) for g in range(group_size)]
            answers = _Answers(self.decode, self.eos, sampling, self.version, places, partner)
            for _ in self.decoding(part, group_size, sampling, np.stack(draws), answers):
                pass
            done = answers.completions()
            groups += [done[i : i + group_size] for i in range(0, len(done), group_size)]
        return groups

    def stream_text(self, prompt: Prompt, sampling: Sampling, *, names: Iterable[str | int]) -> Iterator[str]:
        """One answer, as the text that each new token adds."""
        draws = stream(self.seed, *names, 0, 0).random(sampling.max_tokens)[None]
        answers = _Answers(self.decode, self.eos, sampling, self.version, [(0, 0)])
        said = ""
        for _ in self.decoding([prompt], 1, sampling, draws, answers):
            text = answers.text(0)
            if not text.endswith("\ufffd") and len(text) > len(said):
                yield text[len(said) :]
                said = text
        if len(text := answers.text(0)) > len(said):
            yield text[len(said) :]

    @torch.inference_mode()
    def decoding(
        self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling, draws: np.ndarray, answers: Answers
    ) -> Iterator[None]:
        """Fill `answers`, one token of each living sequence per item; row i·G + g is answer g to prompt i.

        Args:
            prompts: P of them.
            group_size: G.
            sampling: of all of them.
            draws: `[P·G, max_tokens]` uniform numbers, a row for each answer.
            answers: takes the tokens, and says which rows go on.
        """
        was_training = self.model.training
        self.model.eval()
        try:
            cache, lengths, hidden = self._prefill(prompts, group_size, sampling.max_tokens)
            rows = torch.arange(len(draws))  # the sequence that each row of the batch decodes
            uniform = torch.from_numpy(draws)
            head = output_head(self.model)
            for t in range(sampling.max_tokens):
                logits = F.linear(hidden, head)
                tokens, logprobs = sample(logits, uniform[rows.to(uniform.device), t].to(logits.device), sampling)
                taken, alive = answers.extend(rows.tolist(), tokens.tolist(), logprobs.tolist())
                tokens = torch.tensor(taken, device=tokens.device)
                yield
                if not any(alive) or t == sampling.max_tokens - 1:
                    return
                if sum(alive) < _COMPACT_BELOW * len(alive) or len(alive) == 1:
                    keep = torch.tensor(alive).nonzero()[:, 0]
                    cache.keep(keep.to(lengths.device))
                    rows, tokens, lengths = rows[keep], tokens[keep], lengths[keep]
                hidden = hidden_states(self.model, tokens, lengths + t, cache)
                cache.column += 1
        finally:
            self.model.train(was_training)

    def _prefill(self, prompts: Sequence[Prompt], group_size: int, max_tokens: int) -> tuple[Cache, Tensor, Tensor]:
        """(cache of P·G sequences, their prompt lengths `[P·G]`, hidden state that predicts the first token `[P·G, D]`)."""
        lengths = [len(p.token_ids) for p in prompts]
        if not all(lengths):
            raise ModelError(f"prompt {prompts[lengths.index(0)].id} has no tokens", hint="give it some text")
        device = self.model.device
        batch = TokenBatch(
            prompts=tuple(p.token_ids for p in prompts),
            prompt_of=torch.arange(len(prompts)),
            targets=torch.zeros(len(prompts), 1, dtype=torch.long, device=device),
            lengths=torch.ones(len(prompts), dtype=torch.long),
            weights=torch.ones(len(prompts), 1),
        )
        layout = lay_out(batch, torch.ones(len(prompts), 1, dtype=torch.bool))
        width = max(lengths)
        index = torch.zeros(len(prompts), width, dtype=torch.long, device=device)
        for p, n in enumerate(lengths):
            index[p, width - n :] = layout.attention.prompt_index[p, :n]
        keeper = _Prefill(layout.attention, index, group_size, max_tokens)
        hidden = hidden_states(self.model, layout.tokens, layout.positions, keeper)[layout.predicts]
        each = torch.tensor(lengths, device=device).repeat_interleave(group_size)
        cache = Cache(keeper.keys, keeper.values, first=width - each, column=width)
        return cache, each, hidden.repeat_interleave(group_size, 0)


class _Answers:
    """What has been said so far, and who has finished."""

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        eos: frozenset[int],
        sampling: Sampling,
        version: int,
        places: Sequence[tuple[int, int]],
        partner: Partner | None = None,
    ) -> None:
        self.decode, self.eos, self.sampling, self.version = decode, eos, sampling, version
        self.places, self.partner = places, partner  # (prompt, answer) of each row
        size = len(places)
        self.tokens: list[list[int]] = [[] for _ in range(size)]
        self.logprobs: list[list[float]] = [[] for _ in range(size)]
        self.sampled: list[list[bool]] = [[] for _ in range(size)]
        self.heard: list[deque[int]] = [deque() for _ in range(size)]  # what a partner replied and is not put in yet
        self.turn = [0] * size  # where the last turn begins
        self.ended = [False] * size  # nothing more comes
        self.whole = [False] * size  # it ended by itself, and by no limit

    def extend(self, rows: list[int], tokens: list[int], logprobs: list[float]) -> tuple[list[int], list[bool]]:
        """Append one token to each row, the one that was heard before the one that was drawn; the tokens, and which rows go on."""
        taken = []
        for row, drawn, logprob in zip(rows, tokens, logprobs, strict=True):
            heard = self.heard[row].popleft() if self.heard[row] else None
            taken.append(drawn if heard is None else heard)
            if not self.ended[row]:
                self.tokens[row].append(taken[-1])
                self.logprobs[row].append(logprob if heard is None else 0.0)
                self.sampled[row].append(heard is None)
                self._close(row)
        return taken, [not self.ended[row] for row in rows]

    def _close(self, row: int) -> None:
        """End a turn, and the answer with it, where the last token did."""
        if not self.sampled[row][-1]:
            self.turn[row] = len(self.tokens[row])
            return
        last, said = self.tokens[row][-1], len(self.tokens[row]) - self.turn[row]
        if last in self.eos or self._stopped(row):
            self._hear(row, last if last in self.eos else None)
        elif self.partner and said == self.partner.turn_tokens:
            self.ended[row] = True

    def _hear(self, row: int, closed: int | None) -> None:
        """Let the partner reply; without one, or a reply, the answer is whole. A reply that leaves no room ends it as it is."""
        reply = self.partner.reply(*self.places[row], self.text(row), closed) if self.partner else ()
        self.whole[row] = not reply
        self.ended[row] = not reply or len(self.tokens[row]) + len(reply) >= self.sampling.max_tokens
        self.heard[row].extend(() if self.ended[row] else reply)

    def _stopped(self, row: int) -> bool:
        if not self.sampling.stop:
            return False
        text = self.decode(self.tokens[row][self.turn[row] :])
        return any(stop in text for stop in self.sampling.stop)

    def text(self, row: int) -> str:
        """The last turn's text, cut at the first stop string."""
        text = self.decode([t for t in self.tokens[row][self.turn[row] :] if t not in self.eos])
        cuts = [at for stop in self.sampling.stop if (at := text.find(stop)) >= 0]
        return text[: min(cuts)] if cuts else text

    def completions(self) -> list[Completion]:
        return [
            Completion(
                token_ids=tuple(self.tokens[row]),
                logprobs=tuple(self.logprobs[row]),
                text=self.text(row),
                truncated=not self.whole[row],
                version=self.version,
                sampling=self.sampling,
                sampled=() if all(self.sampled[row]) else tuple(self.sampled[row]),
            )
            for row in range(len(self.tokens))
        ]


def sample(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Draw a token from each row by inverting the cumulative distribution at a given uniform number.

        p = softmax(z / τ), cut to the top k and to mass top_p, renormalised;   y = min{v : Σ_{w≤v} p_w > u}

    Args:
        logits: `[B, V]`.
        uniform: `[B]` float64 in [0, 1).
        sampling: τ = 0 takes the largest logit, and its log-probability is under τ = 1.

    Returns:
        (tokens `[B]`, their log-probabilities `[B]` nats under the distribution that was drawn from).

    Raises:
        NumericsError: a logit is NaN or a row has no finite one.

    >>> z = torch.log(torch.tensor([[0.2, 0.5, 0.3]]))
    >>> [sample(z, torch.tensor([u], dtype=torch.float64), Sampling())[0].item() for u in (0.1, 0.3, 0.9)]
    [0, 1, 2]
    >>> sample(z, torch.tensor([0.9], dtype=torch.float64), Sampling(top_k=1))[1].abs().item() < 1e-6
    True
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    peak = logits.amax(-1)
    if not bool(torch.isfinite(peak).all()):
        raise NumericsError(
            "the model's logits are not finite, so nothing can be sampled", hint="lower the learning rate"
        )
    if sampling.temperature == 0:
        return logits.argmax(-1), peak - logits.logsumexp(-1)
    if sampling.temperature != 1:
        logits = logits / sampling.temperature
    if sampling.top_k or sampling.top_p < 1:
        logits = _cut(logits, sampling)
    mass = (logits - logits.amax(-1, keepdim=True)).exp()
    cumulative = mass.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, uniform[:, None] * total, right=True).clamp(max=logits.shape[-1] - 1)
    chosen = mass.gather(-1, tokens)
    return tokens[:, 0], (chosen.double().log() - total.log())[:, 0].to(logits.dtype)


def _cut(logits: Tensor, sampling: Sampling) -> Tensor:
    """-inf outside the top k and outside the smallest set of tokens that holds mass top_p."""
    order = logits.argsort(dim=-1, descending=True, stable=True)
    ranked = logits.gather(-1, order)
    drop = torch.zeros_like(ranked, dtype=torch.bool)
    if sampling.top_k:
        drop[:, sampling.top_k :] = True
    if sampling.top_p < 1:
        mass = ranked.softmax(-1)
        drop |= mass.cumsum(-1) - mass >= sampling.top_p
    return logits.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), -torch.inf)
