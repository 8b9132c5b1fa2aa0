"""What the classes say about a place in the tree: which class stands there, and what it has by default."""

from __future__ import annotations

from collections.abc import Collection
from functools import reduce
from operator import or_
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic_core import PydanticUndefined, to_jsonable_python

from corollary.config.base import Config, default_of, escape
from corollary.config.problems import WRONG, InvalidConfig, Problem
from corollary.config.tree import Node, child, children, merge, with_children
from corollary.config.variants import Custom
from corollary.custom import is_reference
from corollary.errors import ConfigError


def classes_in(annotation: Any) -> list[type[Config]]:
    """The `Config` classes that a value of this type may be of.

    >>> class A(Config): ...
    >>> [c.__name__ for c in classes_in(A | int | None)], classes_in(list[A])
    (['A'], [])
    """
    if get_origin(annotation) is Annotated:
        return classes_in(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in classes_in(part)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, Config) else []


def tags(cls: type[Config]) -> tuple[Any, ...]:
    """The names by which `type` chooses this class; none where it has no such field."""
    return get_args(cls.model_fields["type"].annotation) if "type" in cls.model_fields else ()


def variants_in(annotation: Any) -> list[type[Config]]:
    """The variants that a setting may be by name, a user's own not among them."""
    return [cls for cls in classes_in(annotation) if not issubclass(cls, Custom)]


def class_of(annotation: Any, node: Node | None) -> type[Config] | None:
    """The class that stands at `node`: the only one there may be, or the one that its `type` names."""
    classes = classes_in(annotation)
    if len(classes) == 1:
        return classes[0]
    tag = child(node, "type")
    if tag is None or tag.branch:
        return None
    own = [cls for cls in classes if issubclass(cls, Custom)] if is_reference(tag.value) else []
    if not own:
        return next((cls for cls in classes if tag.value in tags(cls)), None)
    try:
        return own[0].resolved(tag.value)
    except ConfigError as fault:
        raise InvalidConfig([Problem(WRONG, tag.place, "type", fault.what, fault.hint)]) from fault


def below(annotation: Any, node: Node | None, key: str | int) -> Any:
    """The type of what lies under `key`; None where the classes do not say."""
    if cls := class_of(annotation, node):
        return cls.model_fields[str(key)].annotation if key in cls.model_fields else None
    inner = tuple(part for part in _inside(annotation) if part is not Ellipsis)
    return reduce(or_, inner) if inner else None


def _inside(annotation: Any) -> tuple[Any, ...]:
    """The type arguments of the containers in a union."""
    if get_origin(annotation) is Annotated:
        return _inside(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(kind for part in get_args(annotation) for kind in _inside(part))
    origin = get_origin(annotation)
    return get_args(annotation) if isinstance(origin, type) and issubclass(origin, Collection) else ()


def built_in(value: Any) -> Node:
    """The tree of a default: open where overrides may reach into it, a leaf elsewhere."""
    if isinstance(value, Config):
        return Node({name: built_in(part) for name, part in value}, branch=True)
    if isinstance(value, list | tuple):
        return Node([built_in(part) for part in value], branch=True)
    data = to_jsonable_python(value)
    return Node(escape(data) if isinstance(data, str) else data)


def _bare(node: Node, annotation: Any) -> bool:
    """Whether the leaf is a word where only variants may stand."""
    classes = classes_in(annotation)
    named = len(classes) > 1 and all(map(tags, variants_in(annotation))) and str not in kinds(annotation)
    return named and isinstance(node.value, str) and "${" not in node.value


def filled(node: Node, annotation: Any) -> Node:
    """The tree laid on the defaults of the classes that stand in it; a variant's bare name becomes its `type`."""
    if _bare(node, annotation):
        node = Node({"type": node}, node.place, branch=True)
    if not node.branch:
        return node
    parts = children(node)
    cls = class_of(annotation, node) if isinstance(node.value, dict) else None
    for name, field in cls.model_fields.items() if cls else ():
        default = default_of(field)
        if default is not PydanticUndefined:
            under = built_in(default)
            parts[name] = merge(under, parts[name]) if name in parts else under
    return with_children(node, {key: filled(part, below(annotation, node, key)) for key, part in parts.items()})


def kinds(annotation: Any) -> list[Any]:
    """Every type that an annotation is made of, itself first.

    >>> kinds(list[int] | None)
    [list[int] | None, list[int], <class 'int'>, <class 'NoneType'>]
    """
    return [annotation, *(kind for part in get_args(annotation) for kind in kinds(part))]
