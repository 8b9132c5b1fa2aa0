"""Variants of a setting: by their bare name, as the settings of a function, and from a user's own file.

A function's positional parameters are its *inputs* (tensors, or whatever it works on); its keyword-only ones are its
*parameters*, and they become the fields of a `Variant`. So a formula is written once, and YAML, the command line, the
schema and the catalogue know its parameters with their types, defaults and ranges.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_type_hints

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Tag,
    create_model,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticUndefined, core_schema

from corollary.config.base import Config
from corollary.config.problems import nearest
from corollary.custom import file_of, is_reference, line_of, load, said
from corollary.errors import ConfigError, UserCodeError


def by_name(value: object) -> object:
    """Lets `average: token_mean` stand for `average: {type: token_mean}`.

    >>> by_name("token_mean")
    {'type': 'token_mean'}
    """
    return {"type": value} if isinstance(value, str) else value


class Variant(Config):
    """The parameters of one function or class; called with its inputs by name, it calls that."""

    # its fields are described by the function's docstring; reading them from source, pydantic would parse the caller's, from the middle
    model_config = ConfigDict(use_attribute_docstrings=False)

    type: str
    target: ClassVar[Callable[..., Any]]
    inputs: ClassVar[tuple[str, ...]]  # names that the function takes, in order
    optional: ClassVar[frozenset[str]]  # those of them that have a default

    @property
    def parameters(self) -> dict[str, Any]:
        """What the function is called with besides its inputs."""
        return {name: value for name, value in self if name != "type"}

    def __call__(self, **inputs: Any) -> Any:
        """The function on those of the inputs that it takes."""
        cls = type(self)
        taken = {name: inputs[name] for name in cls.inputs if name in inputs}
        if isinstance(cls.target, type):
            return cls.target(**self.parameters)(**taken)
        return cls.target(**taken, **self.parameters)


@cache
def variant(target: Callable[..., Any], name: str = "") -> type[Variant]:
    """The settings of a function, or of a class whose instances are called.

    Args:
        target: a function, whose keyword-only parameters become the fields; or a class (a dataclass, a `Config`), whose
            constructor's parameters become the fields, and whose `__call__` takes the inputs.
        name: what `type` calls it; the function's own name when left out.

    >>> def scaled(x, *, by: float = 2.0):
    ...     return x * by
    >>> Scaled = variant(scaled)
    >>> Scaled(by=3.0)(x=2.0), Scaled().type
    (6.0, 'scaled')
    """
    if not callable(target) or (
        isinstance(target, type) and not any("__call__" in vars(base) for base in target.__mro__)
    ):
        raise TypeError(
            f"{target.__name__ if isinstance(target, type) else target!r} cannot be called: give it a __call__"
        )
    if inspect.iscoroutinefunction(target):
        raise TypeError(f"{target.__name__} is async; a formula is a plain function")
    name = name or target.__name__
    called = target.__call__ if isinstance(target, type) else target
    positional = [p for p in _parameters(called) if p.kind in (p.POSITIONAL_OR_KEYWORD, p.POSITIONAL_ONLY)]
    inputs = [p for p in positional if p.name != "self"]
    tag: Any = (Literal[name], name)
    made = create_model(
        name if isinstance(target, type) else _camel(target.__name__),
        __base__=Variant,
        __module__=target.__module__,
        __doc__=inspect.getdoc(target) or "",
        type=tag,
        **_fields(target),
    )
    made.target = staticmethod(target) if not isinstance(target, type) else target
    made.inputs = tuple(p.name for p in inputs)
    made.optional = frozenset(p.name for p in inputs if p.default is not p.empty)
    return made


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())


def _fields(target: Callable[..., Any]) -> dict[str, Any]:
    """Name → (type, default or FieldInfo) of each parameter."""
    if isinstance(target, type) and issubclass(target, Config):
        return {n: (f.annotation, f) for n, f in target.model_fields.items() if n != "type"}
    hints = get_type_hints(target.__init__ if isinstance(target, type) else target, include_extras=True)
    meanings = described(target)
    fields = {}
    for p in _parameters(target):
        if not isinstance(target, type) and p.kind is not p.KEYWORD_ONLY:
            continue
        default = PydanticUndefined if p.default is p.empty else p.default
        annotation = hints.get(p.name, Any if default is PydanticUndefined else type(default))
        field = FieldInfo.from_annotated_attribute(annotation, default)
        field.description = field.description or meanings.get(p.name)
        fields[p.name] = (annotation, field)
    return fields


def described(target: Callable[..., Any]) -> dict[str, str]:
    """What the docstring's `Args:` says of each parameter.

    >>> described(described)
    {'target': 'a function with a docstring.'}

    Args:
        target: a function with a docstring.
    """
    block = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", inspect.getdoc(target) or "", re.MULTILINE)
    found = re.findall(r"^ {4}([\w, ]+): ((?:.*)(?:\n {8,}.*)*)", block[1] if block else "", re.MULTILINE)
    return {name: " ".join(text.split()) for names, text in found for name in names.split(", ")}


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


T = TypeVar("T")


def _of_file(reference: str, made: Callable[[Any], T]) -> T:
    """`made` of what a reference names; whatever fails is the user's file's fault.

    Raises:
        ConfigError: there is no such file.
        UserCodeError: the file does not load, has no such name, or nothing can be made of it.
    """
    place, _, name = reference.rpartition(":")
    file = file_of(reference)
    if file is None and not place.endswith(".py"):
        raise ConfigError(
            f"{reference!r}: no module {place} is installed", hint="a file of your own is named path/to/file.py:name"
        )
    if file is None:
        sought = Path(place).expanduser().absolute()
        near = nearest(sought.name, [path.name for path in sought.parent.glob("*.py")])
        hint = f"did you mean {near}?" if near else "a path is seen from the working directory"
        raise ConfigError(f"{reference!r}: there is no file {sought}", hint=hint)
    try:
        return made(load(f"{file}:{name}" if place.endswith(".py") else reference))
    except (Exception, SystemExit) as cause:
        raise UserCodeError(
            f"{name} cannot be loaded: {said(cause)}", where=line_of(cause, str(file)), hint="contract clause: loads"
        ) from cause


@cache
def from_file(reference: str, inputs: frozenset[str] | None) -> type[Variant]:
    """The settings of a user's own function or class.

    Args:
        reference: `folder/file.py:name`, seen from the working directory, or `package.module:name`, installed.
        inputs: names that it may take; None: any.

    Raises:
        ConfigError: there is no such file.
        UserCodeError: the file does not load, has no such name, or the function takes what nobody gives it.
    """
    made = _of_file(reference, lambda target: variant(target, reference))
    known = sorted(made.inputs if inputs is None else inputs)
    for unknown in sorted(set(made.inputs) - {*known}):
        near = nearest(unknown, known)
        file, line = defined(made.target)
        raise UserCodeError(
            f"{reference.rpartition(':')[2]} takes {unknown!r}, which is no input here",
            where=f"{file}:{line}",
            hint="contract clause: inputs; "
            + (f"did you mean {near}? " if near else f"inputs are {', '.join(known)}; ")
            + "a parameter of its own is keyword-only (behind *)",
        )
    return made


@cache
def class_from_file(reference: str, base: type[Config]) -> type[Config]:
    """A user's own class of settings, whose `type` is the reference.

    Args:
        reference: `folder/file.py:Name`, seen from the working directory.
        base: what it must be a subclass of.

    Raises:
        ConfigError: there is no such file.
        UserCodeError: the file does not load, or has no such subclass.
    """

    def made(target: Any) -> type[Config]:
        if not (isinstance(target, type) and issubclass(target, base)):
            raise TypeError(f"it is no subclass of {base.__module__}.{base.__name__}")
        tag: Any = (Literal[reference], reference)
        return create_model(
            target.__name__,
            __base__=target,
            __module__=target.__module__,
            __doc__=inspect.getdoc(target) or "",
            type=tag,
        )

    return _of_file(reference, made)


def defined(target: Callable[..., Any]) -> tuple[str, int]:
    """File and line of a function, or of a class's `__call__`."""
    code = inspect.unwrap(target.__call__ if isinstance(target, type) else target).__code__
    return code.co_filename, code.co_firstlineno


CUSTOM = "custom"  # the tag of a user's own in a union of variants


class Custom(Config):
    """Stands in a union of variants for `type: file.py:name`; what it validates to is the variant of that function."""

    type: str
    inputs: ClassVar[frozenset[str]]

    @classmethod
    def resolved(cls, reference: str) -> type[Config]:
        """The class that a reference names."""
        return from_file(reference, cls.inputs)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def validate(value: Any) -> Config:
            if isinstance(value, Config):
                return value
            return cls.resolved(value["type"]).model_validate(value)

        return core_schema.no_info_plain_validator_function(
            validate,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda value, info: value.model_dump(mode=info.mode), info_arg=True
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {
            "type": "object",
            "description": "Your own: path/to/file.py:name, with its parameters.",
            "properties": {"type": {"type": "string", "pattern": ":"}},
            "required": ["type"],
        }


class Subclass(Custom):
    """Stands for a user's own class of settings: a subclass of `base`."""

    base: ClassVar[type[Config]]

    @classmethod
    def resolved(cls, reference: str) -> type[Config]:
        return class_from_file(reference, cls.base)


def one_of_classes(classes: Iterable[type[Config]], base: type[Config]) -> Any:
    """The type of a setting that is one of `classes`, or a subclass of `base` in the user's own file."""
    named = {"base": base, "inputs": frozenset(), "__annotations__": {}, "__module__": __name__}
    return _union(classes, type("Custom", (Subclass,), named))


def choice(variants: Iterable[type[Config]], inputs: Iterable[str]) -> Any:
    """The type of a setting that is one of `variants`, or the user's own function of some of `inputs`.

    >>> def scaled(x, *, by: float = 2.0):
    ...     return x * by
    >>> def shifted(x, *, by: float = 2.0):
    ...     return x + by
    >>> class Settings(Config):
    ...     change: choice([variant(scaled), variant(shifted)], ["x"]) = variant(scaled)()
    >>> Settings(change={"type": "shifted", "by": 1}).change(x=1.0)
    2.0
    """
    return _union(variants, type("Custom", (Custom,), {"inputs": frozenset(inputs), "__annotations__": {}}))


def _union(variants: Iterable[type[Config]], own: type[Custom]) -> Any:
    members = [Annotated[cls, Tag(tag)] for cls in variants for tag in _tags(cls)]
    union = Union[(*members, Annotated[own, Tag(CUSTOM)])]  # type: ignore[valid-type]
    return Annotated[union, Discriminator(_tag), BeforeValidator(by_name)]


def _tags(cls: type[Config]) -> tuple[str, ...]:
    return cls.model_fields["type"].annotation.__args__  # type: ignore[union-attr]


def _tag(value: Any) -> str | None:
    tag = value.get("type") if isinstance(value, dict) else value.type
    return CUSTOM if is_reference(tag) else tag
