"""Where prompts come from: the settings of a data set, and its rows as they lie there."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from corollary.config import Config
from corollary.config.variants import defined, from_file
from corollary.custom import is_reference, line_of, said
from corollary.data.chat import TrainOn
from corollary.data.reading import BadRow, Row, read_jsonl
from corollary.errors import ConfigError, CorollaryError, DataError, UserCodeError
from corollary.models import catalogue, hub

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
    messages: str | None = None
    """Column with a whole conversation whose assistant turns are learnt."""
    train_on: TrainOn = "all_assistant"
    """Which of a conversation's assistant turns are learnt."""
    where: dict[str, list[str | int | float | None]] = Field(default_factory=dict)
    """Column → values; only rows that have one of them in each are used."""
    limit: int | None = Field(default=None, ge=1)
    """Prompts at most; null: all."""
    shuffle: int | None = None
    """Seed of a shuffle of the rows before `limit` cuts; null: as they come."""
    max_prompt_tokens: int | None = Field(default=None, ge=1)
    """Length of a prompt above which `over_long` applies, tokens as rendered; null: no limit."""
    max_tokens: int | None = Field(default=None, ge=1)
    """The same of a whole conversation, up to its last learnt token."""
    over_long: Literal["error", "drop", "truncate_left", "truncate_right"] = "error"
    """What happens to a longer one. `truncate_left` keeps a prompt's last tokens, as plain text; `truncate_right` a conversation's
    first ones, so that its answer ends without its end."""
    bad_rows: Literal["stop", "skip"] = "stop"
    """What happens at malformed rows; both name them."""

    @model_validator(mode="after")
    def _one_way(self) -> DataConfig:
        if self.params and not is_reference(self.path):
            raise ValueError(f"params go to a function of your own, and path is {self.path}")
        asked = {"prompt": self.prompt, "template": self.template, "messages": self.messages}
        given = [key for key, value in asked.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"{', '.join(given[:-1])} and {given[-1]}: give one of them")
        if self.messages is None and (self.train_on != "all_assistant" or self.max_tokens is not None):
            raise ValueError("train_on and max_tokens speak of a whole conversation; give messages")
        if self.messages is not None and self.max_prompt_tokens is not None:
            raise ValueError("max_prompt_tokens speaks of a prompt; limit a conversation by max_tokens")
        if self.over_long == ("truncate_right" if self.messages is None else "truncate_left"):
            raise ValueError(f"over_long: {self.over_long} would cut what is to be answered or learnt")
        if self.filled is None and (self.system or self.examples):
            raise ValueError("system and examples go around a template; give template, or put them into the messages")
        if self.style == "text" and (self.system or self.examples):
            raise ValueError("style text and system or examples: write them into the template")
        if self.filled is not None:
            fields(self.filled)
        return self

    @property
    def filled(self) -> str | None:
        """The template in force; None where the rows carry the prompt."""
        if self.template is None and self.prompt is None and self.messages is None and catalogue.is_entry(self.path):
            return "{question}"
        return self.template

    @property
    def limit_key(self) -> Literal["max_tokens", "max_prompt_tokens"]:
        """The setting that limits lengths here."""
        return "max_prompt_tokens" if self.messages is None else "max_tokens"

    @property
    def longest(self) -> int | None:
        """What that setting says."""
        return self.max_prompt_tokens if self.messages is None else self.max_tokens


def rows(config: DataConfig, announce: catalogue.Announce | None) -> Iterator[Row | BadRow]:
    """The rows of a data set, as they come; `announce` is called with a catalogue entry before it is made.

    Raises:
        DataError: there is no such data set, or it cannot be had.
        ConfigError, UserCodeError: a function of the user's own that gives the rows is at fault.
    """
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
    except CorollaryError:
        raise
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
            found = datasets.load_dataset(config.path, name=config.name, split=config.split)
        except Exception as error:  # its loaders raise whatever a hub, a file or a missing split makes them
            reason = unreachable or f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:300]}"
            hint = f"check path, name, split and the network{suggestion}"
            raise DataError(f"cannot be had ({reason})", where=config.path, hint=hint, code="E0205") from error
    return (Row(f"{config.path}[{config.split}]:{index + 1}", dict(row)) for index, row in enumerate(found))


def shown(path: str) -> str:
    """What a data set is called in messages."""
    return Path(path).name if Path(path).expanduser().is_file() and not catalogue.is_entry(path) else path


def fields(template: str) -> list[str]:
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
