"""The reward `code`: what is taken for the program, what it is judged by, and what stops a run before it starts."""

from __future__ import annotations

import re

import pytest

from corollary.errors import ConfigError, DataError
from corollary.rewards import code as module
from corollary.rewards.base import Reward
from corollary.rewards.calling import SampleError
from corollary.rewards.code import code, extracted
from corollary.rewards.parts import RewardSpec
from corollary.rewards.sandbox import NAMES
from corollary.types import Completion, Prompt, Sampling
from rewards.sandbox.boxes import needed

ASSERTS = ["assert double(2) == 4", "assert double([1]) == [1, 1]", "assert double('a') == 'aa'"]
STEM = 'from typing import List\n\n\ndef unit() -> int:\n    return 1\n\n\ndef above(x: int) -> int:\n    """The next one."""\n'
CHECK = "METADATA = {}\n\n\ndef check(candidate):\n    for x in range(5):\n        assert candidate(x) == x + unit()\n"


@pytest.mark.parametrize(
    ("answer", "program"),
    [
        ("x = 1", "x = 1"),
        ("", ""),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```python\nx = 1\n```", "x = 1\n"),
        ("Well:\n  ```py\nx = 1\n  ```\nThat is it.", "x = 1\n"),
        ("```python\nx = 1\n```\nno:\n```python\nx = 2\n```", "x = 2\n"),
        ("```python\nx = 1", "x = 1"),  # cut off
        ("```python\n```", ""),
        ("```python\r\nx = 1\r\n```", "x = 1\r\n"),
        ("Inline ```x = 1``` is text", "Inline ```x = 1``` is text"),
    ],
)
def test_the_program_is_the_last_fenced_block_or_else_everything(answer, program):
    assert extracted(answer) == program


@pytest.mark.parametrize(
    ("answer", "program"),
    [
        ("    return x + 1\n", "    return x + 1\n"),
        ("\n    y = x\n\n    return y\n\n\ndef other():\n    pass", "\n    y = x\n\n    return y\n\n\n"),
        ("    return x\nThis adds one.", "    return x\n"),
        ("```python\n    return x\n```", "    return x\n"),
        ("def above(x):\n    return x + 1\nprint(1)", "def above(x):\n    return x + 1\nprint(1)"),
    ],
)
def test_an_answer_that_goes_on_indented_ends_where_a_line_does_not(answer, program):
    assert extracted(answer, continues=True) == program


@pytest.mark.parametrize("sandbox", NAMES)
def test_asserts_judge_a_program(sandbox):
    needed(sandbox)
    answers = [
        "def double(x): return x + x",
        "def double(x): return 2 * x if x != 'a' else x",
        "no idea",
        "",
        "a" * 200_000,
    ]
    columns = {"tests": [ASSERTS] * 5, "entry_point": ["double"] * 5, "sandbox": sandbox, "seconds": 5.0}
    assert code(answers, **columns) == [1, 0, 0, 0, 0]
    assert code(answers, **columns, credit="share") == [1, 2 / 3, 0, 0, 0]


@pytest.mark.parametrize("sandbox", NAMES)
@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        ("    return x + 1", 1.0),
        ("    return x + unit()\n\n\nprint(above(1))", 1.0),
        ("```python\ndef above(x):\n    return x + 1\n```", 1.0),
        ("    return x", 0.0),
        ("    pass", 0.0),
    ],
)
def test_a_check_function_judges_what_continues_the_prompts_code(sandbox, answer, reward):
    needed(sandbox)
    assert code([answer], [CHECK], ["above"], [STEM], sandbox=sandbox, seconds=5.0) == [reward]


@pytest.mark.parametrize("sandbox", NAMES)
def test_what_stands_before_the_asserts_is_theirs_and_not_the_programs(sandbox):
    needed(sandbox)
    answers = ["def f(x): return x", "def f(x): return KEY"]
    assert code(answers, [["assert f(KEY) == 'canary'"]] * 2, ["f"] * 2, ["KEY = 'canary'"] * 2, sandbox=sandbox) == [
        1,
        0,
    ]


@pytest.mark.parametrize(
    ("columns", "column"),
    [
        ({"tests": None, "entry_point": "f"}, "tests"),
        ({"tests": [], "entry_point": "f"}, "tests"),
        ({"tests": [1], "entry_point": "f"}, "tests"),
        ({"tests": "assert f(1)", "entry_point": "f"}, "tests"),
        ({"tests": ["assert f(1)"], "entry_point": None}, "entry_point"),
        ({"tests": ["assert f(1)"], "entry_point": "f(); g"}, "entry_point"),
        ({"tests": ["assert f(1)"], "entry_point": "class"}, "entry_point"),
        ({"tests": ["assert f(1)"], "entry_point": "f", "setup": 3}, "setup"),
    ],
)
def test_data_without_tests_is_the_datas_fault_whatever_the_answer(columns, column):
    needed("monty")
    given = {name: [value] for name, value in columns.items()}
    for answer in ("", "def f(x): return x"):
        with pytest.raises(SampleError, match=f"column '{column}'"):
            code([answer], **given)


def prompt(**columns: object) -> Prompt:
    return Prompt(id="p", token_ids=(1,), text="?", columns={"tests": ASSERTS, "entry_point": "double", **columns})


def answer(text: str) -> Completion:
    return Completion(token_ids=(), logprobs=(), text=text, truncated=False, version=0, sampling=Sampling())


def test_a_reward_of_a_run_judges_in_its_workers_and_a_program_that_hangs_is_wrong():
    needed("monty")
    answers = [answer("def double(x): return x + x"), answer("def double(x):\n    while True: pass"), answer("")]
    with Reward([RewardSpec(type="code", params={"seconds": 0.5})]) as reward:
        reward.check([prompt()])
        assert [score.reward for score in reward.score([(prompt(), answers)])[0]] == [1.0, 0.0, 0.0]
        assert reward.full_mark == 1.0
        with pytest.raises(DataError, match="cannot judge sample p#0: column 'tests'"):
            reward.check([prompt(tests=[])])


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"sandbox": "none"}, "no sandbox is called 'none'; there is monty, bubblewrap, unsafe_subprocess"),
        ({"sandbox": 3}, "sandbox: 3 will not do"),
        ({"second": 3}, "unknown parameter 'second'; it takes sandbox, seconds, memory_mib, credit"),
        ({"seconds": 0}, "seconds must lie between 0.1 and 50, got 0"),
        ({"seconds": True}, "seconds: True will not do"),
        ({"memory_mib": 1}, "memory_mib must be at least 32, got 1"),
        ({"credit": "half"}, "credit is all or share, got 'half'"),
    ],
)
def test_a_wrong_parameter_stops_before_anything_starts(params, said):
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        Reward([RewardSpec(type="code", params=params)])
    assert caught.value.exit_status == 2


def test_the_module_runs_no_program_itself():
    assert not {"exec", "eval", "compile"} & set(vars(module))
