"""Files, what they build on, and overrides: to one tree, and from it to the settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from corollary.config.base import Config
from corollary.config.checking import checked
from corollary.config.fields import filled
from corollary.config.interpolation import interpolated
from corollary.config.problems import FILE, OVERRIDE, UNKNOWN, InvalidConfig, Problem, Stop, one_of
from corollary.config.reading import MAX_DEPTH, Reader, file_text
from corollary.config.tree import Node, Place, dotted, find, merge, put

C = TypeVar("C", bound=Config)
SUFFIXES = (".yaml", ".yml", ".json")  # what tells a path from the name of a preset
MAX_FILES = 100  # that one configuration builds on


@dataclass(frozen=True)
class Loaded(Generic[C]):
    """Settings, and where each came from."""

    config: C
    root: Node

    def where(self, key: str) -> str:
        """`file:line`, or the override, that set the dotted key, else the nearest one above it; else empty."""
        return str(find(self.root, tuple(key.split(".")))[1])


def load(
    cls: type[C], source: str | Path | None, overrides: Sequence[str] = (), *, presets: Path | None = None
) -> Loaded[C]:
    """The settings of a file or preset with overrides laid on, all checked at once.

    Args:
        cls: the class of the settings.
        source: the path of a YAML file; or a preset's name; None: the class's defaults alone.
        overrides: `a.b=value`, the value in YAML; a number names an item of a list. A later one wins over an earlier
            one of the same key, a deeper key over a shallower one.
        presets: the folder of the presets, `NAME.yaml`.

    Raises:
        InvalidConfig: anything is wrong; it holds every problem.

    >>> class Optimizer(Config):
    ...     lr: float = 1e-5
    >>> load(Optimizer, None, ["lr=3e-4"]).config
    Optimizer(lr=0.0003)
    """
    files = _Files(presets)
    layers = files.layers(source) if source is not None else []
    if files.broken:
        raise InvalidConfig([*files.problems, *_overrides(overrides)[1]])
    root = filled(Node({}, branch=True), cls)
    for layer in layers:
        root = filled(merge(root, layer), cls)
    pairs, problems = _overrides(overrides)
    for keys, value in pairs:
        try:
            root = filled(put(root, keys, value), cls)
        except IndexError as fault:
            problems.append(Problem(UNKNOWN, value.place, dotted(keys), str(fault)))
    problems += files.problems
    root, unsettled, keys_left = interpolated(root)
    config, wrong = checked(cls, filled(root, cls))
    problems += [*unsettled, *(problem for problem in wrong if problem.key not in keys_left)]
    if problems or config is None:
        raise InvalidConfig(problems)
    return Loaded(config, root)


def preset_names(presets: Path | None) -> list[str]:
    """The names of the presets in a folder."""
    return sorted(path.stem for path in presets.glob("*.yaml")) if presets else []


class _Files:
    """Reads a file and, first, what it builds on."""

    def __init__(self, presets: Path | None) -> None:
        self.problems: list[Problem] = []
        self.broken = False  # whether something could not be read, so that the tree is incomplete
        self._presets, self._count = presets, 0

    def layers(self, source: str | Path) -> list[Node]:
        """The trees to lay on one another, the lowest first."""
        return self._layers(source, Path(), Place(), ())

    def _layers(self, source: str | Path, folder: Path, place: Place, chain: tuple[Path, ...]) -> list[Node]:
        try:
            path = self._path(source, folder, place)
            reader = Reader(file_text(path, place), str(path))
            self._admit(path, place, chain)
            root = reader.read()
            self.problems += reader.problems
            root, parents = _split(root)
        except Stop as stop:
            self.problems.append(stop.problem)
            self.broken = True
            return []
        chain = (*chain, path.resolve())
        lower = [self._layers(str(parent.value), path.parent, parent.place, chain) for parent in parents]
        return [layer for layers in lower for layer in layers] + [root]

    def _path(self, source: str | Path, folder: Path, place: Place) -> Path:
        if isinstance(source, Path) or source.endswith(SUFFIXES):
            return folder / source
        names = preset_names(self._presets)
        if self._presets and source in names:
            return self._presets / f"{source}.yaml"
        hint = one_of(source, names, "there are") or "the path of a file ends in .yaml"
        raise Stop(Problem(FILE, place, "", f"unknown preset {source!r}", hint))

    def _admit(self, path: Path, place: Place, chain: tuple[Path, ...]) -> None:
        self._count += 1
        if self._count > MAX_FILES:
            raise Stop(Problem(FILE, place, "defaults", f"more than {MAX_FILES} files build on one another"))
        if path.resolve() in chain:
            names = [*(step.name for step in chain), path.name]
            raise Stop(
                Problem(FILE, place, "defaults", f"the files build on each other in a circle: {' → '.join(names)}")
            )


def _split(root: Node) -> tuple[Node, list[Node]]:
    """A file's own keys, and the names in its `defaults`."""
    if not root.branch and root.value is None:
        return Node({}, root.place, branch=True), []
    if not isinstance(root.value, dict):
        raise Stop(Problem(FILE, root.place, "", "a configuration is a mapping: `key: value` lines"))
    names = root.value.get("defaults", Node([], branch=True))
    parents = names.value if isinstance(names.value, list) else [names]
    if not all(isinstance(parent.value, str) for parent in parents):
        raise Stop(Problem(FILE, names.place, "defaults", "should be a preset's name or a path, or a list of them"))
    own = {key: child for key, child in root.value.items() if key != "defaults"}
    return Node(own, root.place, branch=True), parents


def _overrides(texts: Sequence[str]) -> tuple[list[tuple[tuple[str, ...], Node]], list[Problem]]:
    """Keys and values, a shallow key before a deeper one and `type` before its siblings; and what is no override."""
    pairs, problems = [], []
    for text in texts:
        key, equals, value = text.partition("=")
        keys, source = tuple(key.strip().split(".")), f"override {text[:80]}"
        if not equals or not all(keys) or len(keys) > MAX_DEPTH:
            problems.append(Problem(OVERRIDE, Place(source), "", "is no override", "write key=value, or a.b=value"))
            continue
        reader = Reader(value, source, lines=False)
        try:
            pairs.append((keys, reader.read()))
        except Stop as stop:
            hint = f"put the value in quotes: '{key}=\"…\"'"
            problems.append(Problem(OVERRIDE, Place(source), key, stop.problem.what, hint))
        problems += reader.problems
    return sorted(pairs, key=lambda pair: (len(pair[0]), pair[0][-1] != "type")), problems
