"""Clauses on what is logged: an estimator's mean under the distribution that its samples come from is the quantity it is named for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from corollary.theory.contract.evaluate import Measured, gap, worst
from corollary.theory.contract.frozen import wide
from corollary.theory.contract.given import Given, same
from corollary.theory.contract.subject import Subject
from corollary.theory.contract.table import Clause, only
from corollary.types import Terms

POLICY = (0.5, 0.3, 0.2)
OTHER = (0.2, 0.5, 0.3)
Quantity = Callable[[Tensor, Tensor], Tensor]
"""(policy's probabilities, the other's) → a number."""


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p.log() - q.log())).sum()


QUANTITIES: dict[str, Quantity] = {
    "reverse_kl": _kl,
    "forward_kl": lambda p, q: _kl(q, p),
    "js": lambda p, q: (_kl(p, (p + q) / 2) + _kl(q, (p + q) / 2)) / 2,
    "entropy": lambda p, q: -(p * p.log()).sum(),
    "chi2": lambda p, q: ((p - q) ** 2 / q).sum(),
    "total_variation": lambda p, q: (p - q).abs().sum() / 2,
    "one": lambda p, q: torch.ones((), dtype=torch.double),
}
"""What `declares(estimates=…)` may name: π is the policy; the other is the sampler, the old policy or the reference."""

_OTHERS = ("sampler_logprobs", "old_logprobs", "ref_logprobs")


def _of_tokens(subject: Subject) -> bool:
    return "logprobs" in subject.needs and subject.declaration.estimates is not None


def _of_logits(subject: Subject) -> bool:
    return "logits" in subject.needs and subject.declaration.estimates is not None


def exact(subject: Subject, given: Given) -> Measured:
    """From the logits of policy and other it is the quantity itself, for every row on its own."""
    policy, other = given["policy"], given["other"]
    both = {
        "logits": torch.stack([policy.log(), other.log() + 2.0]),
        "ref_logits": torch.stack([other.log() - 1.0, policy.log()]),
    }
    with wide(True):
        got = subject.formula(**both)
    if tuple(got.shape) != (2,):
        return Measured(1.0, f"returned shape {list(got.shape)} for 2 rows of logits")
    named = subject.declaration.estimates
    truth = QUANTITIES[named] if isinstance(named, str) else named
    assert truth is not None
    wanted = torch.stack([truth(policy, other), truth(other, policy)])
    return Measured(gap(got.detach(), wanted), f"it is {got.tolist()}, and the quantity {wanted.tolist()}")


def _counts(subject: Subject) -> bool:
    return {"samples", "correct", "k"} <= set(subject.needs) and subject.declaration.estimates in ("pass@k", "pass^k")


def _covers(subject: Subject) -> bool:
    return subject.declaration.estimates == "interval" and {"correct", "total"} <= set(subject.needs)


def worlds(subject: Subject) -> Iterator[Given]:
    """Policies and others over a few tokens, every token once."""
    for p, q in (
        (POLICY, OTHER),
        ((0.9, 0.1), (0.5, 0.5)),
        ((0.25, 0.25, 0.5), (0.25, 0.25, 0.5)),
        ((0.05, 0.15, 0.8), (0.7, 0.2, 0.1)),
    ):
        policy, other = torch.tensor(p, dtype=torch.double), torch.tensor(q, dtype=torch.double)
        yield Given(
            {"policy": policy, "other": other},
            "every token once, weighed by its probability under the distribution that it is drawn from",
        )


def expected(subject: Subject, given: Given) -> Measured:
    """E of the estimate over tokens drawn from the sampler (or old policy) where it takes one, else from the policy."""
    policy, other = given["policy"], given["other"]
    source = other if {"sampler_logprobs", "old_logprobs"} & set(subject.needs) else policy
    inputs: dict[str, Any] = {
        "logprobs": policy.log()[:, None],
        "trained": torch.ones(len(policy), 1, dtype=torch.bool),
    }
    inputs |= {name: other.log()[:, None] for name in _OTHERS}
    with wide(True):
        got = subject.formula(**inputs)
    if isinstance(got, Terms):
        got = got.loss
    if tuple(got.shape) != (len(policy), 1):
        return Measured(1.0, f"returned shape {list(got.shape)} for {len(policy)} answers of one token")
    named = subject.declaration.estimates
    truth = QUANTITIES[named] if isinstance(named, str) else named
    assert truth is not None
    value, exact = (source[:, None] * got.double()).sum(), torch.as_tensor(truth(policy, other), dtype=torch.double)
    return Measured(
        gap(value, exact),
        f"its mean is {value.item():.6g}, and {named if isinstance(named, str) else 'the declared quantity'} is {exact.item():.6g}",
    )


def unbiased(subject: Subject, given: Given) -> Measured:
    """E over the binomial of n answers is 1 - (1-p)^k, or p^k."""
    found = []
    for n, k in ((1, 1), (5, 1), (6, 3), (8, 8)):
        for p in (0.05, 0.3, 0.5, 0.9):
            mean = sum(
                math.comb(n, c) * p**c * (1 - p) ** (n - c) * subject.formula(samples=n, correct=c, k=k)
                for c in range(n + 1)
            )
            truth = 1 - (1 - p) ** k if subject.declaration.estimates == "pass@k" else p**k
            found.append(
                Measured(
                    abs(mean - truth), f"biased: with n={n}, k={k}, p={p} its mean is {mean:.6g}, the truth {truth:.6g}"
                )
            )
    return worst(*found)


def covers(subject: Subject, given: Given) -> Measured:
    """The interval holds the truth as often as it says, whatever the truth is."""
    n, worst_ = 24, 0.0
    intervals = [subject.formula(correct=c, total=n) for c in range(n + 1)]
    for p in [i / 50 for i in range(1, 50)]:
        held = sum(math.comb(n, c) * p**c * (1 - p) ** (n - c) for c, i in enumerate(intervals) if i.low <= p <= i.high)
        worst_ = max(worst_, intervals[0].confidence - held)
    return Measured(max(0.0, worst_), f"it holds the truth less often than it says, by up to {worst_:.3g}")


def repeats(subject: Subject, given: Given) -> Measured:
    """Twice the same, and metrics of tokens that are not trained do not count."""
    if not _of_tokens(subject):
        return Measured(0.0)
    inputs = {
        "logprobs": given["policy"].log()[:, None],
        "trained": torch.ones(len(given["policy"]), 1, dtype=torch.bool),
    }
    inputs |= {name: given["other"].log()[:, None] for name in _OTHERS}
    first, second = subject.formula(**inputs), subject.formula(**inputs)
    if isinstance(first, Terms):
        first, second = first.loss, second.loss
    return Measured(float(not same(first, second)), "two calls differ")


CLAUSES = (
    Clause(name="expectation", row="32", bound=1e-12, check=expected, families=("metric",), samples=worlds,
           skip=only(_of_tokens, "not declared what it estimates from log-probabilities (estimates=…)"),
           means="its mean is the quantity it is named for", cause="an estimator of something else",
           catches="NeMo RL js_divergence_error, policy_kl_error; LlamaFactory #10830, trl #1161"),
    Clause(name="exact", row="32", bound=1e-12, check=exact, families=("metric",), samples=worlds,
           skip=only(_of_logits, "not declared what it is of logits (estimates=…)"), means="it is the quantity it is named for",
           cause="another quantity"),
    Clause(name="unbiased", row="32", bound=1e-12, check=unbiased, families=("metric",), samples=lambda s: [None],
           skip=only(_counts, "no count of right answers"), means="its mean over samples is the truth", cause="a plug-in estimate"),
    Clause(name="coverage", row="32", bound=1e-9, check=covers, families=("metric",), samples=lambda s: [None],
           skip=only(_covers, "no interval from counts"), means="holds the truth as often as it says", cause="a normal approximation"),
    Clause(name="pure", row="21", bound=0, check=repeats, families=("metric",), samples=worlds,
           means="the same input gives the same number", cause="hidden state"),
)  # fmt: skip
