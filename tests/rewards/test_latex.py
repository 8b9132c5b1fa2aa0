"""The reward `math`. Its module is imported by workers only, so it is asked through a `Reward` here, as in a run."""

import random
import time
from dataclasses import replace

import pytest

from corollary.errors import DataError
from corollary.rewards.base import Reward, RewardSpec
from corollary.rewards.parts import Part
from corollary.types import Completion, Prompt, Sampling

pytest.importorskip("math_verify")

RIGHT = [
    ("72", r"\boxed{72 \text{ clips}}"),
    ("72", r"\boxed{72 clips}"),
    ("72", "work\n#### 72"),
    ("72", "The answer is 72."),
    ("72", "It costs $5 and then $72."),
    ("72", r"\boxed{\frac{144}{2}}"),
    (72, "72.0"),
    ("so $x$ is \\boxed{5}", "5"),
    ("1,234", r"\boxed{1234}"),
    ("15000", r"\boxed{15,\!000}"),
    (r"\$15,\!000", r"\boxed{15{,}000}"),
    (r"\frac{12}{5,\!525}", r"\boxed{\frac{12}{5525}}"),
    ("(1,2)", r"\boxed{(1,\!2)}"),
    ("-3", r"\boxed{-3}"),
    (r"50\%", r"\boxed{0.5}"),
    (r"90^\circ", r"\boxed{90}"),
    (r"\frac{1}{2}", r"\boxed{0.5}"),
    (r"\frac12", r"\boxed{1/2}"),
    (0.5, r"\boxed{\dfrac{1}{2}}"),
    ("x^2+1", r"\boxed{1+x^2}"),
    ("x^2 - 1", r"\boxed{(x-1)(x+1)}"),
    ("x+2", "It is $x+1$ or $x+2$."),
    ("3", r"\boxed{x=3}"),
    (r"2\sqrt{3}", r"\boxed{\sqrt{12}}"),
    ("10!", r"\boxed{3628800}"),
    (r"\pi/2", r"\boxed{\frac{\pi}{2}}"),
    ("(1,2)", r"\boxed{(1, 2)}"),
    ("1,2", r"\boxed{2,1}"),
    (r"(-\infty,2]", r"\boxed{(-\infty, 2]}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\boxed{\begin{pmatrix} 1 \\ 2 \end{pmatrix}}"),
    (r"\text{(A)}", r"\boxed{A}"),
    (r"\text{Evelyn}", r"\boxed{\text{evelyn}}"),
]
WRONG = [
    ("72", r"\boxed{73}"),
    ("72", ""),
    ("72", r"\boxed{}"),
    ("72", "72 or 5"),
    (r"\frac12", r"\boxed{0.51}"),
    ("3.14", r"\boxed{\pi}"),
    ("x+1", r"\boxed{x+2}"),
    ("(1,2)", r"\boxed{(2,1)}"),
    ("[1,2]", r"\boxed{(1,2)}"),
    ("A", "B"),
]


def completion(text):
    return Completion(token_ids=(), logprobs=(), text=text, truncated=False, version=0, sampling=Sampling())


def prompt(gold):
    return Prompt(id=f"p{gold}", token_ids=(), text="?", columns={"answer": gold})


@pytest.fixture(scope="module")
def reward():
    with Reward([RewardSpec(type="math", timeout=3)], workers=1) as reward:
        yield reward


def rewards(reward, pairs):
    return [group[0].reward for group in reward.score([(prompt(gold), [completion(text)]) for gold, text in pairs])]


def test_answers_equal_as_mathematics_earn_one(reward):
    assert [pair for pair, value in zip(RIGHT, rewards(reward, RIGHT), strict=True) if value != 1] == []


def test_other_answers_earn_zero(reward):
    assert [pair for pair, value in zip(WRONG, rewards(reward, WRONG), strict=True) if value != 0] == []


@pytest.mark.parametrize("gold", ["", r"\frac{", r"\unknown{1}", "???", None])
def test_a_gold_answer_that_is_no_formula_is_an_error_that_names_the_row(reward, gold):
    rows = [
        (prompt("1"), [completion("1")]),
        (Prompt(id="p8", token_ids=(), columns={"answer": gold}), [completion("1")]),
    ]
    with pytest.raises(DataError, match="reward 'math' cannot judge sample p8#0: column 'answer'"):
        reward.score(rows)
    with pytest.raises(DataError, match="p8"):
        reward.check([row for row, _ in rows])


def hostile(count):
    """Formulas meant to break a reader, run something, or think for ever."""
    wicked = [
        "__import__('os').system('true')", "9**9**9**9", "9^9^9^9", r"\boxed{9^{9^{9^{9}}}}", r"\boxed{1000000!}", r"\boxed{99!!!!}",
        "(" * 100_000, "{" * 100_000, r"\frac{" * 5000, r"\boxed{" * 20_000, "1" * 1_000_000, "1," * 300_000, "$" * 100_000,
        "####" * 100_000, r"\boxed{(a+b+c+d+e+f)^{40}}", r"\boxed{(x+1)^{999}}", r"\boxed{\sum_{n=1}^{99999} n^n}", "\x00" * 1000,
        r"\boxed{\int_0^1 x^x dx}", r"\boxed{x^{x^{x^{x^{x}}}}}", r"\boxed{().__class__.__base__}", r"\boxed{lambda: 1}", "1e999999999",
        r"\boxed{\text{" + "(" * 5000 + "}}", r"\boxed{|x|^{|y|}!}", r"\boxed{\begin{pmatrix}" + "1&" * 100 + r"\end{pmatrix}}",
    ]  # fmt: skip
    pieces = [*"(){}^9x=+-*/,.$ !%_'&\n", "\\frac", "\\boxed{", "####", "\\sqrt", "\\text{", "\\\\"]
    draw = random.Random(0)
    while len(wicked) < count:
        wicked.append("".join(draw.choice(pieces) for _ in range(draw.choice([5, 50, 500, 5000]))))
    return wicked


def test_five_hundred_hostile_answers_are_wrong_within_ten_seconds(reward):
    gold = Prompt(id="p", token_ids=(), columns={"answer": r"77+\sqrt{y}"})
    reward.check([gold])
    started = time.monotonic()
    scores = reward.score([(gold, [completion(text) for text in hostile(500)])])[0]
    assert [score.reward for score in scores] == [0.0] * 500
    assert time.monotonic() - started < 10


def test_an_answer_that_thinks_for_ever_is_wrong_and_a_gold_answer_that_does_is_the_datas_fault(tmp_path):
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import time\n"
        "def f(completions, answer, **columns):\n"
        "    while 'loop' in completions[0] + answer[0]: time.sleep(1)\n"
        "    return [1.0]\n"
    )
    part = replace(Part.of(RewardSpec(type=f"{slow}:f", per="sample", timeout=0.5)), late=0.0)
    with Reward([part]) as reward:
        fine = prompt("7")
        assert [
            s.reward for s in reward.score([(fine, [completion("7"), completion("loop"), completion("7")])])[0]
        ] == [1, 0, 1]
        with pytest.raises(DataError, match="sample ploop#0: its gold answer cannot be compared with"):
            reward.score([(prompt("loop"), [completion("7")])])
