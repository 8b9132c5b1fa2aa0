from __future__ import annotations

import pytest

from corollary.algorithms.grpo import GRPOConfig, dapo, dr_grpo, rloo
from corollary.config import InvalidConfig, diff, load, preset_names, to_yaml
from corollary.errors import ConfigError
from corollary.run.recipe import PRESETS, Recipe


@pytest.mark.parametrize("name", preset_names(PRESETS))
def test_a_preset_loads_and_is_short(name: str) -> None:
    recipe = load(Recipe, name, presets=PRESETS).config
    lines = [line for line in (PRESETS / f"{name}.yaml").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) <= 24
    assert recipe.run.name == name


def algorithm(name: str) -> GRPOConfig:
    made = load(Recipe, name, presets=PRESETS).config.algorithm
    assert isinstance(made, GRPOConfig)
    return made


def test_the_presets_are_the_papers_values() -> None:
    same = ("advantage", "loss", "average", "filter")
    for name, paper in (("dr-grpo", dr_grpo(24)), ("rloo", rloo())):
        ours = algorithm(f"word-problems-{name}")
        assert [getattr(ours, f) for f in same] == [getattr(paper, f) for f in same], name
    ours, paper = algorithm("word-problems-dapo"), dapo(24, 16)
    assert [getattr(ours, f) for f in ("loss", "average", "overlong")] == [paper.loss, paper.average, paper.overlong]
    assert ours.filter.type == "dynamic"


def test_a_recipe_without_rewards_is_refused_for_grpo_and_with_them_for_sft() -> None:
    with pytest.raises(InvalidConfig, match="needs at least one entry in rewards"):
        load(Recipe, "word-problems", ["rewards=[]"], presets=PRESETS)
    with pytest.raises(InvalidConfig, match="uses none"):
        load(Recipe, "word-problems-sft", ["rewards=[{type: equation}]"], presets=PRESETS)


def test_an_average_by_its_bare_name_is_that_average() -> None:
    recipe = load(Recipe, "word-problems", ["algorithm.average=sequence_mean"], presets=PRESETS).config
    assert recipe.algorithm == algorithm("word-problems").model_copy(update={"average": GRPOConfig().average})


def test_what_is_shown_loads_to_the_same_and_what_differs_is_little(tmp_path: object) -> None:
    from pathlib import Path

    recipe = load(Recipe, "word-problems", presets=PRESETS).config
    shown = Path(str(tmp_path)) / "shown.yaml"
    shown.write_text(to_yaml(recipe))
    assert load(Recipe, shown).config == recipe
    assert "weight_decay" not in str(diff(recipe))


def test_cuda_without_a_gpu_is_one_line() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    recipe = load(Recipe, "word-problems", ["model.device=cuda"], presets=PRESETS).config
    with pytest.raises(ConfigError, match=r"model\.device"):
        recipe.model.torch_device()


def test_a_learning_rate_of_a_head_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.head_lr: what grpo trains has no scalar head"):
        load(Recipe, "word-problems", ["optimizer.head_lr=1e-3"], presets=PRESETS)
