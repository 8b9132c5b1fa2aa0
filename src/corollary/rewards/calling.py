"""How a reward function is found, called and checked; and the process that does it for the pool.

Standard library only, so that a worker starts in a few hundredths of a second and holds no copy of torch.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import inspect
import json
import math
import os
import pickle
import select
import signal
import struct
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from numbers import Real
from types import SimpleNamespace
from typing import Literal

from corollary import custom

RewardFunction = Callable[..., object]
"""`f(prompts, completions, **columns) -> list[float | None]`, or async; None: does not apply to this sample."""

OFFERED = ("prompts", "completions", "prompt_ids", "completion_ids", "trainer_state", "log_extra", "log_metric")
"""Keywords that every reward function is offered besides the data set's columns."""


class SampleError(ValueError):
    """Raised in a reward function: this sample's data cannot be judged, whatever the answer is.

    Args:
        what: what is wrong with the data, one line.
        sample: its index in the call.
    """

    def __init__(self, what: str, sample: int) -> None:
        self.sample = sample
        super().__init__(what)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a reward function, on samples that lie side by side in its keywords."""

    reference: str  # "package.module:function" or "/folder/file.py:function"
    keywords: Mapping[str, object]
    count: int  # samples; 0 loads the function and checks its parameters, and does not call it
    seconds: float = 60.0  # deadline, counted from when the function is loaded
    step: int = 0  # optimizer steps done, for `trainer_state`


@dataclass(frozen=True, slots=True)
class Values:
    """What a function returned, one value for each sample of the call."""

    values: tuple[float | None, ...]
    bad: Mapping[int, str] = field(default_factory=dict)  # index → what stood there instead of a finite number


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a call gave no values."""

    kind: Literal["raised", "hung", "returned", "unloadable", "died", "parameters", "sample"]
    what: str
    where: str = ""  # file:line of the user's code
    sample: int | None = None  # index in the call, where it is known


def load(reference: str) -> RewardFunction:
    """The function that a reference names; see `custom.load`.

    >>> load("math:sqrt")(4.0)
    2.0
    """
    function = custom.load(reference)
    if not callable(function):
        raise TypeError(f"{reference.rpartition(':')[2]} is a {type(function).__name__}, not a function")
    return function


def offered(function: RewardFunction, keywords: Mapping[str, object]) -> dict[str, object] | Fault:
    """The keywords that the function takes: all of them if it ends in `**kwargs`, else those that it names.

    >>> offered(lambda completions, answer: [], {"prompts": [], "completions": [], "answer": []})
    {'completions': [], 'answer': []}
    >>> offered(lambda solution: [], {"prompts": [], "answer": []}).what
    "it takes 'solution', which is no column of the data; there is: answer"
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin tells nothing about its parameters
        return dict(keywords)
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    missing = [p.name for p in named if p.default is p.empty and p.name not in keywords]
    if missing:
        columns = ", ".join(name for name in keywords if name not in OFFERED) or "none"
        wanted = ", ".join(map(repr, missing))
        return Fault("parameters", f"it takes {wanted}, which is no column of the data; there is: {columns}")
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return dict(keywords)
    return {p.name: keywords[p.name] for p in named if p.name in keywords}


def perform(function: RewardFunction, call: Call) -> Values | Fault:
    """Call the function and check what it returned. What the function raises is left to the caller."""
    state = SimpleNamespace(global_step=call.step, epoch=0.0, max_steps=0, is_world_process_zero=True, log_history=[])
    ours = {"trainer_state": state, "log_extra": lambda column, values: None, "log_metric": lambda name, value: None}
    keywords = offered(function, {**call.keywords, **ours})
    if isinstance(keywords, Fault) or call.count == 0:
        return keywords if isinstance(keywords, Fault) else Values(())
    result = function(**keywords)
    if inspect.iscoroutine(result):
        result = asyncio.run(result)
    return checked(result, call.count)


def checked(result: object, count: int) -> Values | Fault:
    """A function's result as values; nothing is broadcast, converted from text or taken for 0.

    >>> checked([1, None, float("nan")], 3)
    Values(values=(1.0, None, None), bad={2: 'nan'})
    >>> checked([1.0], 3).what
    'expected 3 values, one for each completion, got 1'
    """
    if not isinstance(result, list | tuple):
        return Fault("returned", f"expected a list of {count} floats or None, got {shown(result)}")
    if len(result) != count:
        return Fault("returned", f"expected {count} values, one for each completion, got {len(result)}")
    values, bad = [], {}
    for index, item in enumerate(result):
        value = item if item is None else _finite(item)
        if item is not None and value is None:
            bad[index] = shown(item)
        values.append(value)
    return Values(tuple(values), bad)


def _finite(item: object) -> float | None:
    if isinstance(item, bool) or not isinstance(item, Real):
        return None
    try:
        value = float(item)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def shown(thing: object) -> str:
    """A short name for a value that should not be there; never runs the value's own code.

    >>> shown(float("inf")), shown("1.0"), shown((1.0 for _ in ()))
    ('inf', "the str '1.0'", 'a generator')
    """
    if type(thing) is float or thing is None:
        return repr(thing)
    if type(thing) in (str, bool):
        return f"the {type(thing).__name__} {repr(thing)[:40]}"
    return f"a {type(thing).__name__}"


def described(error: BaseException, reference: str, kind: Literal["raised", "unloadable"] = "raised") -> Fault:
    """What was raised and where: the innermost line of the user's own file, else of any."""
    if isinstance(error, SampleError):
        return Fault("sample", custom.said(error).partition(": ")[2], sample=error.sample)
    return Fault(kind, custom.said(error), custom.line_of(error, reference.rpartition(":")[0]))


# ---------------------------------------------------------------------------------------------------------------------
# The worker process. A frame is 8 bytes of length and then that many bytes. Requests are pickled by the parent, whose own
# data they are. Answers are JSON, since what runs here is not the parent's code: first {} when the function is loaded and
# its clock starts, then the outcome.


def framed(payload: bytes) -> bytes:
    return struct.pack("!Q", len(payload)) + payload


def outcome(payload: bytes) -> Values | Fault:
    """The outcome that a frame holds.

    >>> outcome(b'{"values": [1.0, null], "bad": {"1": "nan"}}')
    Values(values=(1.0, None), bad={1: 'nan'})
    """
    data = json.loads(payload)
    if "kind" in data:
        return Fault(**data)
    return Values(tuple(data["values"]), {int(index): what for index, what in data["bad"].items()})


def serve(channel: int, parent: int) -> None:
    """Answer requests until the parent closes the channel or dies.

    Args:
        channel: descriptor of a stream socket to the parent.
        parent: pid to die with, where the kernel offers that; 0 to rely on the channel alone.
    """
    os.set_inheritable(channel, False)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=False)  # the parent asks where we hang, before it kills
    _die_with(parent)
    # Waits for the parent to hang up, also while the user's code runs; consumes nothing; ends the process group.
    threading.Thread(target=_until_hung_up, args=(channel,), daemon=True).start()
    functions: dict[str, RewardFunction] = {}
    while request := _receive(channel):
        _send(channel, _answer(channel, request, functions))


def _answer(channel: int, request: bytes, functions: dict[str, RewardFunction]) -> Values | Fault:
    reference, kind = "", "unloadable"
    try:
        call: Call = pickle.loads(request)
        reference = call.reference
        if reference not in functions:
            functions[reference] = load(reference)
        os.write(channel, framed(b"{}"))
        kind = "raised"
        return perform(functions[reference], call)
    except BaseException as error:  # noqa: BLE001 - SystemExit and the like are the user's code, too
        return described(error, reference, kind)


def _die_with(parent: int) -> None:
    if parent and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: works where C code holds the GIL
        if os.getppid() != parent:
            os._exit(1)


def _until_hung_up(channel: int) -> None:
    waiting = select.poll()
    waiting.register(channel, 0)  # POLLHUP is always reported
    waiting.poll()
    os.killpg(0, signal.SIGKILL)


def _send(channel: int, result: Values | Fault) -> None:
    data = memoryview(framed(json.dumps(asdict(result)).encode()))
    while data:
        data = data[os.write(channel, data) :]


def _receive(channel: int) -> bytes:
    head = _exactly(channel, 8)
    return _exactly(channel, struct.unpack("!Q", head)[0]) if head else b""


def _exactly(channel: int, count: int) -> bytes:
    parts: list[bytes] = []
    while count > 0 and (part := os.read(channel, min(count, 1 << 20))):
        parts.append(part)
        count -= len(part)
    return b"".join(parts) if count == 0 else b""
