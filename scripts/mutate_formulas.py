"""Breaks every formula of the library in every small way, one at a time, and says which broken ones the contract lets pass.

    python scripts/mutate_formulas.py [losses.policy ops.kl …]

A mutant swaps + and -, · and /, min and max, sum and mean, a sign, a comparison, a number, or two names. Some survivors are the same
function (a detached constant), some another sound loss of the family; the rest are what the contract cannot see yet.
"""

from __future__ import annotations

import ast
import copy
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch

from corollary import declare
from corollary.theory.contract import check

OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
COMPARISONS = {ast.Lt: ast.Gt, ast.Gt: ast.Lt, ast.LtE: ast.GtE, ast.GtE: ast.LtE, ast.Eq: ast.NotEq}
METHODS = {"minimum": "maximum", "maximum": "minimum", "amax": "amin", "amin": "amax", "sum": "mean", "mean": "sum", "exp": "expm1",
           "relu": "abs", "logsigmoid": "sigmoid", "square": "abs", "cumsum": "cumprod", "detach": "clone"}  # fmt: skip
NAMES = (("chosen", "rejected"), ("ref_chosen", "ref_rejected"), ("chosen_lengths", "rejected_lengths"), ("clip_low", "clip_high"),
         ("logprobs", "old_logprobs"), ("won", "lost"), ("teacher_logits", "logits"), ("values", "old_values"))  # fmt: skip


def changes(node: ast.AST) -> Iterator[str]:
    """The ways in which a node can be broken."""
    match node:
        case ast.BinOp(op=op) if type(op) in OPERATORS:
            yield "operator"
        case ast.UnaryOp(op=ast.USub()):
            yield "sign"
        case ast.Attribute(attr=name) if name in METHODS:
            yield "method"
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            yield "number"
        case ast.Compare(ops=[op]) if type(op) in COMPARISONS:
            yield "comparison"
        case ast.Name(id=name, ctx=ast.Load()):
            yield from (f"name {b if name == a else a}" for a, b in NAMES if name in (a, b))


def broken(node: ast.AST, change: str) -> None:
    """Break it."""
    match node:
        case ast.BinOp():
            node.op = OPERATORS[type(node.op)]()
        case ast.UnaryOp():
            node.op = ast.UAdd()
        case ast.Attribute():
            node.attr = METHODS[node.attr]
        case ast.Constant(value=int() | float() as value):
            node.value = value + 1
        case ast.Compare():
            node.ops = [COMPARISONS[type(node.ops[0])]()]
        case ast.Name():
            node.id = change.removeprefix("name ")


def sites(function: ast.FunctionDef) -> list[tuple[ast.AST, str]]:
    """Every (node, change) of a function's body, without its docstring."""
    return [
        (node, change) for statement in function.body[1:] for node in ast.walk(statement) for change in changes(node)
    ]


def mutants(tree: ast.Module) -> Iterator[tuple[str, str, ast.Module]]:
    """(function, what was changed, the module with that one change)."""
    for index, function in enumerate(tree.body):
        for number in range(len(sites(function)) if isinstance(function, ast.FunctionDef) else 0):
            changed = copy.deepcopy(tree)
            target = changed.body[index]
            assert isinstance(target, ast.FunctionDef)
            assert isinstance(function, ast.FunctionDef)
            node, change = sites(target)[number]
            before = ast.unparse(function).splitlines()
            broken(node, change)
            lines = [b for a, b in zip(before, ast.unparse(target).splitlines(), strict=False) if a != b]
            if lines:
                yield function.name, lines[0].strip(), ast.fix_missing_locations(changed)


def caught(module: ModuleType, tree: ast.Module, names: list[str]) -> bool:
    """Whether the contract fails one of these formulas of the broken module."""
    declared = dict(declare._DECLARED)
    made = ModuleType("mutant")
    made.__file__ = module.__file__
    try:
        exec(compile(tree, module.__file__ or "", "exec"), made.__dict__)  # noqa: S102 - our own source with one change
        return any(check(made.__dict__[name], model=False).failed for name in names)
    except Exception:  # noqa: BLE001 - a mutant that does not even load is caught
        return True
    finally:
        declare._DECLARED.clear()
        declare._DECLARED.update(declared)


def main() -> None:
    """Count, and list the survivors."""
    torch.set_num_threads(1)
    total = survivors = 0
    for name in sys.argv[1:] or [m for m in declare.MODULES if not m.endswith(("estimate", "bounds"))]:
        module = import_module(f"corollary.{name}")
        tree = ast.parse(Path(module.__file__ or "").read_text())
        public = {e.name: ast.dump(n) for e in declare.entries() for n in tree.body
                  if e.function.__module__ == module.__name__ and isinstance(n, ast.FunctionDef) and n.name == e.name}  # fmt: skip
        for function, line, changed in mutants(tree):
            users = (
                [function] if function in public else [n for n, body in public.items() if f"'{function}'" in body][:6]
            )
            if users:
                total += 1
                if not caught(module, changed, users):
                    survivors += 1
                    sys.stdout.write(f"{name}.{function}: {line}\n")
    sys.stdout.write(f"{total} mutants, {total - survivors} caught, {survivors} pass\n")


if __name__ == "__main__":
    main()
