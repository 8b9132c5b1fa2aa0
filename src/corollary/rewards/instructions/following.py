"""Whether an answer follows its instructions, as it stands or loosely."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from corollary.rewards.calling import SampleError
from corollary.rewards.instructions import ifbench, ifeval
from corollary.rewards.instructions.kinds import Rule
from corollary.rewards.math import Completions, text_of

KINDS: Mapping[str, Rule] = {**ifeval.KINDS, **ifbench.KINDS}
"""Every kind of instruction that has a rule here, by its name."""

Credit = Literal["all", "share"]

_LONGEST = 50_000  # characters of an answer; a longer one follows nothing


def instructions(
    completions: Completions,
    instructions: Sequence[object],
    *,
    credit: Credit = "all",
    loose: bool = False,
) -> list[float]:
    """1 where an answer follows all of its instructions.

    Args:
        completions: the model's answers.
        instructions: of each sample, a list of `{"type": one of KINDS, parameter: value, …}`.
        credit: `share` gives the share of the instructions that are followed.
        loose: an instruction also counts as followed where it is once asterisks, the first or the last line are taken away.

    Raises:
        SampleError: instructions of another form, of a kind that has no rule, or with other parameters.

    >>> asked = [{"type": "punctuation:no_comma"}, {"type": "startend:end_checker", "end_phrase": "Bye."}]
    >>> instructions(["Well then. Bye."], [asked]), instructions(["Well, bye."], [asked], credit="share")
    ([1.0], [0.5])
    """
    rewards = []
    for row, (completion, wanted) in enumerate(zip(completions, instructions, strict=True)):
        held = [followed(text_of(completion), **one, loose=loose) for one in _checked(wanted, row)]
        rewards.append(sum(held) / len(held) if credit == "share" else float(all(held)))
    return rewards


def followed(text: str, type: str, *, loose: bool = False, **parameters: Any) -> bool:
    """Whether a text follows one instruction; an empty text follows none.

    Args:
        text: the answer.
        type: of the instruction, one of `KINDS`.
        loose: whether any of the `loosened` texts will do.
        parameters: of the instruction.

    >>> followed("Sure! Here it is:\\nall small", "change_case:english_lowercase")
    False
    >>> followed("Sure! Here it is:\\nall small", "change_case:english_lowercase", loose=True)
    True
    """
    texts = loosened(text) if loose else iter((text,))
    return any(one.strip() and KINDS[type](one, **parameters) for one in texts if len(one) <= _LONGEST)


def loosened(text: str) -> Iterator[str]:
    """The text; without its first line, its last line, both; and each of these without asterisks.

    Source: Zhou et al. 2023, section 2.3, https://arxiv.org/abs/2311.07911.
    """
    lines = text.split("\n")
    for part in (lines, lines[1:], lines[:-1], lines[1:-1]):
        joined = "\n".join(part).strip()
        yield joined
        yield joined.replace("*", "")


def _checked(wanted: object, row: int) -> list[dict[str, Any]]:
    """The instructions of a row, if they are such."""
    if not isinstance(wanted, list | tuple) or not wanted:
        raise SampleError(f"column 'instructions': expected a list of them, got {str(wanted)[:60]!r}", row)
    for one in wanted:
        if not isinstance(one, Mapping) or not isinstance(one.get("type"), str):
            raise SampleError(f"column 'instructions': expected an object with a type, got {str(one)[:60]!r}", row)
        kind, given = one["type"], {name: value for name, value in one.items() if name != "type"}
        if kind not in KINDS:
            raise SampleError(f"column 'instructions': there is no rule for {kind!r}", row)
        try:
            inspect.signature(KINDS[kind]).bind("", **given)
            KINDS[kind]("x", **given)
        except (TypeError, ValueError, AttributeError) as error:
            raise SampleError(f"column 'instructions': {kind}: {error}", row) from None
    return [dict(one) for one in wanted]
