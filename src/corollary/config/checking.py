"""A tree to a `Config`: pydantic finds the mistakes, this says where, under which key, and the nearest right name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace as changed
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from corollary.config.base import Config
from corollary.config.fields import below, class_of, classes_in, filled, kinds, tags
from corollary.config.problems import IMPOSSIBLE, MISSING, UNKNOWN, WRONG, Problem, nearest, one_of, shown
from corollary.config.tree import Keys, Node, child, children, dotted, find, leaves, plain, replace
from corollary.config.variants import CUSTOM

C = TypeVar("C", bound=Config)
MAX_REPAIRS = 5  # variants whose name is put right to see what else is wrong in them


def checked(cls: type[C], root: Node) -> tuple[C | None, list[Problem]]:
    """The settings, or every problem; under a wrong name of a variant, also those of the variant that is nearest."""
    problems = {(problem.key, problem.code): problem for problem in _no_numbers(root, cls)}
    for _ in range(MAX_REPAIRS):
        try:
            config = cls.model_validate(plain(root))
            return (config, []) if not problems else (None, list(problems.values()))
        except ValidationError as fault:
            errors = fault.errors(include_url=False)
        spots = [_spot(cls, root, error["loc"]) for error in errors]
        for problem in _problems(root, errors, spots):
            problems.setdefault((problem.key, problem.code), problem)
        repaired = _repaired(root, errors, spots)
        if not repaired:
            break
        root = filled(replace(root, repaired), cls)
    return None, list(problems.values())


def _no_numbers(node: Node, annotation: Any, keys: Keys = ()) -> Iterator[Problem]:
    """`true` where a number belongs, which pydantic would take for 1."""
    within = kinds(annotation)
    if isinstance(node.value, bool) and (int in within or float in within) and bool not in within:
        yield Problem(WRONG, node.place, dotted(keys), f"should be a number; got {shown(node.value)}")
    for key, part in children(node).items():
        yield from _no_numbers(part, below(annotation, node, key), (*keys, key))


class _Spot(NamedTuple):
    """What an error's location means."""

    keys: Keys  # the way in the tree
    annotation: Any  # the type at its end, where the classes say
    owner: type[Config] | None  # the class that holds the last key
    member: bool  # whether it is about one member of a plain union


def _spot(cls: type[Config], root: Node, location: Sequence[str | int]) -> _Spot:
    """Pydantic's location without the names of variants and of union members that it puts between the keys."""
    spot, node = _Spot((), cls, None, member=False), root
    for part in location:
        here = class_of(spot.annotation, node)
        variants = classes_in(spot.annotation)
        if len(variants) > 1 and here and part in (*tags(here), CUSTOM):
            spot = spot._replace(annotation=here)
        elif len(variants) > 1 and (named := [kind for kind in variants if kind.__name__ == part]):
            spot = spot._replace(annotation=named[0], member=True)
        elif _is_key(here, node, part):
            spot = _Spot((*spot.keys, part), below(spot.annotation, node, part), here, spot.member)
            node = child(node, part)
        else:
            spot = spot._replace(member=True)
    return spot


def _is_key(here: type[Config] | None, node: Node | None, part: str | int) -> bool:
    in_list = node is not None and isinstance(node.value, list) and isinstance(part, int)
    return in_list or child(node, part) is not None or (here is not None and part in here.model_fields)


def _problems(root: Node, errors: Sequence[Mapping[str, Any]], spots: Sequence[_Spot]) -> list[Problem]:
    """One problem per key; of a plain union's members, the one that came furthest speaks, or all together."""
    found: dict[tuple[str, bool], Problem] = {}
    above = {spot.keys[:depth] for spot in spots for depth in range(len(spot.keys))}
    known = _known(
        root, {spot.keys for error, spot in zip(errors, spots, strict=True) if error["type"] == "extra_forbidden"}
    )
    for error, spot in zip(errors, spots, strict=True):
        if spot.member and spot.keys in above:
            continue
        problem = _problem(root, error, spot, known)
        same = found.get((problem.key, spot.member))
        if same and spot.member:
            problem = changed(same, what=f"{same.what.split('; got')[0]} or {problem.what.removeprefix('should be ')}")
        found[problem.key, spot.member] = problem
    misspelt = {(problem.key.rpartition(".")[0], problem.hint) for problem in found.values() if problem.code == UNKNOWN}
    return [problem for problem in found.values() if problem.code != MISSING or _asked(problem.key) not in misspelt]


def _asked(key: str) -> tuple[str, str]:
    """The mapping of a missing key, and the hint that another key there gets for being its misspelling."""
    parent, _, name = key.rpartition(".")
    return parent, f"did you mean {name}?"


def _known(root: Node, unknown: set[Keys]) -> dict[str | int, list[Keys]]:
    """The ways to right keys, by their last one."""
    result: dict[str | int, list[Keys]] = {}
    for way, _ in leaves(root):
        if way and way not in unknown:
            result.setdefault(way[-1], []).append(way)
    return result


def _problem(root: Node, error: Mapping[str, Any], spot: _Spot, known: Mapping[str | int, list[Keys]]) -> Problem:
    keys, kind, came = spot.keys, error["type"], error["input"]
    node, place = find(root, keys)
    if kind == "extra_forbidden":
        return Problem(UNKNOWN, place, dotted(keys), "unknown key", _key_hint(known, spot))
    if kind == "missing":
        return Problem(MISSING, place, dotted(keys), "missing key", _meaning(spot))
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        return _tag_problem(root, spot)
    if kind in ("value_error", "assertion_error"):
        return _refusal(root, spot, error)
    if kind == "literal_error":
        options = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        hint = _near(came, options)
        return Problem(WRONG, place, dotted(keys), f"should be {error['ctx']['expected']}; got {shown(came)}", hint)
    what = f"{_expectation(kind, error['msg'])}; got {shown(came)}"
    return Problem(WRONG, place, dotted(keys), what, _value_hint(kind, came, node))


def _expectation(kind: str, message: str) -> str:
    """Pydantic's words, in the user's terms."""
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return "should be a mapping"
    if kind in ("list_type", "tuple_type", "set_type"):
        return "should be a list"
    text = message.removeprefix("Input ").split(", unable")[0].split(", got")[0]
    return text if text.startswith("should") else text[:1].lower() + text[1:]


def _value_hint(kind: str, came: Any, node: Node | None) -> str:
    if came is None:
        return "leave the key out for its default" if node else ""
    if kind == "string_type" and isinstance(came, bool | int | float):
        return "for a text, write it in quotes"
    return ""


def _key_hint(known: Mapping[str | int, list[Keys]], spot: _Spot) -> str:
    """The nearest key of the same class, else the key of that name elsewhere, else the keys that there are."""
    name, fields = str(spot.keys[-1]), list(spot.owner.model_fields) if spot.owner else []
    parts = name.split(".")
    if (*spot.keys[:-1], *parts) in known.get(parts[-1], []):
        return f"in a file it is written {name.replace('.', ': {')}: …" + "}" * name.count(".")
    if near := nearest(name, fields):
        return f"did you mean {near}?"
    elsewhere = known.get(name)
    return f"did you mean {dotted(elsewhere[0])}?" if elsewhere else one_of(name, fields, "the keys here are")


def _near(came: Any, options: Sequence[str]) -> str:
    near = nearest(str(came), options)
    return f"did you mean {near}?" if near else ""


def _meaning(spot: _Spot) -> str:
    """The first line of what the class says about the missing key."""
    field = spot.owner.model_fields.get(str(spot.keys[-1])) if spot.owner else None
    return (field.description or "").strip().split("\n")[0] if field else ""


def _tag_problem(root: Node, spot: _Spot) -> Problem:
    """A variant without a name, or with a wrong one."""
    keys = (*spot.keys, "type")
    node, place = find(root, keys)
    options = [str(tag) for cls in classes_in(spot.annotation) for tag in tags(cls)]
    if node is None:
        return Problem(MISSING, place, dotted(keys), "missing key", one_of("", options))
    came = plain(node)
    return Problem(
        WRONG, place, dotted(keys), f"should be {' or '.join(options)}; got {shown(came)}", _near(came, options)
    )


def _refusal(root: Node, spot: _Spot, error: Mapping[str, Any]) -> Problem:
    """What a validator of the class said: about one value, or about values that do not go together."""
    said = str(error["ctx"]["error"]) or error["msg"]
    node, place = find(root, spot.keys)
    here = class_of(spot.annotation, node)
    if here is None:
        return Problem(WRONG, place, dotted(spot.keys), f"{said}; got {shown(error['input'])}")
    named = [name for name in re.findall(r"\w+", said) if name in here.model_fields]
    places = [part.place for name in named if (part := child(node, name)) and part.place.source]
    return Problem(IMPOSSIBLE, places[0] if places else place, dotted(spot.keys), said)


def _repaired(root: Node, errors: Sequence[Mapping[str, Any]], spots: Sequence[_Spot]) -> dict[Keys, Node]:
    """For each wrong name of a variant, the nearest right one."""
    result = {}
    for error, spot in zip(errors, spots, strict=True):
        node, place = find(root, (*spot.keys, "type"))
        if error["type"] == "union_tag_invalid" and node:
            options = [str(tag) for cls in classes_in(spot.annotation) for tag in tags(cls)]
            if near := nearest(str(plain(node)), options):
                result[(*spot.keys, "type")] = Node(near, place)
    return result
