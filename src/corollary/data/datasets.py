"""From a data set's name and a few settings to prompts, with an account of every row: kept, dropped and why, malformed and where."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field, ValidationError, model_validator

from corollary.config import Config
from corollary.config.variants import defined, from_file
from corollary.custom import is_reference, line_of, said
from corollary.data.chat import Encoded, checked, encode_chat, encode_text
from corollary.data.reading import BadRow, Row, read_jsonl
from corollary.errors import ConfigError, DataError, UserCodeError
from corollary.models import catalogue, hub
from corollary.seeding import stream
from corollary.types import Message, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN = 5  # malformed rows that a message names
RESERVED = frozenset({"prompts", "completions"})  # what rewards are called with; no column may have these names

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


class Example(Config):
    """A solved example, shown before each prompt as a turn of its own."""

    user: str
    """What was asked, as text."""
    assistant: str
    """What a good answer looks like."""


class DataConfig(Config):
    """Where prompts come from and how a row becomes one."""

    path: str = "word-problems/train"
    """A catalogue name, a JSON Lines file (.jsonl, .jsonl.gz), a Hugging Face data set (a hub id or a folder), or a function of
    your own that gives the rows: path/to/file.py:name."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Parameters of the function that `path` names: its keyword-only ones."""
    split: str = "train"
    """Split of a Hugging Face data set."""
    name: str | None = None
    """Configuration of a Hugging Face data set, where it has several."""
    prompt: str | None = None
    """Column with the prompt: text, used as it is, or a list of messages. Default: `prompt`, where there is no template."""
    template: str | None = None
    """The user's message, with columns in braces: "{question}". Default for catalogue data: "{question}"."""
    style: Literal["chat", "text"] = "chat"
    """What a filled template is: a message, rendered by the model's chat template, or the whole prompt as plain text."""
    system: str = ""
    """System message before the filled template; empty: none, and the chat template may put its own."""
    examples: list[Example] = Field(default_factory=list)
    """Solved examples between the system message and the filled template, in this order."""
    where: dict[str, list[str | int | float | None]] = Field(default_factory=dict)
    """Column → values; only rows that have one of them in each are used."""
    limit: int | None = Field(default=None, ge=1)
    """Prompts at most; null: all."""
    shuffle: int | None = None
    """Seed of a shuffle of the rows before `limit` cuts; null: as they come."""
    max_prompt_tokens: int | None = Field(default=None, ge=1)
    """Length above which `over_long` applies, tokens of the whole rendered prompt; null: no limit."""
    over_long: Literal["error", "drop", "truncate_left"] = "error"
    """What happens to a longer prompt; `truncate_left` keeps its last tokens, as plain text."""
    bad_rows: Literal["stop", "skip"] = "stop"
    """What happens at malformed rows; both name them."""

    @model_validator(mode="after")
    def _one_way(self) -> DataConfig:
        if self.params and not is_reference(self.path):
            raise ValueError(f"params go to a function of your own, and path is {self.path}")
        if self.prompt is not None and self.template is not None:
            raise ValueError("prompt and template: give one of them")
        if self.filled is None and (self.system or self.examples):
            raise ValueError("system and examples go around a template; give template, or put them into the messages")
        if self.style == "text" and (self.system or self.examples):
            raise ValueError("style text and system or examples: write them into the template")
        if self.filled is not None:
            _fields(self.filled)
        return self

    @property
    def filled(self) -> str | None:
        """The template in force; None where the rows carry the prompt."""
        if self.template is None and self.prompt is None and catalogue.is_entry(self.path):
            return "{question}"
        return self.template


@dataclass(frozen=True, slots=True, kw_only=True)
class DataReport:
    """What became of every row."""

    source: str  # the data set's name
    licence: str  # as far as it is known
    read: int  # rows, blank lines not counted
    kept: int
    dropped: Mapping[str, int]  # reason → rows
    bad: tuple[str, ...]  # malformed rows, `file:line:column: reason`
    truncated: int  # kept prompts that lost their first tokens
    duplicates: int  # rows whose id another row had before; they were given ids of their own
    tokens: tuple[int, float, int]  # least, median and most tokens of a kept prompt

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
    candidates = account.selected(_rows(config, announce))
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
        self.source = _shown(config.path)
        self.read = self.duplicates = 0
        self.dropped: Counter[str] = Counter()
        self.bad: list[BadRow] = []
        self.over: list[tuple[int, str]] = []  # tokens and place of prompts over the limit
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
            if _is_empty(content):
                self.dropped["empty"] += 1
                return None
            encoded = encode_text(tokenizer, content) if isinstance(content, str) else encode_chat(tokenizer, content)
        except DataError as error:
            return self._refuse(row.where, f"{error.where}: {error.what}" if error.where else error.what)
        messages = () if isinstance(content, str) else tuple(content)
        limit = self.config.max_prompt_tokens
        if limit is not None and len(encoded.token_ids) > limit:
            self.over.append((len(encoded.token_ids), row.where))
            if self.config.over_long != "truncate_left":
                self.dropped[f"over max_prompt_tokens={limit}"] += 1
                return None
            last = encoded.token_ids[-limit:]
            encoded, messages = Encoded(last, str(tokenizer.decode(list(last)))), ()
        return self._named(row, encoded, messages)

    def _named(self, row: _Candidate, encoded: Encoded, messages: tuple[Message, ...]) -> Prompt:
        own = row.values.get("id")
        name = str(own) if isinstance(own, str | int) and own != "" else str(row.number)
        if name in self.ids:
            self.duplicates += 1
            name = f"{name}#{row.number}"
        self.ids.add(name)
        used = {"id"} if self.config.filled is not None else {"id", self.config.prompt or "prompt"}
        columns = {k: v for k, v in row.values.items() if k not in used}
        return Prompt(id=name, token_ids=encoded.token_ids, messages=messages, text=encoded.text, columns=columns)

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
            what = f"{len(self.over):,} prompts over max_prompt_tokens={config.max_prompt_tokens}, the longest {longest:,} at {where}"
            raise DataError(
                what, where=self.source, hint="raise it, or set over_long: drop or truncate_left", code="E0204"
            )
        lengths = [len(p.token_ids) for p in prompts] or [0]
        report = DataReport(
            source=self.source,
            licence=catalogue.entry(config.path).licence if catalogue.is_entry(config.path) else "not stated",
            read=self.read,
            kept=len(prompts),
            dropped=dict(self.dropped),
            bad=tuple(f"{row.where}: {row.reason}" for row in self.bad),
            truncated=len(self.over) if config.over_long == "truncate_left" else 0,
            duplicates=self.duplicates,
            tokens=(min(lengths), median(lengths), max(lengths)),
        )
        if not prompts:
            raise DataError(
                report.line(), hint="check path, prompt or template, where and max_prompt_tokens", code="E0203"
            )
        return report


def _rows(config: DataConfig, announce: catalogue.Announce | None) -> Iterator[Row | BadRow]:
    if catalogue.is_entry(config.path):
        entry = catalogue.entry(config.path)
        if entry.kind != "data":
            raise DataError("is a model, not a data set", where=config.path, code="E0201")
        return read_jsonl(catalogue.fetch(config.path, announce=announce))
    if is_reference(config.path):
        return _from_function(config)
    path = Path(config.path).expanduser()
    if path.is_file():
        return read_jsonl(path)
    if path.is_dir() or (_HUB_ID.fullmatch(config.path) and path.suffix not in (".jsonl", ".json", ".gz")):
        return _hugging_face(config)
    hint = (
        f"did you mean {close}?"
        if (close := catalogue.nearest(config.path, "data"))
        else "paths are relative to the working folder"
    )
    raise DataError("no such file", where=config.path, hint=hint, code="E0201")


def _from_function(config: DataConfig) -> Iterator[Row | BadRow]:
    """The rows that a user's function gives; it must give the same ones every time, or a resumed run is another.

    Raises:
        ConfigError: there is no such file, or `params` are not its parameters.
        UserCodeError: the file does not load, or the function raises.
    """
    made = from_file(config.path, frozenset())
    try:
        asked = made.model_validate(config.params)
    except ValidationError as fault:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in fault.errors())
        known = ", ".join(n for n in made.model_fields if n != "type") or "none"
        raise ConfigError(wrong, where="data.params", hint=f"the parameters of {config.path} are {known}") from fault
    try:
        for index, row in enumerate(asked()):
            where = f"{config.path}:{index + 1}"
            yield (
                Row(where, dict(row))
                if isinstance(row, Mapping)
                else BadRow(where, f"a {type(row).__name__}, not a mapping")
            )
    except Exception as cause:
        file, line = defined(made.target)
        at = line_of(cause, file)
        at = at if at != file else f"{file}:{line}"
        raise UserCodeError(
            f"{config.path.rpartition(':')[2]} raised {said(cause)}", where=at, hint="it gives the rows of data.path"
        ) from cause


def _hugging_face(config: DataConfig) -> Iterator[Row]:
    close = catalogue.nearest(config.path, "data")
    suggestion = f"; or did you mean {close}?" if close else ""
    try:
        datasets = import_module("datasets")
    except ImportError as error:
        hint = f"pip install 'corollary[hub]'{suggestion}"
        raise DataError(
            "Hugging Face data sets need the package datasets", where=config.path, hint=hint, code="E0205"
        ) from error
    asked = nullcontext("") if Path(config.path).expanduser().is_dir() else hub.reached(config.path)
    with asked as unreachable:
        try:
            rows = datasets.load_dataset(config.path, name=config.name, split=config.split)
        except Exception as error:  # its loaders raise whatever a hub, a file or a missing split makes them
            reason = unreachable or f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:300]}"
            hint = f"check path, name, split and the network{suggestion}"
            raise DataError(f"cannot be had ({reason})", where=config.path, hint=hint, code="E0205") from error
    return (Row(f"{config.path}[{config.split}]:{index + 1}", dict(row)) for index, row in enumerate(rows))


def _shown(path: str) -> str:
    return Path(path).name if Path(path).expanduser().is_file() and not catalogue.is_entry(path) else path


def _fields(template: str) -> list[str]:
    """The columns that a template names.

    Raises:
        ValueError: a brace without its partner, or anything but a column's name in braces.
    """
    names = []
    for _, name, form, conversion in string.Formatter().parse(template):
        if name is None:
            continue
        if form or conversion or not name.isidentifier():
            raise ValueError(f"template: {{{name}}} is no column's name; write {{column}}, and {{{{ for a brace")
        names.append(name)
    return names


def _content(config: DataConfig, row: Mapping[str, Any]) -> str | list[dict[str, str]]:
    """The text or the conversation that a row stands for.

    Raises:
        DataError: a column is missing, or of a type that is no text.
    """
    if taken := sorted(RESERVED & set(row)):
        raise DataError(f"column {taken[0]!r} has a name that rewards are called with")
    if config.filled is None:
        column = config.prompt or "prompt"
        if column not in row:
            raise DataError(_no_column(column, row))
        return row[column] if isinstance(row[column], str) else checked(row[column])
    values = {name: _text(name, row) for name in _fields(config.filled)}
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


def _is_empty(content: str | list[dict[str, str]]) -> bool:
    last = content if isinstance(content, str) else content[-1]["content"]
    return not last.strip()
