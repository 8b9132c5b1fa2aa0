"""A trained model as files that others read, with a card: a folder for `transformers`, adapters for `peft`, a file for llama.cpp."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from corollary.errors import StorageError
from corollary.models.archives import settle
from corollary.models.card import Card, DataUse, Metric, readme
from corollary.models.gguf_writer import GGUFDtype, write_gguf
from corollary.models.load import quiet
from corollary.models.lora import LoRA, save_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Card", "DataUse", "Metric", "export", "export_adapter", "export_gguf", "readme"]


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
    with _appearing(folder) as (made, target), quiet():
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        (made / "README.md").write_text(readme(card, "folder"), encoding="utf-8")
    return target


def export_adapter(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    *,
    card: Card,
    settings: LoRA,
    base: str,
) -> Path:
    """Writes the model's adapters alone, for `peft`; the rest as for `export`.

    Args:
        model: with adapters.
        tokenizer: with its chat template.
        folder: must not exist, or be empty.
        card: becomes README.md.
        settings: that the adapters were made with.
        base: name of the model below them.
    """
    with _appearing(folder) as (made, target), quiet():
        save_adapter(model, settings, made, base=base)
        tokenizer.save_pretrained(made)
        (made / "README.md").write_text(readme(card, "adapter"), encoding="utf-8")
    return target


def export_gguf(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: str | Path, *, card: Card, dtype: GGUFDtype
) -> Path:
    """Writes the model as one GGUF file, the card's first lines in its header; the rest as for `export`.

    Args:
        model: without adapters.
        tokenizer: with its chat template.
        path: must not exist.
        card: names the model, its licence and where it comes from.
        dtype: of the matrices.

    Raises:
        ModelError: such a file cannot say this model.
        StorageError: the file exists, or cannot be written.
    """
    with _appearing(path) as (made, target):
        write_gguf(
            model, tokenizer, made, dtype=dtype, title=card.title, licence=card.licence, description=card.summary()
        )
    return target


@contextmanager
def _appearing(target: str | Path) -> Iterator[tuple[Path, Path]]:
    """(where to write, what it becomes): a folder or a file that appears whole or not at all.

    Raises:
        StorageError: it exists and is no empty folder, or cannot be written.
    """
    target = Path(target).expanduser().absolute()
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise StorageError("exists already", where=str(target), hint="give another name", code="E0503")
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
            made = Path(scratch) / "made"
            yield made, target
            _readable(made)
            settle(made, target)
    except OSError as error:
        what = f"cannot be written ({error.strerror or error})"
        raise StorageError(what, where=str(target), hint="free space, or give another name", code="E0503") from error


def _readable(made: Path) -> None:
    """Weights are written readable to their owner alone, whatever the umask."""
    mask = os.umask(0)
    os.umask(mask)
    for path in made.iterdir() if made.is_dir() else (made,):
        path.chmod(0o666 & ~mask)
