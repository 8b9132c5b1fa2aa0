"""Clauses on what tokens earn `[B, T]`, from rewards, values and the distance to a reference: GAE and its kin, whitening."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from corollary.theory.contract.advantage import clause, groups, whole
from corollary.theory.contract.evaluate import Measured, gap, worst
from corollary.theory.contract.given import Given, live, pure, result, rows, same
from corollary.theory.contract.gradient import probes
from corollary.theory.contract.samples import Draw
from corollary.theory.contract.subject import Subject
from corollary.theory.contract.table import only


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


def _both(subject: Subject) -> Iterator[Given]:
    yield from groups(subject) if whole(subject) else tokens(subject)


def alive(subject: Subject, given: Given) -> Measured:
    return live(subject, [*groups(subject)] if whole(subject) else [*tokens(subject)], probes)


_TOKENS = only(lambda s: not whole(s), "speaks of whole answers")


CLAUSES = (
    clause("whitened", "29", 0, whitened, "mean 0 and variance 1 over trained tokens", samples=tokens,
            skip=only(lambda s: not whole(s) and s.declaration.cross_sample == "batch", "not declared to whiten over the batch")),
    clause("penalty", "14", 0, penalised, "what the policy likes more than the reference earns less", samples=tokens,
            skip=only(lambda s: "ref_logprobs" in s.needs and s.declaration.cross_sample is None, "takes no reference, or declared cross_sample")),
    clause("rewards", "C", 1e-12, whole_rewards, "an answer's reward reaches all of its tokens", samples=tokens, catches="SkyRL #1507, verl #7300",
            skip=only(lambda s: {"rewards", "ref_logprobs"} <= set(s.needs) and s.declaration.cross_sample is None, "takes rewards per token only, or declared cross_sample")),
    clause("pure", "21", 0, pure, "inputs stay, twice the same bits", samples=_both, skip=lambda s: ""),
    clause("parameters", "23", 0, alive, "every input and parameter counts", samples=lambda s: [None], skip=lambda s: ""),
    clause("tokens", "1", 0, token_shape, "a number at each trained token, 0 elsewhere", samples=tokens, skip=_TOKENS),
    clause("mask", "30", 0, hidden, "what a critic says at other tokens is never seen", samples=tokens, skip=_TOKENS, catches="miles #1827, verl #1850"),
    clause("observations", "30", 1e-12, observed, "another party's tokens are transparent", samples=tokens, skip=_TOKENS, catches="ROLL #447, verl #7300"),
    clause("padding", "4", 1e-12, padded, "padding changes nothing", samples=tokens, skip=_TOKENS),
    clause("answers", "5", 1e-12, own_rows, "an answer's advantages are its own", samples=tokens, skip=_TOKENS, catches="SkyRL #1305"),
    clause("causal", "14", 1e-12, causal, "a reward counts for what came before it", samples=tokens,
            skip=only(lambda s: not whole(s) and s.declaration.cross_sample is None, "speaks of whole answers, or declared cross_sample")),
    clause("telescopes", "30", 1e-12, telescopes, "at λ = 1 it is the return less the value", samples=tokens,
            skip=only(lambda s: {"rewards", "values"} <= set(s.needs) and {"gamma", "lam"} <= set(s.formula.parameters), "takes no rewards and values, or no γ and λ"), catches="trl #3750"),
)  # fmt: skip
