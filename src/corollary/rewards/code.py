"""The reward `code`: a program earns what its tests say, and runs in a sandbox only.

A row of the data has `tests`, either a list of asserts or the source of a function `check(candidate)`; `entry_point`, the name
of the function under test; and `setup`, which may be empty: what asserts need to have run before them, or, with a check
function, the code that the answer continues.
"""

from __future__ import annotations

import keyword
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal, get_args

from corollary.errors import ConfigError
from corollary.rewards.calling import SampleError
from corollary.rewards.math import Completions, text_of
from corollary.rewards.sandbox import Exam, Limits, Sandbox
from corollary.rewards.sandbox import sandbox as sandbox_of

Credit = Literal["all", "share"]

_LONGEST = 100_000  # characters of an answer; a longer one is no program
_sandbox = cache(sandbox_of)


def code(
    completions: Completions,
    tests: Sequence[object],
    entry_point: Sequence[object],
    setup: Sequence[object] = (),
    *,
    sandbox: str = "monty",
    seconds: float = 3.0,
    memory_mib: int = 512,
    credit: Credit = "all",
) -> list[float]:
    """1 where all tests of a program hold; see `sandbox` for what it is judged in.

    Args:
        completions: the model's answers; the last fenced block of each is its program, or else all of it.
        tests: of each sample, a list of asserts or the source of `check(candidate)`.
        entry_point: name of the function under test.
        setup: code before the asserts, or the code that the answer continues.
        sandbox: monty, bubblewrap or unsafe_subprocess.
        seconds: for all tests of a program together; what is not answered by then has failed.
        memory_mib: MiB that the program may take.
        credit: `share` gives the share of the tests that hold, instead of 0 where one does not.

    Raises:
        SampleError: the data lacks tests or a name.
        ConfigError: the sandbox cannot be used here.

    >>> answer = "The function is:\\n```python\\ndef double(x):\\n    return x + x\\n```"
    >>> tests = ["assert double(2) == 4", "assert double('a') == 'aa'", "assert double(1) == 3"]
    >>> code([answer], [tests], ["double"], sandbox="unsafe_subprocess", credit="share")
    [0.6666666666666666]
    """
    box = _sandbox(sandbox, Limits(seconds=seconds, memory_mib=memory_mib))
    rewards = []
    for row, completion in enumerate(completions):
        before = setup[row] if setup else ""
        exam, stem = exam_of(tests[row], entry_point[row], "" if before is None else before, row=row)
        rewards.append(_earned(box, extracted(text_of(completion), continues=bool(stem)), stem, exam, credit))
    return rewards


def _earned(box: Sandbox, program: str, stem: str, exam: Exam, credit: Credit) -> float:
    if not program.strip() or len(program) > _LONGEST:
        return 0.0
    verdict = box.judge(stem + program, exam)
    return sum(verdict.held) / len(verdict.held) if credit == "share" else float(verdict.passed)


def exam_of(tests: object, name: object, setup: object = "", *, row: int = 0) -> tuple[Exam, str]:
    """The exam that a row of the data asks for, and the code that its answer continues.

    Raises:
        SampleError: they are no such columns.

    >>> exam_of(["assert f(1) == 1"], "f")
    (Exam(entry_point='f', tests=('assert f(1) == 1',), prelude=''), '')
    """
    if not (isinstance(name, str) and name.isidentifier() and not keyword.iskeyword(name)):
        raise SampleError(f"column 'entry_point': expected a function's name, got {str(name)[:60]!r}", row)
    if not isinstance(setup, str):
        raise SampleError(f"column 'setup': expected code as text, got a {type(setup).__name__}", row)
    if isinstance(tests, str) and "def check(" in tests:
        stem = setup and setup + "\n"
        return Exam(entry_point=name, tests=(f"check({name})",), prelude=f"{stem}{tests}"), stem
    if isinstance(tests, list | tuple) and tests and all(isinstance(test, str) for test in tests):
        return Exam(entry_point=name, tests=tuple(tests), prelude=setup), ""
    what = "expected a list of asserts, or the source of a function check(candidate)"
    raise SampleError(f"column 'tests': {what}, got {str(tests)[:60]!r}", row)


def extracted(answer: str, *, continues: bool = False) -> str:
    r"""The program in an answer: its last fenced block; else all of it.

    Args:
        answer: what the model wrote.
        continues: it may go on with code that stands before it. Then an answer that begins indented ends where a line
            does not, since models go on talking.

    >>> extracted("First\n```python\nx = 1\n```\nthen\n```\nx = 2\n```\nThat is all.")
    'x = 2\n'
    >>> extracted("    return x\n\nprint(f(1))", continues=True)
    '    return x\n\n'
    """
    fenced: list[list[str]] = []
    within = False
    lines = answer.splitlines(keepends=True)
    for line in lines:
        if line.lstrip().startswith("```"):
            within = not within
            fenced += [[]] if within else []
        elif within:
            fenced[-1].append(line)
    program = fenced[-1] if fenced else lines
    first = next((line for line in program if line.strip()), "")
    if continues and first[:1].isspace():
        end = next((i for i, line in enumerate(program) if line.strip() and not line[0].isspace()), len(program))
        program = program[:end]
    return "".join(program)


def ready(params: Mapping[str, Any]) -> None:
    """Nothing, if the reward can work with these parameters here.

    Raises:
        ConfigError: a parameter is wrong, or the sandbox cannot be used; before anything is trained.
    """
    known = {"sandbox": str, "seconds": (int, float), "memory_mib": int, "credit": str}
    for name, value in params.items():
        if name not in known:
            raise ConfigError(f"reward code: unknown parameter {name!r}", hint=f"it takes {', '.join(known)}")
        if not isinstance(value, known[name]) or isinstance(value, bool):
            raise ConfigError(f"reward code: {name}: {value!r} will not do")
    if (credit := params.get("credit", "all")) not in get_args(Credit):
        raise ConfigError(f"reward code: credit is all or share, got {credit!r}")
    given = {name: params[name] for name in ("seconds", "memory_mib") if name in params}
    sandbox_of(params.get("sandbox", "monty"), Limits(**given))
