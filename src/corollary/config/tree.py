"""Values with the place that each came from. Nodes are never changed, so that a YAML alias may share one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

Keys = tuple[str | int, ...]  # the way from the root: a string into a mapping, a number into a list


class Place(NamedTuple):
    """Where a value came from: a file and its line, or an override.

    >>> str(Place("run.yaml", 14))
    'run.yaml:14'
    """

    source: str = ""  # empty: a default of the class
    line: int = 0  # from 1; 0 where lines mean nothing

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


BUILT_IN = Place()


@dataclass(frozen=True, slots=True)
class Node:
    """A mapping of nodes, a list of nodes, or a leaf (any other value; a built-in free mapping is a leaf too)."""

    value: Any
    place: Place = BUILT_IN
    branch: bool = False  # whether `value` holds nodes


def dotted(keys: Keys) -> str:
    """
    >>> dotted(("rewards", 0, "weight"))
    'rewards.0.weight'
    """
    return ".".join(str(key) for key in keys)


def grow(value: Any, place: Place) -> Node:
    """The tree of plain data, all from one place."""
    if isinstance(value, Mapping):
        return Node({str(key): grow(part, place) for key, part in value.items()}, place, branch=True)
    if isinstance(value, list | tuple):
        return Node([grow(part, place) for part in value], place, branch=True)
    return Node(value, place)


def children(node: Node) -> dict[str | int, Node]:
    """By key; by index in a list; none in a leaf."""
    if not node.branch:
        return {}
    return dict(node.value) if isinstance(node.value, dict) else dict(enumerate(node.value))


def child(node: Node | None, key: str | int) -> Node | None:
    """The node under a key, or at an index (also written as text); None where there is none."""
    if node is None or not node.branch:
        return None
    if isinstance(node.value, dict):
        return node.value.get(str(key))
    index = int(key) if str(key).isdecimal() and len(str(key)) < 9 else -1
    return node.value[index] if 0 <= index < len(node.value) else None


def with_children(node: Node, parts: Mapping[Any, Node]) -> Node:
    """`node` holding `parts` in place of its children."""
    value = dict(parts) if isinstance(node.value, dict) else list(parts.values())
    return Node(value, node.place, branch=True)


def leaves(node: Node, keys: Keys = ()) -> Iterator[tuple[Keys, Node]]:
    """Every leaf with its way from the root, in order."""
    if not node.branch:
        yield keys, node
    for key, part in children(node).items():
        yield from leaves(part, (*keys, key))


def replace(node: Node, new: Mapping[Keys, Node], keys: Keys = ()) -> Node:
    """The tree with the nodes at the ways in `new` exchanged."""
    if keys in new:
        return new[keys]
    parts = {key: replace(part, new, (*keys, key)) for key, part in children(node).items()}
    return with_children(node, parts) if node.branch else node


def plain(node: Node, text: Callable[[str], str] = lambda text: text) -> Any:
    """The data without places; `text` is applied to each string leaf."""
    if node.branch and isinstance(node.value, dict):
        return {key: plain(part, text) for key, part in node.value.items()}
    if node.branch:
        return [plain(part, text) for part in node.value]
    if isinstance(node.value, dict | list):  # a free mapping of the class's defaults
        return plain(grow(node.value, node.place), text)
    return text(node.value) if isinstance(node.value, str) else node.value


def find(node: Node, keys: Keys) -> tuple[Node | None, Place]:
    """The node at the end of the way, if there is one, and the last place on the way that is not built in."""
    place, at = node.place, node
    for key in keys:
        under = child(at, key)
        if under is None:
            return None, place
        at, place = under, under.place if under.place != BUILT_IN else place
    return at, place


def merge(base: Node, over: Node) -> Node:
    """`over` laid on `base`: mappings key by key, unless their `type` differs; else `over` alone.

    >>> a, b = grow({"type": "a", "x": 1}, BUILT_IN), grow({"type": "b", "y": 2}, BUILT_IN)
    >>> plain(merge(a, b))
    {'type': 'b', 'y': 2}
    """
    if not (base.branch and over.branch and isinstance(base.value, dict) and isinstance(over.value, dict)):
        return over
    was, now = base.value.get("type"), over.value.get("type")
    if was is not None and now is not None and plain(was) != plain(now):
        return over
    parts = {key: merge(base.value[key], part) if key in base.value else part for key, part in over.value.items()}
    return Node({**base.value, **parts}, over.place if over.place != BUILT_IN else base.place, branch=True)


def put(node: Node, keys: Keys, new: Node) -> Node:
    """The tree with `new` merged in at the end of the way; mappings are made on the way where there are none.

    Raises:
        IndexError: the way leads to an item that a list does not have; its argument says which.
    """
    if not keys:
        return merge(node, new)
    key, *rest = keys
    under = child(node, key)
    if node.branch and isinstance(node.value, list):
        if under is None:
            raise IndexError(f"no item {key}: the list has {len(node.value)}, counted from 0")
        return with_children(node, {**children(node), int(key): put(under, tuple(rest), new)})
    under = under or Node({}, new.place, branch=True)
    over = Node({str(key): put(under, tuple(rest), new)}, new.place, branch=True)
    return Node(merge(node, over).value, node.place if node.branch else new.place, branch=True)
