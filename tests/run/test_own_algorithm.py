"""A user's algorithm and a user's parts of GRPO: trained, resumed, reported and blamed like ours."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from corollary.errors import CorollaryError, Preempted, UserCodeError
from corollary.run.loop import train
from run import recipes
from run.test_resume import assert_same

ALGORITHM = '''
from collections.abc import Iterator

import torch

from corollary.algorithms.base import Algorithm, Engines
from corollary.data.collate import policy_batch
from corollary.ops.advantage import leave_one_out
from corollary.ops.reduce import TokenMean
from corollary.rollout import describe, group_rewards, rollouts
from corollary.types import Sampling, Step


def pull(logprobs, advantages):
    return -advantages * logprobs


class Mine(Algorithm):
    """Plain policy gradient against a running mean of the reward, which a resumed run must remember."""

    uses_rewards = True

    prompts_per_step: int = 3
    group_size: int = 4
    max_tokens: int = 8
    decay: float = 0.5

    def steps(self, engines: Engines) -> Iterator[Step]:
        sampling = Sampling(max_tokens=self.max_tokens)
        for groups in rollouts(
            engines.player, engines.prompts, group_size=self.group_size, sampling=sampling, first=engines.first
        ):
            rewards = group_rewards(groups)
            mean = self.decay * engines.memory.get("mean", 0.0) + (1 - self.decay) * rewards.mean().item()
            engines.memory["mean"] = mean
            advantages = rewards - mean
            metrics = engines.trainer.step(policy_batch(groups, advantages, TokenMean()), pull)
            engines.sampler.sync(engines.trainer)
            yield Step(describe(groups, engines.player.full_mark) | metrics | {"mean": mean}, groups, advantages)
'''
RECIPE = "defaults: run.yaml\nalgorithm: {{type: {file}:Mine, group_size: 5}}\nrun: {{name: {name}}}\n"


def source(folder: Path, name: str = "mine", text: str = ALGORITHM, recipe: str = RECIPE) -> Path:
    """An algorithm and the recipe that names it; the recipe's path."""
    file = folder / f"{name}.py"
    file.write_text(text)
    made = folder / f"{name}.yaml"
    made.write_text(recipe.format(file=file, name=name))
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own")
    recipes.write(path)
    return path


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """The folder of an uninterrupted run of it."""
    return train(recipes.recipe(source(folder), "run.name=uninterrupted"), recipes.Quiet())


def test_it_trains_and_leaves_what_ours_leave(whole: Path) -> None:
    metrics = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics] == list(range(1, 8))
    assert all({"reward", "loss", "grad_norm", "entropy", "mean"} <= m.keys() for m in metrics)
    groups = [json.loads(line) for line in (whole / "rollouts.jsonl").read_text().splitlines()]
    assert {len(group["answers"]) for group in groups} == {5}
    assert groups[0]["answers"][0]["advantage"] is not None
    timing = json.loads((whole / "timing.jsonl").read_text().splitlines()[0])
    assert {"generate", "train", "reward", "tokens_per_second"} <= timing.keys()
    assert "mine.py:Mine" in (whole / "report.html").read_text()
    assert "difference" in (whole / "evaluation.json").read_text()
    assert (whole / "model" / "README.md").exists()


def test_a_run_of_it_goes_on_to_the_same_bits_with_what_it_remembers(folder: Path, whole: Path) -> None:
    class StopAt3(recipes.Quiet):
        def step(self, number: int, *rest: object) -> None:
            if number == 3:
                signal.raise_signal(signal.SIGTERM)

    made = recipes.recipe(source(folder), "run.name=again")
    with pytest.raises(Preempted):
        train(made, StopAt3())
    assert_same(train(made, recipes.Quiet(), resume=True), whole)


def test_another_file_refuses_to_resume_and_is_named(folder: Path) -> None:
    class StopAt1(recipes.Quiet):
        def step(self, number: int, *rest: object) -> None:
            signal.raise_signal(signal.SIGTERM)

    made = source(folder, "edited")
    with pytest.raises(Preempted):
        train(recipes.recipe(made), StopAt1())
    recorded = json.loads((folder / "runs" / "edited" / "environment.json").read_text())["own_files"]
    assert [Path(name).name for name in recorded] == ["edited.py", "vowels.py"]
    made.with_suffix(".py").write_text(ALGORITHM.replace("0.5", "0.6"))
    process = recipes.command("train", made, "--resume")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    assert "edited.py is not what the run was started with" in err
    assert err.count("\n") == 1


BROKEN = {
    "no loop": ("    def steps(", "    def stepz(", "inputs", "defines no steps", "class Mine"),
    "no size": ("prompts_per_step: int = 3", "prompts: int = 3", "inputs", "no field prompts_per_step", "class Mine"),
    "no algorithm": ("class Mine(Algorithm)", "class Mine", "loads", "no subclass of corollary.algorithms", ""),
    "raises": ("rewards = group_rewards(groups)", "rewards = group_rewards(groups)[9, 9, 9]", "runs", "IndexError", "[9, 9, 9]"),
    "its loss raises": ("return -advantages * logprobs", "return -advantages * lgprobs", "runs", "NameError", "lgprobs"),
    "yields something else": ("yield Step(describe", "yield (describe", "steps", "yielded a tuple", "class Mine"),
    "yields a tensor": ('{"mean": mean}', '{"mean": rewards}', "steps", "metric 'mean', a Tensor", "class Mine"),
    "ends early": ("            rewards = ", "            break\n            rewards = ", "steps", "ended in step 1", "class Mine"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_one_is_one_line_with_its_place(folder: Path, name: str) -> None:
    old, new, clause, words, at = BROKEN[name]
    text = ALGORITHM.replace(old, new, 1)
    made = source(folder, name.replace(" ", "_"), text)
    with pytest.raises(UserCodeError) as caught:
        train(recipes.recipe(made), recipes.Quiet())
    line = caught.value.line()
    number = next(i for i, row in enumerate(text.splitlines(), 1) if at in row) if at else ""
    assert line.startswith(f"error[E0700] {made.with_suffix('.py')}{f':{number}' if at else ''}: "), line
    assert words in line, line
    assert f"contract clause: {clause}" in line, line


def test_one_that_says_it_needs_no_reward_and_asks_for_one_is_told_so(folder: Path) -> None:
    text = ALGORITHM.replace("    uses_rewards = True\n", "")
    made = source(folder, "unjudged", text, RECIPE.replace("run:", "rewards: []\nrun:"))
    with pytest.raises(CorollaryError, match="set uses_rewards = True"):
        train(recipes.recipe(made), recipes.Quiet())
    with pytest.raises(CorollaryError, match="uses none"):
        recipes.recipe(source(folder, "unjudged", text))


PARTS = """
import torch


def twice(rewards, *, by: float = 2.0):
    return by * (rewards - rewards.mean(-1, keepdim=True))


def pull(logprobs, old_logprobs, advantages, entropy, *, bonus: float = 0.01):
    return -advantages * (logprobs - old_logprobs).exp() - bonus * entropy


def even(trained):
    return trained / trained.sum()


def capped(old_logprobs, sampler_logprobs):
    return (old_logprobs - sampler_logprobs).exp().clamp(max=2.0)
"""
GRPO = """
defaults: run.yaml
algorithm:
  advantage: {{type: {file}:twice, by: 3}}
  loss: {{type: {file}:pull, bonus: 0.1}}
  average: {file}:even
  correction: {file}:capped
run: {{name: {name}}}
"""


def test_every_part_of_grpo_may_be_the_users(folder: Path) -> None:
    made = recipes.recipe(source(folder, "parts", PARTS, GRPO))
    console = recipes.Quiet()
    run = train(made, console)
    assert console.steps == list(range(1, 8))
    first = json.loads((run / "rollouts.jsonl").read_text().splitlines()[0])["answers"]
    rewards = [answer["reward"] for answer in first]
    mean = sum(rewards) / len(rewards)
    assert [a["advantage"] for a in first] == pytest.approx([3 * (r - mean) for r in rewards], abs=1e-5)


BROKEN_PARTS = {
    "advantage of another shape": ("return by * (rewards", "return by * rewards.sum(-1) * (rewards.sum()", "terms", "def twice"),
    "advantage that raises": ("return by * (rewards", "return [][0] * (rewards", "runs", "[][0]"),
    "advantage that is no number": ("return by * (rewards", "return rewards / (rewards - rewards) * (rewards", "finite", "def twice"),
    "average of another shape": ("return trained / trained.sum()", "return trained.sum(-1)", "terms", "def even"),
    "correction as a float": ("return (old_logprobs", "return 1.0\n    return (old_logprobs", "terms", "def capped"),
    "loss without gradient": ("return -advantages * (logprobs - old_logprobs).exp() - bonus * entropy", "return -advantages", "gradient", "def pull"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN_PARTS)
def test_a_broken_part_is_found_before_the_model_is_loaded(folder: Path, name: str) -> None:
    old, new, clause, at = BROKEN_PARTS[name]
    text = PARTS.replace(old, new, 1)
    made = source(folder, name.replace(" ", "_"), text, GRPO)
    with pytest.raises(UserCodeError) as caught:
        train(recipes.recipe(made, "model.path=/no/such/model"), recipes.Quiet())
    line = caught.value.line()
    number = next(i for i, row in enumerate(text.splitlines(), 1) if at in row)
    assert line.startswith(f"error[E0700] {made.with_suffix('.py')}:{number}: "), line
    assert f"contract clause: {clause}" in line, line
