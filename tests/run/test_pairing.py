from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

import tiny
from corollary.data.datasets import load_prompts
from corollary.errors import ConfigError, CorollaryError, DataError, StorageError
from corollary.models.load import load_tokenizer
from corollary.run.loop import train
from corollary.run.pairing import Drawn, paired, write_pairs
from corollary.types import Completion, Rollout, Sampling
from run import recipes

EIGHT = Drawn(answers=8, per_prompt=2)


def made(folder: Path, name: str, *overrides: str, drawn: Drawn = EIGHT) -> Path:
    path = folder / name
    recipe = recipes.recipe(folder / "run.yaml", "algorithm.max_tokens=150", *overrides)
    write_pairs(recipe, path, drawn, recipes.Quiet())
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recipes.write(tmp_path_factory.mktemp("pairing")).parent


@pytest.fixture(scope="module")
def pairs(folder: Path) -> Path:
    return made(folder, "pairs.jsonl")


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def vowels(text: object) -> float:
    return sum(ch in "aeiou" for ch in str(text)) / 8


def test_each_row_is_the_better_and_the_worse_of_a_prompt_s_own_answers(pairs: Path) -> None:
    rows = read(pairs)
    assert rows
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert row["margin"] == pytest.approx(vowels(row["chosen"]) - vowels(row["rejected"]))
        assert float(str(row["margin"])) > 0


def test_a_row_s_prompt_is_what_the_model_had_read(pairs: Path, folder: Path) -> None:
    recipe = recipes.recipe(folder / "run.yaml")
    tokenizer = load_tokenizer(recipe.model.path, chat_template="")
    asked = {p.id: p.token_ids for p in load_prompts(recipe.data, tokenizer)[0]}
    again, _ = load_prompts(recipe.data.model_copy(update={"path": str(pairs), "template": None}), tokenizer)
    assert {p.id.rpartition("/")[0] for p in again} <= set(asked)
    assert all(p.token_ids == asked[p.id.rpartition("/")[0]] for p in again)


def test_a_seed_gives_the_same_file_and_another_seed_another(pairs: Path, folder: Path) -> None:
    assert made(folder, "again.jsonl").read_bytes() == pairs.read_bytes()
    assert made(folder, "other.jsonl", "run.seed=1").read_bytes() != pairs.read_bytes()


def test_the_provenance_says_of_what_and_how_it_was_made(pairs: Path) -> None:
    said = json.loads(pairs.with_name("pairs.jsonl.provenance.json").read_text())
    assert said["sha256"] == hashlib.sha256(pairs.read_bytes()).hexdigest()
    assert said["pairs"] == len(read(pairs))
    assert said["drawn"] == {"answers": 8, "temperature": 1.0, "per_prompt": 2}
    assert "vowels" in said["recipe"]
    assert said["environment"]["seed"] == 0


def test_preference_training_takes_the_file(pairs: Path, folder: Path) -> None:
    (folder / "dpo.yaml").write_text(
        f"defaults: run.yaml\nrewards: []\nevaluation: null\nrun: {{name: dpo, export: false}}\n"
        f"data: {{path: {pairs}, template: null, prompt: prompt}}\n"
        "algorithm: {type: preference, pairs_per_step: 3, margin: margin}\n"
    )
    metrics = read(train(recipes.recipe(folder / "dpo.yaml"), recipes.Quiet()) / "metrics.jsonl")
    assert metrics[-1]["loss"] != metrics[0]["loss"]


def rollout(reward: float, *tokens: int, truncated: bool = False, text: str = "x") -> Rollout:
    completion = Completion(
        token_ids=tokens, logprobs=(0.0,) * len(tokens), text=text, truncated=truncated, version=0, sampling=Sampling()
    )
    return Rollout(prompt=tiny.prompts(2)[0], completion=completion, reward=reward)


def test_an_answer_that_was_cut_or_is_empty_is_in_no_pair() -> None:
    group = [rollout(1.0, 5, truncated=True), rollout(0.5, 6, text="six"), rollout(0.0, 7, text=" "), rollout(0.2, 8)]
    assert [(row["chosen"], row["rejected"]) for row in paired(group, 4)] == [("six", "x")]


def test_a_file_that_is_there_is_left_alone(pairs: Path, folder: Path) -> None:
    before = pairs.read_bytes()
    with pytest.raises(StorageError, match="there already"):
        made(folder, pairs.name)
    assert pairs.read_bytes() == before


def test_a_reward_that_fails_leaves_no_file(folder: Path) -> None:
    (folder / "bad.py").write_text(
        "def bad(prompts, completions, **columns):\n    if len(completions) > 1: raise KeyError('x')\n    return [0.0]\n"
    )
    (folder / "bad.yaml").write_text(
        f"defaults: run.yaml\nrewards: [{{type: '{folder}/bad.py:bad', on_error: stop}}]\n"
    )
    with pytest.raises(CorollaryError, match="bad"):
        write_pairs(recipes.recipe(folder / "bad.yaml"), folder / "none.jsonl", EIGHT, recipes.Quiet())
    assert not list(folder.glob("none.jsonl*"))


def test_prompts_that_give_no_pair_are_told(folder: Path) -> None:
    with pytest.raises(DataError, match=r"none.jsonl: 5 prompts gave no pair"):
        made(folder, "none.jsonl", "algorithm.max_tokens=1")
    assert not list(folder.glob("none.jsonl*"))


def test_a_recipe_that_judges_no_answers_is_refused(folder: Path) -> None:
    (folder / "sft.yaml").write_text("defaults: run.yaml\nrewards: []\nalgorithm: {type: sft}\n")
    with pytest.raises(ConfigError, match=r"rewards: algorithm sft samples and judges no answers"):
        write_pairs(recipes.recipe(folder / "sft.yaml"), folder / "none.jsonl", EIGHT, recipes.Quiet())


def test_a_recipe_that_plays_an_environment_is_refused(folder: Path) -> None:
    (folder / "guess.yaml").write_text(
        "defaults: run.yaml\nrewards: []\nevaluation: null\nenvironment: {type: guess}\n"
    )
    with pytest.raises(ConfigError, match=r"environment: an environment is played for several turns"):
        write_pairs(recipes.recipe(folder / "guess.yaml"), folder / "none.jsonl", EIGHT, recipes.Quiet())
