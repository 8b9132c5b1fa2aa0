"""The formula in a docstring, read as Python: so that what a reader sees there can be run.

>>> translated("-log σ(β·(Δ_w - Δ_l)) + ½(x)²")
'-logsigmoid(β*(Δ_w - Δ_l)) + 0.5*(x)**2'
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

SPELT = {
    "mean_{j≠i} r_j": "loo(r)", "mean r": "mean(r)", "r_greedy": "greedy", "r_i": "r", "a_i": "a", "½^": "0.5^", "n-c": "n - c",
    "kl(": "KL(", "q̃": "qt",
    "logπ(y_w)": "lp_w", "logπ(y_l)": "lp_l", "logref(y_w)": "lr_w", "logref(y_l)": "lr_l", "logπ(y)": "lp", "logref(y)": "lr",
    "π(y)": "p", "π_old/π_sampler": "(exp(lo - ls))", "logπ_old": "lo", "logref": "lr", "logπ": "lp", "logr": "(lp - lo)",
    "x̄_w": "xb_w", "x̄": "xb", "π/π_old": "(exp(lp - lo))", "D₂": "D2", "J_r̂(π)": "J_hat", "ρ̂": "rho_hat", "ρ̄": "rho_bar",
}  # fmt: skip
FUNCTIONS = {
    "loo",
    "mean_t",
    "prod_t",
    "where",
    "exp",
    "log",
    "logsigmoid",
    "sigmoid",
    "sqrt",
    "max",
    "min",
    "clip",
    "sg",
    "one",
    "C",
    "abs",
    "mean",
    "φ",
    "g",
}


def translated(text: str) -> str:
    """One side of a formula as a Python expression."""
    if cases := re.fullmatch(r"(.*\S) +where (.*), else (.*)", text):
        return f"where({translated(cases[2])}, {translated(cases[1])}, {translated(cases[3])})"
    text = (
        re.sub(r"\bmean_t ([\w]+)$", r"mean_t(\1)", text)
        .replace("mean_t (", "mean_t(")
        .replace("mean_t log r", "mean_t(log(r))")
    )
    text = re.sub(r"Π_t ([^,)]+)", r"prod_t(\1)", text)
    for spelt, name in SPELT.items():
        text = text.replace(spelt, name)
    text = re.sub(r"\be\^\{([^{}]*)\}", r"exp(\1)", text)
    text = re.sub(r"\be\^(-?[\w.₀-₉]+)", r"exp(\1)", text)
    text = re.sub(r"\^\{([^{}]*)\}", r"**(\1)", text)
    text = re.sub(r"\^(\w)", r"**\1", text)
    text = text.replace("log σ(", "logsigmoid(").replace("σ(", "sigmoid(").replace("√(", "sqrt(").replace("1[", "one(")
    text = re.sub(r"\b(sg|max|min|mean)\[", r"\1(", text).replace("[", "(").replace("]", ")")
    text = re.sub(r"\blog (\w+)(?!\w*\()", r"log(\1)", text)
    text = (
        text.replace("²", "**2")
        .replace("³", "**3")
        .replace("½·", "0.5*")
        .replace("½ ", "0.5*")
        .replace("½", "0.5*")
        .replace("·", "*")
    )
    text = text.replace("≤", "<=").replace("≥", ">=").replace("γλ", "γ*λ")
    text = re.sub(r"\|([^|]+)\|", r"abs(\1)", text)
    text = re.sub(r"(?<![\w.])(\d+)(?=[A-Za-zα-ωΑ-Ω(])", r"\1*", text)  # 2τ, 2(1 - p)
    text = re.sub(r"\)(?=[\w(])", ")*", text)  # (1-p)(1-q)
    return re.sub(r"(?<![\w.])([^\W\d]\w*)\(", lambda m: m[0] if m[1] in FUNCTIONS else f"{m[1]}*(", text)


def statements(formula: str) -> list[tuple[str, str]]:
    """(name, expression) of each equation; a bare expression is named L. Definitions stand behind a gap of four blanks or more."""
    found = []
    for part in re.split(r"\n| {4,}", formula.strip()):
        for piece in re.split(r",(?= ?\w+ = )", part):
            sides = re.split(r" = | ≤ | ≥ ", piece.strip(), maxsplit=1)
            found.append((sides[0].strip() if len(sides) > 1 else "L", sides[-1].strip()))
    return found


def values(formula: str, known: Mapping[str, Any]) -> list[Any]:
    """What each side of the first equation says, by the definitions that follow it."""
    [(_, first), *rest] = statements(formula)
    scope, later = dict(known), [(n, r) for n, r in rest if n.isidentifier() and n not in known]
    for _ in range(len(later)):  # a definition may use others, before it or behind it
        for name, right in later:
            if name not in scope:
                try:
                    scope[name] = run(right.split(" = ")[0], scope)
                except (NameError, SyntaxError):  # not defined yet, or a remark
                    continue
    return [run(side, scope) for side in first.split(" = ")]


def run(text: str, scope: Mapping[str, Any]) -> Any:
    """The expression's value."""
    tree = ast.fix_missing_locations(_Chains().visit(ast.parse(translated(text), mode="eval")))
    return eval(compile(tree, text, "eval"), WORDS | dict(scope))  # noqa: S307 - our own docstrings


class _Chains(ast.NodeTransformer):
    """a <= b <= c of tensors: both at once."""

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        sides = [node.left, *node.comparators]
        parts: list[ast.expr] = [
            ast.Compare(a, [op], [b]) for a, op, b in zip(sides, node.ops, sides[1:], strict=False)
        ]
        found = parts[0]
        for part in parts[1:]:
            found = ast.BinOp(found, ast.BitAnd(), part)
        return found


def _each(function: str) -> Any:
    def of(*args: Any) -> Any:
        if len(args) == 1:
            return args[0] if not isinstance(args[0], tuple) else of(*args[0])
        found = torch.as_tensor(args[0], dtype=torch.float64)
        for other in args[1:]:
            found = {"max": torch.maximum, "min": torch.minimum}[function](
                found, torch.as_tensor(other, dtype=torch.float64)
            )
        return found

    return of


def _number(name: str) -> Any:
    return lambda x: getattr(torch, name)(torch.as_tensor(x, dtype=torch.float64))


WORDS: dict[str, Any] = {
    "exp": _number("exp"), "log": _number("log"), "sqrt": _number("sqrt"), "sigmoid": _number("sigmoid"), "abs": _number("abs"),
    "logsigmoid": lambda x: torch.nn.functional.logsigmoid(torch.as_tensor(x, dtype=torch.float64)),
    "max": _each("max"), "min": _each("min"), "sg": lambda x: x, "one": lambda c: c.double(), "e": math.e,
    "where": lambda c, a, b: torch.where(c, torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64)),
    "mean_t": lambda x: x.mean(-1, keepdim=True), "prod_t": lambda x: x.prod(-1, keepdim=True),
    "mean": lambda x: x.mean(-1, keepdim=True), "loo": lambda x: (x.sum(-1, keepdim=True) - x) / (x.shape[-1] - 1),
    "clip": lambda x, low, high: torch.as_tensor(x, dtype=torch.float64).clamp(low, high), "C": lambda n, k: float(math.comb(int(n), int(k))),
}  # fmt: skip


def parameters(row: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The formula's own symbols of its parameters, as the docstring introduces them: `beta: β, …`."""
    found = {}
    for parameter in row["parameters"]:
        symbol = re.match(r"[^\W\d][\w₀-₉]*", parameter["meaning"])
        found[symbol[0] if symbol else parameter["name"]] = given.get(parameter["name"], parameter["default"])
    return found


def same(left: Any, right: Any) -> float:
    """The largest difference, relative above 1."""
    a, b = (torch.as_tensor(side, dtype=torch.float64) for side in (left, right))
    return float(((a - b).abs() / b.abs().clamp(min=1)).max())


__all__ = ["Tensor", "parameters", "run", "same", "statements", "translated", "values"]
