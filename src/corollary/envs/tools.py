"""Tools: the model writes a call, reads what comes back, and ends with a turn without a call.

The call is JSON in a tag, as many chat models were taught it; more than one may stand in a turn:

    <tool_call>{"name": "calculate", "arguments": {"expression": "2 * 3"}}</tool_call>

The tools are the public methods of a plain class, by TRL's convention for its `environment_factory`: `reset(...)` is given the
row's columns that it names and returns text or None, `get_reward()`, where there is one, says what the episode earned, every other
public method is a tool, its docstring and annotations say what for. A class that was written for it runs unchanged.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator

from corollary.config.variants import described
from corollary.custom import file_of, is_reference, load, said
from corollary.envs.base import Environment, Turn

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_CALL = re.compile(f"{OPEN}(.*?){CLOSE}", re.DOTALL)
_NOT_TOOLS = ("reset", "get_reward")


class Tools(Environment):
    """The tools of a class of your own."""

    type: Literal["tools"] = "tools"
    path: str
    """the class: path/to/file.py:Name, or package.module:Name"""
    params: dict[str, Any] = Field(default_factory=dict)
    """what its constructor is called with"""
    told: str | None = None
    """what the system message says of the tools; null: how to call them, with their signatures and docstrings"""
    role: Literal["user", "tool"] = "tool"
    """who speaks the tools' answers, in the chat template; some templates know no tool"""

    @field_validator("path")
    @classmethod
    def _reference(cls, value: str) -> str:
        if not is_reference(value):
            raise ValueError(f"a class is named path/to/file.py:Name or package.module:Name, not {value!r}")
        return value

    def instance(self) -> Any:
        """A fresh instance of the class."""
        return load(self.path)(**self.params)

    @property
    def file(self) -> str:
        return str(file_of(self.path) or "")

    @property
    def full_mark(self) -> float:
        return 1.0 if "get_reward" in tools_of(type(self.instance()), own_too=True) else 0.0

    @property
    def instructions(self) -> str:
        return described_tools(tools_of(type(self.instance()))) if self.told is None else self.told

    def episode(self, columns: Mapping[str, Any]) -> Calls:
        return Calls(self.instance(), columns)


class Calls:
    """One instance, and the calls that a model makes to it."""

    def __init__(self, instance: Any, columns: Mapping[str, Any]) -> None:
        self.instance, self.columns = instance, columns
        self.tools = tools_of(type(instance))

    def reset(self, seed: int) -> str:
        offered = {"seed": seed, **self.columns}
        parameters = inspect.signature(self.instance.reset).parameters.values()
        every = any(p.kind is p.VAR_KEYWORD for p in parameters)
        named = {p.name for p in parameters}
        return self.instance.reset(**{k: v for k, v in offered.items() if every or k in named}) or ""

    def step(self, action: str) -> Turn:
        """Carry out the calls; a turn without one is the final answer."""
        if OPEN not in action and CLOSE not in action:
            scores = "get_reward" in tools_of(type(self.instance), own_too=True)
            return Turn(reward=self.instance.get_reward() if scores else 0.0, terminated=True)
        answers = [_answered(self.instance, self.tools, call) for call in calls(action)]
        failed = sum(not right for _, right in answers)
        return Turn("\n".join(text for text, _ in answers), info={"calls": len(answers), "failed_calls": failed})


def calls(text: str) -> list[str | None]:
    """What stands in each call of a turn; None for one that does not open or close.

    >>> calls('So <tool_call>{"name": "a"}</tool_call> and <tool_call>{')
    ['{"name": "a"}', None]
    """
    found: list[str | None] = [*_CALL.findall(text)]
    rest = _CALL.sub("", text)
    return found + [None] * (OPEN in rest or CLOSE in rest)


def _answered(instance: Any, tools: Mapping[str, Callable[..., Any]], call: str | None) -> tuple[str, bool]:
    """(what the model reads, whether the call was carried out). What a tool raises is what it says."""
    if call is None:
        return f"error: a call is written {OPEN}…{CLOSE}", False
    try:
        asked = json.loads(call)
    except (ValueError, RecursionError):
        return "error: a call is JSON", False
    if not isinstance(asked, dict) or set(asked) != {"name", "arguments"} or not isinstance(asked["arguments"], dict):
        return 'error: a call is {"name": …, "arguments": {…}}', False
    if not isinstance(asked["name"], str) or asked["name"] not in tools:
        return f"error: there is no such tool; there are {', '.join(tools)}", False
    tool = tools[asked["name"]]
    try:
        arguments = arguments_of(tool).model_validate_json(json.dumps(asked["arguments"]))
        result = tool(instance, **{name: value for name, value in arguments if name in asked["arguments"]})
        return str(asyncio.run(result) if inspect.iscoroutine(result) else result), True
    except ValidationError as error:
        wrong = error.errors()[0]
        return f"error: {'.'.join(map(str, wrong['loc']))}: {wrong['msg']}", False
    except Exception as error:  # noqa: BLE001 - by TRL's convention a tool's exception is an answer that the model reads
        return f"error: {said(error)}", False


@cache
def tools_of(cls: type, *, own_too: bool = False) -> dict[str, Callable[..., Any]]:
    """The public methods of a class by name, of what it inherits too; `own_too`: also those that are no tools."""
    return {
        name: method
        for name, method in inspect.getmembers(cls, inspect.isfunction)
        if not name.startswith("_") and (own_too or name not in _NOT_TOOLS)
    }


@cache
def arguments_of(tool: Callable[..., Any]) -> type[BaseModel]:
    """The arguments of a tool, typed as it is annotated: what is missing, misnamed or of another type is refused."""
    hints = inspect.get_annotations(tool, eval_str=True)
    meanings = described(tool)
    fields: dict[str, Any] = {
        p.name: (
            hints.get(p.name, Any),
            Field(default=... if p.default is p.empty else p.default, description=meanings.get(p.name)),
        )
        for p in [*inspect.signature(tool).parameters.values()][1:]
    }
    return create_model(tool.__name__, __config__=ConfigDict(extra="forbid", strict=True), **fields)


def described_tools(tools: Mapping[str, Callable[..., Any]]) -> str:
    """How to call them, and each with its JSON schema."""
    lines = [json.dumps(_schema(tool), ensure_ascii=False) for tool in tools.values()]
    return "\n".join(
        [
            "You can call tools. Write a call and end your turn; the answer comes back. A turn without a call is your final answer.",
            f'{OPEN}{{"name": "NAME", "arguments": {{"ARGUMENT": "VALUE"}}}}{CLOSE}',
            "Tools:",
            *lines,
        ]
    )


def _schema(tool: Callable[..., Any]) -> dict[str, Any]:
    parameters = arguments_of(tool).model_json_schema()
    shown = {
        name: {key: value for key, value in field.items() if key != "title"}
        for name, field in parameters.get("properties", {}).items()
    }
    purpose = (inspect.getdoc(tool) or "").partition("\n\n")[0]
    return {
        "name": tool.__name__,
        "description": " ".join(purpose.split()),
        "parameters": {"type": "object", "properties": shown, "required": parameters.get("required", [])},
    }
