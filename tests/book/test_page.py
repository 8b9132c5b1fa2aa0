"""The machinery of the book: what is run, what is refused, and that a planted error is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest
from book.mutants import survivors
from book.notation import latex
from book.page import PageError, blocks, render, run

SAMPLE = Path(__file__).parents[2] / "docs" / "_ext" / "book" / "sample.md"


def formula(text: str) -> str:
    return f"# Page\n\n```{{formula}}\n{text}\n```\n"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("-beta * sigmoid(-beta * z)", r"-\beta\,\sigma(-\beta\,z)"),
        ("sum(pi(y) * r(y) for y in Y)", r"\sum_{y \in Y} \pi(y)\,r(y)"),
        ("sum(f(t) for t in range(1, T + 1))", r"\sum_{t=1}^{T} f(t)"),
        ("(a + b) * c", r"(a + b)\,c"),
        ("a - (b - c)", "a - (b - c)"),
        ("E(pi, lambda y: R(y))", r"\mathbb{E}_{y \sim \pi}\left[R(y)\right]"),
        ("log_pi_old(a, s)", r"\log \pi_{\text{old}}(a \mid s)"),
        ("x ** 2 / 2", r"\frac{{x}^{2}}{2}"),
        ("max(q(a) for a in A)", r"\max_{a \in A} q(a)"),
        ("2 * 3", r"2 \cdot 3"),
        ("1e-5 * x", r"10^{-5}\,x"),
        ("r_bar", r"\bar{r}"),
        ("pi_prime(a, s)", r"{\pi}'(a \mid s)"),
    ],
)
def test_python_is_set_as_mathematics(source: str, expected: str) -> None:
    assert latex(source) == expected


def test_a_chain_is_set_line_by_line_with_its_reasons() -> None:
    text = latex("a == b == c", comments={1: "since it is so"})
    assert text == r"\begin{aligned}a &= b \\ &= c \qquad \text{since it is so}\end{aligned}"


def test_cases_are_set_as_cases() -> None:
    text = latex("def f(x):\n    if x < 0:\n        return 0\n    return x")
    assert text == r"f(x) = \begin{cases}0 & \text{if } x < 0 \\ x & \text{else}\end{cases}"


@pytest.mark.parametrize(
    "false",
    [
        "1 == 1 + 1e-6",
        "2 <= 1",
        "1 < 1",
        "1 != 1",
        "torch.ones(2) == torch.tensor([1.0, 1.1])",
        "1 == 1 == 2",
        "all(x * x == x for x in (0, 1, 2))",
        "all(x == x for x in ())",
        "approx(1.2, 1.0, 0.1)",
        "float('nan') == 0",
        "inf == 0",
        "exp(-50.0) != 0",
        "torch.zeros(0) == torch.zeros(0)",
    ],
)
def test_a_formula_that_is_not_true_stops_the_page_at_its_line(false: str) -> None:
    with pytest.raises(PageError, match=r"page\.md:4: "):
        render(formula(false), "page.md")


@pytest.mark.parametrize("true", ["0.1 + 0.2 == 0.3", "1 <= 1", "inf == inf", "all(x <= 2 for x in (1, 2))"])
def test_a_formula_that_is_true_to_rounding_is_set(true: str) -> None:
    assert "```{math}" in render(formula(true), "page.md")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("$\\pi = 1$\n", r"page.md:1: \$\\pi = 1\$ claims"),
        ("one\n\n$a \\le b$\n", "page.md:3: "),
        ("$$\\pi$$\n", "displayed formula"),
        ("$D\n= 0$\n", "claims something"),
        ("$D ≤ 0$\n", "claims something"),
        ("$D \\leqslant 0$\n", "claims something"),
        ("$A \\Longrightarrow B$\n", "claims something"),
        ("$\\text{never above } 0$\n", "claims something"),
        ("```{math}\n1 = 2\n```\n", r"no page has a block \{math\}"),
        ("```{Formula}\n1 == 2\n```\n", r"no page has a block \{Formula\}"),
        (":::{math}\n1 = 2\n:::\n", "nothing would be run"),
        ("~~~{math}\n1 = 2\n~~~\n", "nothing would be run"),
        ("  ```{formula}\n  1 == 2\n  ```\n", "nothing would be run"),
        ("{math}`1 = 2`\n", "nothing would be run"),
        ("{value}`'1 = 2'`\n", "is for numbers"),
        ("{m}`1 == 2`\n", "page.md:1: does not hold"),
        ("{value}`nothing`\n", "NameError"),
        ("```{python}\nx = 1\nassert x == 2\n```\n", "page.md:3: AssertionError"),
        ("```{plot} Nothing\npass\n```\n", "the plot is empty"),
        ("```{theorem} B99\n```\n", "no theorem"),
        ("```{formula}\nimport os\n```\n", "a formula is a definition"),
        ("```{python}\nx = 1\n", r"page\.md:1: the fenced block is never closed"),
    ],
)
def test_what_a_page_may_not_say_is_named_with_its_line(text: str, why: str) -> None:
    with pytest.raises(PageError, match=why):
        render(text, "page.md")


def test_numbers_and_output_are_filled_in_and_plain_fences_left_alone() -> None:
    page = render(
        "A third: {value}`1 / 3:.3f`.\n\n```{python}\nprint(1 + 1)\n```\n\n```bash\nls $HOME = x\n```\n", "page.md"
    )
    assert "A third: 0.333." in page
    assert "```text\n2\n```" in page
    assert "ls $HOME = x" in page


def test_the_sample_page_runs_and_no_planted_error_goes_unnoticed() -> None:
    assert "DPO" in run(SAMPLE).namespace
    planted, alive = survivors(SAMPLE)
    assert planted > 30
    assert not alive, alive


def test_an_error_that_nothing_tells_is_reported(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(formula("def f(x):\n    return x + 1"))
    planted, alive = survivors(page)
    assert planted == len(alive) == 2
    assert any("x - 1" in mutant.what for mutant, _ in alive)


def test_every_line_of_a_page_is_in_exactly_one_of_its_pieces() -> None:
    text = SAMPLE.read_text()
    assert "".join(block.source for block in blocks(text)) == text


def test_names_set_by_the_page_are_used() -> None:
    text = "```{symbols}\nJ: \\mathcal{J}\n```\n```{formula}\nJ = 1\n```\n"
    said = render(text, "page.md")
    assert r"\mathcal{J} = 1" in said
