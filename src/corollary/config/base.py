"""`Config`, and what can be had from one: YAML, the difference from the defaults, a JSON schema."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError, PydanticUndefined, to_jsonable_python

from corollary.config.reading import scalar


class Config(BaseModel):
    """Settings: frozen, closed, finite; the docstring under a field says what it means, its unit and range.

    Variants are classes with a field `type: Literal["name"] = "name"`, and the field that takes them is declared
    `Annotated[A | B, Field(discriminator="type")]`. An impossible combination is refused by a
    `@model_validator(mode="after")` that raises `ValueError` naming both fields.

    >>> class Optimizer(Config):
    ...     lr: float = 1e-5
    >>> Optimizer(lr=1e-4)
    Optimizer(lr=0.0001)
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = set(_kinds(cls.model_fields[str(info.field_name)].annotation))
        items = value if isinstance(value, list | tuple) else [value]
        if kinds & {int, float} and bool not in kinds and any(isinstance(item, bool) for item in items):
            raise PydanticCustomError("bool_for_number", "Input should be a number")
        return value


def _kinds(annotation: Any) -> Iterator[Any]:
    """The types that an annotation is made of."""
    yield annotation
    for part in get_args(annotation):
        yield from _kinds(part)


def alternatives(annotation: Any) -> list[Any]:
    """The members of a union, `Annotated` taken off; the annotation alone where it is none."""
    if get_origin(annotation) is Annotated:
        return alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in alternatives(part)]
    return [annotation]


def default_of(field: FieldInfo) -> Any:
    """The default of a field; `PydanticUndefined` where it has none of its own."""
    if field.is_required() or field.default_factory_takes_validated_data:
        return PydanticUndefined
    return field.get_default(call_default_factory=True)


_INTERPOLATION = re.compile(r"(\\*)\$\{")


def escape(text: str) -> str:
    r"""`text` such that interpolation gives `text` again.

    >>> escape("a${b}")
    'a\\${b}'
    """
    return _INTERPOLATION.sub(r"\1\1\\${", text)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, data: str) -> yaml.ScalarNode:
        lines = data.split("\n")
        if not all(line.isprintable() for line in lines):
            style = '"'
        elif len(lines) > 1:
            style = "|"
        else:
            style = None if isinstance(scalar(data), str) else "'"
        return self.represent_scalar("tag:yaml.org,2002:str", escape(data), style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


def to_yaml(config: Config | Mapping[str, Any]) -> str:
    """YAML that loads to an equal object: every field, in the order of the class; or a mapping as it is.

    >>> class Optimizer(Config):
    ...     lr: float = 1e-5
    >>> print(to_yaml(Optimizer()), end="")
    lr: 1.0e-05
    """
    data = config.model_dump(mode="json") if isinstance(config, Config) else to_jsonable_python(config)
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)


def diff(config: Config, base: Config | None = None) -> dict[str, Any]:
    """What differs from the defaults, nested, as plain data: laid on the defaults it gives `config` again.

    Args:
        config: the settings.
        base: what to compare with, of the same class; the class's defaults when left out.

    Returns:
        Only the fields that differ, and those without a default; a variant keeps its `type` where anything in it differs.

    >>> class Optimizer(Config):
    ...     lr: float = 1e-5
    ...     decay: float = 0.0
    >>> diff(Optimizer(lr=1e-4))
    {'lr': 0.0001}
    """
    result = {}
    for name, field in type(config).model_fields.items():
        value, other = getattr(config, name), getattr(base, name) if base else default_of(field)
        if other is PydanticUndefined or value != other:
            result[name] = _difference(value, other)
    return result


def _difference(value: Any, other: Any) -> Any:
    if isinstance(value, Config):
        tag = {"type": value.type} if "type" in type(value).model_fields else {}
        return tag | diff(value, other if type(value) is type(other) else None)
    if isinstance(value, list | tuple):
        return [_difference(item, None) for item in value]
    return to_jsonable_python(value)


def schema(cls: type[Config]) -> dict[str, Any]:
    """The JSON schema of the class's YAML files, for editors: with descriptions, and with `defaults`."""
    result = cls.model_json_schema()
    name = {"type": "string"}
    result["properties"]["defaults"] = {
        "description": "What this file builds on: a preset's name, or the path of a file relative to this one; or a list.",
        "anyOf": [name, {"type": "array", "items": name}],
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **result}
