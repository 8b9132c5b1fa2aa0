"""The words that the book's formulas are written in: plain functions, of floats and of tensors alike.

    E(pi, lambda y: reward[y])          Σ_y π(y)·reward(y)
    KL(pi, ref)                         Σ_y π(y)·log(π(y)/ref(y))
    D(f)(x), D(f, "beta")(beta, z)      a derivative

A distribution is a dict {outcome: probability}, a list or a tensor of probabilities.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

Distribution = Mapping[Any, Any] | Iterable[Any] | Tensor


def log(x: Any) -> Any:
    """Natural logarithm; -inf at 0."""
    return x.log() if isinstance(x, Tensor) else (math.log(x) if x else -math.inf)


def exp(x: Any) -> Any:
    """e^x."""
    return x.exp() if isinstance(x, Tensor) else math.exp(x)


def sqrt(x: Any) -> Any:
    """√x."""
    return x.sqrt() if isinstance(x, Tensor) else math.sqrt(x)


def sigmoid(x: Any) -> Any:
    """σ(x) = 1/(1 + e^-x).

    >>> sigmoid(0.0)
    0.5
    """
    if isinstance(x, Tensor):
        return x.sigmoid()
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def clip(x: Any, low: Any, high: Any) -> Any:
    """x held between low and high.

    >>> clip(1.5, 0.8, 1.2)
    1.2
    """
    return x.clamp(low, high) if isinstance(x, Tensor) else min(max(x, low), high)


def pos(x: Any) -> Any:
    """[x]₊ = max(x, 0)."""
    return x.clamp(min=0) if isinstance(x, Tensor) else max(x, 0.0)


def one(condition: Any) -> Any:
    """1 where the condition holds, else 0."""
    return condition.double() if isinstance(condition, Tensor) else float(condition)


def sg(x: Any) -> Any:
    """Stop-gradient: the value, as a constant."""
    return x.detach() if isinstance(x, Tensor) else x


def norm(x: Any) -> Any:
    """Euclidean norm."""
    return x.norm() if isinstance(x, Tensor) else math.sqrt(sum(v * v for v in x))


def dot(x: Any, y: Any) -> Any:
    """Σ_i x_i·y_i."""
    if isinstance(x, Tensor):
        return (x * y).sum()
    return sum(a * b for a, b in zip(x, y, strict=True))


def mean(values: Iterable[Any]) -> Any:
    """The arithmetic mean.

    >>> mean(x * x for x in (1.0, 3.0))
    5.0
    """
    if isinstance(values, Tensor):
        return values.mean()
    values = list(values)
    return sum(values) / len(values)


def prod(values: Iterable[Any]) -> Any:
    """The product."""
    result: Any = 1
    for value in values:
        result = result * value
    return result


def logsumexp(values: Iterable[Any]) -> Any:
    """log Σ_i e^{x_i}, without overflow.

    >>> logsumexp([1000.0, 1000.0]) == 1000 + math.log(2)
    True
    """
    values = list(values)
    top = max(values)
    return top + log(sum(exp(v - top) for v in values))


def softmax(logits: Iterable[Any]) -> list[Any]:
    """e^{z_i} / Σ_j e^{z_j}, as a list."""
    logits = list(logits)
    total = logsumexp(logits)
    return [exp(z - total) for z in logits]


def E(p: Distribution, f: Callable[[Any], Any]) -> Any:
    """Σ_y p(y)·f(y).

    >>> E({"a": 0.25, "b": 0.75}, lambda y: 1.0 if y == "a" else 0.0)
    0.25
    """
    return sum(q * f(y) for y, q in _pairs(p))


def Var(p: Distribution, f: Callable[[Any], Any]) -> Any:
    """E[(f - E f)²]."""
    centre = E(p, f)
    return E(p, lambda y: (f(y) - centre) ** 2)


def Cov(p: Distribution, f: Callable[[Any], Any], g: Callable[[Any], Any]) -> Any:
    """E[(f - E f)(g - E g)]."""
    return E(p, lambda y: f(y) * g(y)) - E(p, f) * E(p, g)


def KL(p: Distribution, q: Distribution) -> Any:
    """KL(p‖q) = Σ_y p(y)·log(p(y)/q(y)); outcomes of p(y) = 0 count nothing.

    >>> KL([0.5, 0.5], [0.5, 0.5])
    0.0
    """
    other = dict(_pairs(q))
    return sum((a * (log(a) - log(other[y])) for y, a in _pairs(p) if a > 0), 0.0)


def TV(p: Distribution, q: Distribution) -> Any:
    """Total variation, half of Σ|p - q|."""
    other = dict(_pairs(q))
    return sum(abs(a - other[y]) for y, a in _pairs(p)) / 2


def H(p: Distribution) -> Any:
    """Entropy, nats."""
    return -sum((a * log(a) for _, a in _pairs(p) if a > 0), 0.0)


def D(f: Callable[..., Any], by: str | int = 0) -> Callable[..., Any]:
    """The derivative of f by its first argument, or by the one of that name or place; exact, by automatic differentiation.

    >>> D(lambda x: x * x)(3.0)
    6.0
    >>> D(D(lambda x: x**3))(2.0)
    12.0
    """

    def derivative(*args: Any) -> Any:
        names = list(inspect.signature(f).parameters)
        place = names.index(by) if isinstance(by, str) else by
        inner = any(isinstance(a, Tensor) and a.requires_grad for a in args)  # differentiated once more, from outside
        here = torch.as_tensor(args[place], dtype=torch.float64)
        leaf = here if here.requires_grad else here.detach().requires_grad_()
        value = f(*args[:place], leaf, *args[place + 1 :])
        if not isinstance(value, Tensor) or not value.requires_grad:
            return torch.zeros_like(leaf) if isinstance(args[place], Tensor) else 0.0
        found = torch.autograd.grad(value.sum(), leaf, create_graph=inner, allow_unused=True)[0]
        if found is None:
            return torch.zeros_like(leaf) if isinstance(args[place], Tensor) else 0.0
        return found if inner or isinstance(args[place], Tensor) else found.item()

    return derivative


def approx(left: Any, right: Any, rel: float) -> bool:
    """|left - right| ≤ rel·|right|, everywhere.

    >>> approx(1.01, 1.0, 0.02)
    True
    """
    a, b = (torch.as_tensor(side, dtype=torch.float64) for side in (left, right))
    return bool(((a - b).abs() <= rel * b.abs()).all())


def _pairs(p: Distribution) -> Iterable[tuple[Any, Any]]:
    return p.items() if isinstance(p, Mapping) else enumerate(p)
