"""Conversations and texts as the token ids that a model reads.

What a data set says is text and nothing else: a control token's string inside a message (`<|im_end|>`, say) is encoded as the
characters it consists of, so that no row can end a turn, open another, or speak as the system. The template's own control tokens
are encoded as what they are. For conversations without such strings the ids are those of `tokenizer.apply_chat_template`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from corollary.data.control import control
from corollary.data.rendering import place, rendered
from corollary.errors import DataError, ModelError
from corollary.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLES = ("system", "user", "assistant", "developer", "tool")

TrainOn = Literal["all_assistant", "last_assistant"]

_PRIVATE_USE = range(0xE000, 0xF900)
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt as the model reads it, and as a person reads it."""

    token_ids: tuple[int, ...]
    text: str  # decodes from `token_ids`, control tokens written out


@dataclass(frozen=True, slots=True)
class Conversation(Encoded):
    """A conversation up to its last trained token."""

    trained: tuple[bool, ...]  # of each token, whether the assistant says it
    first: int  # the message whose tokens are the first that are trained


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
    script = disguised(tokenizer, messages)
    return script.encoded(script.text(len(script.messages), answer_follows=answer_follows))


def encode_answer(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """A text as it goes on after something: no beginning-of-sequence token and no mark of a text's start before it."""

    def plain(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    before, whole = plain("\n"), plain(f"\n{text}")
    apart = whole[: len(before)] == before
    return tuple(whole[len(before) :] if apart else plain(text))


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, train_on: TrainOn = "all_assistant"
) -> Conversation:
    """A conversation to learn from: its tokens, and which of them the assistant says.

    What the assistant says comes from the template: where it marks it with `{% generation %}`, that; else what it adds when message
    k, the assistant's, is put behind the k before it and the header of an answer. It ends with the control token that closes the
    turn, where the template has one. What follows the last trained token is left out.

    Checked token by token: up to each turn that is trained, the tokens are those that a model reads which is to give that turn.

    Args:
        tokenizer: with a chat template.
        messages: as for `encode_chat`, with at least one of the assistant's.
        train_on: every message of the assistant's, or the last one alone.

    Raises:
        ModelError: as for `encode_chat`.
        DataError: no message of the assistant's, or one that cannot be told apart in the template's text or in its tokens.
    """
    script = disguised(tokenizer, messages)
    turns = [k for k, message in enumerate(script.messages) if message["role"] == "assistant"]
    if not turns:
        raise DataError("no message is the assistant's, so there is nothing to learn")
    wanted = turns if train_on == "all_assistant" else turns[-1:]
    whole, spans = script.marked(turns) if script.marks else script.compared(wanted)
    encoded = script.encoded(whole)
    trained, ends = [False] * len(encoded.token_ids), control(tokenizer).ids
    for turn, span in zip(wanted, spans[-len(wanted) :], strict=True):
        start, end = (_tokens_up_to(script, whole, at, encoded.token_ids, turn) for at in span)
        said = encoded.token_ids[start:end]
        closing = max((i + 1 for i, token in enumerate(said) if token in ends), default=len(said))
        trained[start : start + closing] = [True] * closing
    if not any(trained):
        raise DataError("the chat template writes nothing of what the assistant says")
    length = len(trained) - trained[::-1].index(True)
    return Conversation(encoded.token_ids[:length], encoded.text, tuple(trained[:length]), wanted[0])


def _tokens_up_to(script: Script, whole: str, at: int, ids: tuple[int, ...], turn: int) -> int:
    """How many tokens the first `at` characters are.

    Raises:
        DataError: alone they are other tokens than at the beginning of the whole.
    """
    alone = ids if at == len(whole) else script.encoded(whole[:at]).token_ids
    if alone != ids[: len(alone)]:
        what = f"message {turn}, the assistant's, begins or ends inside a token, so training and sampling would read other tokens"
        raise DataError(f"{what}; strip the whitespace around it")
    return len(alone)


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


@dataclass(frozen=True, slots=True)
class Script:
    """A conversation in which control strings are disguised, so that every control token of its text is the template's."""

    tokenizer: PreTrainedTokenizerBase
    messages: list[dict[str, str]]
    restore: Mapping[str, str]  # stand-in → the character that it stands for

    def text(self, count: int, *, answer_follows: bool) -> str:
        """The text of the first `count` messages."""
        return rendered(self.tokenizer, self.messages[:count], answer_follows=answer_follows)[0]

    def encoded(self, rendered: str) -> Encoded:
        """The tokens of a rendered text or of its beginning."""
        if self.restore:
            return _encode_disguised(self.tokenizer, rendered, self.restore)
        return Encoded(tuple(self.tokenizer(rendered, add_special_tokens=False)["input_ids"]), rendered)

    @property
    def marks(self) -> bool:
        """Whether the template marks what the assistant says."""
        return bool(_GENERATION.search(self.tokenizer.get_chat_template()))

    def marked(self, turns: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
        """The text up to the last turn, and the spans that the template marks in it.

        Raises:
            DataError: they are not as many as the turns.
        """
        whole, spans = rendered(self.tokenizer, self.messages[: turns[-1] + 1], answer_follows=False, marked=True)
        if len(spans) != len(turns):
            what = f"marks {len(spans)} spans of generation where the assistant has {len(turns)} messages"
            raise DataError(what, where=place(self.tokenizer))
        return whole, spans

    def compared(self, turns: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
        """The text up to the last turn, and in it what each turn adds to the text before it.

        Raises:
            DataError: nothing comes before a turn, or the template writes what came before otherwise once more follows.
        """
        if turns[0] == 0:
            raise DataError("message 0 is the assistant's, so nothing comes before what is to be learnt")
        whole = self.text(turns[-1] + 1, answer_follows=False)
        spans = []
        for turn in turns:
            before = self.text(turn, answer_follows=True)
            after = whole if turn == turns[-1] else self.text(turn + 1, answer_follows=False)
            if not whole.startswith(before):
                what = f"writes what comes before message {turn} otherwise when that is still to be given"
                raise DataError(
                    f"{what}, so training would see another prompt than sampling", where=place(self.tokenizer)
                )
            if not whole.startswith(after):
                what = f"writes message {turn} otherwise once more follows (it leaves thinking out, say)"
                raise DataError(
                    f"{what}; set train_on: last_assistant, or end the conversation there", where=place(self.tokenizer)
                )
            spans.append((len(before), len(after)))
        return whole, spans


def disguised(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> Script:
    """A conversation ready to be rendered.

    Raises:
        ModelError: the tokenizer has no chat template.
        DataError: messages of another shape.
    """
    if not tokenizer.chat_template:
        raise ModelError(
            "has no chat template",
            where=tokenizer.name_or_path or "the tokenizer",
            hint="give prompts as plain text (style: text), set model.chat_template, or take a model with a chat template",
            code="E0320",
        )
    plain = checked(messages)
    first = control(tokenizer).first
    if not any(first.search(m["content"]) for m in plain):
        return Script(tokenizer, plain, {})
    disguise = _stand_ins(tokenizer, plain, first)
    broken = [m | {"content": first.sub(lambda c: disguise[c[0]], m["content"])} for m in plain]
    return Script(tokenizer, broken, {s: c for c, s in disguise.items()})


def _stand_ins(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], pattern: re.Pattern[str]
) -> dict[str, str]:
    """First characters of control strings → private-use characters that occur nowhere in the conversation or the template."""
    whole = "".join(m["content"] for m in messages)
    first = sorted({c[0] for m in messages for c in pattern.finditer(m["content"])})
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
    known = control(tokenizer).ids
    ids: list[int] = []
    done = 0
    for token, (start, end) in [
        *zip(found["input_ids"], found["offset_mapping"], strict=True),
        (None, (len(rendered),) * 2),
    ]:
        if token is not None and token not in known:
            continue
        piece = rendered[done:start].translate(table)
        ids += tokenizer(piece, add_special_tokens=False, split_special_tokens=True)["input_ids"] if piece else []
        ids += [token] if token is not None else []
        done = end
    return Encoded(tuple(ids), rendered.translate(table))
