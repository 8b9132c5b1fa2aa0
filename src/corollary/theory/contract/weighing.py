"""Clauses on weights: averages over tokens and sequences, and corrections for the sampler's distribution."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from corollary.theory.contract.evaluate import Measured, gap, worst
from corollary.theory.contract.given import Given, live, pure, result, rows, same
from corollary.theory.contract.gradient import probes
from corollary.theory.contract.samples import SHAPES, Draw
from corollary.theory.contract.subject import Subject
from corollary.theory.contract.table import Clause


def masks(subject: Subject) -> Iterator[Given]:
    """Masks `[B, T]` of an even number of answers."""
    for lengths in ((1, 1), (2, 1), (4, 1, 3, 3), (7, 3, 5, 1, 6, 2)):
        trained = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        if max(lengths) > 2:
            trained[0, 1] = False
        yield Given({"trained": trained}, f"answers of {', '.join(map(str, lengths))} tokens")


def weights(subject: Subject, given: Given) -> Measured:
    """`[B, T]`, above 0 where a token is trained and exactly 0 elsewhere."""
    got, trained = result(subject, given), given["trained"]
    if tuple(got.shape) != tuple(trained.shape):
        return Measured(1.0, f"returned shape {list(got.shape)}, expected {list(trained.shape)}")
    wrong = (got[~trained] != 0).sum() + (~(got[trained] > 0)).sum() + (~got.isfinite()).sum()
    return Measured(float(wrong), "a weight that is not 0 behind the mask, or not above 0 in front of it")


def wider(subject: Subject, given: Given) -> Measured:
    trained = given["trained"]
    wide = given.change(trained=torch.nn.functional.pad(trained, (0, 4)))
    return Measured(
        gap(result(subject, wide)[:, : trained.shape[1]], result(subject, given)),
        "divides by the padded width of the batch",
    )


def turned(subject: Subject, given: Given) -> Measured:
    n = len(given["trained"])
    order = [row for pair in range(n - 2, -1, -2) for row in (pair, pair + 1)]
    return Measured(
        gap(result(subject, rows(given, order)), result(subject, given)[order]), "depends on the order of the answers"
    )


def twice(subject: Subject, given: Given) -> Measured:
    n = len(given["trained"])
    got = result(subject, given.change(trained=torch.cat([given["trained"]] * 2)))
    return Measured(
        gap(2 * got[:n], result(subject, given)),
        "the same answers twice do not halve the weights: it is no average over the step",
    )


def silent(subject: Subject, given: Given) -> Measured:
    """Answers that train nothing change nothing."""
    n = len(given["trained"])
    got = result(subject, given.change(trained=torch.cat([given["trained"], torch.zeros_like(given["trained"][:2])])))
    return worst(
        Measured(gap(got[:n], result(subject, given)), "an answer that trains nothing counts in the average"),
        Measured(float((got[n:] != 0).sum() + (~got.isfinite()).sum()), "0/0 for an answer that trains nothing"),
    )


def of_one_kind(subject: Subject, given: Given) -> Measured:
    """Tokens of one answer weigh alike."""
    got, trained = result(subject, given), given["trained"]
    spread = [w[m].max() - w[m].min() for w, m in zip(got, trained, strict=True) if m.any()]
    return Measured(max(s.item() for s in spread), "tokens of one answer weigh differently")


def mass(subject: Subject, given: Given) -> Measured:
    """A mean's weights sum to 1; twice a constant length halves them."""
    got, name = result(subject, given), subject.name.rpartition(":")[2]
    total = got.sum()
    found = [
        Measured(
            gap(total, torch.ones_like(total)) if "mean" in name.lower() else 0.0,
            "called a mean, and its weights do not sum to 1",
        )
    ]
    if isinstance(length := subject.formula.parameters.get("length"), int):
        half = result(subject.with_parameters(length=2 * length), given)
        found.append(Measured(gap(2 * half, got), "twice the length does not halve the weights"))
    return worst(*found)


def among(subject: Subject, given: Given) -> Measured:
    """The other answers count by all of their lengths or by none: not by the longest alone."""

    def first(*lengths: int) -> Tensor:
        trained = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        return result(subject, Given({"trained": trained}))[:2, :3]

    base = first(3, 2, 1, 5)
    short, long = (gap(first(*lengths), base) for lengths in ((3, 2, 2, 5), (3, 2, 1, 6)))
    return Measured(
        long if short <= 1e-15 else 0.0,
        "the longest answer alone changes the others' weights: it stands for the padded width",
    )


def pairs(subject: Subject) -> Iterator[Given]:
    """Log-probabilities of sampler and trainer `[B, T]`."""
    for seed, lengths in enumerate(SHAPES[:6]):
        draw = Draw(40 + seed)
        trained = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        if max(lengths) > 2:
            trained[0, 1] = len(lengths) == 1 or lengths[0] < 3
        old = -3 * draw.uniform(*trained.shape) - 0.05
        everything = {
            "old_logprobs": old,
            "sampler_logprobs": old + (4e-4 if seed == 5 else 0.4) * draw.normal(*trained.shape),
            "trained": trained,
        }
        yield Given(
            {n: v for n, v in everything.items() if n in subject.needs or n == "trained"},
            f"seed {seed}, answers of {', '.join(map(str, lengths))} tokens",
        )


def corrects(subject: Subject, given: Given) -> Measured:
    """`[B, T]`, at least 0, exactly 1 where sampler and trainer agree, and on the right side of 1 elsewhere."""
    got, trained = result(subject, given), given["trained"]
    if tuple(got.shape) != tuple(trained.shape):
        return Measured(1.0, f"returned shape {list(got.shape)}, expected {list(trained.shape)}")
    found = [Measured(float((~(got[trained] >= 0)).sum()), "a weight below 0, or NaN")]
    if "sampler_logprobs" not in given.inputs:
        return found[0]
    agreed = result(subject, given.change(sampler_logprobs=given["old_logprobs"].clone()))
    found.append(
        Measured(gap(agreed[trained], torch.ones_like(agreed[trained])), "not 1 where sampler and trainer agree")
    )
    n = trained.sum(-1, keepdim=True).clamp(min=1)
    for far, side in ((0.1, 1), (-0.1, -1)):
        moved = result(subject, given.change(sampler_logprobs=given["old_logprobs"] - far / n))[trained]
        wrong = (moved < 1 - 1e-12) & (moved != 0) if side > 0 else moved > 1 + 1e-12
        found.append(Measured(float(wrong.sum()), "turned over: it is π_sampler/π_old, and not π_old/π_sampler"))
    return worst(*found)


def far(subject: Subject, given: Given) -> Measured:
    """Finite at log-ratios of ±60, within a parameter named cap or high."""
    if "sampler_logprobs" not in given.inputs:
        return Measured(0.0)
    found = []
    cap = next((v for n in ("cap", "high") if (v := subject.formula.parameters.get(n)) is not None), None)
    for away in (60.0, -60.0):
        for dtype in (torch.double, torch.float32):
            one = {n: v.to(dtype) if v.is_floating_point() else v for n, v in given.inputs.items()}
            single = Given(one).every(lambda n, v: v[:1, :1] if n != "trained" else torch.ones(1, 1, dtype=torch.bool))
            got = result(subject, single.change(sampler_logprobs=single["old_logprobs"] - away))
            found.append(Measured(float((~got.isfinite()).sum()), "not finite at a log-ratio of ±60"))
            found.append(
                Measured(max(0.0, got.max().item() - cap - 1e-6) if cap is not None else 0.0, f"above its cap of {cap}")
            )
    return worst(*found)


def steady(subject: Subject, given: Given) -> Measured:
    """Of one token: the weight rises with the ratio, holds at a cap, or is 0; it never falls to another number."""
    if "sampler_logprobs" not in given.inputs:
        return Measured(0.0)
    ratios = torch.linspace(-6, 6, 49, dtype=torch.double)[:, None]
    single = {
        "old_logprobs": ratios - 7,
        "sampler_logprobs": torch.full_like(ratios, -7),
        "trained": torch.ones_like(ratios, dtype=torch.bool),
    }
    got = result(subject, given.change(**single))[:, 0]
    kept = got[got != 0]
    step = 1e-5
    near = {
        "old_logprobs": torch.tensor([[step - 7], [-step - 7]], dtype=torch.double),
        "sampler_logprobs": torch.full((2, 1), -7.0, dtype=torch.double),
        "trained": torch.ones(2, 1, dtype=torch.bool),
    }
    up, down = result(subject, given.change(**near))[:, 0].tolist()
    power = (up - down) / (2 * step)
    return worst(
        Measured(
            float((kept.diff() < -1e-12).sum()), "where it does not trust a ratio, the weight is neither 0 nor the cap"
        ),
        Measured(
            float(min(abs(power), abs(power - 1)) > 1e-3),
            f"near 1 the weight grows like the ratio to the power of {power:.4g}, and not of 1 (or is a mask of 0 and 1)",
        ),
    )


def blind(subject: Subject, given: Given) -> Measured:
    """What stands behind the mask changes no weight in front of it, nor does padding, nor another answer."""
    base, trained = result(subject, given), given["trained"]
    found = []
    for fill in (0.0, 1e4, float("nan"), float("-inf")):
        got = result(subject, given.every(lambda n, v, f=fill: v.where(trained, f) if v.is_floating_point() else v))
        found.append(
            Measured(
                float(not same(got[trained], base[trained])),
                f"{fill:g} behind the mask changes the weights in front of it",
            )
        )
    wide = given.every(lambda n, v: torch.nn.functional.pad(v, (0, 3), value=0.0 if n == "trained" else -1.7))
    found.append(
        Measured(
            gap(result(subject, wide)[:, : trained.shape[1]][trained], base[trained]), "padding changes the weights"
        )
    )
    for row in range(len(trained)):
        found.append(
            Measured(
                gap(result(subject, rows(given, [row]))[0], base[row]) if trained[row].all() else 0.0,
                "another answer changes the weights",
            )
        )
    return worst(*found)


def counts(subject: Subject, given: Given) -> Measured:
    """Every input and parameter moves the weights; but the correction that corrects nothing may leave them alone."""
    if subject.family == "correction" and "sampler_logprobs" not in subject.needs:
        return Measured(0.0)
    givens = [*(masks(subject) if subject.family == "average" else pairs(subject))]
    return live(subject, givens, probes)


def _average(name: str, row: str, bound: float, check: Any, means: str, **more: Any) -> Clause:
    settings: dict[str, Any] = {"samples": masks} | more
    return Clause(
        name=name, row=row, bound=bound, check=check, means=means, families=("average",), cause=means, **settings
    )


def _correction(name: str, row: str, bound: float, check: Any, means: str, **more: Any) -> Clause:
    settings: dict[str, Any] = {"samples": pairs} | more
    return Clause(
        name=name, row=row, bound=bound, check=check, means=means, families=("correction",), cause=means, **settings
    )


CLAUSES = (
    _average("weights", "3", 0, weights, "above 0 where trained, exactly 0 elsewhere"),
    _average("padding", "4", 1e-15, wider, "the padded width does not count", catches="verl #3741"),
    _average("order", "5", 1e-15, turned, "the order does not count"),
    _average("repeat", "10", 1e-15, twice, "the same answers twice weigh half"),
    _average("edges", "19", 1e-15, silent, "answers that train nothing do not count", catches="Automodel #3796"),
    _average("tokens", "10", 1e-15, of_one_kind, "tokens of an answer weigh alike"),
    _average("mass", "24", 1e-12, mass, "a mean's weights sum to 1"),
    _average("others", "4", 1e-15, among, "other answers count by all of their lengths, or by none", samples=lambda s: [*masks(s)][:1],
             catches="verl #3741"),
    _average("pure", "21", 0, pure, "inputs stay, twice the same bits"),
    _correction("weights", "16", 1e-12, corrects, "π_old/π_sampler: 1 where they agree", catches="trl #6789, verl #2953"),
    _correction("steady", "18", 0, steady, "rises with the ratio, or is 0", samples=lambda s: [*pairs(s)][:1]),
    _correction("extremes", "18", 0, far, "finite and capped at extreme ratios"),
    _correction("mask", "3", 1e-12, blind, "what is behind the mask, padding and other answers do not count"),
    _correction("pure", "21", 0, pure, "inputs stay, twice the same bits"),
    Clause(name="parameters", row="23", bound=0, check=counts, families=("average", "correction"), samples=lambda s: [None],
           means="every input and parameter counts", cause="an option that changes nothing"),
)  # fmt: skip
