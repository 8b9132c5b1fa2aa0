"""Programming problems with tests, as the reward `code` takes them.

MBPP's 500 tasks are those numbered 11 to 510, which its authors measured on. Here 311 to 510 are test, and 11 to 310 are train, less
those that are near-duplicates of a test task: what a model learns from them cannot be compared with published numbers, and what is
measured on `mbpp/test` can only after training on something else.

Sources: Austin et al. 2021 (MBPP), https://arxiv.org/abs/2108.07732; Chen et al. 2021 (HumanEval), https://arxiv.org/abs/2107.03374.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from corollary.data.near_duplicates import clusters
from corollary.data.published import Row

FIRST_TEST = 311  # MBPP's task from which on its tasks are test


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramProblem:
    """A function to write."""

    id: str
    question: str
    entry_point: str  # its name
    tests: list[str] | str  # asserts, or the source of a function check(candidate)
    setup: str  # code before the asserts, or the code that the answer continues
    solution: str


def mbpp(rows: Sequence[Row], part: str) -> Iterator[ProgramProblem]:
    """One side of MBPP: `doc` has `task_id`, `text`, `code`, `test_list`, `test_setup_code`. The question shows the first test."""
    docs = [row["doc"] for row in rows]
    near = {docs[i]["task_id"] for i in _near_test([d["text"] for d in docs], [d["task_id"] for d in docs])}
    for doc in docs:
        is_test = doc["task_id"] >= FIRST_TEST
        if is_test != (part == "test") or (not is_test and doc["task_id"] in near):
            continue
        tests = [_unix(test) for test in doc["test_list"]]
        solution = _unix(doc["code"])
        yield ProgramProblem(
            id=f"mbpp/{doc['task_id']}",
            question=f"{doc['text'].strip()}\n\nIt must pass this test:\n{tests[0]}",
            entry_point=function_under_test(solution, tests),
            tests=tests,
            setup=_unix(doc["test_setup_code"]),
            solution=solution,
        )


def humaneval(rows: Sequence[Row]) -> Iterator[ProgramProblem]:
    """HumanEval: `task_id`, `prompt` (a signature and what it is to do), `test`, `entry_point`, `canonical_solution`."""
    for row in rows:
        yield ProgramProblem(
            id=f"humaneval/{row['task_id'].partition('/')[2]}",
            question=f"Complete this function:\n```python\n{row['prompt'].strip()}\n```",
            entry_point=row["entry_point"],
            tests=row["test"],
            setup=row["prompt"],
            solution=row["canonical_solution"],
        )


def function_under_test(solution: str, tests: Sequence[str]) -> str:
    """The function of a solution that its tests call; where they call several, the one defined last.

    >>> function_under_test("def helper(x):\\n    return x\\ndef f(x):\\n    return helper(x)", ["assert set(f([1])) == {1}"])
    'f'
    """
    defined = [node.name for node in ast.parse(solution).body if isinstance(node, ast.FunctionDef)]
    called = {
        node.func.id
        for test in tests
        for node in ast.walk(ast.parse(test))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    return next(name for name in reversed(defined) if name in called)


def _near_test(texts: Sequence[str], numbers: Sequence[int]) -> Iterator[int]:
    """The indices of tasks in a group of near-duplicates that holds a test task."""
    for group in clusters(texts):
        if any(numbers[member] >= FIRST_TEST for member in group.members):
            yield from group.members


def _unix(code: str) -> str:
    return "\n".join(line.rstrip() for line in code.expandtabs(4).splitlines()).strip()
