"""YAML text to a tree, safely: no tags, no second document, no key twice, and limits on size, depth and aliases.

Plain scalars follow YAML 1.2: `1e-5` is a number; `no`, `on` and dates stay text, until the type of the setting
wants otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml

from corollary.config.problems import FILE, Problem, Stop, nearest
from corollary.config.tree import BUILT_IN, Keys, Node, Place, dotted

MAX_BYTES = 1_000_000  # of one file
MAX_DEPTH = 50  # of lists and mappings in each other
MAX_NODES = 10_000  # values of one file, aliases written out

_STANDARD = "tag:yaml.org,2002:"  # what !! stands for
_LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_INTEGER = re.compile(r"[-+]?\d{1,4000}|0x[0-9a-fA-F]{1,1000}|0o[0-7]{1,1000}", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?", re.ASCII)
_NAMED: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **{sign + word: float(sign + "inf") for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")},
    **{word: float("nan") for word in (".nan", ".NaN", ".NAN")},
}


def scalar(text: str) -> str | int | float | bool | None:
    """What an unquoted word means.

    >>> [scalar(word) for word in ("1e-5", "0x10", "no", "True", "~", "1.2.3")]
    [1e-05, 16, 'no', True, None, '1.2.3']
    """
    if text in _NAMED:
        return _NAMED[text]
    if _INTEGER.fullmatch(text):
        return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))
    return float(text) if _FLOAT.fullmatch(text) else text


def file_text(path: Path, place: Place = BUILT_IN) -> str:
    """The text of a configuration file; `place` is where the file was asked for.

    Raises:
        Stop: it is missing, no regular file, too large, unreadable or not UTF-8.
    """
    try:
        if not path.is_file():
            what = "is not a regular file" if path.exists() else "no such file"
            near = nearest(path.name, [other.name for other in path.parent.glob("*.y*ml")])
            raise Stop(Problem(FILE, place, "", f"{path}: {what}", f"did you mean {near}?" if near else ""))
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as fault:
        raise Stop(Problem(FILE, place, "", f"{path}: cannot be read: {fault}")) from None
    if len(data) > MAX_BYTES:
        raise Stop(Problem(FILE, Place(str(path)), "", f"more than {MAX_BYTES:,} bytes; is it a configuration?"))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = data[: fault.start].count(b"\n") + 1
        raise Stop(Problem(FILE, Place(str(path), line), "", f"not UTF-8: byte 0x{data[fault.start]:02x}")) from None


class Reader:
    """One YAML text, event by event; `problems` grows by what can be reported without stopping.

    Args:
        text: the YAML.
        source: name of the file, or the override, for messages.
        lines: whether line numbers mean something (not in an override).
    """

    def __init__(self, text: str, source: str, *, lines: bool = True) -> None:
        self.problems: list[Problem] = []
        self._text, self._source, self._lines = text, source, lines
        self._count = 0
        self._anchors: dict[str, tuple[Node, int]] = {}  # node and its size, aliases written out
        self._events: Iterator[Any] = iter(())

    def read(self) -> Node:
        """The tree; a null leaf for an empty text.

        Raises:
            Stop: the text is not YAML, or not of the kind that we take.
        """
        try:
            self._text.encode()  # an argument of the command line may hold what UTF-8 does not
            self._events = yaml.parse(self._text, Loader=_LOADER)
            return self._document()
        except yaml.MarkedYAMLError as fault:
            mark = fault.problem_mark or fault.context_mark
            line = (
                min(mark.line, len(self._text.splitlines()) - 1) if mark else 0
            )  # the end may be behind the last line
            self._stop(line, self._syntax(line, fault))
        except yaml.reader.ReaderError as fault:
            line = self._text.count("\n", 0, fault.position)
            self._stop(line, "a control character is not allowed here")
        except UnicodeEncodeError as fault:
            self._stop(self._text.count("\n", 0, fault.start), "not UTF-8")

    def _syntax(self, line: int, fault: yaml.MarkedYAMLError) -> str:
        text = self._text.splitlines()[line]
        if "\t" in text[: len(text) - len(text.lstrip())]:
            return "indented with a tab; use spaces"
        if "nesting depth" in str(fault.problem):  # libyaml from 0.2.6 on looks ahead, and has a limit of its own
            return f"nested more than {MAX_DEPTH} deep"
        return f"not valid YAML: {fault.problem or fault.context}"

    def _stop(self, line: int, what: str, keys: Keys = ()) -> NoReturn:
        raise Stop(Problem(FILE, self._place(line), dotted(keys), what))

    def _place(self, line: int) -> Place:
        return Place(self._source, line + 1 if self._lines else 0)

    def _document(self) -> Node:
        root = Node(None, self._place(0))
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root.value is not None:
                    self._stop(event.start_mark.line, "a second YAML document; a configuration is one")
                root = self._node(next(self._events), ())
        return root

    def _node(self, event: Any, keys: Keys) -> Node:
        line, before = event.start_mark.line, self._count
        self._count += 1
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if event.tag not in (None, "!", f"{_STANDARD}str"):
            tag = event.tag.replace(_STANDARD, "!!")
            self._stop(line, f"the tag {tag} is not allowed; write the value plainly", keys)
        if len(keys) > MAX_DEPTH:
            self._stop(line, f"nested more than {MAX_DEPTH} deep")
        if isinstance(event, yaml.ScalarEvent):
            plainly = event.implicit[0] and event.tag is None
            node = Node(scalar(event.value) if plainly else event.value, self._place(line))
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(line, keys)
        else:
            node = self._mapping(line, keys)
        if self._count > MAX_NODES:
            self._stop(line, f"more than {MAX_NODES:,} values")
        if event.anchor:
            self._anchors[event.anchor] = node, self._count - before
        return node

    def _alias(self, event: Any) -> Node:
        line = event.start_mark.line
        if event.anchor not in self._anchors:
            self._stop(line, f"*{event.anchor} stands for nothing; for a text that begins with *, use quotes")
        node, size = self._anchors[event.anchor]
        self._count += size
        if self._count > MAX_NODES:
            self._stop(line, f"more than {MAX_NODES:,} values, with *{event.anchor} written out")
        return node

    def _sequence(self, line: int, keys: Keys) -> Node:
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, (*keys, len(items))))
        return Node(items, self._place(line), branch=True)

    def _mapping(self, line: int, keys: Keys) -> Node:
        parts: dict[str, Node] = {}
        shared = Node({}, self._place(line), branch=True)  # what `<<` brings; it yields to the mapping's own keys
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            at = event.start_mark.line
            if not isinstance(event, yaml.ScalarEvent):
                self._stop(at, "a key must be a plain word")
            key = event.value
            child = self._node(next(self._events), (*keys, key))
            if key == "<<" and event.implicit[0]:
                shared = self._shared(child, at)
            elif key in parts:
                what = (
                    f"the key is here twice, also on line {parts[key].place.line}"
                    if self._lines
                    else "the key is here twice"
                )
                self.problems.append(Problem(FILE, self._place(at), dotted((*keys, key)), what))
            else:
                parts[key] = Node(child.value, self._place(at), child.branch)
        return Node({**shared.value, **parts}, self._place(line), branch=True)

    def _shared(self, node: Node, line: int) -> Node:
        if not (node.branch and isinstance(node.value, dict)):
            self._stop(line, "<< takes one mapping")
        return node
