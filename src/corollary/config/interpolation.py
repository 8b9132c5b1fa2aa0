"""`${key}`, `${.sibling}` and `${oc.env:NAME,default}`, by OmegaConf.

A value is settled once, against those already settled, and all of them share one allowance: what `${a}${a}` of
`${b}${b}` of … costs is a sum, not a product.
"""

from __future__ import annotations

import re
from functools import reduce
from operator import getitem

from corollary.config.base import escape, unescape
from corollary.config.problems import FILE, MISSING, UNKNOWN, Problem, one_of
from corollary.config.tree import Keys, Node, dotted, grow, leaves, plain, replace

MAX_VALUES = 1_000  # values with ${}
MAX_CHAIN = 20  # interpolations that refer to one another
MAX_TEXT = 10_000  # characters of a value with ${}
MAX_REFERENCES = 50  # ${} in one value
ALLOWANCE = 1_000_000  # characters that all interpolations together may give
NODE_COST = 100  # what a value costs, in characters
COPY_COST = 10_000  # what looking through a list or mapping costs, in characters
RESOLVERS = ("oc.env",)
_LIVE = re.compile(r"(?<!\\)(?:\\\\)*\$\{(?:\s*([\w.]+)\s*:)?")  # ${ that no backslash escapes, and a resolver's name
_UNSETTLED = "???"  # OmegaConf's word for a value that is not there yet


def interpolated(root: Node) -> tuple[Node, list[Problem], set[str]]:
    """The tree with every `${}` replaced, what is wrong with those that cannot be, and the keys of these."""
    texts = {keys: leaf for keys, leaf in leaves(root) if isinstance(leaf.value, str) and "${" in leaf.value}
    pending = {keys: leaf for keys, leaf in texts.items() if _LIVE.search(leaf.value)}
    literal = {keys: Node(unescape(leaf.value), leaf.place) for keys, leaf in texts.items() if keys not in pending}
    if len(pending) > MAX_VALUES:
        keys, leaf = next(iter(pending.items()))
        what = f"one of {len(pending):,} values with ${{}}; the limit is {MAX_VALUES:,}"
        return root, [_problem(keys, leaf, what)], {dotted(keys) for keys in pending}
    refused = {keys: problem for keys, leaf in pending.items() if (problem := _refused(keys, leaf))}
    settled, faults = _settle(root, {keys: leaf for keys, leaf in pending.items() if keys not in refused})
    explained = {keys: _explained(root, keys, pending[keys], fault) for keys, fault in faults.items()}
    problems = [*refused.values(), *(problem for problem in explained.values() if problem)]
    if faults and not problems:  # each is only waiting for another
        problems = [_endless(keys, pending[keys]) for keys in faults]
    return replace(root, literal | settled), problems, {dotted(keys) for keys in (*refused, *faults)}


def _endless(keys: Keys, leaf: Node) -> Problem:
    return _problem(keys, leaf, f"{leaf.value} leads back to itself, or through more than {MAX_CHAIN} others")


def _problem(keys: Keys, leaf: Node, what: str, hint: str = "", code: str = FILE) -> Problem:
    return Problem(code, leaf.place, dotted(keys), what, hint)


def _refused(keys: Keys, leaf: Node) -> Problem | None:
    """What is not even evaluated."""
    strange = [name for name in _LIVE.findall(leaf.value) if name and name not in RESOLVERS]
    if strange:
        return _problem(keys, leaf, f"${{{strange[0]}:…}} is not available", one_of(strange[0], RESOLVERS))
    if len(leaf.value) > MAX_TEXT or leaf.value.count("${") > MAX_REFERENCES:
        return _problem(keys, leaf, f"a text with ${{}} has at most {MAX_TEXT:,} characters and {MAX_REFERENCES} ${{}}")
    return None


class _TooMuch(Exception):
    """The allowance is used up."""


def _there(text: str) -> str:
    """What of a text others can refer to from the start."""
    return _UNSETTLED if _LIVE.search(text) or ("${" in text and len(text) > MAX_TEXT) else text


class _World:
    """The configuration as OmegaConf sees it, its unsettled values absent."""

    def __init__(self, root: Node) -> None:
        from omegaconf import OmegaConf  # only a configuration with ${} pays for the import

        self._omegaconf = OmegaConf
        self._config = OmegaConf.create(plain(root, _there))
        self._allowance = ALLOWANCE

    def settle(self, keys: Keys, leaf: Node) -> Node:
        """The value of `leaf`, from now on there for others to refer to."""
        holder = reduce(getitem, keys[:-1], self._config)
        try:
            holder[keys[-1]] = leaf.value
            value = holder[keys[-1]]
            if self._omegaconf.is_config(value):
                self._pay(COPY_COST)
                value = self._omegaconf.to_container(value, resolve=True, throw_on_missing=True)
        except Exception:
            holder[keys[-1]] = _UNSETTLED
            raise
        node = grow(value, leaf.place)
        self._pay(sum(NODE_COST + len(str(part.value)) for _, part in leaves(node)))
        holder[keys[-1]] = plain(node, escape)
        return node

    def _pay(self, cost: int) -> None:
        self._allowance -= cost
        if self._allowance < 0:
            raise _TooMuch(f"all ${{}} together give more than {ALLOWANCE:,} characters")


def _settle(root: Node, pending: dict[Keys, Node]) -> tuple[dict[Keys, Node], dict[Keys, Exception]]:
    """What could be settled, and the last fault of what could not."""
    if not pending:
        return {}, {}
    from omegaconf.errors import OmegaConfBaseException

    world = _World(root)
    settled: dict[Keys, Node] = {}
    faults: dict[Keys, Exception] = {}
    for _ in range(MAX_CHAIN):
        before = len(settled)
        for keys in [keys for keys in pending if keys not in settled]:
            try:
                settled[keys] = world.settle(keys, pending[keys])
                faults.pop(keys, None)
            except (OmegaConfBaseException, RecursionError) as fault:
                faults[keys] = fault
            except _TooMuch as fault:
                return settled, {keys: fault}
        if len(settled) == before:
            break
    return settled, faults


def _explained(root: Node, keys: Keys, leaf: Node, fault: Exception) -> Problem | None:
    """The problem behind a fault; None where it is only that another value is not settled."""
    said = str(fault).split("\n")[0]
    if name := re.search(r"Environment variable '(.*?)' not found", said):
        what = f"the environment variable {name[1]} is not set"
        return _problem(keys, leaf, what, f"set it, or write ${{oc.env:{name[1]},default}}", MISSING)
    match type(fault).__name__:
        case "InterpolationToMissingValueError" | "MissingMandatoryValue":
            return None
        case "InterpolationKeyError":
            name = re.search(r"key '(.*?)'", said)
            known = [dotted(way) for way, _ in leaves(root)]
            return _problem(
                keys, leaf, f"{leaf.value}: no such key", one_of(name[1] if name else "", known, "there are"), UNKNOWN
            )
        case "GrammarParseError":
            hint = r"write ${key} or ${oc.env:NAME,default}, and \${ for a plain ${"
            return _problem(keys, leaf, f"{leaf.value[:60]!r} is no complete ${{}}", hint)
        case _:
            return _endless(keys, leaf) if "Recursive" in said else _problem(keys, leaf, said)
