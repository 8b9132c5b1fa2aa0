"""The sandbox `monty`: an interpreter of a subset of Python, written in Rust, that has no file, network or process to offer.

It runs wherever its package does, and starts in a few milliseconds. It knows a part of the standard library and not every
construct (no `yield`, for one), so that some sound programs fail; docs/guides/code-rewards.md says how many.

Source: https://github.com/pydantic/monty
"""

from __future__ import annotations

import asyncio
from functools import cache

from pydantic_monty import (
    AsyncFunctionSnapshot,
    AsyncFutureSnapshot,
    AsyncMonty,
    AsyncMontySession,
    AsyncNameLookupSnapshot,
    AsyncSnapshot,
    MontyComplete,
    MontyError,
    MontyRuntimeError,
    MontySyntaxError,
    OSPolicy,
    ResourceLimits,
)

from corollary.errors import ConfigError
from corollary.rewards.sandbox import inside
from corollary.rewards.sandbox.base import GRACE, OTHERS, Exam, Limits, Verdict

_PROXY = "def {name}(*arguments, **keywords):\n    return _ask(*arguments, **keywords)"
_POLICY: OSPolicy = {"random_start": {"seed": 0}}
_RAISED = (MontyRuntimeError, MontySyntaxError)
_Step = AsyncFunctionSnapshot | AsyncNameLookupSnapshot | AsyncFutureSnapshot


class Monty:
    """Judges with two interpreters, the candidate's and the examiner's, each in a fresh process.

    Raises:
        ConfigError: the interpreter does not start here.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        _tried()

    def judge(self, program: str, exam: Exam) -> Verdict:
        return asyncio.run(_judged(program, exam, self._limits))


async def _judged(program: str, exam: Exam, limits: Limits) -> Verdict:
    held: list[bool] = []
    whys: list[str] = []
    limited: ResourceLimits = {
        "max_memory": limits.memory_mib << 20,
        "max_feed_duration_secs": limits.seconds,
        "max_total_sleep_secs": limits.seconds,
        "max_suspensions": inside.ITEMS,
    }
    try:
        async with (
            asyncio.timeout(limits.seconds),
            AsyncMonty(min_processes=2, max_processes=2, feed_duration_limit_grace=GRACE / 2) as pool,
            pool.checkout(limits=limited, os_policy=_POLICY) as examiner,
            pool.checkout(limits=limited, os_policy=_POLICY) as candidate,
        ):
            room = _Room(examiner, candidate, exam.entry_point)
            await room.begin(exam.prelude, program)
            for number, test in enumerate(exam.tests, 1):
                why = await room.fault(test)
                held.append(not why)
                whys += [f"test {number}: {why}"] if why else []
    except TimeoutError:
        whys.append("no answer before the deadline")
    except MontyError as error:  # the tests do not run, or an interpreter crashed
        whys.append(str(error))
    return Verdict((*held, *[False] * (len(exam.tests) - len(held))), whys[0] if whys else "")


class _Room:
    """The two interpreters of a judgement, and the name by which one asks the other."""

    def __init__(self, examiner: AsyncMontySession, candidate: AsyncMontySession, name: str) -> None:
        self._examiner, self._candidate, self._name = examiner, candidate, name
        self._broken: Exception | None = None  # why the program did not run to its end

    async def begin(self, prelude: str, program: str) -> None:
        await self._examiner.feed_run(prelude, print_callback=_unheard)
        await self._examiner.feed_run(_PROXY.format(name=self._name))
        try:
            await self._candidate.feed_run(program, print_callback=_unheard)
        except _RAISED as error:
            self._broken = _inner(error)

    async def fault(self, test: str) -> str:
        """Why a test does not hold; empty if it does."""
        try:
            step = await self._examiner.feed_start(test, print_callback=_unheard)
            while not isinstance(step, MontyComplete):
                step = await self._next(step)
        except _RAISED as error:
            return str(error)
        return ""

    async def _next(self, step: _Step) -> AsyncSnapshot:
        if not (isinstance(step, AsyncFunctionSnapshot) and step.function_name == "_ask"):
            return await step.resume_auto()
        try:
            value = await self._answer(step.args, step.kwargs)
        except Exception as error:  # noqa: BLE001 - whatever the program raised, it raises in the test
            return await step.resume({"exception": error})
        return await step.resume({"return_value": value})

    async def _answer(self, arguments: tuple[object, ...], keywords: dict[str, object]) -> object:
        if self._broken:
            raise self._broken
        call = f"{self._name}(*_arguments, **_keywords)"
        inputs = {"_arguments": _plain(list(arguments)), "_keywords": _plain(keywords)}
        try:
            return _plain(await self._candidate.feed_run(call, inputs=inputs, print_callback=_unheard))
        except _RAISED as error:
            raise _inner(error) from None


def _inner(error: MontyError) -> Exception:
    inner = error.exception()
    return inner if isinstance(inner, Exception) else RuntimeError(str(error))


def _plain(value: object) -> object:
    """The value, if it is plain data. Raises: ValueError."""
    return inside.decode(inside.encode(value))


def _unheard(stream: str, text: str) -> None:
    """What is printed counts for nothing."""


@cache
def _tried() -> None:
    try:
        verdict = asyncio.run(
            _judged("def f(x): return x", Exam(entry_point="f", tests=("assert f(1) == 1",)), Limits())
        )
    except Exception as error:  # whatever is missing
        raise ConfigError(f"the sandbox monty does not start: {error}", hint=OTHERS["monty"], code="E0120") from error
    if not verdict.passed:
        raise ConfigError(f"the sandbox monty does not work: {verdict.why}", hint=OTHERS["monty"], code="E0120")
