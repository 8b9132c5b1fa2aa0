"""How a step's sequences are split: by the tokens that are computed at one time, never through a pair."""

from __future__ import annotations

from collections.abc import Iterator

from corollary.engines.layout import LayoutName
from corollary.types import TokenBatch


def microbatches(batch: TokenBatch, budget: int, layout: LayoutName) -> Iterator[list[int]]:
    """Rows of each microbatch: longest prompts' groups first, at most `budget` input tokens, a group split only if it must.

    The `unit` rows that belong together stay together.

    >>> import torch
    >>> b = TokenBatch(prompts=((1,), (1, 2)), prompt_of=torch.tensor([0, 0, 1]), targets=torch.ones(3, 2).long(),
    ...                lengths=torch.tensor([2, 2, 2]), weights=torch.ones(3, 2))
    >>> list(microbatches(b, 5, "shared_prefix"))
    [[2], [0, 1]]
    """
    prompt_of, lengths = batch.prompt_of.tolist(), batch.lengths.tolist()
    widths = [len(prompt) for prompt in batch.prompts]
    members: dict[int, list[range]] = {}
    for start in range(0, len(prompt_of), batch.unit):
        members.setdefault(prompt_of[start], []).append(range(start, start + batch.unit))

    def longest(prompt: int) -> int:
        return widths[prompt] + max(lengths[row] for unit in members[prompt] for row in unit)

    def cost(unit: range, paid: set[int]) -> int:
        """Input tokens that the unit adds to a microbatch which has computed the prompts `paid`."""
        asked = [prompt_of[row] for row in unit]
        prompts = {*asked} - paid if layout == "shared_prefix" else asked
        return sum(lengths[row] for row in unit) + sum(widths[prompt] for prompt in prompts)

    rows: list[int] = []
    used, paid = 0, set[int]()
    for prompt in sorted(members, key=lambda p: -longest(p)):
        for unit in members[prompt]:
            if rows and used + cost(unit, paid) > budget:
                yield rows
                rows, used, paid = [], 0, set()
            used += cost(unit, paid)
            rows += unit
            paid |= {prompt_of[row] for row in unit}
    if rows:
        yield rows
