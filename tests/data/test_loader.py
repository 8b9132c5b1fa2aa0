from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corollary.data.loader import PromptLoader, fingerprint
from corollary.errors import DataError, ResumeError
from corollary.types import Prompt


def prompts(count: int) -> list[Prompt]:
    return [Prompt(id=str(i), token_ids=(i, i + 1), columns={"answer": str(i)}) for i in range(count)]


def taken(loader: PromptLoader, batches: int) -> list[str]:
    return [p.id for batch in islice(loader, batches) for p in batch]


@given(count=st.integers(1, 12), size=st.integers(1, 15), seed=st.integers(0, 2**40), batches=st.integers(1, 12))
def test_every_prompt_comes_exactly_once_per_epoch(count: int, size: int, seed: int, batches: int) -> None:
    loader = PromptLoader(prompts(count), batch_size=size, seed=seed)
    ids = taken(loader, batches)
    assert loader.position == len(ids) == batches * size
    for start in range(0, len(ids), count):
        epoch = Counter(ids[start : start + count])
        assert set(epoch.values()) == {1}
        assert len(epoch) == count or start + count > len(ids)


@given(count=st.integers(1, 9), size=st.integers(1, 7), other=st.integers(1, 7), before=st.integers(0, 9))
def test_a_loader_goes_on_from_its_state_even_with_another_batch_size(
    count: int, size: int, other: int, before: int
) -> None:
    whole = taken(PromptLoader(prompts(count), batch_size=1, seed=3), before * size + 4 * other)
    first = PromptLoader(prompts(count), batch_size=size, seed=3)
    head = taken(first, before)
    state = json.loads(json.dumps(first.state_dict()))
    second = PromptLoader(prompts(count), batch_size=other, seed=3)
    second.load_state_dict(state)
    assert head + taken(second, 4) == whole


def test_the_position_is_all_of_the_state() -> None:
    ids = taken(PromptLoader(prompts(10), batch_size=1, seed=5), 25)
    for position in (0, 7, 10, 19):
        assert (
            taken(PromptLoader(prompts(10), batch_size=1, seed=5, position=position), 5) == ids[position : position + 5]
        )


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    one, other = (taken(PromptLoader(prompts(20), batch_size=20, seed=s), 2) for s in (1, 2))
    assert one[:20] != one[20:]
    assert one != other
    assert one[:20] != sorted(one[:20], key=int)


def test_a_batch_may_be_larger_than_the_data() -> None:
    loader = PromptLoader(prompts(3), batch_size=7, seed=0)
    assert sorted(Counter(p.id for p in next(loader)).values()) == [2, 2, 3]
    assert loader.epoch == 2


def test_other_data_is_refused_on_resume() -> None:
    state = PromptLoader(prompts(4), batch_size=2, seed=0, position=2).state_dict()
    changed = prompts(4)
    changed[1] = replace(changed[1], columns={"answer": "other"})
    for data in (prompts(5), changed, list(reversed(prompts(4)))):
        loader = PromptLoader(data, batch_size=2, seed=0)
        with pytest.raises(ResumeError, match="not that of the checkpoint"):
            loader.load_state_dict(state)
        assert loader.position == 0


def test_a_fingerprint_changes_with_ids_tokens_columns_and_order() -> None:
    base = prompts(2)
    variants = [
        [replace(base[0], id="x"), base[1]],
        [replace(base[0], token_ids=(9,)), base[1]],
        [replace(base[0], columns={"answer": 0}), base[1]],
        base[::-1],
        base[:1],
    ]
    assert len({fingerprint(v) for v in [base, *variants]}) == 6
    assert fingerprint(prompts(2)) == fingerprint(base)


def test_a_loader_needs_prompts_and_a_size() -> None:
    with pytest.raises(DataError, match="no prompts"):
        PromptLoader([], batch_size=1, seed=0)
    with pytest.raises(ValueError, match="batch_size is at least 1"):
        PromptLoader(prompts(1), batch_size=0, seed=0)
