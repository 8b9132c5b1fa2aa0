"""Faults of the user's code: each is named with the reward, the sample and the line, and none is ever a reward of 0."""

import time

import pytest
import torch

from corollary.errors import DataError, UserCodeError
from corollary.rewards.base import Reward, RewardSpec, Score
from corollary.rewards.calling import SampleError
from corollary.rewards.parts import Part
from corollary.types import Completion, Prompt, Sampling


def completion(text, ids=(1, 2)):
    return Completion(
        token_ids=ids, logprobs=(0.0,) * len(ids), text=text, truncated=False, version=0, sampling=Sampling()
    )


def chat(name, text, **columns):
    return Prompt(id=name, token_ids=(1,), messages=({"role": "user", "content": text},), text=text, columns=columns)


GROUPS = [
    (
        chat("p17", "2+2", solution="4", task="maths"),
        [completion("4", (1,)), completion("5", (1, 2)), completion("2+2=4", ())],
    ),
    (chat("p18", "hi", solution="hello", task="chat", prompt="dropped"), [completion("hello"), completion("hi")]),
]


def flat(scores: list[list[Score]]) -> list[Score]:
    return [score for group in scores for score in group]


def values(scores, name):
    return [score.parts[name] for score in flat(scores)]


def write(tmp_path, body):
    path = tmp_path / "rewards.py"
    path.write_text(body)
    return f"{path}:f"


RAISES = [
    ("1 / 0", "ZeroDivisionError: division by zero"),
    ("{}['x']", "KeyError: 'x'"),
    ("exit(3)", "SystemExit: 3"),
    ("throw(KeyboardInterrupt())", "KeyboardInterrupt"),
    ("throw(BaseException('no'))", "BaseException: no"),
    ("throw(GeneratorExit())", "GeneratorExit"),
    ("throw(Unpicklable(lambda: 0))", "Unpicklable: "),
    ("throw(Unspeakable())", "Unspeakable: (its message cannot be shown)"),
    ("throw(ValueError('a\\nb\\x1b[31m'))", "ValueError: a b\\x1b[31m"),
]
RAISING = """
class Unpicklable(Exception): pass
class Unspeakable(Exception):
    def __str__(self): raise RuntimeError
def throw(error):
    raise error
def f(completions, **kwargs):
    for completion in completions:
        if completion[0]["content"] == "2+2=4":
            {statement}
    return [1.0] * len(completions)
"""


@pytest.mark.parametrize(("statement", "message"), RAISES)
def test_whatever_is_raised_is_named_with_reward_sample_and_line(tmp_path, statement, message):
    with Reward([RewardSpec(type=write(tmp_path, RAISING.format(statement=statement)), name="acc")]) as reward:
        with pytest.raises(UserCodeError) as caught:
            reward.score(GROUPS)
        line = caught.value.line()
        assert f"reward 'acc' failed on sample p17#2: {message}" in line
        assert "rewards.py:" + ("6" if statement.startswith("throw") else "10") in line
        assert line.startswith("error[E0701]")
        assert caught.value.exit_status == 6
        assert "\x1b" not in line
        assert flat(reward.score(GROUPS[1:]))[0].reward == 1.0


def test_a_masked_sample_has_no_reward_and_the_others_get_what_they_would_have_got_without_it(tmp_path):
    body = RAISING.format(statement="1 / 0").replace("[1.0] *", "[float(len(completions))] *")
    specs = [
        RewardSpec(type=write(tmp_path, body), name="acc", on_error="mask"),
        RewardSpec(type="number", params={"column": "gold"}),
    ]
    groups = [(chat(p.id, p.text, gold=4), answers) for p, answers in GROUPS]
    with Reward(specs) as reward:
        scores = flat(reward.score(groups))
    assert values([scores], "acc") == [4, 4, None, 4, 4]
    assert [score.reward for score in scores] == [5, 4, None, 4, 4]  # the other reward's 1 is no reason to score it
    assert scores[2].parts["number"] == 1.0
    assert "sample p17#2: ZeroDivisionError" in scores[2].faults[0]
    assert scores[0].faults == ()


def test_a_hang_is_cut_off_and_named_and_can_be_masked(tmp_path):
    hangs = write(tmp_path, RAISING.format(statement="__import__('time').sleep(3600)"))
    started = time.monotonic()
    with (
        Reward([RewardSpec(type=hangs, name="acc", timeout=0.5)]) as reward,
        pytest.raises(
            UserCodeError, match=r"E0702.*rewards.py:10: reward 'acc' hung on sample p17#2: no answer within 0.5 s"
        ),
    ):
        reward.score(GROUPS)
    with Reward([RewardSpec(type=hangs, name="acc", timeout=0.5, on_error="mask")]) as reward:
        assert values(reward.score(GROUPS), "acc") == [1, 1, None, 1, 1]
    assert time.monotonic() - started < 8


def test_a_reward_that_always_hangs_is_given_up_after_a_few_samples(tmp_path):
    hangs = write(tmp_path, "import time\ndef f(completions, **kwargs): time.sleep(3600)")
    started = time.monotonic()
    many = [(GROUPS[0][0], [completion("4")] * 64)]
    with Reward([RewardSpec(type=hangs, timeout=0.3, on_error="mask")]) as reward:
        scores = flat(reward.score(many))
    assert {score.reward for score in scores} == {None}
    assert "hung on samples p17#0 … p17#63" in scores[5].faults[0]
    assert time.monotonic() - started < 6


def test_a_crash_is_named_with_its_sample(tmp_path):
    crashes = write(tmp_path, RAISING.format(statement="__import__('os')._exit(9)"))
    with (
        Reward([RewardSpec(type=crashes)]) as reward,
        pytest.raises(UserCodeError, match=r"E0706.*'f' crashed on sample p17#2.*status 9"),
    ):
        reward.score(GROUPS)


RETURNS = [
    ("float('nan')", "got nan"),
    ("float('inf')", "got inf"),
    ("-float('inf')", "got -inf"),
    ("'1.0'", "got the str '1.0'"),
    ("True", "got the bool True"),
    ("[1.0]", "got a list"),
    ("{}", "got a dict"),
    ("1j", "got a complex"),
    ("object()", "got a object"),
    ("10 ** 400", "got a int"),
    ("Tensor(1.0)", "got a Tensor"),
]


@pytest.mark.parametrize(("value", "got"), RETURNS)
def test_a_value_that_is_no_finite_number_is_named_and_never_a_zero(tmp_path, value, got):
    body = f"class Tensor(object):\n    def __init__(self, x): pass\n    __float__ = lambda self: 1.0\ndef f(completions, **kwargs): return [1.0, {value}, 1.0, 1.0, 1.0]"
    for on_error in ("stop", "mask"):
        with Reward([RewardSpec(type=write(tmp_path, body), on_error=on_error)]) as reward:
            if on_error == "mask":
                assert values(reward.score(GROUPS), "f") == [1, None, 1, 1, 1]
                continue
            with pytest.raises(
                UserCodeError, match=r"E0703.*'f' returned nonsense on sample p17#1: expected a finite number"
            ) as caught:
                reward.score(GROUPS)
            assert got in caught.value.line()


SHAPES = [
    ("[]", "expected 5 values, one for each completion, got 0"),
    ("[1.0]", "expected 5 values, one for each completion, got 1"),
    ("[1.0] * 4", "expected 5 values, one for each completion, got 4"),
    ("[1.0] * 6", "expected 5 values, one for each completion, got 6"),
    ("None", "expected a list of 5 floats or None, got None"),
    ("1.0", "expected a list of 5 floats or None, got 1.0"),
    ("True", "expected a list of 5 floats or None, got the bool True"),
    ("'11111'", "expected a list of 5 floats or None, got the str '11111'"),
    ("(1.0 for _ in completions)", "expected a list of 5 floats or None, got a generator"),
    ("dict.fromkeys(range(5), 1.0)", "expected a list of 5 floats or None, got a dict"),
    ("{1.0}", "expected a list of 5 floats or None, got a set"),
]


@pytest.mark.parametrize(("value", "message"), SHAPES)
def test_a_return_of_another_shape_is_named_and_never_broadcast(tmp_path, value, message):
    path = write(tmp_path, f"def f(completions, **kwargs): return {value}")
    with Reward([RewardSpec(type=path)]) as reward, pytest.raises(UserCodeError) as caught:
        reward.score(GROUPS)
    assert f"reward 'f' returned nonsense on samples p17#0 … p18#1: {message}" in caught.value.line()
    with Reward([RewardSpec(type=path, on_error="mask")]) as reward:
        assert values(reward.score(GROUPS), "f") == [None] * 5


@pytest.mark.parametrize(
    "value", ["(1.0, 2, None, 0.5, numpy.float32(1))", "[numpy.float64(1), 2, None, 0.5, numpy.int64(1)]"]
)
def test_numbers_of_any_real_kind_are_taken(tmp_path, value):
    path = write(tmp_path, f"import numpy\ndef f(completions, **kwargs): return {value}")
    with Reward([RewardSpec(type=path)]) as reward:
        assert values(reward.score(GROUPS), "f") == [1, 2, None, 0.5, 1]


def test_a_tensor_is_refused_in_this_process_too():
    def tensors(completions):
        return [torch.tensor(1.0, requires_grad=True)] * len(completions)

    with Reward([Part.given(tensors, isolated=False)]) as reward, pytest.raises(UserCodeError, match="got a Tensor"):
        reward.score(GROUPS)


def test_faults_in_this_process_are_named_and_an_interrupt_is_not_swallowed():
    def fails(completions):
        raise SystemExit("bye")

    def cannot_judge(completions):
        raise SampleError("the picture is missing", 3)

    def interrupted(completions):
        raise KeyboardInterrupt

    with (
        Reward([Part.given(fails, isolated=False)]) as reward,
        pytest.raises(
            UserCodeError, match=r"test_faults.py:\d+: reward 'fails' failed on sample p17#0: SystemExit: bye"
        ),
    ):
        reward.score(GROUPS)
    judge = Reward([Part.given(cannot_judge, isolated=False)])
    with judge, pytest.raises(DataError, match="cannot judge sample p18#0: the picture is missing"):
        judge.score(GROUPS)
    with Reward([Part.given(interrupted, isolated=False)]) as reward, pytest.raises(KeyboardInterrupt):
        reward.score(GROUPS)
