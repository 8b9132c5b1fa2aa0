import math
import random
import sys
import time
from fractions import Fraction

import pytest

from corollary.rewards.arithmetic import Form, boxed, equation, gold_number, judge, last_number, number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("The answer is 72.", 72),
        ("72 clips", 72),
        ("$1,250.00", 1250),
        ("1,234,567", 1234567),
        ("12,34", 34),
        ("it is -3", -3),
        ("it is −3.5 °C", Fraction(-7, 2)),
        ("-$5", -5),
        ("$-5", -5),
        ("10-3", 3),
        ("10 - 3", 3),
        ("10 -3", 3),
        ("(4)-3", 3),
        ("pages 3, -4", -4),
        ("covid-19", 19),
        (".5", Fraction(1, 2)),
        ("007", 7),
        ("3 + 4 = 7", 7),
        ("50%", 50),
        ("1.2.3", Fraction(3, 10)),
        ("#### 8\n", 8),
    ],
)
def test_the_last_number_is_read_as_a_person_reads_it(text, value):
    assert last_number(text).value == value


@pytest.mark.parametrize("text", ["", "no number", "٣", "½", "²", "nan", "inf", "-", "$", ",,,", "9" * 41])
def test_what_is_no_number_gives_none(text):
    assert last_number(text) is None
    assert number(text) is None


@pytest.mark.parametrize(
    ("gold", "value", "decimals"),
    [
        (7, 7, 0),
        (-7, -7, 0),
        (72.0, 72, 0),
        (0.1, Fraction(1, 10), 1),
        (1e22, 10**22, 0),
        (1e-7, Fraction(1, 10**7), 7),
        ("2.50", Fraction(5, 2), 2),
        ("3.00", 3, 0),
        ("He has 3 + 4 = 7.\n#### 7", 7, 0),
        ("#### 1,200", 1200, 0),
        ("-4", -4, 0),
        ("$18.", 18, 0),
        ("9 (apples)", 9, 0),
    ],
)
def test_a_gold_answer_is_read_exactly(gold, value, decimals):
    assert gold_number(gold) == (value, decimals)


@pytest.mark.parametrize(
    "gold", ["", "seven", "1 hour 30 minutes", None, True, [7], math.nan, math.inf, "9" * 50, Fraction(1, 3)]
)
def test_a_gold_answer_that_is_no_number_is_refused(gold):
    with pytest.raises(ValueError, match="expected a number"):
        gold_number(gold)


@pytest.mark.parametrize(
    ("text", "left", "right"),
    [
        ("3 + 4 = 7", 7, 7),
        ("3+4=7", 7, 7),
        ("  3 + 4 = 7 \n", 7, 7),
        ("8 x 5 = 40", 40, 40),
        ("8 × 5 = 40", 40, 40),
        ("24 ÷ 6 = 4", 4, 4),
        ("24 / 6 = 4", 4, 4),
        ("2 + 3 * 4 = 14", 14, 14),
        ("(2 + 3) * 4 = 20", 20, 20),
        ("10 - 3 - 2 = 5", 5, 5),
        ("24 / 4 / 2 = 3", 3, 3),
        ("-3 + 5 = 2", 2, 2),
        ("3 - -2 = 5", 5, 5),
        ("3 − 5 = −2", -2, -2),
        ("-(1 + 2) * 3 = -9", -9, -9),
        ("1,200 + 300 = 1,500", 1500, 1500),
        ("0.1 + 0.2 = 0.3", Fraction(3, 10), Fraction(3, 10)),
        ("1 / 3 = 0.33", Fraction(1, 3), Fraction(33, 100)),
        ("3 + 4 = 8", 7, 8),
    ],
)
def test_an_equation_is_read_with_exact_fractions(text, left, right):
    found = equation(text)
    assert (found.left, found.right.value) == (left, right)


@pytest.mark.parametrize(
    "text",
    [
        "", "7", "= 7", "7 =", "7 = 7", "(7) = 7", "3 + 4", "3 + 4 = 7 = 7", "3 + 4 = 7.", "3 + 4 = 7 apples", "So 3 + 4 = 7",
        "3 + 4 = 7\n3 + 4 = 7", "3 + = 7", "+ 3 4 = 7", "3 4 = 7", "2(3 + 4) = 14", "(3 + 4 = 7", "3 + 4) = 7", "3 ** 2 = 9",
        "3 ^ 2 = 9", "3 // 2 = 1", "1 / 0 = 7", "1 / (2 - 2) = 7", "a + 4 = 7", "3 + 4 = 3 + 4", "3 + 4 = seven",
        "1e2 + 1 = 101", "٣ + ٤ = 7", "__import__('os') + 1 = 7", "3 + 4 == 7", "$3 + $4 = $7",
        "(" * 17 + "1" + ")" * 17 + " + 1 = 2", "-" * 17 + "1 + 1 = 2", "1 + " * 150 + "1 = 151", "1" * 41 + " + 1 = 2",
    ],
)  # fmt: skip
def test_anything_else_is_no_equation(text):
    assert equation(text) is None


@pytest.mark.parametrize(
    ("text", "gold", "strict", "lenient"),
    [
        ("3 + 4 = 7", 7, True, True),
        ("3 + 4 = 7", "7.0", True, True),
        ("3 + 5 = 7", 7, False, True),
        ("3 + 4 = 7", 8, False, False),
        ("4 + 4 = 8", 7, False, False),
        ("The answer: 3 + 4 = 7", 7, False, True),
        ("3 + 4 = 7 and then 5", 7, False, False),
        ("10 / 3 = 3.33", 3.33, True, True),
        ("10 / 3 = 3.33", "3.33", True, True),
        ("10 / 3 = 3", 3, False, True),
        ("10 / 3 = 3.34", "3.34", False, True),
        ("", 7, False, False),
    ],
)
def test_judging_an_equation_needs_form_truth_and_the_gold_answer(text, gold, strict, lenient):
    assert judge(text, gold) == (strict, lenient)


@pytest.mark.parametrize(
    ("form", "right", "wrong"),
    [
        ("number", ["7", " $7. ", "7.00"], ["7 apples", "x = 7", "", "8", "7\n7"]),
        ("hash", ["#### 7", "3 + 4\n#### 7\n", "####7"], ["#### 7 apples", "7", "#### 7\nDone", "#### 8"]),
        (
            "boxed",
            [r"\boxed{7}", r"\boxed{3} no, \boxed{7}."],
            [r"\boxed{8}", r"\boxed{7", "7", r"\boxed{7} or \boxed{}"],
        ),
    ],
)
def test_each_form_is_strict_in_its_own_way(form: Form, right, wrong):
    assert all(judge(text, 7, form) == (True, True) for text in right)
    assert not any(judge(text, 7, form).strict for text in wrong)


def test_what_is_strictly_right_is_leniently_right_whatever_number_comes_last():
    assert judge(r"\boxed{7} clips in 3 days", 7, "boxed") == (True, True)


def test_a_box_is_read_with_its_braces_matched():
    assert boxed(r"\boxed{\frac{1}{2}} and \boxed{\{1,2\}}") == r"\{1,2\}"
    assert boxed(r"\boxed{") is None
    assert boxed("no box") is None


def test_a_true_random_equation_is_strictly_right_and_a_changed_one_is_not():
    draw = random.Random(0)
    for _ in range(300):
        a, b, c = (draw.randint(1, 99) for _ in range(3))
        for text, value in (
            (f"{a} + {b} * {c}", a + b * c),
            (f"({a} - {b}) * {c}", (a - b) * c),
            (f"{a * b} / {b}", a),
        ):
            assert judge(f"{text} = {value}", value).strict
            assert not judge(f"{text} = {value + 1}", value + 1).strict


def test_no_text_costs_more_than_moments_or_runs_anything():
    texts = [
        "1" * 1_000_000, "1," * 500_000, "-" * 100_000 + "1 = 1", "(" * 100_000, "=" * 100_000, "1" + "+1" * 50_000 + " = 7",
        "9**9**9**9 = 7", "9^9^9^9", "\\boxed{" * 50_000, "{}" * 100_000 + "\\boxed{" + "{" * 100_000, "$-" * 100_000,
        "####" * 100_000, "\x00" * 1000, "__import__('os').system('true') + 1 = 7", " " * 1_000_000, ".1" * 300_000,
    ]  # fmt: skip
    ran: list[object] = []
    listening = True
    sys.addaudithook(lambda event, data: ran.append(data) if listening and event in ("compile", "exec") else None)
    started = time.perf_counter()
    for text in texts:
        for form in ("equation", "number", "hash", "boxed"):
            assert not judge(text, 77, form).strict
    listening = False
    assert time.perf_counter() - started < 2
    assert ran == []
