"""A trained model as a folder that `transformers` loads: configuration, safetensors, tokenizer, chat template and a model card."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import yaml

from corollary.errors import StorageError, printable
from corollary.models.archives import settle
from corollary.models.load import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class DataUse:
    """A data set as the card names it."""

    name: str
    use: str  # "training", "evaluation", …
    rows: int
    licence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A number before and after training; either may be missing."""

    name: str
    before: float | None = None
    after: float | None = None
    low: float | None = None  # interval of the difference
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a model card says."""

    title: str
    base_model: str  # catalogue name, hub id or folder's name of what was trained
    licence: str  # of the base model; what was trained inherits it
    method: str  # "GRPO, 40 steps", …
    data: Sequence[DataUse] = ()
    config_diff: str = ""  # YAML: what differs from the defaults
    metrics: Sequence[Metric] = ()
    confidence: float = 0.95  # of the metrics' intervals
    versions: Mapping[str, str] = field(default_factory=dict)  # package → version


def export(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path, *, card: Card) -> Path:
    """Writes the model, as it is in memory, into a new folder that appears whole or not at all.

    Args:
        model: in the type its weights are to be kept in.
        tokenizer: with its chat template.
        folder: must not exist, or be empty.
        card: becomes README.md.

    Returns:
        The folder.

    Raises:
        StorageError: the folder exists and is not empty, or cannot be written.
    """
    folder = Path(folder).expanduser().absolute()
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise StorageError("exists already", where=str(folder), hint="name another folder", code="E0503")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
            made = Path(scratch) / "model"
            _write(model, tokenizer, made, card)
            settle(made, folder)
    except OSError as error:
        what = f"cannot be written ({error.strerror or error})"
        raise StorageError(what, where=str(folder), hint="free space, or name another folder", code="E0503") from error
    return folder


def _write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, card: Card) -> None:
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(readme(card), encoding="utf-8")
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.iterdir():  # weights are written readable to their owner alone, whatever the umask
        path.chmod(0o666 & ~mask)


def readme(card: Card) -> str:
    """The model card: front matter that model hubs read, and Markdown."""
    front = {
        "library_name": "transformers",
        "license": card.licence.lower() if re.fullmatch(r"[\w.+-]+", card.licence) else "other",
        "base_model": card.base_model,
        "datasets": [used.name for used in card.data],
        "tags": ["corollary"],
    }
    matter = yaml.safe_dump({k: v for k, v in front.items() if v}, sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{matter}---\n\n# {_inline(card.title)}\n",
        f"{_inline(card.base_model)} trained further with Corollary: {_inline(card.method)}.\n",
        f"Licence of the base model: {_inline(card.licence)}.\n",
        _data_table(card.data),
        _metric_table(card.metrics, card.confidence),
        f"## Configuration\n\nWhat differs from the defaults:\n\n{_block(card.config_diff, 'yaml')}\n"
        if card.config_diff
        else "",
        _versions(card.versions),
    ]
    return "\n".join(part for part in parts if part)


def _data_table(data: Sequence[DataUse]) -> str:
    if not data:
        return ""
    rows = [f"| {_cell(d.name)} | {_cell(d.use)} | {d.rows:,} | {_cell(d.licence)} |" for d in data]
    return "\n".join(["## Data", "", "| data set | use | rows | licence |", "|---|---|---:|---|", *rows, ""])


def _metric_table(metrics: Sequence[Metric], confidence: float) -> str:
    if not metrics:
        return ""
    rows = []
    for m in metrics:
        change = f"{m.after - m.before:+.3f}" if m.before is not None and m.after is not None else ""
        interval = f" ({m.low:+.3f} to {m.high:+.3f})" if change and m.low is not None and m.high is not None else ""
        rows.append(f"| {_cell(m.name)} | {_number(m.before)} | {_number(m.after)} | {change}{interval} |")
    head = f"| metric | before | after | difference ({confidence:.0%} interval) |"
    return "\n".join(["## Evaluation", "", head, "|---|---:|---:|---:|", *rows, ""])


def _versions(versions: Mapping[str, str]) -> str:
    listed = ", ".join(f"{_inline(name)} {_inline(version)}" for name, version in versions.items())
    return f"## Made with\n\n{listed}\n" if listed else ""


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _inline(text: str) -> str:
    """Text that opens no markup of its own."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", printable(" ".join(text.split())))


def _cell(text: str) -> str:
    return _inline(text) or "–"


def _block(text: str, language: str) -> str:
    """A fenced block whose fence is longer than any inside it."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}{language}\n{printable(text.rstrip())}\n{fence}"
