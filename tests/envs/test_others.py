"""Environments of others: by gymnasium's interface, from reasoning-gym, from verifiers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from corollary.envs import reasoning_gym, verifiers
from corollary.envs.gymnasium import Gymnasium
from corollary.envs.opening import check
from corollary.envs.reasoning_gym import DENIED, ReasoningGym, puzzles
from corollary.envs.verifiers import Verifiers, tasks
from corollary.errors import ConfigError, DataError
from corollary.types import Prompt


class Corridor:
    """Walk to the lamp; a duck with gymnasium's interface."""

    def __init__(self, length: int = 4):
        self.length = length

    def reset(self, *, seed: int) -> tuple[list[int], dict[str, Any]]:
        self.lamp = random.Random(seed).randrange(1, self.length)
        self.at = self.steps = 0
        return [self.at, self.lamp], {}

    def step(self, action: int) -> tuple[list[int], float, bool, bool, dict[str, Any]]:
        self.at += 1 if action == 1 else -1
        self.steps += 1
        there = self.at == self.lamp
        return [self.at, self.lamp], float(there), there, self.steps == 6 and not there, {}

    def render(self) -> str:
        return "".join("@" if i == self.at else "*" if i == self.lamp else "." for i in range(self.length))


HERE = f"{Path(__file__)}:Corridor"


def test_a_game_with_gymnasium_s_interface_is_played_in_words() -> None:
    environment = Gymnasium(path=HERE, actions=("left", "right"), shown="render", params={"length": 3})
    episode = environment.episode({})
    opening = episode.reset(1)
    assert sorted(opening) == sorted("@*.")
    assert episode.reset(1) == opening
    assert episode.step("jump").info == {"invalid": 1.0}
    assert episode.step("jump").observation == "Say one of left, right."
    turns = [episode.step(" Right ") for _ in range(opening.index("*"))]
    assert [(t.reward, t.terminated, t.truncated) for t in turns[-1:]] == [(1.0, True, False)]
    assert not any(t.over for t in turns[:-1])


def test_its_own_limit_truncates_and_does_not_terminate() -> None:
    episode = Gymnasium(path=HERE, action="integer").episode({})
    assert episode.reset(0)[0] == "["
    *_, last = [episode.step("I go 3, no: 0") for _ in range(6)]
    assert (last.terminated, last.truncated) == (False, True)
    assert episode.step("nowhere").observation == "Say a whole number."


def test_it_keeps_the_contract() -> None:
    check(Gymnasium(path=HERE, action="integer"), [Prompt(id="a", token_ids=(1,))], seed=0)


@pytest.mark.slow
def test_a_real_gymnasium_game_is_played() -> None:
    pytest.importorskip("gymnasium", reason="gymnasium is not installed")
    environment = Gymnasium(
        path="gymnasium:make", params={"id": "FrozenLake-v1", "render_mode": "ansi", "is_slippery": False},
        actions=("left", "down", "right", "up"), shown="render",
    )  # fmt: skip
    check(environment, [Prompt(id="a", token_ids=(1,))], seed=0)
    episode = environment.episode({})
    assert "SFFF" in episode.reset(0).replace("\x1b[41m", "").replace("\x1b[0m", "")
    way = ["down", "down", "right", "right", "down", "right"]
    assert [episode.step(move).terminated for move in way] == [False] * 5 + [True]


@pytest.mark.parametrize("settings", [{"path": "nowhere"}, {"path": "pack age:x"}])
def test_a_path_that_names_nothing_is_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"what makes a game is named path/to/file.py:name"):
        Gymnasium(**settings)


NAMES = ["spell_backward", "leg_counting", "prime_factorization", "countdown", "basic_arithmetic"]


@pytest.fixture
def gym() -> None:
    pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_puzzle_s_own_answer_is_right_and_nonsense_earns_nothing(gym: None, name: str) -> None:
    environment = ReasoningGym()
    rows = [*puzzles(name=name, n=4)]
    assert rows == [*puzzles(name=name, n=4)]
    for row in rows:
        right, wrong, bare, none = (
            environment.episode(row).step(text)
            for text in (f"So <answer>{row['answer']}</answer>", "<answer>I do not know</answer>", row["answer"], "")
        )
        assert (right.reward, right.terminated) == (1.0, True)
        assert (wrong.reward, bare.reward, none.reward) == (0.0, 0.0, 0.0)
        assert bare.info == {"no_answer": 1.0}
        assert ReasoningGym(tag="").episode(row).step(f" {row['answer']} ").reward == 1.0


@pytest.mark.slow
def test_a_scorer_that_fails_at_an_answer_is_counted(gym: None) -> None:
    (row,) = puzzles(name="prime_factorization", n=1)
    turn = ReasoningGym().episode(row).step("<answer>two times three</answer>")
    assert (turn.reward, turn.info) == (0.0, {"scorer_failed": 1.0})


@pytest.mark.slow
def test_part_marks_count_only_where_they_are_asked_for(gym: None) -> None:
    (row,) = puzzles(name="countdown", n=1)
    part, strict = (ReasoningGym(strict=s).episode(row).step("<answer>1</answer>").reward for s in (False, True))
    assert 0 < part < 1
    assert strict == 0


@pytest.mark.parametrize("name", sorted(DENIED))
def test_defective_sets_are_refused_with_the_reason(name: str) -> None:
    with pytest.raises(DataError, match=f"reasoning-gym {name}: is refused: {DENIED[name]}"):
        next(puzzles(name=name))


def test_without_the_packages_their_extras_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(reasoning_gym, "import_module", missing)
    monkeypatch.setattr(verifiers, "import_module", missing)
    with pytest.raises(ConfigError, match=r"pip install 'corollary\[reasoning-gym\]'"):
        next(puzzles(name="absent"))
    with pytest.raises(ConfigError, match=r"pip install 'corollary\[verifiers\]'"):
        next(tasks(taskset="absent.py:Set"))


@pytest.mark.parametrize("environment", [ReasoningGym(), Verifiers()], ids=["reasoning_gym", "verifiers"])
def test_rows_of_another_source_are_refused(environment: Any) -> None:
    with pytest.raises(ConfigError, match=r"let data.path be corollary.envs.\w+:\w+"):
        environment.episode({"question": "?"})


TASKSET = """
import verifiers.v1 as vf


class Sum(vf.TaskData):
    answer: str = ""


class SumTask(vf.Task[Sum]):
    @vf.reward(weight=2.0)
    async def right(self, trace) -> float:
        return float(trace.last_reply == self.data.answer)

    @vf.metric
    async def length(self, trace) -> float:
        return float(len(trace.last_reply))


class RuntimeTask(SumTask):
    @vf.reward
    async def ran(self, trace, runtime) -> float:
        return 1.0


class Sums(vf.Taskset[SumTask]):
    def load(self):
        for i in range(9):
            yield SumTask(Sum(prompt=f"{i} + 1?", system_prompt="A number.", answer=str(i + 1)), self.config.task)


class Runs(Sums):
    def load(self):
        yield RuntimeTask(Sum(prompt="?"), self.config.task)
"""


@pytest.fixture
def taskset(tmp_path: Path) -> Path:
    pytest.importorskip("verifiers", reason="verifiers is not installed")
    (tmp_path / "sums.py").write_text(TASKSET)
    return tmp_path / "sums.py"


@pytest.mark.slow
def test_a_task_of_verifiers_is_asked_and_scored(taskset: Path) -> None:
    rows = [*tasks(taskset=f"{taskset}:Sums", n=3)]
    assert len(rows) == 3
    assert rows[1]["prompt"] == [{"role": "system", "content": "A number."}, {"role": "user", "content": "1 + 1?"}]
    turn = Verifiers(best=2.0).episode(rows[1]).step("2")
    assert (turn.reward, turn.terminated, turn.info) == (2.0, True, {"length": 1.0})
    assert Verifiers().episode(rows[1]).step("12").reward == 0.0


@pytest.mark.slow
def test_a_task_that_asks_its_runtime_is_refused(taskset: Path) -> None:
    with pytest.raises(ConfigError, match="has a reward, ran, that asks its runtime"):
        next(tasks(taskset=f"{taskset}:Runs"))
    with pytest.raises(ConfigError, match="there is no such taskset"):
        next(tasks(taskset=f"{taskset.parent}/absent.py:Sums"))
