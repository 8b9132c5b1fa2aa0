"""A model measured by itself says what a run says of it before its first step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from corollary.errors import ConfigError, DataError
from corollary.run.loop import measure_only, train
from golden import recipes
from run.recipes import Quiet

EVALUATED = "evaluation: {{data: {{path: {folder}/rows.jsonl, template: '{{question}}'}}, judge: none}}\n"


@pytest.mark.parametrize("name", ["sft", "dpo", "kto", "reward-model"])
def test_what_an_algorithm_says_of_held_out_examples_needs_no_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(recipes.RECIPES, name, EVALUATED + recipes.RECIPES[name])
    if name == "sft":
        monkeypatch.setitem(recipes.OVERRIDES, name, ("algorithm.held_out_answer='{answer}'",))
    recipe = recipes.recipe(name, recipes.written(tmp_path), name)
    told = json.loads((train(recipe, Quiet()) / "evaluation.json").read_text())
    alone = json.loads(json.dumps(measure_only(recipe, Quiet())))
    assert alone["before"] == told["before"]
    assert alone["before"]["metrics"]


def test_nothing_to_measure_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(recipes.RECIPES, "grpo", EVALUATED + recipes.RECIPES["grpo"])
    recipe = recipes.recipe("grpo", recipes.written(tmp_path), "grpo")
    with pytest.raises(ConfigError, match="nothing is measured: judge is none, and grpo says nothing"):
        measure_only(recipe, Quiet())


def test_a_single_prompt_gives_no_interval_and_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(recipes.RECIPES, "dpo", EVALUATED + recipes.RECIPES["dpo"])
    monkeypatch.setitem(recipes.OVERRIDES, "dpo", ("evaluation.data.limit=1",))
    recipe = recipes.recipe("dpo", recipes.written(tmp_path), "dpo")
    with pytest.raises(DataError, match="has a single prompt, and an interval needs two"):
        measure_only(recipe, Quiet())
