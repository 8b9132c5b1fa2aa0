"""From a data set's name and a few settings to prompts, with an account of every row: kept, dropped and why, malformed and where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from corollary.data.chat import checked, encode_chat, encode_conversation, encode_text
from corollary.data.reading import BadRow, Row
from corollary.data.sources import DataConfig, Example, fields, rows, shown
from corollary.errors import DataError
from corollary.models import catalogue
from corollary.seeding import stream
from corollary.types import Message, Prompt

__all__ = ["DataConfig", "DataReport", "Example", "load_prompts"]

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN = 5  # malformed rows that a message names
RESERVED = frozenset({"prompts", "completions"})  # what rewards are called with; no column may have these names


@dataclass(frozen=True, slots=True, kw_only=True)
class DataReport:
    """What became of every row."""

    source: str  # the data set's name
    licence: str  # as far as it is known
    read: int  # rows, blank lines not counted
    kept: int
    dropped: Mapping[str, int]  # reason → rows
    bad: tuple[str, ...]  # malformed rows, `file:line:column: reason`
    truncated: int  # kept prompts that lost their first tokens, or conversations that lost their last
    duplicates: int  # rows whose id another row had before; they were given ids of their own
    tokens: tuple[int, float, int]  # least, median and most tokens of a kept prompt or conversation

    def line(self) -> str:
        """The account in one line.

        >>> account = {"read": 12, "kept": 0, "dropped": {"empty": 3}, "bad": (), "truncated": 0, "duplicates": 0}
        >>> DataReport(source="a.jsonl", licence="MIT", tokens=(0, 0, 0), **account).line()
        'a.jsonl: 0 usable rows (12 read: 3 empty)'
        """
        reasons = [f"{count:,} {reason}" for reason, count in self.dropped.items()]
        reasons += [f"{len(self.bad):,} malformed"] if self.bad else []
        reasons += [f"{self.truncated:,} truncated"] if self.truncated else []
        account = f"{self.read:,} read: {', '.join(reasons)}" if reasons else f"{self.read:,} read"
        return f"{self.source}: {self.kept:,} usable rows ({account})"


class _Candidate(NamedTuple):
    where: str
    number: int  # of the row in its data set, from 0
    values: dict[str, Any]


def load_prompts(
    config: DataConfig, tokenizer: PreTrainedTokenizerBase, *, announce: catalogue.Announce | None = None
) -> tuple[list[Prompt], DataReport]:
    """The prompts of a data set, tokenised, and the account of its rows.

    A row's `id` column names its prompt, its index does where it has none or another row had the id before. Every column but the
    prompt's goes to the reward.

    Args:
        config: which rows, and how they become prompts.
        tokenizer: of the model that will read them.
        announce: called once with the catalogue entry before it is made for the first time.

    Raises:
        DataError: no such data; malformed rows and `bad_rows: stop`; prompts over the limit and `over_long: error`; no usable row.
        ModelError: the tokenizer's chat template is missing or fails.
    """
    account = _Account(config)
    candidates = account.selected(rows(config, announce))
    if config.shuffle is not None:
        listed = list(candidates)
        order = stream(config.shuffle, "data", "rows").permutation(len(listed))
        candidates = (listed[i] for i in order)
    prompts = []
    for candidate in candidates:
        if (prompt := account.prompt(candidate, tokenizer)) is not None:
            prompts.append(prompt)
        if len(prompts) == config.limit:
            break
    return prompts, account.closed(prompts)


class _Account:
    """Turns rows into prompts and counts what happens to them."""

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        self.source = shown(config.path)
        self.read = self.duplicates = self.truncated = 0
        self.dropped: Counter[str] = Counter()
        self.bad: list[BadRow] = []
        self.over: list[tuple[int, str]] = []  # tokens and place of what is over the limit
        self.ids: set[str] = set()

    def selected(self, rows: Iterator[Row | BadRow]) -> Iterator[_Candidate]:
        """The well-formed rows that `where` lets through."""
        for index, row in enumerate(rows):
            self.read += 1
            if isinstance(row, BadRow):
                self.bad.append(row)
            elif lacking := next((c for c in self.config.where if c not in row.values), None):
                self._refuse(row.where, _no_column(lacking, row.values))
            elif all(row.values[column] in wanted for column, wanted in self.config.where.items()):
                yield _Candidate(row.where, index, row.values)
            else:
                self.dropped["not in where"] += 1

    def prompt(self, row: _Candidate, tokenizer: PreTrainedTokenizerBase) -> Prompt | None:
        """The row as a prompt; None where it is dropped or malformed, which is counted."""
        try:
            content = _content(self.config, row.values)
            if _is_empty(content, self.config):
                self.dropped["empty"] += 1
                return None
            made = _encoded(content, self.config, tokenizer)
        except DataError as error:
            return self._refuse(row.where, f"{error.where}: {error.what}" if error.where else error.what)
        limit = self.config.longest
        if limit is not None and _length(made) > limit:
            self.over.append((_length(made), row.where))
            cut = _cut(made, limit, self.config, tokenizer)
            if cut is None:
                self.dropped[f"over {self.config.limit_key}={limit}"] += 1
                return None
            self.truncated += 1
            made = cut
        return self._named(row, made)

    def _named(self, row: _Candidate, made: Prompt) -> Prompt:
        own = row.values.get("id")
        name = str(own) if isinstance(own, str | int) and own != "" else str(row.number)
        if name in self.ids:
            self.duplicates += 1
            name = f"{name}#{row.number}"
        self.ids.add(name)
        config = self.config
        used = {"id"} if config.filled is not None else {"id", config.messages or config.prompt or "prompt"}
        return replace(made, id=name, columns={k: v for k, v in row.values.items() if k not in used})

    def _refuse(self, where: str, reason: str) -> None:
        self.bad.append(BadRow(where, reason))

    def closed(self, prompts: list[Prompt]) -> DataReport:
        """The account, once every row was seen.

        Raises:
            DataError: rows of a kind that the settings call an error, or no prompt.
        """
        config = self.config
        if self.bad and config.bad_rows == "stop":
            shown = "; ".join(f"{row.where}: {row.reason}" for row in self.bad[:SHOWN])
            more = f"; and {len(self.bad) - SHOWN} more" if len(self.bad) > SHOWN else ""
            what = f"{len(self.bad):,} malformed rows of {self.read:,} read: {shown}{more}"
            raise DataError(what, where=self.source, hint="mend them, or set bad_rows: skip", code="E0202")
        if self.over and config.over_long == "error":
            longest, where = max(self.over)
            kind, cut = ("prompts", "truncate_left") if config.messages is None else ("conversations", "truncate_right")
            what = f"{len(self.over):,} {kind} over {config.limit_key}={config.longest}, the longest {longest:,} at {where}"
            raise DataError(what, where=self.source, hint=f"raise it, or set over_long: drop or {cut}", code="E0204")
        lengths = [_length(p) for p in prompts] or [0]
        report = DataReport(
            source=self.source,
            licence=catalogue.entry(config.path).licence if catalogue.is_entry(config.path) else "not stated",
            read=self.read,
            kept=len(prompts),
            dropped=dict(self.dropped),
            bad=tuple(f"{row.where}: {row.reason}" for row in self.bad),
            truncated=self.truncated,
            duplicates=self.duplicates,
            tokens=(min(lengths), median(lengths), max(lengths)),
        )
        if not prompts:
            raise DataError(
                report.line(),
                hint=f"check path, prompt, template or messages, where and {config.limit_key}",
                code="E0203",
            )
        return report


def _content(config: DataConfig, row: Mapping[str, Any]) -> str | list[dict[str, str]]:
    """The text or the conversation that a row stands for.

    Raises:
        DataError: a column is missing, or of a type that is no text.
    """
    if taken := sorted(RESERVED & set(row)):
        raise DataError(f"column {taken[0]!r} has a name that rewards are called with")
    if config.filled is None:
        column = config.messages or config.prompt or "prompt"
        if column not in row:
            raise DataError(_no_column(column, row))
        return row[column] if isinstance(row[column], str) and config.messages is None else checked(row[column])
    values = {name: _text(name, row) for name in fields(config.filled)}
    if not any(value.strip() for value in values.values()):
        return ""
    question = config.filled.format_map(values)
    if config.style == "text":
        return question
    turns = [{"role": "system", "content": config.system}] if config.system else []
    for example in config.examples:
        turns += [{"role": "user", "content": example.user}, {"role": "assistant", "content": example.assistant}]
    return [*turns, {"role": "user", "content": question}]


def _text(column: str, row: Mapping[str, Any]) -> str:
    if column not in row:
        raise DataError(_no_column(column, row))
    value = row[column]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(f"column {column!r} is {type(value).__name__}, not text or a number")
    return str(value)


def _no_column(column: str, row: Mapping[str, Any]) -> str:
    return f"no column {column!r}; it has {', '.join(map(str, row)) or 'none'}"


def _is_empty(content: str | list[dict[str, str]], config: DataConfig) -> bool:
    """Whether nothing is asked, or nothing is said that is to be learnt."""
    if isinstance(content, str):
        return not content.strip()
    if config.messages is None:
        return not content[-1]["content"].strip()
    said = [message["content"] for message in content if message["role"] == "assistant"]
    learnt = said if config.train_on == "all_assistant" else said[-1:]
    return bool(learnt) and not any(text.strip() for text in learnt)


def _encoded(content: str | Sequence[Message], config: DataConfig, tokenizer: PreTrainedTokenizerBase) -> Prompt:
    """A prompt that has no name yet. Of a conversation, it is what comes before the first token that is learnt.

    Raises:
        DataError: a conversation that the template refuses, or whose turns cannot be told apart.
    """
    if isinstance(content, str):
        text = encode_text(tokenizer, content)
        return Prompt(id="", token_ids=text.token_ids, text=text.text)
    if config.messages is None:
        chat = encode_chat(tokenizer, content)
        return Prompt(id="", token_ids=chat.token_ids, text=chat.text, messages=tuple(content))
    whole = encode_conversation(tokenizer, content, train_on=config.train_on)
    first = whole.trained.index(True)
    return Prompt(
        id="",
        token_ids=whole.token_ids[:first],
        text=str(tokenizer.decode(list(whole.token_ids[:first]))),
        messages=tuple(content[: whole.first]),
        target_ids=whole.token_ids[first:],
        target_trained=whole.trained[first:],
    )


def _length(made: Prompt) -> int:
    return len(made.token_ids) + len(made.target_ids)


def _cut(made: Prompt, limit: int, config: DataConfig, tokenizer: PreTrainedTokenizerBase) -> Prompt | None:
    """What is too long, cut to `limit` tokens as the settings have it; None where they drop it, or nothing to learn would be left."""
    room = limit - len(made.token_ids)
    match config.over_long:
        case "truncate_left":
            last = made.token_ids[-limit:]
            return replace(made, token_ids=last, text=str(tokenizer.decode(list(last))), messages=())
        case "truncate_right" if room > 0:
            return replace(made, target_ids=made.target_ids[:room], target_trained=made.target_trained[:room])
        case _:
            return None
