"""Errors planted in a page's formulas, one at a time: each must turn the page red.

A sign, an operator, a relation, a number, the order of two arguments, a function for its twin: what slips while writing. The page
is run to the formula once; for each error a child process goes on from there with the formula broken.
"""

from __future__ import annotations

import ast
import os
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from book.page import Block, Runner, blocks

OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
}  # fmt: skip
RELATIONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.LtE: ast.Gt, ast.GtE: ast.Lt, ast.Lt: ast.GtE, ast.Gt: ast.LtE, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
FUNCTIONS = {"min": "max", "max": "min", "exp": "log", "log": "exp", "sum": "prod", "prod": "sum", "mean": "sum"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """A formula with an error in it."""

    line: int
    what: str  # before → after
    block: Block  # the broken one


def mutants(block: Block) -> Iterator[Mutant]:
    """Every error that is planted in a formula."""
    tree = ast.parse(block.text.strip() if block.kind == "m" else block.text)
    tried = _tried(tree)
    for i, node in enumerate(ast.walk(tree)):
        for n in range(0 if id(node) in tried else _ways(node)):
            broken = ast.parse(ast.unparse(tree))  # a fresh copy: walked in the same order
            target = next(x for j, x in enumerate(ast.walk(broken)) if j == i)
            before = ast.unparse(target)
            after = _changed(broken, target, n)
            text = ast.unparse(broken)
            if text != ast.unparse(tree):
                yield Mutant(
                    block.line + getattr(node, "lineno", 1) - 1, f"{before}  →  {after}", replace(block, text=text)
                )


def _tried(tree: ast.AST) -> set[int]:
    """Where a claim `all(… for b in (0.1, 1.0))` is tried out: examples, no part of what is claimed."""
    calls = [
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id in ("all", "any")
    ]
    each = [a for c in calls for a in c.args if isinstance(a, ast.GeneratorExp)]
    return {id(n) for one in each for g in one.generators for n in ast.walk(g.iter)}


def _ways(node: ast.AST) -> int:
    match node:
        case ast.BinOp(op=op) if type(op) in OPERATORS:
            return 1
        case ast.Compare():
            return len(node.ops)
        case ast.UnaryOp(op=ast.USub()):
            return 1
        case ast.Constant(value=bool() | str()):
            return 0
        case ast.Constant(value=int() | float()):
            return 1
        case ast.Call(func=ast.Name(id=name)) if name in FUNCTIONS:
            return 1
        case _:
            return 0


def _changed(tree: ast.AST, node: ast.AST, n: int) -> str:
    """Plant the n-th error of this node; what it then reads."""
    match node:
        case ast.BinOp():
            node.op = OPERATORS[type(node.op)]()
        case ast.Compare():
            node.ops[n] = RELATIONS[type(node.ops[n])]()
        case ast.UnaryOp():
            node.op = ast.UAdd()
        case ast.Constant(value=value):
            node.value = value * 1.1 if isinstance(value, float) and value else value + 1  # type: ignore[operator]
        case ast.Call(func=ast.Name() as function):
            function.id = FUNCTIONS[function.id]
    return ast.unparse(node)


def survivors(
    path: Path, *, sample: int | None = None, seed: int = 0, only: str = ""
) -> tuple[int, list[tuple[Mutant, str]]]:
    """(errors planted, those after which the page still ran), with the page's path.

    Args:
        path: of the page.
        sample: so many errors, drawn at random; all when left out.
        seed: of the draw.
        only: a part of the formula's text.
    """
    pieces = list(blocks(path.read_text(), str(path)))
    planted = [
        (i, m) for i, b in enumerate(pieces) if b.kind in ("formula", "m") and only in b.text for m in mutants(b)
    ]
    if sample is not None and sample < len(planted):
        planted = sorted(random.Random(seed).sample(planted, sample), key=lambda pair: pair[0])
    runner, alive, place = Runner(str(path), figures=False), [], 0
    for i, mutant in planted:
        while place < i:
            runner.run(pieces[place])
            place += 1
        if _survives(runner, mutant.block, pieces[i + 1 :]):
            alive.append((mutant, str(path)))
    return len(planted), alive


def _survives(runner: Runner, broken: Block, rest: list[Block]) -> bool:
    """Whether the page runs to its end in a child process."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for block in [broken, *rest]:
                runner.run(block)
            status = 0
        except BaseException:  # noqa: BLE001 - whatever it is, the page is red
            status = 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
