from __future__ import annotations

from typing import Any

import pytest

import tiny
from corollary.data.pairs import PairRows, answers, apart, from_rollouts
from corollary.errors import DataError
from corollary.types import Completion, Prompt, Rollout, Sampling

ROW: dict[str, Any] = {"chosen": "5", "rejected": "6 6"}


def prompt(**columns: Any) -> Prompt:
    return Prompt(id="p", token_ids=(3,), columns=ROW | columns)


def encode(text: str) -> list[int]:
    return [*map(int, text.split()), tiny.EOS]


def rollout(reward: float | None, *tokens: int, sampled: tuple[bool, ...] = ()) -> Rollout:
    completion = Completion(
        token_ids=tokens, logprobs=(0.0,) * len(tokens), text="", truncated=False, version=0, sampling=Sampling(),
        sampled=sampled,
    )  # fmt: skip
    return Rollout(prompt=Prompt(id="p", token_ids=(3,)), completion=completion, reward=reward)


def test_a_row_is_a_pair() -> None:
    (pair,) = PairRows().pairs(prompt(), encode)
    assert (pair.name, pair.chosen, pair.rejected) == ("p/0", (5, tiny.EOS), (6, 6, tiny.EOS))
    assert (pair.margin, pair.share, pair.refusal) == (None, 1.0, "")


def test_each_of_several_rejected_answers_makes_a_pair_with_the_chosen_one() -> None:
    pairs = PairRows(margin="gap").pairs(prompt(rejected=["6", "7", "8"], gap=[1, 2.5, 4]), encode)
    assert [(p.name, p.chosen[0], p.rejected[0], p.margin) for p in pairs] == [
        ("p/0", 5, 6, 1), ("p/1", 5, 7, 2.5), ("p/2", 5, 8, 4)
    ]  # fmt: skip


def test_the_pairs_of_a_prompt_count_as_one_or_each_as_one() -> None:
    row = prompt(rejected=["6", "7", "5"])
    assert [p.share for p in PairRows().usable(row, encode)] == [0.5, 0.5], "what is refused takes no share"
    assert [p.share for p in PairRows(alike="pairs").usable(row, encode)] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("settings", "columns", "reason"),
    [
        ({"tie": "tie"}, {"tie": True}, "ties"),
        ({"margin": "gap"}, {"gap": 0}, "ties"),
        ({}, {"rejected": "5"}, "of twice the same answer"),
        ({"max_answer_tokens": 2}, {}, "over max_answer_tokens=2"),
        ({"max_answer_tokens": 3, "tie": "tie", "margin": "gap"}, {"tie": False, "gap": 2}, ""),
    ],
)
def test_what_teaches_nothing_is_left_out_with_a_reason(
    settings: dict[str, Any], columns: dict[str, Any], reason: str
) -> None:
    rows = PairRows(**settings)
    assert rows.refusal(prompt(**columns), encode) == reason
    assert len(rows.usable(prompt(**columns), encode)) == (not reason)


def test_a_row_stays_for_the_pairs_that_are_left() -> None:
    rows, row = PairRows(max_answer_tokens=2), prompt(rejected=["6 6", "7"])
    assert rows.refusal(row, encode) == ""
    assert [pair.name for pair in rows.usable(row, encode)] == ["p/1"]


@pytest.mark.parametrize("gap", [-1, "2", None, True, float("nan")])
def test_a_margin_is_a_number_that_is_not_negative(gap: object) -> None:
    with pytest.raises(
        DataError, match=r"algorithm.margin: example p has the margin .*the chosen answer is the better"
    ):
        PairRows(margin="gap").pairs(prompt(gap=gap), encode)


def test_an_answer_may_be_the_last_turn_of_a_conversation() -> None:
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "5"}]
    assert answers("{chosen}", prompt(chosen=turns), "algorithm.chosen") == ["5"]
    for odd in (turns[:1], [{"content": "5"}], [["5"]]):
        with pytest.raises(DataError, match=r"algorithm.chosen: example p has a list that is no answer"):
            answers("{chosen}", prompt(chosen=odd), "algorithm.chosen")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"rejected": []}, r"lists of \[0\] entries in rejected"),
        ({"chosen": ["5", "6"]}, "2 chosen answers"),
        ({"rejected": [""]}, "empty answer"),
    ],
)
def test_lists_that_are_no_answers_are_told(columns: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        PairRows().pairs(prompt(**columns), encode)


def test_lists_of_one_template_go_together() -> None:
    row = prompt(a=["1", "2"], b=["3", "4"], c=["5"])
    assert answers("{a}{b}", row, "k") == ["13", "24"]
    with pytest.raises(DataError, match=r"lists of \[1, 2\] entries in a, c"):
        answers("{a}{c}", row, "k")


def test_the_best_goes_with_the_worst_and_no_answer_is_in_two_pairs() -> None:
    group = [rollout(r, i) for i, r in enumerate([0.5, 1.0, None, 0.0, 0.5, 0.0])]
    couples = [(b.completion.token_ids[0], w.completion.token_ids[0]) for b, w in apart(group, 9)]
    assert couples == [(1, 5), (0, 3)], "the two middle ones are a tie or alone"
    assert len(apart(group, 1)) == 1


def test_answers_that_earned_the_same_or_are_the_same_make_no_pair() -> None:
    assert apart([rollout(1.0, 5), rollout(1.0, 6), rollout(None, 7)], 3) == []
    assert apart([rollout(1.0, 5), rollout(0.0, 5)], 3) == []
    assert apart([], 3) == []


def test_sampled_answers_keep_their_tokens_and_observations_are_not_trained() -> None:
    better, worse = rollout(1.0, 5, 6, 7, sampled=(True, False, True)), rollout(0.25, 8)
    pair = from_rollouts(better, worse)
    assert (pair.chosen, pair.rejected, pair.margin) == ((5, 6, 7), (8,), 0.75)
    assert [list(mask) for mask in pair.trained] == [[True, False, True], [True]]
