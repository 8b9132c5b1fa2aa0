"""Conversations and texts as the token ids that a model reads.

What a data set says is text and nothing else: a control token's string inside a message (`<|im_end|>`, say) is encoded as the
characters it consists of, so that no row can end a turn, open another, or speak as the system. The template's own control tokens
are encoded as what they are. For conversations without such strings the ids are those of `tokenizer.apply_chat_template`.

A chat template is a program that came with a model. `transformers` renders it in Jinja's immutable sandbox; here its time and its
output are bounded as well. Its memory is not: read a template before using a model that you do not trust.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from corollary.errors import DataError, ModelError
from corollary.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLES = ("system", "user", "assistant", "developer", "tool")
RENDER_SECONDS = 1.0  # that a template may take for one conversation
MAX_ADDED = 1_000_000  # characters that a template may add to ten times those of the conversation

_PRIVATE_USE = range(0xE000, 0xF900)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt as the model reads it, and as a person reads it."""

    token_ids: tuple[int, ...]
    text: str  # decodes from `token_ids`, control tokens written out


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> Encoded:
    """A text without a chat template; a beginning-of-sequence token before it where the tokenizer's settings ask for one."""
    return Encoded(tuple(tokenizer(text, split_special_tokens=True)["input_ids"]), text)


def encode_chat(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, answer_follows: bool = True
) -> Encoded:
    """A conversation by the tokenizer's chat template.

    Args:
        tokenizer: with a chat template.
        messages: each `{"role": one of ROLES, "content": text}`.
        answer_follows: whether the header of the assistant's answer is put at the end.

    Raises:
        ModelError: no chat template, or one that fails, takes longer than `RENDER_SECONDS` or writes too much.
        DataError: messages of another shape, or a conversation that the template refuses.
    """
    if not tokenizer.chat_template:
        hint = "give prompts as plain text (style: text), or a model with a chat template"
        raise ModelError(
            "has no chat template", where=tokenizer.name_or_path or "the tokenizer", hint=hint, code="E0320"
        )
    plain = checked(messages)
    control = _control_pattern(tokenizer)
    if not any(control.search(m["content"]) for m in plain):
        text = _render(tokenizer, plain, answer_follows)
        return Encoded(tuple(tokenizer(text, add_special_tokens=False)["input_ids"]), text)
    disguise = _stand_ins(tokenizer, plain, control)
    disguised = [m | {"content": control.sub(lambda c: disguise[c[0]], m["content"])} for m in plain]
    return _encode_disguised(
        tokenizer, _render(tokenizer, disguised, answer_follows), {s: c for c, s in disguise.items()}
    )


def checked(messages: Any) -> list[dict[str, str]]:
    """The messages, copied, if they are a conversation.

    Raises:
        DataError: they are not.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise DataError(f"messages are a list of at least one, not {_kind(messages)}")
    for at, message in enumerate(messages):
        if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
            came = f"the keys {', '.join(map(repr, message))}" if isinstance(message, Mapping) else _kind(message)
            raise DataError(f"message {at} has role and content, not {came}")
        if message["role"] not in ROLES:
            raise DataError(f"message {at}: role is one of {', '.join(ROLES)}, not {message['role']!r}")
        if not isinstance(message["content"], str):
            raise DataError(f"message {at}: content is text, not {_kind(message['content'])}")
    return [dict(message) for message in messages]


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def _control_pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Matches the first character of every control token's string, also where two of them overlap."""
    strings = sorted(
        {t.content for t in tokenizer.added_tokens_decoder.values() if t.special and t.content}, key=len, reverse=True
    )
    return re.compile(f"(?=(?:{'|'.join(map(re.escape, strings)) or '(?!)'}))(?s:.)")


def _stand_ins(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], control: re.Pattern[str]
) -> dict[str, str]:
    """First characters of control strings → private-use characters that occur nowhere in the conversation or the template."""
    whole = "".join(m["content"] for m in messages)
    first = sorted({c[0] for m in messages for c in control.finditer(m["content"])})
    taken = set(whole) | set(str(tokenizer.chat_template))
    free = (chr(c) for c in _PRIVATE_USE if chr(c) not in taken)
    return dict(zip(first, free, strict=False))


def _encode_disguised(tokenizer: PreTrainedTokenizerBase, rendered: str, restore: Mapping[str, str]) -> Encoded:
    """Token ids of a rendered conversation in which stand-ins break up the control strings of the messages.

    The control tokens that the tokenizer still finds are the template's. What lies between two of them is restored and encoded with
    control strings as text. A tokenizer that marks the start of a text with a space marks each such piece.
    """
    table = str.maketrans(dict(restore))
    found = tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)
    control = {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    ids: list[int] = []
    done = 0
    for token, (start, end) in [
        *zip(found["input_ids"], found["offset_mapping"], strict=True),
        (None, (len(rendered),) * 2),
    ]:
        if token is not None and token not in control:
            continue
        piece = rendered[done:start].translate(table)
        ids += tokenizer(piece, add_special_tokens=False, split_special_tokens=True)["input_ids"] if piece else []
        ids += [token] if token is not None else []
        done = end
    return Encoded(tuple(ids), rendered.translate(table))


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], answer_follows: bool) -> str:
    from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError, UndefinedError

    where = f"chat template of {tokenizer.name_or_path or 'the tokenizer'}"
    try:
        with _deadline(RENDER_SECONDS):
            text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer_follows))
    except _TooLong as error:
        raise ModelError(
            f"took more than {RENDER_SECONDS:g} s for one conversation", where=where, code="E0321"
        ) from error
    except (SecurityError, TemplateSyntaxError, UndefinedError) as error:
        raise ModelError(f"cannot be rendered ({error})", where=where, code="E0321") from error
    except TemplateError as error:  # the template's own raise_exception
        raise DataError(
            f"refused a conversation of roles {', '.join(m['role'] for m in messages)} ({error})", where=where
        ) from error
    except Exception as error:  # what its expressions raise
        raise ModelError(f"failed ({type(error).__name__}: {error})", where=where, code="E0321") from error
    if len(text) > MAX_ADDED + 10 * sum(len(m["content"]) for m in messages):
        raise ModelError(f"wrote {len(text):,} characters for one conversation", where=where, code="E0321")
    return text


class _TooLong(BaseException):
    """Not an Exception, so that nothing in between takes it for its own."""


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raises `_TooLong` in the block when it takes longer, at the next Python instruction; in any thread, unlike an alarm signal.

    The timer's thread consumes nothing and waits `seconds` or for `cancel`; it produces the exception in the thread of the block.
    The lock orders the two ends: once the block has set `over`, no exception is sent; if it was sent before, it is raised here.
    """
    block, lock, over = threading.get_ident(), threading.Lock(), threading.Event()

    def fire() -> None:
        with lock:
            if not over.is_set():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(block), ctypes.py_object(_TooLong))

    timer = threading.Timer(seconds, fire)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            over.set()
        timer.cancel()
