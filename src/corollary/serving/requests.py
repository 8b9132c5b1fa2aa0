"""What a client may ask for, checked; and the one shape in which it is told what is wrong.

Whatever a request asks for is done or refused: a setting that would change the answer and is not supported is an error, also where
other servers leave it out silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from corollary.errors import printable

MAX_STOPS = 4
MAX_ANSWERS = 32

_WITHOUT_EFFECT = frozenset(
    ["user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"]
)
"""settings that change no answer"""
_UNSUPPORTED: Mapping[str, Any] = {
    "audio": None, "best_of": 1, "echo": False, "frequency_penalty": 0, "function_call": "none", "functions": [], "logit_bias": {},
    "modalities": ["text"], "parallel_tool_calls": True, "prediction": None, "presence_penalty": 0, "reasoning_effort": None,
    "response_format": {"type": "text"}, "suffix": "", "tool_choice": "none", "tools": [], "top_logprobs": 0, "verbosity": None,
    "web_search_options": None,
}  # fmt: skip
"""settings that are not supported → the value at which they change nothing"""


class APIError(Exception):
    """What a client is told: an HTTP status and OpenAI's error object."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, printable(message), code, param

    def body(self) -> dict[str, Any]:
        """The error object."""
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status, "invalid_request_error")
        kind = kind if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class StreamOptions(_Closed):
    """Of a stream."""

    include_usage: bool = False
    """a last chunk that counts tokens"""
    include_obfuscation: bool = False
    """of no effect here"""


class Asked(_Closed):
    """What both kinds of completion have."""

    model: str
    """as `/v1/models` lists it"""
    stream: bool = False
    """pieces as they come, as server-sent events"""
    stream_options: StreamOptions = StreamOptions()
    n: int = Field(1, ge=1, le=MAX_ANSWERS)
    """answers to each prompt"""
    temperature: float = Field(1.0, ge=0.0, le=2.0)
    """0 takes the likeliest token"""
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    """probability mass kept"""
    top_k: int = Field(0, ge=0)
    """tokens kept; 0 keeps all; not in OpenAI's interface"""
    max_tokens: int | None = Field(None, ge=1)
    """of one answer"""
    stop: tuple[str, ...] = Field((), max_length=MAX_STOPS)
    """strings that end an answer and are not part of it"""
    seed: int | None = None
    """the same seed, prompt and settings give the same answer"""

    @model_validator(mode="before")
    @classmethod
    def _only_what_is_done(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueError("the body is a JSON object")
        for name, neutral in _UNSUPPORTED.items():
            if name not in cls.model_fields and data.get(name) not in (None, neutral):
                raise ValueError(f"{name} is not supported here; leave it out")
        dropped = _WITHOUT_EFFECT | (_UNSUPPORTED.keys() - cls.model_fields.keys())
        return {key: value for key, value in data.items() if key not in dropped and value is not None}

    @field_validator("stop", mode="before")
    @classmethod
    def _several_stops(cls, stop: Any) -> Any:
        return (stop,) if isinstance(stop, str) else _as_tuple(stop)

    @field_validator("stop")
    @classmethod
    def _no_empty_stop(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        if "" in stop:
            raise ValueError("a stop string has at least one character")
        return stop


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class ChatMessage(_Closed):
    """A turn."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str
    name: str = ""
    """not shown to the model"""

    @field_validator("content", mode="before")
    @classmethod
    def _joined(cls, content: Any) -> Any:
        if not isinstance(content, list):
            return content
        texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        if len(texts) < len(content) or not all(isinstance(text, str) for text in texts):
            raise ValueError("only parts of type text can be read")
        return "".join(map(str, texts))


class ChatAsked(Asked):
    """A chat completion."""

    messages: tuple[ChatMessage, ...] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    """another name of max_tokens"""
    logprobs: bool = False
    """of each token, in nats, under the distribution that it was drawn from"""

    @field_validator("messages", mode="before")
    @classmethod
    def _several(cls, messages: Any) -> Any:
        return _as_tuple(messages)

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if None not in (self.max_tokens, self.max_completion_tokens):
            raise ValueError("give max_tokens or max_completion_tokens, not both")
        return self

    @property
    def limit(self) -> int | None:
        """Tokens of one answer."""
        return self.max_tokens or self.max_completion_tokens


class TextAsked(Asked):
    """A completion of texts."""

    prompt: tuple[str, ...] = Field(min_length=1, max_length=64)
    """one text or several"""
    logprobs: int | None = Field(None, ge=0, le=0)
    """0: of each token that is drawn; those of other tokens are not told"""

    @field_validator("prompt", mode="before")
    @classmethod
    def _texts(cls, prompt: Any) -> Any:
        return (prompt,) if isinstance(prompt, str) else _as_tuple(prompt)

    @property
    def limit(self) -> int | None:
        """Tokens of one answer; 16 where nothing is said, as in OpenAI's interface."""
        return self.max_tokens or 16


A = TypeVar("A", bound=Asked)


def asked(kind: type[A], body: bytes) -> A:
    """The request in a body.

    Raises:
        APIError: it is none.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        at = ".".join(str(part) for part in first["loc"])
        unknown = first["type"] == "extra_forbidden"
        what = "is not known here" if unknown else first["msg"].removeprefix("Value error, ")
        raise APIError(400, f"{at}: {what}" if at else what, param=at or None) from error
