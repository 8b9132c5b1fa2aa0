from __future__ import annotations

from pathlib import Path

import pytest

from corollary.errors import DataError, UserCodeError
from corollary.rewards.verdicts import JUDGES, judging
from corollary.types import Completion, Prompt, Sampling


def prompt(**columns: object) -> Prompt:
    return Prompt(id="p7", token_ids=(1,), text="?", columns=columns)


def answer(text: str) -> Completion:
    return Completion(token_ids=(), logprobs=(), text=text, truncated=False, version=0, sampling=Sampling())


DOUBLE = "def double(x):\n    return x + x"
TESTS = {"tests": ["assert double(2) == 4", "assert double('a') == 'aa'"], "entry_point": "double", "setup": ""}
ASKED = {"instructions": [{"type": "punctuation:no_comma"}, {"type": "change_case:english_lowercase"}]}
CASES = {
    "equation": ({"answer": 7}, "3 + 4 = 7", "It is 3 + 4 = 7", "3 + 4 = 8"),
    "number": ({"answer": "7"}, "7", "It is 7", "It is 8"),
    "hash": ({"answer": "7"}, "3 and 4\n#### 7", "It is 7", "#### 8"),
    "boxed": ({"answer": "7"}, r"so \boxed{7}", "It is 7", r"so \boxed{8}"),
    "math": ({"answer": r"\frac{1}{2}"}, r"so \boxed{0.5}", "It is $1/2$", r"so \boxed{2}"),
    "code": (
        TESTS,
        f"```python\n{DOUBLE}\n```",
        f"Here:\n```\n{DOUBLE}\n```",
        "```\ndef double(x):\n    return x\n```",
    ),
    "instructions": (ASKED, "all small", "Sure, here it is:\nall small", "All, large"),
}


def test_every_judge_has_a_case_here() -> None:
    assert set(CASES) == set(JUDGES)


@pytest.mark.parametrize("name", CASES)
def test_an_answer_in_the_asked_form_is_right_strictly_and_another_one_only_leniently(name: str) -> None:
    columns, *texts = CASES[name]
    params = {"sandbox": "unsafe_subprocess"} if name == "code" else {}
    with judging(name, params=params) as judge:
        judge.check([prompt(**columns)])
        (judged,) = judge([prompt(**columns)], [[answer(text) for text in texts]])
    assert [tuple(j) for j in judged] == [(True, True), (False, True), (False, False)]


@pytest.mark.parametrize("name", ["hash", "math"])
def test_the_gold_answer_may_stand_in_another_column(name: str) -> None:
    with judging(name, column="right") as judge:
        assert judge([prompt(right="7")], [[answer("7")]])[0][0].lenient
        with pytest.raises(DataError, match=r"p7|right"):
            judge.check([prompt(answer="7")])


def test_a_gold_answer_that_cannot_be_read_is_told_before_anything_is_sampled() -> None:
    with judging("number") as judge, pytest.raises(DataError, match="p7: cannot be judged: answer: expected a number"):
        judge.check([prompt(answer="seven")])
    with judging("instructions") as judge, pytest.raises(DataError, match="there is no rule for 'words:magic'"):
        judge.check([prompt(instructions=[{"type": "words:magic"}])])


def test_a_reward_of_the_user_s_judges_both_readings(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("def short(completions, **_):\n    return [float(len(c) < 4) for c in completions]\n")
    with judging(f"{file}:short") as judge:
        assert judge([prompt()], [[answer("abc"), answer("abcd")]]) == [[(True, True), (False, False)]]
    file.write_text("def short(completions, **_):\n    return [0.5 for _ in completions]\n")
    with judging(f"{file}:short") as judge:
        assert judge([prompt()], [[answer("abc")]]) == [[(False, False)]]  # half right is not right
    file.write_text("def short(completions, **_):\n    return [1 / 0]\n")
    with judging(f"{file}:short") as judge, pytest.raises(UserCodeError, match="division by zero"):
        judge([prompt()], [[answer("abc")]])
