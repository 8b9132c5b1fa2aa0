"""Clauses on advantages: of whole answers compared within their group `[P, G]`, and per token from rewards and values `[B, T]`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from corollary.theory.contract.evaluate import Measured, gap, worst
from corollary.theory.contract.given import Given, live, pure, result, rows, same
from corollary.theory.contract.gradient import probes
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


def whitened(subject: Subject, given: Given) -> Measured:
    """Over the trained tokens of the step the mean is 0 and the variance 1."""
    got = result(subject, given)[given["trained"]]
    n = len(got)
    off = min(abs(got.square().sum().item() / count - 1) for count in (n, n - 1))
    return worst(
        Measured(max(0.0, abs(got.mean().item()) - 1e-9), "the mean over trained tokens is not 0"),
        Measured(0.0 if off < 1e-3 else off, "the variance over trained tokens is not 1"),
    )


def penalised(subject: Subject, given: Given) -> Measured:
    """A token that the policy likes more than the reference does earns less."""
    trained, base = given["trained"], result(subject, given)
    found = [Measured(0.0)]
    for row, column in trained.nonzero().tolist():
        raised = given["logprobs"].clone()
        raised[row, column] += 0.5
        rise = result(subject, given.change(logprobs=raised))[row, column] - base[row, column]
        found.append(
            Measured(max(0.0, rise.item()), "the distance from the reference is rewarded: the penalty's sign is turned")
        )
    return worst(*found)


def whole_rewards(subject: Subject, given: Given) -> Measured:
    """An answer's own reward, given once, counts at its last trained token and so for all of them (γ = 1), and for no other answer."""
    trained, half = given["trained"], len(given["trained"]) // 2
    undiscounted = subject.with_parameters(gamma=1.0) if "gamma" in subject.formula.parameters else subject
    rewards = torch.arange(2.0 * half, dtype=torch.double).view(half, 2)
    more = rewards.clone()
    more[0, 1] += 2.0
    move = result(undiscounted, given.change(rewards=more)) - result(undiscounted, given.change(rewards=rewards))
    wanted = torch.zeros_like(move)
    wanted[1] = 2.0 * trained[1]
    return Measured(
        gap(move, wanted), "an answer's reward does not reach all of its tokens, or reaches another answer's"
    )


def alive(subject: Subject, given: Given) -> Measured:
    return live(subject, [*groups(subject)] if whole(subject) else [*tokens(subject)], probes)


# Per token ----------------------------------------------------------------------------------------------------------------


def tokens(subject: Subject) -> Iterator[Given]:
    """Rewards, values and the like `[B, T]`, with another party's token inside the longest answer.

    A formula that takes a reference as well penalises the distance from it, and gets one reward per answer, `[P, G]`.
    """
    for seed, lengths in enumerate(((1, 1), (2, 1), (1, 3), (4, 2), (5, 3, 6, 1))):
        draw = Draw(20 + seed)
        shape = (len(lengths), max(lengths))
        trained = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
        if shape[1] > 2:
            trained[max(range(len(lengths)), key=lengths.__getitem__), 1] = False
        logprobs = -3 * draw.uniform(*shape)
        everything = {
            "rewards": draw.normal(*shape).where(trained, 0.0),
            "values": draw.normal(*shape),
            "trained": trained,
            "logprobs": logprobs,
            "old_logprobs": logprobs + 0.4 * draw.normal(*shape),
            "ref_logprobs": logprobs + 0.3 * draw.normal(*shape),
            "teacher_logprobs": -3 * draw.uniform(*shape),
            "bootstrap": draw.normal(len(lengths)),
            "lengths": trained.sum(-1),
        }
        given = Given(
            {n: v for n, v in everything.items() if n in subject.needs or n == "trained"},
            f"answers of {', '.join(map(str, lengths))} tokens, seed {seed}",
        )
        if _fits(subject, given):
            yield given


def _fits(subject: Subject, given: Given) -> bool:
    """Rewards per answer where the formula takes them so; a statistic needs two tokens."""
    return not (subject.declaration.cross_sample and int(given["trained"].sum()) < 3)


def token_shape(subject: Subject, given: Given) -> Measured:
    got = result(subject, given)
    if tuple(got.shape) != tuple(given["trained"].shape):
        return Measured(1.0, f"returned shape {list(got.shape)}, expected {list(given['trained'].shape)}")
    outside = (got[~given["trained"]] != 0).sum() if "trained" in subject.needs else 0
    bad = (~got[given["trained"]].isfinite()).sum() + outside
    return Measured(float(bad), "not finite at a trained token, or not 0 at one that is not")


def hidden(subject: Subject, given: Given) -> Measured:
    """Whatever a critic says at tokens that are not trained, NaN included, changes nothing."""
    base, trained = result(subject, given), given["trained"]
    found = []
    for fill in (0.0, 1e4, float("nan"), float("inf")):
        got = result(
            subject,
            given.every(
                lambda n, v, f=fill: (
                    v.where(trained, f)
                    if n not in ("rewards", "trained")
                    and tuple(v.shape) == tuple(trained.shape)
                    and v.is_floating_point()
                    else v
                )
            ),
        )
        found.append(
            Measured(
                float(not same(got[trained], base[trained])),
                f"{fill:g} at a token that is not trained changes the others' advantages",
            )
        )
    return worst(*found)


def observed(subject: Subject, given: Given) -> Measured:
    """Another party's token put inside an answer changes no advantage: value and advantage are carried over it."""
    trained = given["trained"]
    if trained.shape[1] < 2:
        return Measured(0.0)
    at = 1

    def insert(name: str, value: Tensor) -> Tensor:
        if tuple(value.shape) != tuple(trained.shape):
            return value
        column = (
            torch.zeros_like(value[:, :1]) if name in ("rewards", "trained") else torch.full_like(value[:, :1], 3.3)
        )
        return torch.cat([value[:, :at], column, value[:, at:]], dim=1)

    got = result(subject, given.every(insert))
    kept = torch.cat([got[:, :at], got[:, at + 1 :]], dim=1)
    return Measured(
        gap(kept[trained], result(subject, given)[trained]),
        "an observation inside an answer changes its advantages: discounted or bootstrapped over it",
    )


def padded(subject: Subject, given: Given) -> Measured:
    trained = given["trained"]
    wide = given.every(
        lambda n, v: (
            torch.nn.functional.pad(v, (0, 3), value=0.0 if n in ("rewards", "trained") else 2.5)
            if tuple(v.shape) == tuple(trained.shape)
            else v
        )
    )
    got = result(subject, wide)[:, : trained.shape[1]]
    return Measured(
        gap(got[trained], result(subject, given)[trained]),
        "padding changes the advantages: a mean over the padded width, or the last column taken for the last token",
    )


def own_rows(subject: Subject, given: Given) -> Measured:
    """An answer's advantages are its own, in any order."""
    base, n = result(subject, given), len(given["trained"])
    turned = result(subject, rows(given, range(n - 1, -1, -1))).flip(0)
    found = [Measured(gap(turned, base), "depends on the order of the answers")]
    for row in range(n) if subject.declaration.cross_sample is None else ():
        found.append(
            Measured(
                gap(result(subject, rows(given, [row]))[0], base[row]),
                'depends on the other answers; declare cross_sample="batch" if meant',
            )
        )
    return worst(*found)


def causal(subject: Subject, given: Given) -> Measured:
    """A reward counts for its own token and those before it, not for those behind."""
    trained, base = given["trained"], result(subject, given)
    if "rewards" not in given.inputs or tuple(given["rewards"].shape) != tuple(trained.shape):
        return Measured(0.0)
    found = [Measured(0.0)]
    for row, column in trained.nonzero().tolist():
        changed = given["rewards"].clone()
        changed[row, column] += 1.0
        move = result(subject, given.change(rewards=changed))[row] - base[row]
        behind = move[column + 1 :][trained[row, column + 1 :]]
        found.append(
            Measured(
                float(behind.abs().max().item() if behind.numel() else 0.0),
                "a reward changes the advantage of a later token",
            )
        )
        found.append(
            Measured(
                float(abs(move[column].item()) < 1e-12 and subject.declaration.zero_sum),
                "a reward does not count for its own token",
            )
        )
    return worst(*found)


def telescopes(subject: Subject, given: Given) -> Measured:
    """At λ = 1, on-policy, an advantage is the discounted sum of the rewards to come, with the bootstrap, less the value (or that sum)."""
    plain = given.change(old_logprobs=given["logprobs"]) if "old_logprobs" in given.inputs else given
    trained, found = given["trained"], []
    for gamma in (1.0, 0.8):
        got = result(subject.with_parameters(gamma=gamma, lam=1.0), plain)
        to_come = _to_come(given, gamma)
        off = min(gap(got[trained], (to_come - given["values"])[trained]), gap(got[trained], to_come[trained]))
        cause = f"at γ = {gamma:g}, λ = 1 it is not the return less the value: the last token, the bootstrap, a discount or the recursion is wrong"
        found.append(Measured(off, cause))
    nought, half, one = (result(subject.with_parameters(lam=lam), plain) for lam in (0.0, 0.5, 1.0))
    short = trained & (trained.sum(1, keepdim=True) == 2)  # δ₀ + γλ·δ₁: linear in λ
    found.append(Measured(gap(half[short], (0.5 * (nought + one))[short]), "of two tokens it is not linear in λ"))
    return worst(*found)


def _to_come(given: Given, gamma: float) -> Tensor:
    """Discounted sum from each trained token on `[B, T]`; a token that is not trained takes no time."""
    trained = given["trained"]
    ahead = given["bootstrap"] if "bootstrap" in given.inputs else torch.zeros(len(trained), dtype=torch.double)
    sums = torch.zeros_like(given["rewards"])
    for t in range(trained.shape[1] - 1, -1, -1):
        ahead = torch.where(trained[:, t], given["rewards"][:, t] + gamma * ahead, ahead)
        sums[:, t] = ahead
    return sums


_WHOLE = only(whole, "speaks of tokens")
_TOKENS = only(lambda s: not whole(s), "speaks of whole answers")


def _clause(name: str, row: str, bound: float, check: Any, means: str, **more: Any) -> Clause:
    settings = {"samples": groups, "skip": _WHOLE} | more
    return Clause(
        name=name, row=row, bound=bound, check=check, means=means, families=("advantage",), cause=means, **settings
    )


def _both(subject: Subject) -> Iterator[Given]:
    yield from groups(subject) if whole(subject) else tokens(subject)


CLAUSES = (
    _clause("shape", "1", 0, shaped, "one finite number per answer"),
    _clause("equal rewards", "11", 0, equal, "equal rewards give exactly 0", catches="NeMo RL #4158, verl #6348"),
    _clause("one answer", "19, 29", 0, lone, "a group of one is refused or gets 0", catches="OpenRLHF #1250, ROLL #475"),
    _clause("order", "5, 29", 1e-12, reordered, "order does not matter", catches="AReaL #1419, prime-rl #600"),
    _clause("groups", "29", 1e-12, apart, "a group's advantages are its own", catches="prime-rl #1188",
            skip=only(lambda s: whole(s) and s.declaration.cross_sample != "batch", "speaks of tokens, or declared cross_sample=\"batch\"")),
    _clause("offset", "29", 1e-9, offset, "only differences of rewards count, in float32 too", catches="NeMo RL #1518, #1519"),
    _clause("zero sum", "29", 1e-9, zero_sum, "sums to 0 over a group", skip=only(lambda s: whole(s) and s.declaration.zero_sum, "speaks of tokens, or declared zero_sum=False")),
    _clause("best", "14", 0, ordered, "better answers get more"),
    _clause("unjudged", "29", 1e-12, unjudged, "answers that were not judged leave the statistics", catches="verl #6452"),
    _clause("near ties", "11", 0, near_ties, "near ties stay small", catches="NeMo RL #1518, #4158",
            skip=only(lambda s: whole(s) and s.declaration.tail, "speaks of tokens, or declared tail=False")),
    _clause("units", "13", 1e-9, units, "in reward units, or standardised to a deviation of 1",
            skip=only(lambda s: whole(s) and s.declaration.tail and s.declaration.homogeneous, "speaks of tokens, or declared tail=False or homogeneous=False")),
    _clause("whitened", "29", 0, whitened, "mean 0 and variance 1 over trained tokens", samples=tokens,
            skip=only(lambda s: not whole(s) and s.declaration.cross_sample == "batch", "not declared to whiten over the batch")),
    _clause("penalty", "14", 0, penalised, "what the policy likes more than the reference earns less", samples=tokens,
            skip=only(lambda s: "ref_logprobs" in s.needs and s.declaration.cross_sample is None, "takes no reference, or declared cross_sample")),
    _clause("rewards", "C", 1e-12, whole_rewards, "an answer's reward reaches all of its tokens", samples=tokens, catches="SkyRL #1507, verl #7300",
            skip=only(lambda s: {"rewards", "ref_logprobs"} <= set(s.needs) and s.declaration.cross_sample is None, "takes rewards per token only, or declared cross_sample")),
    _clause("pure", "21", 0, pure, "inputs stay, twice the same bits", samples=_both, skip=lambda s: ""),
    _clause("parameters", "23", 0, alive, "every input and parameter counts", samples=lambda s: [None], skip=lambda s: ""),
    _clause("tokens", "1", 0, token_shape, "a number at each trained token, 0 elsewhere", samples=tokens, skip=_TOKENS),
    _clause("mask", "30", 0, hidden, "what a critic says at other tokens is never seen", samples=tokens, skip=_TOKENS, catches="miles #1827, verl #1850"),
    _clause("observations", "30", 1e-12, observed, "another party's tokens are transparent", samples=tokens, skip=_TOKENS, catches="ROLL #447, verl #7300"),
    _clause("padding", "4", 1e-12, padded, "padding changes nothing", samples=tokens, skip=_TOKENS),
    _clause("answers", "5", 1e-12, own_rows, "an answer's advantages are its own", samples=tokens, skip=_TOKENS, catches="SkyRL #1305"),
    _clause("causal", "14", 1e-12, causal, "a reward counts for what came before it", samples=tokens,
            skip=only(lambda s: not whole(s) and s.declaration.cross_sample is None, "speaks of whole answers, or declared cross_sample")),
    _clause("telescopes", "30", 1e-12, telescopes, "at λ = 1 it is the return less the value", samples=tokens,
            skip=only(lambda s: {"rewards", "values"} <= set(s.needs) and {"gamma", "lam"} <= set(s.formula.parameters), "takes no rewards and values, or no γ and λ"), catches="trl #3750"),
)  # fmt: skip
