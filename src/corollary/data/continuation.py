"""What stands between a turn of the model's and its next, as tokens.

A conversation grows by tokens and is never encoded again: the model's tokens stay those that it sampled, and what the chat template
adds is the difference of two renderings. So what is trained is what was sampled, whatever the template or the tokenizer would have
made of the model's text.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from corollary.data.chat import Script, disguised, encode_answer
from corollary.data.rendering import place
from corollary.errors import ModelError
from corollary.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SAID = "x"  # stands for what the model says


def continuation(tokenizer: PreTrainedTokenizerBase, observation: Message, *, closed: int | None) -> tuple[int, ...]:
    """The end of the model's turn, an observation, and the header of the next turn.

    Args:
        tokenizer: with a chat template.
        observation: a message; a control token's string in it is text.
        closed: the end-of-sequence token that the model ended its turn with, which then stands for the template's own; None: it
            ended it otherwise.

    Raises:
        ModelError: the template does not put turns one behind the other.
    """
    end, rest = _around(tokenizer, observation["role"], observation["content"])
    control = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    closing = next((i for i, token in enumerate(end) if token in control), -1)
    return (*(end if closed is None else end[closing + 1 :]), *rest)


def plain_continuation(tokenizer: PreTrainedTokenizerBase, observation: str) -> tuple[int, ...]:
    """The same without a chat template: the observation as it is."""
    return encode_answer(tokenizer, observation)


@lru_cache(maxsize=4096)
def _around(tokenizer: PreTrainedTokenizerBase, role: str, content: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(what ends the model's turn, an observation and the header of the next turn), as tokens.

    A control token parts the two, or the whole is encoded in one piece and counts as the second.
    """
    script, end, whole = _added(tokenizer, role, content)
    ending, ids = script.encoded(end).token_ids, script.encoded(whole).token_ids
    return (ending, ids[len(ending) :]) if ids[: len(ending)] == ending else ((), ids)


def _added(tokenizer: PreTrainedTokenizerBase, role: str, content: str) -> tuple[Script, str, str]:
    """A conversation with an observation, what the template writes behind the turn before it, and behind that up to the next turn.

    Raises:
        ModelError: it does not put turns one behind the other.
    """
    turn = [{"role": "user", "content": _SAID}, {"role": "assistant", "content": _SAID}]
    script = disguised(tokenizer, [*turn, {"role": role, "content": content}])
    before, said, whole = (script.text(n, answer_follows=n != 2) for n in (1, 2, 3))
    start = before + _SAID
    if not said.startswith(start) or not whole.startswith(said):
        raise _apart(tokenizer)
    return script, said[len(start) :], whole[len(start) :]


def check_continuation(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], role: str) -> None:
    """See that the template goes on from these messages as `continuation` says.

    Args:
        tokenizer: with a chat template.
        messages: a conversation's beginning, up to the model's first turn.
        role: of observations.

    Raises:
        ModelError: it writes otherwise what came before, or puts turns differently here.
        DataError: it refuses such a conversation.
    """
    turn = [{"role": "assistant", "content": _SAID}, {"role": role, "content": _SAID}]
    script = disguised(tokenizer, [*messages, *turn, *turn])
    start = len(messages)
    first, second, third = (script.text(start + n, answer_follows=True) for n in (0, 2, 4))
    added = _SAID + _added(tokenizer, role, _SAID)[2]
    if second != first + added or third != second + added:
        raise _apart(tokenizer)


def _apart(tokenizer: PreTrainedTokenizerBase) -> ModelError:
    return ModelError(
        "writes a turn otherwise once more follows, so a conversation cannot grow turn by turn",
        where=place(tokenizer),
        hint="set model.chat_template to one that puts turns one behind the other: chatml, gemma, plain or a file",
        code="E0321",
    )
