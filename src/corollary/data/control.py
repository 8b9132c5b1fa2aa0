"""The control tokens of a tokenizer: what ends a turn, opens another, and must never come out of what people wrote."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Control:
    """Control tokens."""

    ids: frozenset[int]
    first: re.Pattern[str]  # matches the first character of each one's string, also where two of them overlap


_KNOWN: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[tuple[object, ...], Control]] = WeakKeyDictionary()


def control(tokenizer: PreTrainedTokenizerBase) -> Control:
    """The control tokens of a tokenizer, made once as long as it stays as it is: Gemma has 6,249, which take 20 ms to list."""
    state = len(tokenizer), tuple(tokenizer.all_special_tokens)
    known = _KNOWN.get(tokenizer)
    if known is None or known[0] != state:
        tokens = {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        strings = sorted(filter(None, set(tokens.values())), key=lambda text: (-len(text), text))
        first = re.compile(f"(?=(?:{'|'.join(map(re.escape, strings)) or '(?!)'}))(?s:.)")
        known = _KNOWN[tokenizer] = state, Control(frozenset(tokens), first)
    return known[1]
