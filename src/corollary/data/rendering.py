"""A chat template's text, within bounds.

A chat template is a program that came with a model. `transformers` renders it in Jinja's immutable sandbox; here its time and its
output are bounded as well. Its memory is not: read a template before using a model that you do not trust.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from corollary.deadline import TooLong, deadline
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
        with deadline(RENDER_SECONDS):
            (text,), found = render_jinja_template(
                [list(messages)],
                chat_template=tokenizer.get_chat_template(),
                add_generation_prompt=answer_follows,
                return_assistant_tokens_mask=marked,
                **special,
            )
    except TooLong as error:
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
