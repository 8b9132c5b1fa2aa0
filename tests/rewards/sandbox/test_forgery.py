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
