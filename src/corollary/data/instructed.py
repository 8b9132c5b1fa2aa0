"""Questions with an instruction that a rule can check, for reinforcement learning and for measuring it.

The questions are the short ones of the conversations. Which instruction each gets, and with which numbers, its id decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from corollary.data.conversations import Instructed, instructlab
from corollary.data.published import Row
from corollary.seeding import stream

_LONGEST = 25  # words of a question

_Made = tuple[str, dict[str, Any]]  # what is asked, and the parameters that check it


def instructed(rows: Sequence[Row], part: str) -> Iterator[Instructed]:
    """The short questions of one side of the conversations, each with one instruction in words and as a rule's parameters."""
    names = sorted(_WORDED)
    for conversation in instructlab(rows, part):
        question = conversation.messages[0]["content"]
        if "\n" in question or len(question.split()) > _LONGEST:
            continue
        draw = stream(0, "instructions", conversation.id)
        name = names[int(draw.integers(len(names)))]
        words, parameters = _WORDED[name](draw)
        yield Instructed(
            id=conversation.id.replace("conversations", "instructions"),
            question=f"{question}\n\n{words}",
            instructions=[{"type": name, **parameters}],
        )


def _number(draw: np.random.Generator, low: int, high: int, step: int = 1) -> int:
    return int(draw.integers(low, high + 1)) * step


def _word_count(draw: np.random.Generator) -> _Made:
    bound, at_least = _number(draw, 2, 6, step=10), bool(draw.integers(2))
    if at_least:
        return f"Answer with at least {bound} words.", {"num_words": bound, "relation": "at least"}
    return f"Answer with fewer than {bound} words.", {"num_words": bound, "relation": "less than"}


def _sentence_count(draw: np.random.Generator) -> _Made:
    bound = _number(draw, 2, 4)
    return f"Answer in fewer than {bound} sentences.", {"num_sentences": bound, "relation": "less than"}


def _bullets(draw: np.random.Generator) -> _Made:
    count = _number(draw, 2, 5)
    return f"Answer with exactly {count} bullet points, each on a line that begins with *.", {"num_bullets": count}


def _paragraphs(draw: np.random.Generator) -> _Made:
    count = _number(draw, 2, 3)
    return f"Write exactly {count} paragraphs, with *** between them.", {"num_paragraphs": count}


def _placeholders(draw: np.random.Generator) -> _Made:
    count = _number(draw, 1, 3)
    text = f"Put at least {count} placeholder{'s' * (count > 1)} in square brackets into your answer, such as [name]."
    return text, {"num_placeholders": count}


def _highlights(draw: np.random.Generator) -> _Made:
    count = _number(draw, 1, 3)
    text = f"Highlight at least {count} passage{'s' * (count > 1)} with asterisks, such as *highlighted passage*."
    return text, {"num_highlights": count}


def _keyword(draw: np.random.Generator) -> _Made:
    words = ("river", "morning", "window", "garden", "number", "music", "paper", "winter")
    word = words[int(draw.integers(len(words)))]
    return f"Use the word {word} in your answer.", {"keywords": [word]}


def _ending(draw: np.random.Generator) -> _Made:
    phrase = ("That is all.", "I hope this helps.", "What do you think?")[int(draw.integers(3))]
    return f"End your answer with exactly these words: {phrase}", {"end_phrase": phrase}


def _fixed(words: str, **parameters: Any) -> Callable[[np.random.Generator], _Made]:
    return lambda draw: (words, parameters)


_WORDED: dict[str, Callable[[np.random.Generator], _Made]] = {
    "length_constraints:number_words": _word_count,
    "length_constraints:number_sentences": _sentence_count,
    "length_constraints:number_paragraphs": _paragraphs,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:title": _fixed("Give your answer a title in double angular brackets, such as <<title>>."),
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _fixed(
        "Add a postscript at the end that begins with P.S.", postscript_marker="P.S."
    ),
    "keywords:existence": _keyword,
    "startend:end_checker": _ending,
    "startend:quotation": _fixed("Put your whole answer between double quotation marks."),
    "change_case:english_lowercase": _fixed("Write in small letters only, without any capital letter."),
    "change_case:english_capital": _fixed("Write in CAPITAL LETTERS only."),
    "punctuation:no_comma": _fixed("Do not use any comma."),
}
