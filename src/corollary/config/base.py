"""`Config`, and what can be had from one: YAML, the difference from the defaults, a JSON schema."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

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


def unescape(text: str) -> str:
    """The text that `escape` was given."""
    return _INTERPOLATION.sub(lambda match: match[1][: len(match[1]) // 2] + "${", text)


def _escaped(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _escaped(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_escaped(value) for value in data]
    return escape(data) if isinstance(data, str) else data


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
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


def to_yaml(config: Config | Mapping[str, Any]) -> str:
    """YAML that loads to an equal object: every field, in the order of the class; or a mapping as it is.

    >>> class Optimizer(Config):
    ...     lr: float = 1e-5
    >>> print(to_yaml(Optimizer()), end="")
    lr: 1.0e-05
    """
    data = config.model_dump(mode="json") if isinstance(config, Config) else to_jsonable_python(config)
    return yaml.dump(_escaped(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)


def diff(config: Config, base: Config | None = None) -> dict[str, Any]:
    """What differs from the defaults, nested, as plain data: laid on the defaults it gives `config` again.

    Args:
        config: the settings.
        base: what to compare with, of the same class; the class's defaults when left out.

    Returns:
        Only the fields that differ, and those without a default; a variant in which anything differs keeps its `type`.

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
        tag = {name: part for name, part in value if name == "type"}
        return tag | diff(value, other if type(value) is type(other) else None)
    if isinstance(value, list | tuple):
        return [_difference(item, None) for item in value]
    return to_jsonable_python(value)


def schema(cls: type[Config]) -> dict[str, Any]:
    """The JSON schema of the class's YAML files, for editors: with descriptions, and with `defaults`."""
    result = cls.model_json_schema()
    name = {"type": "string"}
    result["properties"]["defaults"] = {
        "description": "What this file builds on: a preset's name, a path relative to this file, or a list of them.",
        "anyOf": [name, {"type": "array", "items": name}],
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **result}
