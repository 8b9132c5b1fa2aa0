"""What a client gets: the JSON of a completion, whole or in chunks.

Source: OpenAI's reference of the interface, https://platform.openai.com/docs/api-reference.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from corollary.serving.decoding import Piece, Reason
from corollary.serving.requests import ChatAsked, TextAsked

Flavour = Literal["chat", "text"]
JSON = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What all parts of one reply share."""

    flavour: Flavour  # which of the two interfaces
    id: str  # unique
    created: int  # seconds since 1970
    model: str  # as the client knows it
    token_text: Callable[[int], str]
    logprobs: bool  # whether they are told

    @classmethod
    def to(cls, what: ChatAsked | TextAsked, token_text: Callable[[int], str], id: str, created: int) -> Reply:
        """The reply to a request."""
        flavour = "chat" if isinstance(what, ChatAsked) else "text"
        logprobs = what.logprobs is not None and what.logprobs is not False
        return cls(flavour=flavour, id=id, created=created, model=what.model, token_text=token_text, logprobs=logprobs)

    def whole(self, pieces: Sequence[Sequence[Piece]], prompt_tokens: int) -> JSON:
        """The completion, from the pieces of each choice."""
        choices = [self._choice(index, parts) for index, parts in enumerate(pieces)]
        kind = "chat.completion" if self.flavour == "chat" else "text_completion"
        return self._frame(kind, choices) | {"usage": usage(prompt_tokens, [parts[-1].count for parts in pieces])}

    def opening(self, index: int) -> JSON | None:
        """The chunk that a choice begins with, where it begins with one."""
        if self.flavour == "text":
            return None
        delta = {"role": "assistant", "content": ""}
        return self._chunk([{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}])

    def chunks(self, index: int, piece: Piece) -> list[JSON]:
        """What a choice gains; in a chat, the reason why it ends in a chunk of its own."""
        if self.flavour == "text":
            said = {"text": piece.text, "logprobs": self._logprobs([piece]), "finish_reason": piece.finished}
            return [self._chunk([{"index": index, **said}])]
        made = []
        if piece.text or piece.tokens:
            said = {"delta": {"content": piece.text}, "logprobs": self._logprobs([piece]), "finish_reason": None}
            made.append(self._chunk([{"index": index, **said}]))
        if piece.finished:
            made.append(self._chunk([{"index": index, "delta": {}, "logprobs": None, "finish_reason": piece.finished}]))
        return made

    def counted(self, prompt_tokens: int, counts: Sequence[int]) -> JSON:
        """The last chunk, that counts tokens."""
        return self._chunk([]) | {"usage": usage(prompt_tokens, counts)}

    def _choice(self, index: int, pieces: Sequence[Piece]) -> JSON:
        text = "".join(piece.text for piece in pieces)
        reason: Reason | None = pieces[-1].finished
        rest = {"logprobs": self._logprobs(pieces), "finish_reason": reason}
        if self.flavour == "text":
            return {"index": index, "text": text, **rest}
        return {"index": index, "message": {"role": "assistant", "content": text, "refusal": None}, **rest}

    def _logprobs(self, pieces: Sequence[Piece]) -> JSON | None:
        if not self.logprobs:
            return None
        tokens = [(self.token_text(token), logprob) for piece in pieces for token, logprob in piece.tokens]
        if self.flavour == "text":
            return {
                "tokens": [text for text, _ in tokens],
                "token_logprobs": [logprob for _, logprob in tokens],
                "top_logprobs": None,
                "text_offset": None,
            }
        return {
            "content": [
                {"token": text, "logprob": logprob, "bytes": _bytes(text), "top_logprobs": []}
                for text, logprob in tokens
            ],
            "refusal": None,
        }

    def _chunk(self, choices: list[JSON]) -> JSON:
        return self._frame("chat.completion.chunk" if self.flavour == "chat" else "text_completion", choices)

    def _frame(self, kind: str, choices: list[JSON]) -> JSON:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


def usage(prompt_tokens: int, counts: Sequence[int]) -> JSON:
    """How many tokens were read and drawn; one that ends an answer is counted."""
    drawn = sum(counts)
    return {"prompt_tokens": prompt_tokens, "completion_tokens": drawn, "total_tokens": prompt_tokens + drawn}


def event(data: Mapping[str, Any] | str) -> bytes:
    """A server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return f"data: {text}\n\n".encode()


def _bytes(text: str) -> list[int] | None:
    """The UTF-8 of a token; None where it is a part of a character."""
    return None if "\ufffd" in text else list(text.encode())
