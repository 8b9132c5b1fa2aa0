"""Tasks of the package verifiers (its `verifiers.v1`), one turn each: rows for `data.path`, and the environment that scores them.

A task's rewards and metrics are its own, called on a trace that holds its prompt and the model's answer. Tasks that run an agent's
program, in a container or with tools, need verifiers' own runtime and are refused.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib import import_module
from itertools import islice
from typing import Any, Literal

from corollary.custom import file_of, load
from corollary.envs.base import Environment, Turn
from corollary.errors import ConfigError


class Verifiers(Environment):
    """Scores an answer to a row of `corollary.envs.verifiers:tasks` by the task's own rewards."""

    type: Literal["verifiers"] = "verifiers"
    max_turns: Literal[1] = 1  # type: ignore[assignment]
    """an answer is one turn"""
    best: float = 1.0
    """reward of an answer in which everything is right"""

    @property
    def full_mark(self) -> float:
        return self.best

    def episode(self, columns: Mapping[str, Any]) -> Asked:
        if not {"taskset", "index"} <= set(columns):
            hint = "let data.path be corollary.envs.verifiers:tasks"
            raise ConfigError("its rows come from verifiers", where="environment", hint=hint)
        return Asked(_tasks(str(columns["taskset"]))[int(columns["index"])])


class Asked:
    """One task."""

    def __init__(self, task: Any) -> None:
        self.task = task

    def reset(self, seed: int) -> str:
        return ""

    def step(self, action: str) -> Turn:
        vf = _package()
        said = vf.MessageNode(message=vf.AssistantMessage(content=action), sampled=True)
        of = vf.TraceTask(type=type(self.task).__name__, data=self.task.data, key=self.task.key, hash=self.task.hash)
        agent = vf.AgentInfo(config=vf.AgentConfig(), name="model")
        trace = vf.Trace(task=of, agent=agent, nodes=[*_asked(vf, self.task.data), said])
        asyncio.run(self.task.score(trace))
        metrics = {name: float(value) for name, value in trace.metrics.items() if value is not None}
        return Turn(reward=float(trace.reward), terminated=True, info=metrics)


def tasks(*, taskset: str, n: int = 256, params: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """Rows: a prompt of messages, and which task it is.

    Args:
        taskset: a class, path/to/file.py:Name or package.module:Name.
        n: rows at most.
        params: the taskset's own settings.

    Raises:
        ConfigError: the package is missing, or a task needs what is not here.
    """
    asked = json.dumps({"taskset": taskset, "n": n, "params": params or {}}, sort_keys=True)
    vf = _package()
    for index, task in enumerate(_tasks(asked)):
        _refuse(task, taskset)
        messages = [{"role": node.message.role, "content": node.message.content} for node in _asked(vf, task.data)]
        name = task.data.id or task.data.name or str(index)
        yield {"id": name, "prompt": messages, "taskset": asked, "index": index}


def _asked(vf: Any, data: Any) -> list[Any]:
    """The nodes of a task's prompt."""
    said = [vf.UserMessage(content=data.prompt)] if isinstance(data.prompt, str) else [*(data.prompt or [])]
    before = [vf.SystemMessage(content=data.system_prompt)] if data.system_prompt else []
    return [vf.MessageNode(message=message) for message in (*before, *said)]


def _refuse(task: Any, taskset: str) -> None:
    """Refuse what needs more than a prompt and an answer.

    Raises:
        ConfigError: it does.
    """
    lacks = ""
    if task.NEEDS_CONTAINER or task.data.image:
        lacks = "runs in a container"
    elif type(task).toolsets(task.config):
        lacks = "has tools"
    elif task.data.prompt is None:
        lacks = "has no prompt"
    for hook in task.hooks("reward"):
        wanted = inspect.signature(hook).parameters.get("runtime")
        if wanted is not None and wanted.default is wanted.empty:
            lacks = f"has a reward, {hook.__name__}, that asks its runtime"
    if lacks:
        what = f"a task {lacks}, and here it is given a prompt and an answer"
        raise ConfigError(
            what, where=taskset, hint="take a taskset of plain questions, or train it with verifiers itself"
        )


@lru_cache(maxsize=4)
def _tasks(asked: str) -> list[Any]:
    """The tasks that a row names.

    Raises:
        ConfigError: the package or the class is missing, or its settings do not fit.
    """
    wanted, vf = json.loads(asked), _package()
    if file_of(wanted["taskset"]) is None:
        raise ConfigError("there is no such taskset", where=wanted["taskset"], hint="name path/to/file.py:Name")
    cls = load(wanted["taskset"])
    settings = import_module("verifiers.v1.utils.generic").concrete_type(cls, vf.TasksetConfig) or vf.TasksetConfig
    try:
        made = cls(settings(**wanted["params"]))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{type(error).__name__}: {error}", where=wanted["taskset"], hint="see params") from error
    return [*islice(made, wanted["n"])]


def _package() -> Any:
    try:
        return import_module("verifiers.v1")
    except ImportError as error:
        hint = "pip install 'corollary[verifiers]'"
        raise ConfigError("these tasks need the package verifiers", where="environment", hint=hint) from error
