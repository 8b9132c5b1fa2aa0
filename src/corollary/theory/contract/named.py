"""Clauses on logged numbers: a metric that bears a known name is the quantity of that name."""

from __future__ import annotations

import torch
from torch import Tensor

from corollary.theory.contract.evaluate import Measured, evaluate, gap, on_policy, terms_of, worst
from corollary.theory.contract.samples import Sample
from corollary.theory.contract.subject import LOSSES, Subject
from corollary.theory.contract.table import Clause


def _metrics(subject: Subject, at: Sample) -> dict[str, Tensor]:
    with torch.no_grad():
        return terms_of(subject, at).metrics


def named(subject: Subject, at: Sample) -> Measured:
    """`nll` is -logπ; `ratio` is 1 and `kl` 0 at ratio 1; `margin` is chosen less rejected, and `accuracy` 1 where that is above 0."""
    found = [Measured(0.0)]
    got, seen = _metrics(subject, at), at.batch.trained
    if "nll" in got and at.output.dim() == 2 and subject.family == "likelihood":
        found.append(Measured(gap(got["nll"][seen], -at.output[seen]), "metric nll is not -logπ", at))
    if {"margin", "reward_chosen", "reward_rejected"} <= set(got):
        off = gap(got["margin"], got["reward_chosen"] - got["reward_rejected"])
        found.append(Measured(off, "metric margin is not the chosen reward less the rejected one", at))
    if subject.family == "reward_model":
        for row, name in enumerate(("reward_chosen", "reward_rejected")):
            said = got.get(name, at.output[row::2].repeat_interleave(2)[:, None])[:, 0]
            found.append(
                Measured(gap(said, at.output[row::2].repeat_interleave(2)), f"metric {name} is not that reward", at)
            )
    if {"margin", "accuracy"} <= set(got):
        off = gap(got["accuracy"], (got["margin"] > 0).to(got["margin"].dtype))
        found.append(Measured(off, "metric accuracy is not 1 where the margin is above 0", at))
    if subject.family in ("policy", "penalty"):
        found += _at_ratio_one(subject, at)
    return worst(*found)


def _at_ratio_one(subject: Subject, at: Sample) -> list[Measured]:
    same = on_policy(subject, at)
    got, seen = _metrics(subject, same), same.batch.trained
    wanted = {"ratio": 1.0, "kl": 0.0, "approx_kl": 0.0}
    return [
        Measured(gap(got[name][seen], torch.full_like(got[name][seen], value)), f"metric {name} is not {value:g} at ratio 1", same)
        for name, value in wanted.items()
        if name in got
    ]  # fmt: skip


def rises(subject: Subject, at: Sample) -> Measured:
    """`reward_chosen` rises with the chosen answer's log-probability, `reward_rejected` with the rejected one's, `reward` with its own."""
    if subject.declaration.cross_sample:
        return Measured(0.0)  # a reward may be compared with other answers' ones
    before, seen, wrong = _metrics(subject, at), at.batch.trained, []
    for name, rows in (("reward_chosen", [0]), ("reward_rejected", [1]), ("reward", [0, 1])):
        if name not in before:
            continue
        raised = at.output.clone()
        for row in rows:
            raised[row::2] += 0.2
        after = _metrics(subject, at.change(raised))
        others = [n for n in ("reward_chosen", "reward_rejected") if n in before and n != name and name != "reward"]
        wrong += [name] if not (after[name] > before[name])[seen].all() else []
        wrong += [n for n in others if gap(after[n][seen], before[n][seen]) > 1e-9]
    return Measured(
        float(len(wrong)),
        f"metric {wrong[0]} does not rise with the log-probability of its own answer alone" if wrong else "",
    )


def cut(subject: Subject, at: Sample) -> Measured:
    """`clipped` is 1 exactly where the gradient is cut."""
    got = _metrics(subject, at)
    if "clipped" not in got:
        return Measured(0.0)
    gradient, seen = evaluate(subject, at).main, at.batch.trained
    wrong = ((got["clipped"] != 0) != (gradient == 0)) & seen
    return Measured(float(wrong.sum()), "metric clipped is not 1 exactly where the gradient is cut", at)


CLAUSES = (
    Clause(name="named metrics", row="32", bound=1e-9, check=named, families=LOSSES, means="nll, ratio, kl, margin, accuracy are what they are called",
           cause="a metric of another quantity", catches="verl #4711, trl #5353, #1161"),
    Clause(name="named metrics", row="32", bound=0, check=rises, families=("preference", "unpaired"),
           means="a reward rises with its answer's log-probability", cause="a reward's sign, or the other answer's", catches="trl #5079"),
    Clause(name="named metrics", row="32", bound=0, check=cut, families=("policy", "value"), means="clipped is 1 exactly where the gradient is cut",
           cause="the wrong branch is counted"),
)  # fmt: skip
