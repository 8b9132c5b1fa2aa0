"""Clauses on advantages: of whole answers compared within their group `[P, G]`, and per token from rewards and values `[B, T]`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from corollary.theory.contract.evaluate import Measured, gap, worst
from corollary.theory.contract.given import Given, result, rows
from corollary.theory.contract.samples import Draw
from corollary.theory.contract.subject import Subject
from corollary.theory.contract.table import Clause, only


def whole(subject: Subject) -> bool:
    """Whether it speaks of whole answers."""
    return "trained" not in subject.needs and bool({"rewards", "part_rewards"} & set(subject.needs))


def groups(subject: Subject) -> Iterator[Given]:
    """Rewards `[P, G]` and what goes with them, small first."""
    for seed, (p, g) in enumerate(((1, 2), (1, 4), (2, 3), (3, 6))):
        draw = Draw(seed)
        binary = (draw.uniform(p, g) < 0.5).double()
        binary[:, 0], binary[:, 1] = 1.0, 0.0
        for rewards, kind in ((binary, "binary"), (draw.normal(p, g), "real")):
            yield Given(_with(subject, rewards, draw), f"{kind} rewards, {p} groups of {g}, seed {seed}")


def _with(subject: Subject, rewards: Tensor, draw: Draw) -> dict[str, Tensor]:
    p, g = rewards.shape
    everything = {
        "rewards": rewards,
        "lengths": torch.randint(1, 9, (p, g), generator=draw.generator),
        "greedy_rewards": draw.uniform(p),
        "part_rewards": torch.stack([rewards, draw.normal(p, g)], dim=-1),
    }
    return {n: v for n, v in everything.items() if n in subject.needs}


def _main(given: Given) -> str:
    return "part_rewards" if "part_rewards" in given.inputs else "rewards"


def shaped(subject: Subject, given: Given) -> Measured:
    """One finite number for each answer."""
    got, wanted = result(subject, given), tuple(given[_main(given)].shape[:2])
    if tuple(got.shape) != wanted:
        return Measured(1.0, f"returned shape {list(got.shape)}, expected {list(wanted)}")
    return Measured(float((~got.isfinite()).sum()), "not finite at ordinary rewards")


def equal(subject: Subject, given: Given) -> Measured:
    """A group whose answers all earned the same gets exactly 0, whatever that is."""
    if "greedy_rewards" in given.inputs:
        return Measured(0.0)
    worst_ = 0.0
    for constant in (0.0, 1.0, 0.1, -2.7, 1000.1):
        for dtype in (torch.double, torch.float32):
            filled = given.every(
                lambda n, v, c=constant, d=dtype: torch.full_like(v, c, dtype=d) if n.endswith("rewards") else v
            )
            got = result(subject, filled)
            worst_ = max(worst_, float("inf") if not got.isfinite().all() else got.abs().max().item())
    return Measured(
        worst_,
        "equal rewards get an advantage: rounding noise is divided by its own deviation, or nothing is subtracted",
    )


def lone(subject: Subject, given: Given) -> Measured:
    """A group of one is refused, or gets 0: never its reward."""
    one = given.every(lambda _, v: v[:, :1] if v.dim() > 1 else v)
    if "greedy_rewards" in given.inputs:
        return Measured(0.0)
    try:
        got = result(subject, one)
    except ValueError:
        return Measured(0.0)
    return Measured(
        float(not (got == 0).all()),
        "an answer that is alone in its group gets an advantage of its own reward, or NaN; refuse G = 1",
    )


def reordered(subject: Subject, given: Given) -> Measured:
    """Answers in another order within their group, and groups in another order, keep their advantages."""
    base = result(subject, given)
    g = base.shape[1]
    within = given.every(lambda _, v: v.flip(1) if v.dim() > 1 and v.shape[1] == g else v)
    across = rows(given, range(base.shape[0] - 1, -1, -1))
    return worst(
        Measured(gap(result(subject, within).flip(1), base), "depends on the order of the answers"),
        Measured(gap(result(subject, across).flip(0), base), "depends on the order of the groups"),
    )


def apart(subject: Subject, given: Given) -> Measured:
    """A group's advantages are its own."""
    base = result(subject, given)
    if base.shape[0] < 2:
        return Measured(0.0)
    name = _main(given)
    other = given[name].clone()
    other[-1] = other[-1] * 3 + 5
    return Measured(gap(result(subject, given.change(**{name: other}))[:-1], base[:-1]),
                    "another group's rewards change a group's advantages: a statistic of the batch; declare cross_sample=\"batch\" if meant")  # fmt: skip


def offset(subject: Subject, given: Given) -> Measured:
    """The same number added to all rewards changes nothing; in float32 with 1000 added neither."""
    base = result(subject, given)
    moved = given.every(lambda n, v: v + 7.0 if n.endswith("rewards") else v)
    high = given.every(lambda n, v: (v + 1000.0).float() if n.endswith("rewards") else v)
    exact = high.every(lambda n, v: v.double() if n.endswith("rewards") else v)
    return worst(
        Measured(
            gap(result(subject, moved), base),
            "a constant added to all rewards changes the advantages: no baseline, or a mean over the wrong answers",
        ),
        Measured(
            gap(result(subject, high).double(), result(subject, exact)) * 1e-6,
            "float32 rewards around 1000 lose their differences: E[r²] - E[r]² instead of two passes",
        ),
    )


def zero_sum(subject: Subject, given: Given) -> Measured:
    total = result(subject, given).sum(-1)
    return Measured(
        gap(total, torch.zeros_like(total)), "does not sum to 0 over a group; declare zero_sum=False if meant"
    )


def ordered(subject: Subject, given: Given) -> Measured:
    """A better answer has no smaller advantage than a worse one of its group; the best is not below 0 and the worst not above."""
    if _main(given) == "part_rewards":
        return Measured(0.0)
    if subject.declaration.relative:
        given = given.change(rewards=given["rewards"] - given["rewards"].amin(-1, keepdim=True))
    r, a = given["rewards"], result(subject, given)
    pairs = (r[:, :, None] > r[:, None, :]) & (a[:, :, None] < a[:, None, :] - 1e-9)
    best, least = r == r.amax(-1, keepdim=True), r == r.amin(-1, keepdim=True)
    if "greedy_rewards" in given.inputs:
        return Measured(float(pairs.sum()), "a better answer gets the smaller advantage: a sign")
    flat = (a.amax(-1) - a.amin(-1) <= 0).sum() if subject.declaration.zero_sum else torch.tensor(0)
    wrong = pairs.sum() + (best & (a < -1e-12)).sum() + (least & (a > 1e-12)).sum() + flat
    return Measured(
        float(wrong), "a better answer gets the smaller advantage, the best one is punished, or all get the same"
    )


def unjudged(subject: Subject, given: Given) -> Measured:
    """An answer that could not be judged (NaN) leaves its group's statistics and gets 0."""
    name = _main(given)
    if given[name].shape[1] < 4:
        return Measured(0.0)
    poisoned = given[name].clone()
    poisoned[:, -1] = torch.nan
    got = result(subject, given.change(**{name: poisoned}))
    without = result(subject, given.every(lambda _, v: v[:, :-1] if v.dim() > 1 else v))
    return worst(
        Measured(
            gap(got[:, :-1], without), "an answer that was not judged still counts in its group's mean or deviation"
        ),
        Measured(gap(got[:, -1], torch.zeros_like(got[:, -1])), "an answer that was not judged gets an advantage"),
    )


def near_ties(subject: Subject, given: Given) -> Measured:
    """Rewards that differ by rounding get no advantage out of proportion: |A| stays below √G + range."""
    if _main(given) == "part_rewards":
        return Measured(0.0)
    g = given["rewards"].shape[1]
    ties = torch.ones_like(given["rewards"]) + 1e-9 * torch.arange(g).double()
    with_one = ties.clone()
    with_one[:, 0] = 0.0
    got = [result(subject, given.change(rewards=r)).abs().max().item() for r in (ties, with_one)]
    return Measured(
        max(0.0, max(got) - g**0.5 - 1.0 - g / max(1, g - 1)),
        f"a near tie gets an advantage of {max(got):.3g}: a deviation near 0 is divided by",
    )


def units(subject: Subject, given: Given) -> Measured:
    """Twice the rewards give twice the advantages (reward units) or the same (standardised), and then their deviation is 1."""
    base = result(subject, given)
    if base.shape[1] < 3:
        return Measured(0.0)  # two standardised rewards of two answers may cancel
    doubled = result(subject, given.every(lambda n, v: 2 * v if n.endswith("rewards") else v))
    proportional, standard = gap(doubled, 2 * base), gap(doubled, base)
    if proportional <= 1e-9 or standard > 1e-2:  # an ε of 1e-4 beside the deviation is common
        cause = "neither in reward units nor standardised: a deviation multiplied, or taken twice; declare homogeneous=False if meant"
        return Measured(min(proportional, standard), cause)
    named = {"eps", "ddof"} & set(subject.formula.parameters) or "std" in subject.name
    if not named or not subject.declaration.zero_sum or subject.declaration.cross_sample == "batch":
        return Measured(0.0)  # ranks, say, are no deviations
    square, n = base.square().sum(-1), base.shape[1]
    kept = square[square > 1e-9]
    off = [gap(kept, torch.full_like(kept, float(count)), scale=float(n)) for count in (n, n - 1)]
    return Measured(
        0.0 if min(off) < 1e-2 else min(off),
        "standardised, and the deviation is not 1 with n or n - 1 in the denominator",
    )


_WHOLE = only(whole, "speaks of tokens")


def clause(name: str, row: str, bound: float, check: Any, means: str, **more: Any) -> Clause:
    settings = {"samples": groups, "skip": _WHOLE} | more
    return Clause(
        name=name, row=row, bound=bound, check=check, means=means, families=("advantage",), cause=means, **settings
    )


CLAUSES = (
    clause("shape", "1", 0, shaped, "one finite number per answer"),
    clause("equal rewards", "11", 0, equal, "equal rewards give exactly 0", catches="NeMo RL #4158, verl #6348"),
    clause("one answer", "19, 29", 0, lone, "a group of one is refused or gets 0", catches="OpenRLHF #1250, ROLL #475"),
    clause("order", "5, 29", 1e-12, reordered, "order does not matter", catches="AReaL #1419, prime-rl #600"),
    clause("groups", "29", 1e-12, apart, "a group's advantages are its own", catches="prime-rl #1188",
            skip=only(lambda s: whole(s) and s.declaration.cross_sample != "batch", "speaks of tokens, or declared cross_sample=\"batch\"")),
    clause("offset", "29", 1e-9, offset, "only differences of rewards count, in float32 too", catches="NeMo RL #1518, #1519",
            skip=only(lambda s: whole(s) and not s.declaration.relative, "speaks of tokens, or declared relative")),
    clause("zero sum", "29", 1e-9, zero_sum, "sums to 0 over a group", skip=only(lambda s: whole(s) and s.declaration.zero_sum, "speaks of tokens, or declared zero_sum=False")),
    clause("best", "14", 0, ordered, "better answers get more"),
    clause("unjudged", "29", 1e-12, unjudged, "answers that were not judged leave the statistics", catches="verl #6452"),
    clause("near ties", "11", 0, near_ties, "near ties stay small", catches="NeMo RL #1518, #4158",
            skip=only(lambda s: whole(s) and s.declaration.tail, "speaks of tokens, or declared tail=False")),
    clause("units", "13", 1e-9, units, "in reward units, or standardised to a deviation of 1",
            skip=only(lambda s: whole(s) and s.declaration.tail and s.declaration.homogeneous, "speaks of tokens, or declared tail=False or homogeneous=False")),
)  # fmt: skip
