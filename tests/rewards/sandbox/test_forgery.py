"""Nothing but the right answers is taken for them, and no program changes what another earns."""

from __future__ import annotations

import pytest

from corollary.rewards.base import Reward
from corollary.rewards.parts import RewardSpec
from corollary.rewards.sandbox import NAMES, Exam
from corollary.types import Completion, Prompt, Sampling
from rewards.sandbox.boxes import needed
from rewards.sandbox.forgeries import FORGERIES, HONEST, NAME, TESTS

EXAM = Exam(entry_point=NAME, tests=tuple(TESTS))
PROMPT = Prompt(id="p", token_ids=(1,), text="f?", columns={"tests": TESTS, "entry_point": NAME})
CONTAINED = ("monty", "bubblewrap")
CPYTHON = ("bubblewrap", "unsafe_subprocess")


def answer(program: str) -> Completion:
    text = f"```python\n{program}\n```"
    return Completion(token_ids=(), logprobs=(), text=text, truncated=False, version=0, sampling=Sampling())


@pytest.mark.parametrize("sandbox", CONTAINED)
@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_earns_nothing(sandbox, name):
    verdict = needed(sandbox, seconds=0.6).judge(FORGERIES[name], EXAM)
    assert not verdict.passed
    assert len(verdict.held) == 3


@pytest.mark.parametrize("sandbox", NAMES)
@pytest.mark.parametrize("name", HONEST)
def test_an_honest_program_earns_everything(sandbox, name):
    verdict = needed(sandbox, seconds=5).judge(HONEST[name], EXAM)
    assert verdict.held == (True, True, True), verdict.why


@pytest.mark.parametrize("sandbox", CONTAINED)
def test_what_one_program_earns_does_not_depend_on_the_ones_before_it(sandbox):
    needed(sandbox)
    bad, good = [answer(program) for program in FORGERIES.values()], [answer(program) for program in HONEST.values()]
    params = {"sandbox": sandbox, "seconds": 1.0}
    with Reward([RewardSpec(type="code", params=params)], workers=1) as reward:
        alone = [score.reward for score in reward.score([(PROMPT, good)])[0]]
        after = [score.reward for score in reward.score([(PROMPT, bad + good)])[0]]
    assert alone == [1.0] * len(good)
    assert after == [0.0] * len(bad) + alone


@pytest.mark.parametrize("sandbox", CPYTHON)
def test_the_expected_values_never_enter_the_candidates_process(sandbox):
    program = """
import sys
def f(x):
    held = []
    frame = sys._getframe()
    while frame:
        held += [repr(value) for value in frame.f_locals.values() if type(value) in (bytes, str, tuple, list, dict)]
        frame = frame.f_back
    return "".join(held)
"""
    tests = (
        "seen = f(41)",
        "assert '41' in seen or '0x29' in seen",
        "assert 'SECRET' not in seen and 'assert' not in seen",
    )
    verdict = needed(sandbox, seconds=5).judge(program, Exam(entry_point="f", tests=tests))
    assert verdict.passed, verdict.why


@pytest.mark.parametrize("sandbox", CPYTHON)
def test_a_set_has_the_same_order_and_random_the_same_numbers_every_time(sandbox):
    program = "import random\ndef f(): return [*{'spam', 'egg', 'ham', 'tea'}], random.random()"
    seen = set()
    for _ in range(3):
        why = needed(sandbox, seconds=5).judge(program, Exam(entry_point="f", tests=("assert 0, str(f())",))).why
        seen.add(why)
    assert len(seen) == 1
    assert "spam" in seen.pop()


@pytest.mark.parametrize("sandbox", NAMES)
def test_the_end_of_an_iteration_ends_no_loop_of_the_tests(sandbox):
    exam = Exam(entry_point="f", tests=("assert all(map(f, [1, 2]))", "assert list(map(f, [1, 2])) == []"))
    assert needed(sandbox, seconds=5).judge("def f(x): raise StopIteration", exam).held == (False, False)


@pytest.mark.parametrize("sandbox", CPYTHON)
def test_who_speaks_unasked_has_lost(sandbox):
    """Its answers would be right; but what it sends before a question might be taken for the answer to the next."""
    program = """
import os
for fd in range(3, 32):
    try: os.write(fd, (17).to_bytes(4, 'big') + bytes(8) + b'=i4:0x10T')
    except OSError: pass
def f(x): return x * x + 7
"""
    assert needed(sandbox, seconds=5).judge(program, EXAM).held == (False, False, False)


@pytest.mark.parametrize("sandbox", CPYTHON)
def test_an_error_of_the_programs_is_one_in_the_tests_and_its_own_kinds_are_runtime_errors(sandbox):
    program = """
class Own(Exception): pass
def f(x):
    if x: raise KeyError("k")
    raise Own("o")
"""
    tests = ("try: f(1)\nexcept KeyError: pass", "try: f(0)\nexcept RuntimeError: pass", "f(1)")
    assert needed(sandbox, seconds=5).judge(program, Exam(entry_point="f", tests=tests)).held == (True, True, False)


@pytest.mark.parametrize("sandbox", NAMES)
def test_what_is_printed_goes_nowhere(sandbox, capfd):
    program = "print('loud')\ndef f(x):\n    print('louder', flush=True)\n    return x"
    exam = Exam(entry_point="f", tests=("print('loudest')\nassert f(1) == 1",), prelude="print('first')")
    assert needed(sandbox, seconds=5).judge(program, exam).passed
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("sandbox", NAMES)
def test_tests_whose_set_up_fails_do_not_hold(sandbox):
    exam = Exam(entry_point="f", tests=("assert f(1) == 1",), prelude="1 / 0")
    verdict = needed(sandbox, seconds=5).judge("def f(x): return x", exam)
    assert verdict.held == (False,)
    assert "ZeroDivisionError" in verdict.why
