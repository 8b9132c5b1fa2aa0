from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

from corollary.data import word_problems as wp
from corollary.data.near_duplicates import SIMILAR, _grams, names, skeleton
from corollary.data.published import rows_of, to_jsonl
from corollary.data.word_problems import (
    Problem,
    fewest_operations,
    joined,
    number,
    pairs,
    sound,
    tidy,
    value_of,
)
from models.small import fetched

SVAMP = {
    "ID": "chal-1", "Body": "Ann has 5 pens  .  she buys 3", "Question": "How many pens does she have ?", "Answer": Decimal("8.0"),
    "Equation": "( 5.0 + 3.0 )", "Type": "Common-Divison",
}  # fmt: skip


def problem(question: str, answer: str = "1", **changes: object) -> Problem:
    base = {"id": question, "type": "t", "operations": 1, "source": "s"}
    return Problem(question=question, answer=answer, **(base | changes))


def test_svamp_rows_become_problems() -> None:
    (made,) = wp.svamp([SVAMP])
    assert made == Problem(
        id="svamp/chal-1", question="Ann has 5 pens. She buys 3, how many pens does she have?", answer="8", type="division",
        operations=1, equation="5 + 3", source="svamp",
    )  # fmt: skip


def test_mawps_rows_become_problems_and_a_part_is_chosen_by_its_type() -> None:
    rows = [
        {
            "input": "Ann had 4 pens . She got 3 . How many has she ?",
            "target": Decimal("7.0"),
            "type": "addsub",
            "idx": 0,
        },
        {"input": "Two of 3 , twice . How many ?", "target": Decimal("6.50"), "type": "multiarith", "idx": 1},
    ]
    first, second = wp.mawps(rows)
    assert (first.question, first.answer, first.operations) == ("Ann had 4 pens. She got 3. How many has she?", "7", 1)
    assert (second.id, second.answer, second.operations) == ("mawps/multiarith/1", "6.5", 2)
    assert [p.id for p in wp.mawps(rows, "multiarith")] == ["mawps/multiarith/1"]


def test_asdiv_rows_without_one_number_for_an_answer_are_left_out() -> None:
    base = {"body": "A.", "question": "B?", "solution_type": "Substraction"}
    rows = [
        base | {"answer": "1,212 (animals)", "formula": "1200+12=1212", "idx": 0},
        base | {"answer": "2:3", "formula": "x", "idx": 1},
        base | {"answer": "17", "formula": "17/10=1 r7", "idx": 2},
    ]
    first, last = wp.asdiv(rows)
    assert (first.answer, first.operations, first.type, first.equation) == ("1212", 1, "subtraction", "1200+12")
    assert (last.answer, last.operations) == ("17", 1)


def test_gsm8k_answers_stand_behind_four_hashes() -> None:
    (made,) = wp.gsm8k([{"question": "Q  1?", "answer": "a = <<1+1=2>>2\n#### 2,000", "idx": 4}], "test")
    assert (made.id, made.answer, made.solution) == ("gsm8k/test/4", "2000", "a = 2")


@pytest.mark.parametrize(
    ("raw", "text"), [("145.0", "145"), ("0.50", "0.5"), ("1E+3", "1000"), ("0", "0"), ("100", "100")]
)
def test_numbers_are_plain_text(raw: str, text: str) -> None:
    assert number(raw) == text


def test_tidy_text_stays_as_it_is() -> None:
    once = tidy("He paid  $ 12.50 , then left .  he went home ! why ?")
    assert once == "He paid $12.50, then left. He went home! Why?"
    assert tidy(once) == once


def test_a_body_with_its_full_stop_keeps_its_question_s_capital() -> None:
    assert joined("Ann has 3.", "How many?") == "Ann has 3. How many?"
    assert joined("", "How many?") == "How many?"


def test_only_plain_arithmetic_has_a_value() -> None:
    assert value_of("(7 - 2.5) * 2 / 3") == Fraction(3)
    for hostile in ("__import__('os')", "2 ** 99", "1 / 0", "x", "", "9 if 1 else 2", "1 +"):
        with pytest.raises(ValueError, match="not plain arithmetic"):
            value_of(hostile)


def test_operations_are_the_fewest_that_reach_the_answer() -> None:
    assert fewest_operations("There are 12 eggs, 5 of them brown.", "7") == 1
    assert fewest_operations("2 boxes of 5 and 1 more", "11") == 2
    assert fewest_operations("2 boxes of 5 and 1 more", "999") is None
    assert fewest_operations("no numbers", "1") is None


def test_what_does_not_ask_contradicts_itself_or_has_no_short_answer_is_not_sound() -> None:
    assert sound(problem("How many?", "2.125"))
    assert not sound(problem("Find the number."))
    assert not sound(problem("How many?", "0.3333333333"))
    assert not sound(problem("What is 0.16666 of it?", "1"))
    assert not sound(problem("How many?", "9", equation="5 + 3"))


def test_train_keeps_new_numbers_and_test_keeps_one_question_of_a_kind() -> None:
    sizes = Counter()
    for noun in ("eggs", "pens", "cups", "hats", "keys", "bolts", "figs", "nuts"):
        pool = [problem(f"A {noun} box holds {n} {noun}. How many {noun} do {n + 1} boxes hold?") for n in range(2, 8)]
        sides = [list(wp.word_problems([*pool, pool[0]], part)) for part in ("train", "test")]
        sizes[tuple(map(len, sides))] += 1
    assert set(sizes) == {(6, 0), (0, 1)}  # a kind is on one side, whole in train and once in test


def test_rows_survive_being_written(tmp_path: Path) -> None:
    odd = problem("Wie viele Äpfel\u2028hat “Jo”?", "2.5")
    path = tmp_path / "rows.jsonl"
    path.write_bytes(to_jsonl([odd, odd]))
    assert [r["question"] for r in rows_of(path)] == [odd.question] * 2


def test_small_problems_are_of_one_operation_on_whole_numbers_up_to_fifty() -> None:
    pool = [
        problem("Of 50 eggs 8 broke. How many are left?", "42"),
        problem("Of 51 eggs 8 broke. How many are left?", "43"),
        problem("Of 5.5 eggs 3 broke. How many are left?", "2.5"),
        problem("Of 30 eggs 5 were sold, each for 2. What was earned?", "10", operations=2),
        problem("5 boxes hold 20 eggs each. How many are there?", "100"),
        problem("Of 3 eggs 8 broke. How many are left?", "-5"),
        problem("2 boxes hold 2 eggs each. How many are there?", "4"),
        problem("3 boxes hold 4 eggs each. How many are there?", "12", equation="4 * 3"),
    ]
    made = {p.question[:7]: p.equation for p in wp.small(pool)}
    assert made == {"Of 50 e": "50 - 8", "2 boxes": "", "3 boxes": "4 * 3"}  # 2 + 2 or 2 * 2: uncertain


@pytest.mark.slow
def test_the_built_in_split_has_the_recorded_rows_and_no_near_duplicate_across() -> None:
    sides = {
        part: [json.loads(r) for r in fetched(f"word-problems/{part}").read_text().splitlines()]
        for part in ("train", "test")
    }
    assert {part: len(rows) for part, rows in sides.items()} == {"train": 1998, "test": 628}
    assert Counter(r["operations"] for r in sides["train"]) == {1: 1313, 2: 632, None: 53}
    assert Counter(r["operations"] for r in sides["test"]) == {1: 463, 2: 136, None: 28, 0: 1}
    known = names([r["question"] for rows in sides.values() for r in rows])
    train = [_grams(skeleton(r["question"], known)) for r in sides["train"]]
    for row in sides["test"]:
        own = _grams(skeleton(row["question"], known))
        assert max(len(own & g) / len(own | g) for g in train) < SIMILAR, row["question"]


@pytest.mark.slow
def test_one_operation_problems_are_solved_by_their_equation_or_by_one_operation() -> None:
    rows = [json.loads(r) for r in fetched("word-problems/train").read_text().splitlines()]
    ones = [r for r in rows if r["operations"] == 1]
    assert len(ones) > 1000
    for row in ones:
        if row["equation"]:
            assert value_of(row["equation"]) == Fraction(row["answer"])
        else:
            assert fewest_operations(row["question"], row["answer"]) == 1


@pytest.mark.slow
def test_small_problems_lie_on_the_side_that_they_came_from_and_worked_ones_in_train() -> None:
    ids = {
        name: {json.loads(row)["id"] for row in fetched(name).read_text().splitlines()}
        for name in (
            "word-problems/train",
            "word-problems/test",
            "small-problems/train",
            "small-problems/test",
            "small-problems/worked",
        )
    }
    assert ids["small-problems/train"] < ids["word-problems/train"]
    assert ids["small-problems/worked"] < ids["small-problems/train"]
    assert ids["small-problems/test"] < ids["word-problems/test"]
    for row in map(json.loads, fetched("small-problems/worked").read_text().splitlines()):
        assert value_of(row["equation"]) == Fraction(row["answer"])


def test_a_pair_is_the_right_equation_and_another_operation_rightly_worked_out() -> None:
    made = list(pairs([problem("?", "9", equation="15 - 6", id=f"p{i}") for i in range(20)]))
    assert {pair.chosen for pair in made} == {"15 - 6 = 9"}
    assert {pair.rejected for pair in made} == {"15 + 6 = 21", "15 * 6 = 90"}
    assert made == list(pairs([problem("?", "9", equation="15 - 6", id=f"p{i}") for i in range(20)]))


@pytest.mark.parametrize(
    ("equation", "answer", "rejected"),
    [("4 / 2", "2", {"4 + 2 = 6", "4 * 2 = 8"}), ("2 + 2", "4", {"2 - 2 = 0", "2 / 2 = 1"}), ("0 + 0", "0", set())],
)
def test_a_rejected_answer_is_never_right_nor_negative_nor_broken(
    equation: str, answer: str, rejected: set[str]
) -> None:
    made = pairs([problem("?", answer, equation=equation, id=f"p{i}") for i in range(20)])
    assert {pair.rejected for pair in made} == rejected


def test_problems_without_a_plain_equation_make_no_pair() -> None:
    assert not list(pairs([problem("?"), problem("?", "14", equation="2 * (3 + 4)")]))
