"""How sequences lie in memory: the one place that knows, and the attention that follows from it.

All tokens of a microbatch lie in one flat row, so linear layers see no padding that is not asked for. Three layouts give the
same log-probabilities:

    shared_prefix   [prompt | answer 1 | … | answer G]   a prompt is computed once; each answer sees it and itself
    packed          [prompt answer 1 | prompt answer 2 | …]
    padded          the same, every prompt and every answer filled up to the longest

Only attention knows which tokens belong together. transformers lets a model's attention be replaced by a registered function
and hands on keyword arguments, so the model's own code runs unchanged with `attention=` naming how to attend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from corollary.errors import ModelError
from corollary.types import TokenBatch

LayoutName = Literal["shared_prefix", "packed", "padded"]


class Attention(Protocol):
    """Attends from the flat row's queries, whichever way the caller laid the tokens out."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, scaling: float, window: int | None) -> Tensor:
        """q `[Hq, N, D]`, k and v `[Hkv, N, D]` → `[N, Hq, D]`."""
        ...


def _attend(
    module: Any,  # the model's own attention module
    query: Tensor,  # [1, Hq, N, D]
    key: Tensor,  # [1, Hkv, N, D]
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    attention: Attention,
    scaling: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    assert attention_mask is None, "the layout masks, nobody else"
    if softcap is not None:
        raise ModelError("this model caps its attention scores, which the embedded engines do not compute")
    out = attention(module.layer_idx, query[0], key[0], value[0], scaling=scaling, window=sliding_window)
    return out[None], None


AttentionInterface.register("corollary", _attend)


def adopt(model: PreTrainedModel) -> PreTrainedModel:
    """Let the model attend by layout. Its weights and every other line of it stay as they are."""
    model.config._attn_implementation = "corollary"
    return model


def hidden_states(model: PreTrainedModel, tokens: Tensor, positions: Tensor, attention: Attention) -> Tensor:
    """Final hidden states `[N, D]` of a flat row of N tokens at `positions`."""
    out = model.base_model(input_ids=tokens[None], position_ids=positions[None], attention=attention, use_cache=False)
    return out.last_hidden_state[0]


def output_head(model: PreTrainedModel) -> Tensor:
    """`[V, D]` output embedding.

    Raises:
        ModelError: it is a reward model.
    """
    head = model.get_output_embeddings()
    if head is None:
        raise ModelError(
            "the model has no head for language, so it gives no text: it is a reward model",
            where=str(model.config.name_or_path), hint="name a language model",
        )  # fmt: skip
    return head.weight


def scalar_head(model: PreTrainedModel) -> Tensor:
    """`[1, D]` weight of the head that gives one number per state: a critic's or a reward model's.

    Raises:
        ModelError: the model has none.
    """
    head = dict(model.named_children()).get("score")
    if not isinstance(head, torch.nn.Linear):
        raise ModelError("the model has no scalar head", hint="attach one with models.heads.with_scalar_head")
    return head.weight


@dataclass(frozen=True, slots=True)
class Segments:
    """Where P prompts and S answers lie in the flat row, as padded index tables; and the attention between them."""

    prompt_index: Tensor  # [P, Tp] int64 into the flat row; 0 behind the end
    prompt_lengths: Tensor  # [P]
    answer_index: Tensor  # [S, Ta] int64 into the flat row
    answer_lengths: Tensor  # [S], input tokens (one less than response tokens)
    prompt_of: Tensor  # [S]
    back: Tensor  # [N] where each flat token stands in [P·Tp | S·Ta]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, scaling: float, window: int | None) -> Tensor:
        """Prompts attend causally to themselves; each answer to its prompt and, causally, to itself."""
        pq, pk, pv = (x[:, self.prompt_index].transpose(0, 1) for x in (q, k, v))  # [P, H, Tp, D]
        mask = None if window is None else self._prompt_mask(window)
        out = F.scaled_dot_product_attention(
            pq, pk, pv, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True
        )
        rows = [out.transpose(1, 2).flatten(0, 1)]  # [P·Tp, H, D]
        if self.answer_index.shape[1]:
            aq, ak, av = (x[:, self.answer_index].transpose(0, 1) for x in (q, k, v))  # [S, H, Ta, D]
            ak, av = (torch.cat([p[self.prompt_of], a], dim=2) for p, a in ((pk, ak), (pv, av)))
            out = F.scaled_dot_product_attention(
                aq, ak, av, attn_mask=self._answer_mask(window), scale=scaling, enable_gqa=True
            )
            rows.append(out.transpose(1, 2).flatten(0, 1))
        return torch.cat(rows)[self.back]

    def _prompt_mask(self, window: int) -> Tensor:
        at = torch.arange(self.prompt_index.shape[1], device=self.back.device)
        gap = at[:, None] - at[None, :]
        return (gap >= 0) & (gap < window)

    def _answer_mask(self, window: int | None) -> Tensor:
        """`[S, 1, Ta, Tp + Ta]` True where an answer token may look."""
        device = self.back.device
        p, a = (torch.arange(x.shape[1], device=device) for x in (self.prompt_index, self.answer_index))
        start = self.prompt_lengths[self.prompt_of]  # [S] position of an answer's first token
        at = start[:, None] + a  # [S, Ta]
        seen = torch.cat(
            [(p < start[:, None])[:, None].expand(-1, len(a), -1), (a[:, None] >= a).expand(len(at), -1, -1)], 2
        )
        if window is not None:
            keys = torch.cat([p.expand(len(at), -1), at], dim=1)
            seen = seen & (at[:, :, None] - keys[:, None, :] < window)
        return seen[:, None]


@dataclass(frozen=True, slots=True)
class Layout:
    """A microbatch as one flat row of N tokens."""

    tokens: Tensor  # [N] int64
    positions: Tensor  # [N] int64
    attention: Segments
    predicts: Tensor  # [R] the flat token whose hidden state predicts each wanted response token
    wanted: Tensor  # [R] those response tokens, as b·T + t
    targets: Tensor  # [R]

    def scatter(self, values: Tensor, shape: tuple[int, int]) -> Tensor:
        """`[R]` values of the wanted tokens → `[B, T]`, 0 elsewhere; differentiable."""
        return values.new_zeros(shape[0] * shape[1]).index_put((self.wanted,), values).view(shape)


def lay_out(batch: TokenBatch, wanted: Tensor, how: LayoutName = "shared_prefix") -> Layout:
    """Lay a microbatch out in a flat row.

    Args:
        batch: B sequences that may share prompts.
        wanted: `[B, T]` bool, response tokens whose log-probability is asked for.
        how: the layout; it changes no number beyond rounding.
    """
    lengths = batch.lengths.tolist()
    prompt_of = batch.prompt_of.tolist()
    if how == "shared_prefix":
        prompts, owner = list(batch.prompts), prompt_of
    else:
        prompts, owner = [batch.prompts[p] for p in prompt_of], list(range(len(prompt_of)))
    answers = [
        batch.targets[b, : max(n - 1, 0)].tolist() for b, n in enumerate(lengths)
    ]  # the last token predicts nothing
    widths = [max(map(len, rows), default=0) if how == "padded" else 0 for rows in (prompts, answers)]
    tokens: list[int] = []
    positions: list[int] = []

    def lay(rows: list[tuple[int, ...]] | list[list[int]], starts: list[int], width: int) -> list[range]:
        """Append rows to the flat row; where each one's real tokens went."""
        places = []
        for row, start in zip(rows, starts, strict=True):
            places.append(range(len(tokens), len(tokens) + len(row)))
            filled = [*row, *[0] * (width - len(row))]
            tokens.extend(filled)
            positions.extend(range(start, start + len(filled)))
        return places

    prompt_at = lay(prompts, [0] * len(prompts), widths[0])
    answer_at = lay(answers, [len(prompts[p]) for p in owner], widths[1])
    first = torch.tensor([prompt_at[p][-1] for p in owner])  # predicts the first response token
    b, t = wanted.cpu().nonzero(as_tuple=True)
    after = torch.tensor([place.start for place in answer_at])
    predicts = torch.where(t == 0, first[b], after[b] + t - 1)
    device = batch.targets.device
    segments = _segments(prompt_at, answer_at, owner, len(tokens))
    return Layout(
        tokens=torch.tensor(tokens, device=device),
        positions=torch.tensor(positions, device=device),
        attention=Segments(*(x.to(device) for x in segments)),
        predicts=predicts.to(device),
        wanted=(b * wanted.shape[1] + t).to(device),
        targets=batch.targets[b, t],
    )


def _segments(prompt_at: list[range], answer_at: list[range], owner: list[int], size: int) -> tuple[Tensor, ...]:
    """The tables of `Segments`, on the CPU."""
    tables = [_table(places) for places in (prompt_at, answer_at)]
    back = torch.zeros(size, dtype=torch.long)
    offset = 0
    for places, (table, _) in zip((prompt_at, answer_at), tables, strict=True):
        for row, place in enumerate(places):
            start = offset + row * table.shape[1]
            back[place.start : place.stop] = torch.arange(start, start + len(place))
        offset += table.numel()
    return tables[0][0], tables[0][1], tables[1][0], tables[1][1], torch.tensor(owner), back


def _table(places: list[range]) -> tuple[Tensor, Tensor]:
    width = max(map(len, places), default=0)
    table = torch.zeros(len(places), width, dtype=torch.long)
    for row, place in enumerate(places):
        table[row, : len(place)] = torch.arange(place.start, place.stop)
    return table, torch.tensor([len(place) for place in places])
