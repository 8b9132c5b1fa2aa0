"""Durable writing: whatever a run keeps goes through here, so that a crash leaves the old file or the new one."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from corollary.errors import StorageError


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text`, all or nothing.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write it: {error.strerror or error}", where=str(path), hint="free some space"
        ) from error


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """`data` as indented JSON, all or nothing."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        StorageError: it cannot be read or is no object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot be read: {error}", where=str(path)) from error
    if not isinstance(data, dict):
        raise StorageError("is not a JSON object", where=str(path))
    return data


def sha256(path: Path) -> str:
    """The hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Journal:
    """An append-only JSON-lines file whose end can be set back to a recorded offset, so that each line stands once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def append(self, *rows: Mapping[str, Any]) -> str:
        """Append a line per row; what was written.

        Raises:
            StorageError: the disk is full or the file cannot be written.
        """
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise StorageError(f"cannot append to it: {error.strerror or error}", where=str(self.path)) from error
        return text

    def last(self) -> dict[str, Any]:
        """The last line; empty where there is none."""
        text = self.path.read_text(encoding="utf-8").rstrip("\n") if self.path.exists() else ""
        return json.loads(text.rpartition("\n")[2]) if text else {}

    def set_back(self, size: int) -> None:
        """Forget what came after `size` bytes."""
        if self.size > size:
            os.truncate(self.path, size)


def lock(folder: Path) -> IO[str]:
    """Hold the folder for this process until the returned file is closed or the process ends.

    Raises:
        StorageError: another process holds it.
    """
    file = (folder / ".lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        owner = file.read().strip() or "another process"
        file.close()
        raise StorageError(
            f"is in use by {owner}", where=str(folder), hint="wait for it, or choose another run.name"
        ) from error
    file.truncate(0)
    file.write(f"process {os.getpid()} on {os.uname().nodename}")
    file.flush()
    return file
