"""Checkpoints: safetensors and JSON, a manifest with sha256, committed by one rename.

    checkpoints/step-000040/KIND.safetensors   weight, exp_avg, exp_avg_sq, step, version: a file for each kind of tensor
                            state.json         step, position in the data, journal offsets
                            manifest.json      size and sha256 of all; written last

A folder without a valid manifest is not a checkpoint. Loading verifies every byte and falls back to the one before.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from corollary.errors import CorollaryError, ResumeError, StorageError
from corollary.run.files import read_json, sha256, sync_folder, write_json

_NAME = re.compile(r"step-(\d{6,})")
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was saved."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    path: Path


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, keep: int) -> Path:
    """Write a checkpoint, verify that it is there, then remove all but the newest `keep`.

    Args:
        folder: the run's `checkpoints`.
        step: steps done.
        tensors: by name, `KIND/…`.
        state: JSON data.
        keep: ≥ 1.

    Raises:
        StorageError: it could not be written; what was there before still is.
    """
    final = folder / f"step-{step:06d}"
    work = folder / f".tmp-step-{step:06d}-{os.getpid()}"
    try:
        work.mkdir(parents=True)
        for kind, members in _by_kind(tensors).items():  # a kind at a time, because writing copies what it writes
            save_file(members, work / f"{kind}.safetensors")
        write_json(work / "state.json", {"step": step, **state})
        files = {f.name: {"size": f.stat().st_size, "sha256": sha256(f)} for f in sorted(work.iterdir())}
        for path in work.glob("*.safetensors"):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        write_json(work / "manifest.json", {"schema": SCHEMA, "step": step, "files": files})
        if final.exists():
            _discard(final)
        work.rename(final)
        sync_folder(folder)
    except (OSError, SafetensorError, CorollaryError) as error:
        shutil.rmtree(work, ignore_errors=True)
        raise StorageError(
            f"the checkpoint of step {step} could not be written: {error}", where=str(folder), hint="free some space"
        ) from error
    for old in _all(folder)[keep:]:
        _discard(old)
    return final


def sweep(folder: Path) -> None:
    """Remove what a killed process left half-written or half-removed; only while this process holds the run."""
    for leftover in (*folder.glob(".tmp-*"), *folder.glob(".trash-*")):
        shutil.rmtree(leftover, ignore_errors=True)


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint whose every byte is as it was written, and a line for each damaged one that was passed over.

    Raises:
        ResumeError: there are checkpoints and all of them are damaged.
    """
    damaged: list[str] = []
    for path in _all(folder):
        try:
            return _load(path), damaged
        except StorageError as error:
            damaged.append(f"{path.name} is damaged ({error.what})")
    if damaged:
        raise ResumeError("; ".join(damaged), where=str(folder), hint="no checkpoint is left; start a new run.name")
    return None, []


def _by_kind(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    kinds: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kinds.setdefault(name.partition("/")[0], {})[name] = tensor.contiguous()
    return kinds


def _load(path: Path) -> Checkpoint:
    manifest = read_json(path / "manifest.json")
    files = manifest.get("files")
    if manifest.get("schema") != SCHEMA or not isinstance(files, dict) or "state.json" not in files:
        raise StorageError("manifest.json is of another version or incomplete")
    for name, expected in files.items():
        _verify(path / Path(name).name, expected)
    tensors: dict[str, Tensor] = {}
    for name in (name for name in files if name.endswith(".safetensors")):
        try:
            tensors |= load_file(path / Path(name).name)
        except (OSError, SafetensorError) as error:
            raise StorageError(f"{name}: {error}") from error
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    return Checkpoint(step=state["step"], tensors=tensors, state=state, path=path)


def _verify(file: Path, expected: Mapping[str, Any]) -> None:
    size = file.stat().st_size if file.is_file() else 0
    if size != expected["size"]:
        raise StorageError(f"{file.name}: {size:,} of {expected['size']:,} bytes")
    if sha256(file) != expected["sha256"]:
        raise StorageError(f"{file.name}: its sha256 is not the one in the manifest")


def _all(folder: Path) -> list[Path]:
    """Committed checkpoints, the newest first."""
    found = [(int(m[1]), p) for p in folder.glob("step-*") if (m := _NAME.fullmatch(p.name))]
    return [path for _, path in sorted(found, reverse=True)]


def _discard(path: Path) -> None:
    """Out of sight first, so that a crash half-way leaves no half checkpoint under its name."""
    trash = path.with_name(f".trash-{path.name}-{os.getpid()}")
    path.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)
