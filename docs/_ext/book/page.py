"""A page of the book: its blocks, run from the top in one namespace, and what they leave on the page.

formula   definitions, equations, inequalities: set as mathematics, and held to be true
python    run; what it prints stands below it
plot      run with `ax`; the figure stands in its place
theorem   names or labels: statement and verdict of each
{m}`…`    a formula within a line: set, and held to be true where it is a comparison
{value}`x:.3f`   the number
"""

from __future__ import annotations

import ast
import contextlib
import copy
import html
import io
import re
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from math_core import LatexError

from book.notation import latex, mathml, statement_latex
from corollary.theory import plain
from corollary.theory.lab import Lab
from corollary.theory.theorem import prove_one
from corollary.theory.theorems import select

KINDS = ("formula", "python", "plot", "theorem", "symbols")
EQUAL = 1e-9  # relative: sides of an equation in float64
DIFFERENT = 1e-6
_FENCE = re.compile(r"^(?P<ticks>`{3,})(?P<info>[^`\n]*)$")
_ROLE = re.compile(r"(?<!`` )\{(?P<role>m|value)\}`(?P<text>[^`]+)`")
_RAW_MATH = re.compile(r"(?<![\\$])\$(?P<inside>(?:[^$\n]|\n(?!\n))+)\$(?!\$)")
_CLAIM = re.compile(
    r"[=<>≤≥≈≠∝≡∼≪≫→⇒⇔←]|\\(?:[lg]eq?\w*|neq?|lt|gt|ll|gg|approx\w*|propto|equiv|sim\w+|cong|doteq|prec\w*|succ\w*|iff|gets|text"
    r"|\w*[Rr]ightarrow|\w*[Ll]eftarrow|\w*leftrightarrow)(?![A-Za-z])"
)
_OTHER_BLOCK = re.compile(r"^[ \t]*(?:~~~|:::|`{3,}\{(?!toctree\})|[ \t]+`{3,})", re.MULTILINE)
_OTHER_ROLE = re.compile(r"(?<!`` )\{(?!m\}|value\})\w+\}`(?!`)")


class PageError(Exception):
    """Something on a page is not true, or does not run: `page.md:line: what`."""


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a page: prose, or something to be run."""

    kind: str  # prose, fence, or one of KINDS, or m, value
    text: str
    line: int  # of the text's first line, from 1
    argument: str = ""  # behind the fence's name
    source: str = ""  # as it stands in the page


def blocks(text: str, path: str = "page.md") -> Iterator[Block]:
    """The page in pieces: fenced blocks, inline roles, and the prose between.

    Args:
        text: of the page.
        path: what an error calls it.
    """
    lines = text.splitlines(keepends=True)
    start = i = 0
    while i < len(lines):
        found = _FENCE.match(lines[i].rstrip("\n"))
        if not found:
            i += 1
            continue
        yield from _prose("".join(lines[start:i]), start + 1)
        end = next((j for j in range(i + 1, len(lines)) if lines[j].rstrip() == found["ticks"]), None)
        if end is None:
            raise PageError(f"{path}:{i + 1}: the fenced block is never closed")
        name = re.fullmatch(r"\{(\w+)\}\s*(.*)", found["info"].strip())
        if name and name[1] not in (*KINDS, "toctree"):
            raise PageError(f"{path}:{i + 1}: no page has a block {{{name[1]}}}; it has {', '.join(KINDS)}")
        kind, argument = (name[1], name[2]) if name and name[1] in KINDS else ("fence", "")
        yield Block(kind, "".join(lines[i + 1 : end]), i + 2, argument, "".join(lines[i : end + 1]))
        start = i = end + 1
    yield from _prose("".join(lines[start:]), start + 1)


def _prose(text: str, line: int) -> Iterator[Block]:
    place = 0
    for found in _ROLE.finditer(text):
        before = text[place : found.start()]
        yield Block("prose", before, line, source=before)
        line += before.count("\n")
        yield Block(found["role"], found["text"], line, source=found[0])
        line += found[0].count("\n")
        place = found.end()
    yield Block("prose", text[place:], line, source=text[place:])


@dataclass(slots=True)
class Runner:
    """One page being run."""

    path: str
    figures: bool = True  # draw them, and prove the theorems
    namespace: dict[str, Any] = field(default_factory=dict)
    symbols: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        words = {name: value for name, value in vars(plain).items() if not name.startswith("_") and callable(value)}
        self.namespace |= words | {"__name__": "page", "torch": torch, "inf": float("inf")}

    def run(self, block: Block) -> str:
        """What the block becomes.

        Raises:
            PageError: it does not run, or is not true.
        """
        try:
            match block.kind:
                case "prose":
                    return self._checked(block)
                case "formula":
                    return self.formula(block)
                case "python":
                    return self.python(block)
                case "plot":
                    return self.plot(block) if self.figures else self.python(block, plot=True)
                case "theorem":
                    return self.theorem(block) if self.figures else ""
                case "symbols":
                    return self.define_symbols(block)
                case "m":
                    return self.inline(block)
                case "value":
                    return self.value(block)
                case _:
                    return block.source
        except PageError:
            raise
        except Exception as fault:
            raise PageError(f"{self._place(block, fault)}: {type(fault).__name__}: {fault}") from fault

    def formula(self, block: Block) -> str:
        """Every statement set, run and held to be true."""
        comments = _comments(block.text)
        rows = []
        for statement in ast.parse(block.text).body:
            rows.append(statement_latex(statement, self.symbols, comments))
            self.hold(statement, block)
        body = rows[0] if len(rows) == 1 else r"\begin{gathered}" + r" \\ ".join(rows) + r"\end{gathered}"
        try:
            mathml(body, display=True)
        except LatexError as fault:  # told with its line, before a site is built
            raise PageError(f"{self.path}:{block.line}: {fault}: cannot be set: {body}") from fault
        return f"\n```{{math}}\n{body}\n```\n"

    def hold(self, statement: ast.stmt, block: Block) -> None:
        """Run a definition; a claim must be true."""
        line = block.line + statement.lineno - 1
        match statement:
            case ast.FunctionDef() | ast.Assign():
                exec(self._compiled(ast.Module([statement], []), block), self.namespace)  # noqa: S102 - as below
            case ast.Expr(value=ast.Compare() as chain):
                self._chain(chain, block, line)
            case ast.Expr(value=ast.Call(func=ast.Name(id="all"), args=[ast.GeneratorExp() as each]) as call):
                self._everywhere(each, call, block, line)
            case ast.Expr(value=value):
                if not _true(self._evaluated(value, block)):
                    raise PageError(f"{self.path}:{line}: does not hold: {ast.unparse(value)}")
            case _:
                raise PageError(f"{self.path}:{line}: a formula defines or claims")

    def _everywhere(self, each: ast.GeneratorExp, call: ast.Call, block: Block, line: int) -> None:
        """`all(claim for …)`: the claim held to float64's rounding in every case, of which there must be one."""
        held: list[bool] = []
        claim = each.elt

        def examine(sides: list[Any]) -> bool:
            assert isinstance(claim, ast.Compare)
            _chained(claim.ops, sides, f"{self.path}:{line}", ast.unparse(call))
            held.append(True)
            return True

        if isinstance(claim, ast.Compare):
            sides = ast.List([claim.left, *claim.comparators], ast.Load())
            tested = ast.Call(ast.Name("_examine", ast.Load()), [sides], [])
        else:
            tested = ast.Call(ast.Name("_truth", ast.Load()), [claim], [])
        loop = ast.Call(ast.Name("all", ast.Load()), [ast.GeneratorExp(tested, each.generators)], [])
        self.namespace |= {"_examine": examine, "_truth": lambda value: held.append(True) or _true(value)}
        if not self._evaluated(ast.copy_location(loop, call), block):
            raise PageError(f"{self.path}:{line}: does not hold: {ast.unparse(call)}")
        if not held:
            raise PageError(f"{self.path}:{line}: holds in no case, since there is none: {ast.unparse(call)}")

    def _chain(self, chain: ast.Compare, block: Block, line: int) -> None:
        sides = [self._evaluated(side, block) for side in (chain.left, *chain.comparators)]
        _chained(chain.ops, sides, f"{self.path}:{line}", ast.unparse(chain))

    def python(self, block: Block, *, plot: bool = False) -> str:
        """Run; what it printed below it."""
        said = io.StringIO()
        if plot:
            self.namespace |= _axes()
        with contextlib.redirect_stdout(said):
            exec(self._compiled(ast.parse(block.text), block), self.namespace)  # noqa: S102 - as below
        shown = f"\n```python\n{block.text.rstrip()}\n```\n"
        return shown + (f"\n```text\n{said.getvalue().rstrip()}\n```\n" if said.getvalue().strip() else "")

    def plot(self, block: Block) -> str:
        """Run with `ax`; the figure as SVG, its code folded below."""
        self.python(block, plot=True)
        if not any(ax.has_data() for ax in self.namespace["fig"].axes):
            raise PageError(f"{self.path}:{block.line}: the plot is empty")
        picture = _svg(self.namespace["fig"])
        caption = html.escape(block.argument)
        return (
            f'\n```{{raw}} html\n<figure class="plot" role="img" aria-label="{caption}">{picture}'
            f"<figcaption>{caption}</figcaption></figure>\n```\n\n"
            f":::{{dropdown-code}}\n```python\n{block.text.rstrip()}\n```\n:::\n"
        )

    def theorem(self, block: Block) -> str:
        """Statement and verdict of each named theorem; one that does not hold, or whose twin does, is an error."""
        boxes = []
        for found in select(block.argument.split()):
            proof = prove_one(found, Lab())
            if not proof.sound:
                raise PageError(f"{self.path}:{block.line}: theorem {found.label} {proof.verdict}, twins {proof.twins}")
            sign = "≥" if proof.verdict.least else "≤"
            twins = "; ".join(f"{phrase}: {_short(v.measured)}" for phrase, v in proof.twins)
            label = f"<strong>{html.escape(found.label)}</strong> " if found.label != found.name else ""
            rows = [
                f"<p class='theorem-name'>{label}{html.escape(found.name.replace('_', ' '))}</p>",
                f"<pre>{html.escape(found.statement)}</pre>",
                f"<p>{html.escape('Conditions: ' + found.conditions)}</p>" if found.conditions else "",
                f"<p>Measured {_short(proof.verdict.measured)} {sign} {_short(proof.verdict.bound)}. "
                f"Broken, it fails: {html.escape(twins)}. Source: {html.escape(found.source)}.</p>",
            ]
            boxes.append(f"<div class='theorem' id='theorem-{html.escape(found.name)}'>{''.join(rows)}</div>")
        return "\n```{raw} html\n" + "\n".join(boxes) + "\n```\n"

    def define_symbols(self, block: Block) -> str:
        """`name: LaTeX`, a line each, from here on."""
        for line in block.text.splitlines():
            name, sign, text = line.partition(":")
            if not sign:
                raise PageError(f"{self.path}:{block.line}: write `name: LaTeX`, got {line!r}")
            self.symbols[name.strip()] = text.strip()
        return ""

    def inline(self, block: Block) -> str:
        statement = ast.parse(block.text.strip()).body[0]
        if not isinstance(statement, ast.Expr):
            raise PageError(f"{self.path}:{block.line}: an inline formula is an expression or a comparison")
        text = latex(block.text.strip(), self.symbols)
        call = ast.unparse(statement.value.func) if isinstance(statement.value, ast.Call) else ""
        if isinstance(statement.value, ast.Compare) or call in ("all", "any", "approx"):
            self.hold(statement, block)
        else:
            self._evaluated(statement.value, block)
        return f"${text}$"

    def value(self, block: Block) -> str:
        """The number, formatted as in an f-string."""
        if block.text.lstrip().startswith(("'", '"')):
            raise PageError(f"{self.path}:{block.line}: {{value}} is for numbers")
        code = compile("f" + repr("{" + block.text + "}"), f"{self.path}", "eval")
        return str(eval(code, self.namespace))  # noqa: S307 - a page of the book is our own code

    def _checked(self, block: Block) -> str:
        """Prose may name things in raw LaTeX, and claim nothing in it: a claim is a formula, and formulas are run."""
        for pattern, what in ((_OTHER_BLOCK, "block"), (_OTHER_ROLE, "role")):
            if other := pattern.search(block.text):
                line = block.line + block.text[: other.start()].count("\n")
                raise PageError(
                    f"{self.path}:{line}: no page has a {what} {other[0].strip()!r}, in which nothing would be run"
                )
        bare = re.sub(r"`[^`]*`", "", block.text)
        if "$$" in bare or r"\[" in bare:
            raise PageError(
                f"{self.path}:{block.line}: a displayed formula stands in a ```{{formula}} block, where it is run"
            )
        for found in _RAW_MATH.finditer(bare):
            if _CLAIM.search(found["inside"]):
                line = block.line + bare[: found.start()].count("\n")
                raise PageError(
                    f"{self.path}:{line}: ${found['inside']}$ claims something; write it as {{m}}`…`, which is run"
                )
        return block.source

    def _evaluated(self, node: ast.expr, block: Block) -> Any:
        return eval(self._compiled(ast.Expression(node), block), self.namespace)  # noqa: S307 - as above

    def _compiled(self, tree: ast.Module | ast.Expression, block: Block) -> CodeType:
        tree = ast.fix_missing_locations(tree)
        mode = "exec" if isinstance(tree, ast.Module) else "eval"
        return compile(_moved(tree, block.line - 1), self.path, mode)

    def _place(self, block: Block, fault: Exception) -> str:
        trace, line = fault.__traceback__, block.line
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == self.path:
                line = trace.tb_lineno
            trace = trace.tb_next
        return f"{self.path}:{line}"


def pages(folder: Path) -> list[Path]:
    """The pages of the book; `WRITING.md`, which is about them, is none."""
    return sorted(path for path in folder.glob("*.md") if not path.stem.isupper())


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and MyST make it."""
    plain = re.sub(r"[`*]|\{m\}|\$", "", heading.strip().lower())
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def sections(page: Path) -> dict[str, str]:
    """Anchor → text of each `##` section."""
    text = "".join(b.source for b in blocks(page.read_text()) if b.kind != "fence")
    outside = re.sub(r"^```.*?^```$", lambda m: m[0].replace("\n## ", "\n\\## "), text, flags=re.MULTILINE | re.DOTALL)
    parts = re.split(r"^## +(.+)$", outside, flags=re.MULTILINE)
    return {slug(head): body for head, body in zip(parts[1::2], parts[2::2], strict=True)}


def render(text: str, path: str) -> str:
    """The page with every block run and replaced by what it leaves.

    Raises:
        PageError: a block does not run, or is not true.
    """
    runner = Runner(path)
    return "".join(runner.run(block) for block in blocks(text, path))


def run(path: Path, *, figures: bool = True) -> Runner:
    """Run a page; its namespace stays in what is returned."""
    runner = Runner(str(path), figures=figures)
    for block in blocks(path.read_text(), str(path)):
        runner.run(block)
    return runner


def _moved(tree: ast.Module | ast.Expression, lines: int) -> ast.Module | ast.Expression:
    return ast.increment_lineno(copy.deepcopy(tree), lines)


def _comments(text: str) -> Mapping[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {t.start[0]: t.string.lstrip("# ").strip() for t in tokens if t.type == tokenize.COMMENT}


def _true(value: Any) -> bool:
    return bool(value.all()) if isinstance(value, torch.Tensor) else bool(value)


def _chained(ops: Sequence[ast.cmpop], sides: Sequence[Any], place: str, claim: str) -> None:
    """Hold each relation of a chain."""
    for op, left, right in zip(ops, sides, sides[1:], strict=False):
        _compare(op, left, right, place, claim)


def _compare(op: ast.cmpop, left: Any, right: Any, place: str, claim: str) -> None:
    """Hold a relation between two numbers, or all numbers of two tensors, to float64's rounding."""
    if isinstance(left, str) or isinstance(right, str):
        holds, gap = left == right, 0.0
    else:
        a, b = (torch.as_tensor(side, dtype=torch.float64) for side in (left, right))
        if 0 in torch.broadcast_shapes(a.shape, b.shape):
            raise PageError(f"{place}: compares nothing: {claim}")
        size = torch.maximum(a.abs(), b.abs()).clamp(min=1.0)
        same = ((a - b).abs() <= EQUAL * size) & size.isfinite() | (a == b)  # infinity is near nothing else
        gap = float((a - b).abs().max())
        match op:
            case ast.Eq():
                holds = bool(same.all())
            case ast.NotEq():
                apart = (a - b).abs() > DIFFERENT * torch.maximum(a.abs(), b.abs())
                holds = bool((apart & ~same).any())
            case ast.LtE():
                holds = bool(((a <= b) | same).all())
            case ast.GtE():
                holds = bool(((a >= b) | same).all())
            case ast.Lt():
                holds = bool((a < b).all())
            case ast.Gt():
                holds = bool((a > b).all())
            case _:
                raise PageError(f"{place}: no relation {type(op).__name__}")
    if not holds:
        raise PageError(f"{place}: does not hold, by up to {gap:.3g}: {claim}")


def _short(value: float) -> str:
    return f"{value:.3g}"


def _axes() -> dict[str, Any]:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    plt.close("all")
    plt.rcParams.update({
        "svg.hashsalt": "book", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10,
        "axes.spines.top": False, "axes.spines.right": False, "figure.autolayout": True, "lines.linewidth": 1.6,
        "axes.prop_cycle": plt.cycler(color=["#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#475569"]),
    })  # fmt: skip
    fig, ax = plt.subplots(figsize=(6.4, 3.6))
    return {"plt": plt, "fig": fig, "ax": ax}


def _svg(figure: Any) -> str:
    picture = io.StringIO()
    figure.savefig(picture, format="svg", metadata={"Date": None, "Creator": None})
    text = picture.getvalue()
    text = text[text.index("<svg") :]
    return re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
