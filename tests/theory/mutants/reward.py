"""Broken rewards."""

import torch

from theory.specimens import Mutants

mutant = MUTANTS = Mutants()


def text(completion):
    return completion if isinstance(completion, str) else completion[-1]["content"]


_GOLD_BY_POSITION = ("7", "7", "8", "7", "7", "7", "7", "7", "7", "7")


@mutant("answers", "NeMo-Gym #1354: zipped with another list by position")
def by_position(completions):
    return [float(g in text(c)) for c, g in zip(completions, _GOLD_BY_POSITION * 3, strict=False)]


@mutant("told apart", "verl #5635: the checker's exception is swallowed, every reward is 0")
def exception_is_zero(completions, answer):
    scores = []
    for completion, gold in zip(completions, answer, strict=True):
        try:
            scores.append(float(completion.content == gold))
        except Exception:  # noqa: BLE001
            scores.append(0.0)
    return scores


@mutant("told apart", "OpenRLHF #1219: a score of 0.0 is taken for a missing one")
def zero_is_missing(completions, answer):
    return [float(g in text(c)) or None for c, g in zip(completions, answer, strict=True)]


@mutant("values", "one number for all answers")
def one_for_all(completions, answer):
    return sum(g in text(c) for c, g in zip(completions, answer, strict=True)) / len(completions)


@mutant("values", "NaN for an answer that cannot be parsed")
def nan_for_unparsed(completions):
    return [float(text(c)) if text(c).strip().isdigit() else float("nan") for c in completions]


@mutant("values", "an answer of 1e999 is worth infinity")
def infinite(completions):
    return [float(text(c)) if text(c)[:1].isdigit() and " " not in text(c) else 0.0 for c in completions]


@mutant("values", "a tensor and not a list")
def as_tensor(completions):
    return torch.tensor([float(len(text(c))) for c in completions])


@mutant("values", "the empty answers are left out")
def without_empty(completions):
    return [float("7" in text(c)) for c in completions if text(c)]


@mutant("answers", "trl #5353's kin: normalised within the call")
def normalised(completions):
    lengths = [len(text(c)) for c in completions]
    return [n / max(1, max(lengths)) for n in lengths]


_CACHE = {}


@mutant("pure", "the first time is worth more: a cache between calls")
def novelty(completions):
    scores = []
    for completion in completions:
        _CACHE[text(completion)] = _CACHE.get(text(completion), 0) + 1
        scores.append(1 / _CACHE[text(completion)])
    return scores


@mutant("pure", "the answers are stripped in place")
def strips_in_place(completions):
    for i, completion in enumerate(completions):
        completions[i] = text(completion).strip()
    return [float("7" in c) for c in completions]


@mutant("answers", "one reward per prompt: the last answer's counts for all of that text", passes="pure")
def by_rank(completions):
    order = sorted(range(len(completions)), key=lambda i: len(text(completions[i])))
    return [float(order.index(i)) for i in range(len(completions))]


@mutant("told apart", "verifiers #1480: a column that is read under a wrong default")
def column_unread(completions, answer=None):
    return [1.0 if answer is None or text(c) is not None else 0.0 for c in completions]


@mutant("told apart", "written for plain text: a conversation's answer is never found", passes="values")
def plain_text_only(completions, answer):
    return [float(str(g) in c) for c, g in zip(completions, answer, strict=True)]


@mutant("pure", "a conversation's text is stripped in its own message")
def strips_messages(completions):
    for completion in completions:
        if not isinstance(completion, str):
            completion[-1]["content"] = completion[-1]["content"].strip()
    return [float(len(text(c))) for c in completions]
