"""The records are those that the run wrote: seals, and metrics computed again from the answers behind them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from corollary.algorithms.distill import DistillConfig
from corollary.algorithms.grpo import GRPOConfig
from corollary.ops.advantage import has_signal
from corollary.run.ledger import digest, seal
from corollary.selection import NoReplay
from corollary.validate.findings import Finding, Theorem, close, number
from corollary.validate.records import Answer, Group, Line, Records

SEALED = Theorem(label="seal", says="each line seals its text and the line before it by sha256", page="docs/guides/validate.md#what-a-run-records-for-it")  # fmt: skip
MEANS = Theorem(label="B14", says="a step's metric is one weighted sum over its answers, however it was split")
EDITED = "somebody or something changed the file after the run wrote it"
RESTORE = "restore the file from a copy, or run again; do not use the changed numbers"


def integrity(records: Records) -> Iterator[Finding]:
    """metrics.jsonl, rollouts.jsonl and ledger.jsonl against their seals, and the metrics against the answers."""
    yield unchanged_metrics(records)
    yield unbroken(records)
    if (found := from_answers(records)) is not None:
        yield found


def unchanged_metrics(records: Records) -> Finding:
    """metrics.jsonl against the copy of each line in the ledger."""
    name = "metrics.jsonl is what the run wrote"
    if not records.entries:
        return skipped(name, SEALED)
    copies = {line.row["step"]: _written(line.text)["metrics"] for line in records.ledger}
    faults = [f"line {line.number}: {fault}" for line in records.metrics for fault in _changed(line, copies)]
    faults += [f"step {step} is missing" for step in sorted({*copies} - {line.row["step"] for line in records.metrics})]
    uncovered = sum(line.row["step"] > max(copies) for line in records.metrics)
    if faults:
        return Finding(
            name=name, level="red", theorem=SEALED, measured="; ".join(faults[:3]), expected="the ledger's copy",
            fault=f"metrics.jsonl was edited: {EDITED}", hint=RESTORE,
        )  # fmt: skip
    if uncovered > 1:  # a kill between two journals leaves one
        return Finding(
            name=name, level="amber", theorem=SEALED, measured=f"{uncovered} lines without a seal", expected="one at most",
            fault="the ledger ends before metrics.jsonl does", hint="go on with --resume, which sets both back to a checkpoint",
        )  # fmt: skip
    older = sum(line.row["step"] < min(copies) for line in records.metrics)
    steps = f"{len(records.metrics) - older} lines the same as their copies"
    steps += f"; the first {older} are older than the ledger" if older else ""
    return Finding(name=name, level="green", theorem=SEALED, measured=steps, expected="all of them")


def _written(text: str) -> dict[str, Any]:
    """A line with its numbers as they are written, to the last digit."""
    return json.loads(text, parse_float=str, parse_int=str, parse_constant=str)


def _changed(line: Line, copies: Mapping[int, Mapping[str, str]]) -> Iterator[str]:
    """What is other than in the copy, key by key."""
    copy, written = copies.get(line.row["step"]), _written(line.text)
    if copy is None:
        return
    for key, value in written.items():
        if key not in copy and key != "step":
            yield f"{key} was added"
        elif key != "step" and value != copy[key]:
            yield f"{key} is {value}, the run wrote {copy[key]}"
    yield from (f"{key} was removed" for key in copy if key not in written)


def unbroken(records: Records) -> Finding:
    """The chain of seals: from line to line, and to the newest checkpoint."""
    name = "rollouts.jsonl and ledger.jsonl are sealed"
    if not records.ledger:
        return skipped(name, SEALED)
    said = {line.row["step"]: line.text for line in records.metrics}
    copied = {line.row["step"]: {"step": line.row["step"], **line.row["metrics"]} for line in records.ledger}
    before, broken = "", []
    for line in records.ledger:
        step, kept = line.row["step"], line.row.get("seal", "")
        body = json.dumps({k: v for k, v in line.row.items() if k != "seal"}, ensure_ascii=False)
        answers = records.rollouts.get(step, digest(""))
        copy = json.dumps(copied[step], ensure_ascii=False) + "\n"
        metrics = {digest(copy), digest(said.get(step, ""))}  # an edited metrics.jsonl has a finding of its own
        if kept not in {seal(before, body, (text, answers)) for text in metrics}:
            broken.append(step)
        before = kept
    seals = {entry.step: entry.seal for entry in records.entries}
    forged = [step for step, digest in records.sealed.items() if digest and seals.get(step, digest) != digest]
    if broken or forged:
        what = f"steps {_some(broken)}" if broken else f"the seals up to step {forged[0]}"
        return Finding(
            name=name, level="red", theorem=SEALED, measured=f"{what} do not fit", expected="every seal fits",
            fault=f"rollouts.jsonl or ledger.jsonl was edited: {EDITED}", hint=RESTORE,
        )  # fmt: skip
    kept_by = f", {len(records.sealed)} of them kept by checkpoints" if records.sealed else ""
    measured = f"{len(records.ledger)} seals fit{kept_by}"
    return Finding(name=name, level="green", theorem=SEALED, measured=measured, expected="all of them")


def _some(steps: list[int]) -> str:
    return ", ".join(map(str, steps[:5])) + (" …" if len(steps) > 5 else "")


def from_answers(records: Records) -> Finding | None:
    """What `describe` says of rollouts, computed again from rollouts.jsonl; None where the algorithm has no answers."""
    name = "metrics computed again from the answers"
    algorithm = records.recipe.algorithm
    if not records.groups:
        return None
    if records.own:
        return skipped(name, MEANS, records.own)
    if isinstance(algorithm, GRPOConfig) and not isinstance(algorithm.replay, NoReplay):
        return skipped(name, MEANS, "the metrics speak of fresh groups and the records of replayed ones")
    judged = not isinstance(algorithm, DistillConfig)
    faults, compared = [], 0
    for line in records.metrics:
        again = described(records.groups.get(line.row["step"], []), judged)
        for key in again.keys() & line.row.keys():
            compared += 1
            if not close(again[key], float(line.row[key]), 1e-9, 1e-9):
                faults.append(
                    f"line {line.number}: {key} is {number(line.row[key])}, the answers say {number(again[key])}"
                )
    if faults:
        return Finding(
            name=name, level="red", theorem=MEANS, measured="; ".join(faults[:3]), expected="the same to 1e-9",
            fault="the metric and the answers that it is the mean of disagree: one of the two files was edited, or what was "
            "logged is not what was sampled", hint=RESTORE,
        )  # fmt: skip
    return Finding(name=name, level="green", theorem=MEANS, measured=f"{compared} numbers", expected="the same to 1e-9")


def described(groups: list[Group], judged: bool) -> dict[str, float]:
    """What the run's `describe` says of a step, from its records."""
    answers = [answer for group in groups for answer in group.answers]
    if not answers:
        return {}
    lengths = [answer.tokens for answer in answers]
    found = {
        "length": sum(lengths) / len(lengths),
        "truncated": sum(a.truncated for a in answers) / len(answers),
        "tokens": float(sum(lengths)),
    }
    return found | _earned(groups, answers) if judged else found


def _earned(groups: list[Group], answers: list[Answer]) -> dict[str, float]:
    rewards = [a.reward for a in answers if a.reward is not None]
    found = {"reward": sum(rewards) / max(1, len(rewards)), "masked": float(len(answers) - len(rewards))}
    if len({len(group.answers) for group in groups}) == 1 and len(groups[0].answers) > 1:
        found["signal"] = has_signal(reward_table(groups)).double().mean().item()
    for name in answers[0].rewards:
        values = [value for a in answers if (value := a.rewards.get(name)) is not None]
        found[f"reward/{name}"] = sum(values) / max(1, len(values))
    for name in {name for a in answers for name in a.counts}:
        found[f"environment/{name}"] = sum(a.counts.get(name, 0.0) for a in answers) / len(answers)
    return found


def reward_table(groups: list[Group]) -> torch.Tensor:
    """`[P, G]` rewards as the run made them, NaN where an answer could not be judged."""
    return torch.tensor([[float("nan") if a.reward is None else a.reward for a in group.answers] for group in groups])


def skipped(name: str, theorem: Theorem, why: str = "") -> Finding:
    """A check that the records do not suffice for."""
    older = "the run has no ledger.jsonl: it is older than that file"
    return Finding(name=name, level="skipped", theorem=theorem, fault=why or older)
