"""`report.html`: a run as one page that needs nothing else, neither a network nor a server.

Data enters the page as JSON in a block that no browser executes, with every character escaped that could end the block,
and leaves it as text: the page's script has no way to make markup out of a string, and the page's policy forbids every
other script, style and connection. What models and data sets wrote can therefore change neither an element nor an
attribute of the file.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.resources import files
from itertools import islice
from pathlib import Path

import yaml

from corollary.errors import StorageError
from corollary.run.files import write_text
from corollary.run.jsonl import evenly
from corollary.run.report_data import (
    Curves,
    Evaluation,
    Heldout,
    Rollouts,
    Seen,
    Text,
    curves,
    evaluation,
    flat,
    heldout,
    rollouts,
)

SCRIPTS = (
    "dom.js",
    "numbers.js",
    "results.js",
    "chart.js",
    "curves.js",
    "browser.js",
    "rollouts.js",
    "heldout.js",
    "setup.js",
    "app.js",
)
SETTINGS = 2_000  # lines of one table
CONFIG_BYTES = 1_000_000

# What each file of a run directory is for.
PURPOSE = {
    "config.yaml": "every setting, resolved",
    "config.diff.yaml": "the settings that differ from the defaults",
    "metrics.jsonl": "a line per optimizer step",
    "timing.jsonl": "seconds and tokens per second of each step",
    "rollouts.jsonl": "sampled answers with their rewards",
    "evaluation.json": "held-out results, before and after",
    "evaluations": "every held-out answer",
    "checkpoints": "weights and the state to continue from",
    "model": "the trained model, as transformers loads it",
    "environment.json": "versions, machine and seed",
}

_ESCAPED = re.compile("[<>&\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
_SLOT = re.compile(r"\{\{(\w+)\}\}")
_WEIGHT = re.compile(r"rewards\.\d+\.weight")
_SECRET = re.compile(r"(?i)(^|[._-])(password|passwd|secret|credentials?|api_?key|token)$")
_NO_SECRET = re.compile(r"(?i)(bos|eos|pad|unk|sep|cls|mask|stop|per)_token$")


class Setting(Seen):
    """A dotted key and its value."""

    key: Text
    value: Text


class File(Seen):
    """An entry of the run directory."""

    name: Text
    purpose: str
    size: int  # bytes
    inside: list[Text]  # the first and last names in a folder


class Command(Seen):
    """Something that a user can do next."""

    purpose: str
    line: Text


class Page(Seen):
    """Everything that the page shows."""

    name: Text
    path: Text
    as_of: str  # UTC, when the newest of the run's files was written; empty where there is none
    steps_planned: int | None
    full_mark: float  # reward units, of an answer that satisfies every reward
    facts: dict[str, Text]
    evaluation: Evaluation | None
    metrics: Curves
    timing: Curves
    rollouts: Rollouts
    heldout: Heldout
    config: list[Setting]
    changed: list[Setting]
    environment: list[Setting]
    files: list[File]
    commands: list[Command]


def write_report(run_dir: Path) -> Path:
    """Writes `run_dir/report.html` from the files that are there, whole or not at all, and returns its path.

    A run that is still going, or that lacks any of its files, gives a page without them.

    Raises:
        StorageError: there is no such directory, or it cannot be read or written.
    """
    if not run_dir.is_dir():
        raise StorageError("no such run directory", where=str(run_dir), hint="give the path of a run, as in runs/NAME")
    try:
        page = gather(run_dir)
    except OSError as error:
        raise StorageError(f"cannot be read: {error.strerror}", where=str(error.filename or run_dir)) from error
    path = run_dir / "report.html"
    write_text(path, html(page))
    return path


def gather(run_dir: Path) -> Page:
    """What the page shows of a run directory."""
    config = dict(settings(run_dir / "config.yaml"))
    measured = evaluation(run_dir / "evaluation.json")
    return Page(
        name=run_dir.resolve().name,
        path=str(run_dir.resolve()),
        as_of=_as_of(run_dir),
        steps_planned=_steps_planned(config),
        full_mark=_full_mark(config),
        facts=_facts(config, measured),
        evaluation=measured,
        metrics=curves(run_dir / "metrics.jsonl"),
        timing=curves(run_dir / "timing.jsonl"),
        rollouts=rollouts(run_dir / "rollouts.jsonl"),
        heldout=heldout(run_dir / "evaluations"),
        config=_table(config),
        changed=_table(dict(settings(run_dir / "config.diff.yaml"))),
        environment=_table(dict(settings(run_dir / "environment.json"))),
        files=list(_entries(run_dir)),
        commands=_commands(run_dir),
    )


def html(page: Page) -> str:
    """The page. Its elements and attributes are the same whatever the run holds."""
    folder = files("corollary.run") / "report_page"
    style = (folder / "style.css").read_text("utf-8")
    script = "\n".join((folder / name).read_text("utf-8") for name in SCRIPTS)
    slots = {"policy": policy(script, style), "style": style, "script": script, "data": island(page.model_dump_json())}
    return _SLOT.sub(lambda slot: slots[slot[1]], (folder / "page.html").read_text("utf-8"))


def island(text: str) -> str:
    r"""JSON with the characters escaped that could end its block, or hide from whoever reads the page's source.

    >>> island('{"text": "</script>"}')
    '{"text": "\\u003c/script\\u003e"}'
    """
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def policy(script: str, style: str) -> str:
    """The page's Content-Security-Policy: this script, this style, and nothing else whatsoever."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src '{_sha256(script)}'",
            f"style-src '{_sha256(style)}'",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def _sha256(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def settings(path: Path) -> Iterator[tuple[str, object]]:
    """The leaves of a YAML or JSON file by dotted key, secrets masked; the text itself where it is neither."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        text = file.read(CONFIG_BYTES)
    try:
        expands = any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text))  # could grow without bound
        value = text if expands else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        value = text
    for key, leaf in islice(flat(value), SETTINGS):
        if key or leaf:
            yield key, "••••••" if leaf and is_secret(key) else leaf


def is_secret(key: str) -> bool:
    """Whether a setting of this name must not be shown.

    >>> is_secret("logger.api_key"), is_secret("hub_token"), is_secret("max_tokens"), is_secret("eos_token")
    (True, True, False, False)
    """
    return bool(_SECRET.search(key)) and not _NO_SECRET.search(key)


def _table(leaves: Mapping[str, object]) -> list[Setting]:
    return [Setting(key=key, value=_spelled(value)) for key, value in leaves.items()]


def _spelled(value: object) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False, default=str)


def _first(leaves: Mapping[str, object], *keys: str) -> str:
    return next((str(leaves[key]) for key in keys if leaves.get(key) not in (None, "")), "")


def _facts(config: Mapping[str, object], measured: Evaluation | None) -> dict[str, str]:
    """What names a run at its head."""
    facts = {
        "model": _first(config, "model.path", "model"),
        "data": (measured.dataset if measured else "") or _first(config, "data.path", "data.name", "data"),
        "algorithm": _first(config, "algorithm.type", "algorithm"),
        "seed": _first(config, "run.seed", "seed"),
    }
    return {name: value for name, value in facts.items() if value}


def _steps_planned(config: Mapping[str, object]) -> int | None:
    steps = _first(config, "run.steps", "steps")
    return int(steps) if steps.isdecimal() and len(steps) < 16 else None


def _full_mark(config: Mapping[str, object]) -> float:
    """The sum of the rewards' positive weights, each reward being worth 1 at most; 1 where there are none."""
    weights = [value for key, value in config.items() if _WEIGHT.fullmatch(key)]
    return sum(max(weight, 0.0) for weight in weights if isinstance(weight, int | float)) or 1.0


def _as_of(run_dir: Path) -> str:
    """When the newest of the files that the page draws on was written, to the minute."""
    times = [(run_dir / name).stat().st_mtime for name in PURPOSE if (run_dir / name).exists()]
    return f"{datetime.fromtimestamp(max(times), UTC):%Y-%m-%d %H:%M} UTC" if times else ""


def _entries(run_dir: Path) -> Iterator[File]:
    for name, purpose in PURPOSE.items():
        path = run_dir / name
        if path.exists():
            within = list(islice(path.rglob("*"), 10_000)) if path.is_dir() else [path]
            names = sorted(p.name for p in within if p.parent == path)
            size = sum(p.lstat().st_size for p in within if p.is_file())
            yield File(name=name, purpose=purpose, size=size, inside=[names[i] for i in evenly(len(names), 8)])


def _commands(run_dir: Path) -> list[Command]:
    run, config, model = (shlex.quote(str(path)) for path in (run_dir, run_dir / "config.yaml", run_dir / "model"))
    return [
        Command(purpose="Continue it", line=f"corollary train {config} --resume"),
        Command(purpose="Measure it again", line=f"corollary evaluate {config} model.path={model}"),
        Command(purpose="Talk to what it trained", line=f"corollary chat {run}"),
        Command(purpose="Bring this page up to date", line=f"corollary report {run}"),
    ]
