"""A chat template's text, within bounds.

A chat template is a program that came with a model. `transformers` renders it in Jinja's immutable sandbox; here its time and its
output are bounded as well. Its memory is not: read a template before using a model that you do not trust.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from corollary.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RENDER_SECONDS = 1.0  # that a template may take for one conversation
MAX_ADDED = 1_000_000  # characters that a template may add to ten times those of the conversation


def place(tokenizer: PreTrainedTokenizerBase) -> str:
    """Whose template it is, for a message."""
    return f"chat template of {tokenizer.name_or_path or 'the tokenizer'}"


def rendered(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[dict[str, str]],
    *,
    answer_follows: bool,
    marked: bool = False,
) -> tuple[str, list[tuple[int, int]]]:
    """The template's text, and the spans of it that lie inside `{% generation %}` where they are asked for.

    Args:
        tokenizer: with a chat template.
        messages: each with role and content.
        answer_follows: whether the header of the assistant's answer is put at the end.
        marked: whether to give the spans, (start, end) in characters.

    Raises:
        ModelError: the template fails, takes longer than `RENDER_SECONDS` or writes too much.
        DataError: the template refuses the conversation.
    """
    from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError, UndefinedError
    from transformers.utils.chat_template_utils import render_jinja_template

    where = place(tokenizer)
    special: dict[str, Any] = tokenizer.special_tokens_map
    try:
        with _deadline(RENDER_SECONDS):
            (text,), found = render_jinja_template(
                [list(messages)],
                chat_template=tokenizer.get_chat_template(),
                add_generation_prompt=answer_follows,
                return_assistant_tokens_mask=marked,
                **special,
            )
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
    return text, [(int(start), int(end)) for start, end in found[0]] if marked else []


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
