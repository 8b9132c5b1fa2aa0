"""A recipe with an environment: what is refused, what is measured by playing, and what a run's records say of its turns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from corollary.config import InvalidConfig, load
from corollary.errors import ConfigError, CorollaryError, UserCodeError
from corollary.run.loop import check, measure_only, train
from corollary.run.recipe import PRESETS, Recipe
from golden.recipes import ENVIRONMENT
from models.small import folder as model_folder
from run.recipes import Quiet

RUN = """
model: {{path: {0}/model, dtype: float32, device: cpu}}
data: {{path: corollary.envs.guess:games, params: {{n: 5}}}}
algorithm: {{type: grpo, prompts_per_step: 2, group_size: 4, max_tokens: 64, stop: [a, n, i]}}
environment: {{type: "{0}/mine.py:Vowels"}}
evaluation: {{data: {{path: corollary.envs.guess:games, params: {{n: 3, first: 50}}}}, judge: environment, samples: 2, max_tokens: 64, stop: [a, n, i]}}
run: {{name: tiny, folder: {0}/runs, steps: 2, threads: 1, export: false}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("environment")
    model_folder(path / "model")
    (path / "mine.py").write_text(ENVIRONMENT)
    (path / "run.yaml").write_text(RUN.format(path))
    return path


def recipe(folder: Path, *overrides: str) -> Recipe:
    return load(Recipe, folder / "run.yaml", overrides, presets=PRESETS).config


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    return train(recipe(folder), Quiet())


def test_held_out_episodes_are_played_before_and_after(run: Path) -> None:
    told = json.loads((run / "evaluation.json").read_text())
    metrics = ["greedy/strict", "greedy/lenient", "sampled/strict/pass@1", "reward", "turns"]
    assert all(name in told[part]["metrics"] for name in metrics for part in ("before", "after"))
    assert set(metrics) <= set(told["difference"])
    (row, *_) = [json.loads(line) for line in (run / "evaluations" / "step-000002.jsonl").read_text().splitlines()]
    assert len(row["sampled"]) == 2
    assert row["greedy"]["lenient"] == (row["measures"]["reward"] > 0)
    assert "Seed " in row["prompt"]


def test_a_rollout_s_record_says_which_tokens_were_sampled_and_what_each_turn_earned(run: Path) -> None:
    groups = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
    several = [answer for group in groups for answer in group["answers"] if len(answer["turn_rewards"]) > 1]
    assert several
    for answer in several:
        assert len(answer["sampled"]) == len(answer["tokens"])
        heard = "".join(token for token, mine in zip(answer["tokens"], answer["sampled"], strict=True) if not mine)
        assert answer["turns"][1]["role"] == "user"
        assert answer["turns"][1]["content"] in heard
        assert answer["text"].startswith("assistant: ")
        assert answer["reward"] == pytest.approx(sum(answer["turn_rewards"]))


def test_a_model_is_measured_by_playing_without_a_run(folder: Path, run: Path) -> None:
    told = measure_only(recipe(folder), Quiet())
    assert told["before"] == json.loads((run / "evaluation.json").read_text())["before"]


def test_what_is_learnt_by_other_means_may_be_measured_by_playing(folder: Path) -> None:
    talk = [{"role": "user", "content": "Guess."}, {"role": "assistant", "content": "5"}]
    (folder / "talks.py").write_text(f"def talks(*, n):\n    yield from [{{'messages': {talk}}}] * n\n")
    data = f"data={{path: '{folder}/talks.py:talks', params: {{n: 2}}, messages: messages}}"
    asked = recipe(folder, "algorithm={type: sft, examples_per_step: 2}", data, "run.name=sft", "run.steps=1")
    told = json.loads((train(asked, Quiet()) / "evaluation.json").read_text())
    assert told["after"]["metrics"]["turns"]["prompts"] == 3


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["environment=null"], "algorithm: grpo needs at least one entry in rewards, or an environment"),
        (["environment=null", "rewards=[{type: number}]"], "evaluation.judge: environment needs an environment"),
        (["evaluation.judge=number"], "evaluation.judge: number reads single answers"),
        (["algorithm={type: sft}", "evaluation=null"], "environment: algorithm sft does not play it"),
        (["environment={type: gues}"], "did you mean guess"),
        (["environment={type: guess, largets: 9}"], "did you mean largest"),
        (["environment={type: guess, largest: 1}"], "environment.largest"),
        (["environment={type: tools}"], "environment.path"),
    ],
    ids=range(8),
)
def test_a_recipe_that_cannot_be_is_one_line(folder: Path, overrides: list[str], told: str) -> None:
    with pytest.raises(InvalidConfig, match=told):
        recipe(folder, *overrides)


BROKEN = ENVIRONMENT.replace('return Turn(f"{vowels}"', "return Turn(vowels")


@pytest.mark.parametrize(
    ("source", "error", "told"),
    [
        (BROKEN, UserCodeError, "observation is a int, and the episode goes on"),
        (ENVIRONMENT.replace("def episode", "def episodes"), UserCodeError, "defines no episode"),
        (ENVIRONMENT.replace("len", "lem"), None, ""),
        (ENVIRONMENT.replace("seed % 10", "id(self)"), UserCodeError, "gives another episode with the same seed"),
    ],
    ids=["turn", "no episode", "whole", "unseeded"],
)
def test_a_broken_environment_is_told_before_anything_is_trained(
    folder: Path, tmp_path: Path, source: str, error: type[CorollaryError] | None, told: str
) -> None:
    (tmp_path / "mine.py").write_text(source)
    asked = recipe(folder, f"environment.type={tmp_path}/mine.py:Vowels", f"run.folder={tmp_path}/runs")
    if error is None:
        check(asked, f"{folder}/model", Quiet())
        return
    for attempt in (lambda: check(asked, f"{folder}/model", Quiet()), lambda: train(asked, Quiet())):
        with pytest.raises(error, match=told):
            attempt()
    assert not (tmp_path / "runs" / "tiny" / "config.yaml").exists()


def test_tools_that_earn_nothing_ask_for_a_reward(folder: Path) -> None:
    asked = recipe(folder, "environment={type: calculator, role: user}")
    with pytest.raises(ConfigError, match="environment calculator gives no reward by itself; name at least one"):
        check(asked, f"{folder}/model", Quiet())


def test_rewards_judge_held_out_episodes_where_nothing_else_is_judged(folder: Path) -> None:
    (folder / "sums.jsonl").write_text('{"question": "2 + 2?", "answer": "4"}\n' * 2)
    (folder / "shown.py").write_text(
        "def shown():\n    yield {'messages': [{'role': 'user', 'content': '?'}, {'role': 'assistant', 'content': '4'}]}\n"
    )
    (folder / "learn.yaml").write_text(
        f"""
model: {{path: {folder}/model, dtype: float32, device: cpu}}
data: {{path: "{folder}/shown.py:shown", messages: messages}}
algorithm: {{type: sft, examples_per_step: 1}}
environment: {{type: calculator, role: user, told: Calculate.}}
rewards: [{{type: number}}]
evaluation: {{data: {{path: {folder}/sums.jsonl, template: "{{question}}"}}, judge: environment, samples: 1, max_tokens: 8}}
run: {{name: learn, folder: {folder}/runs, steps: 1, threads: 1, export: false}}
"""
    )
    asked = load(Recipe, folder / "learn.yaml", presets=PRESETS).config
    check(asked, f"{folder}/model", Quiet())
    told = json.loads((train(asked, Quiet()) / "evaluation.json").read_text())
    assert told["after"]["metrics"]["greedy/strict"]["prompts"] == 2
    assert measure_only(asked, Quiet())["before"] == told["before"]
