from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from corollary.cli import app
from corollary.config import InvalidConfig, load, preset_names
from corollary.errors import ConfigError, UserCodeError
from corollary.models.catalogue import entry
from corollary.models.load import load_model
from corollary.run.benchmark import SUITES, Suite, benchmark, markdown
from run import recipes

SUITE = """
sets:
  sums: {{data: {{path: {test}, template: "{{question}}"}}, judge: number, samples: 2, max_tokens: 4}}
  quiet: {{data: {{path: {test}, template: "{{question}}"}}, judge: instructions, samples: 0, max_tokens: 4}}
model: {{dtype: float32, device: cpu}}
threads: 1
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, one in a run's folder, and a suite on six prompts."""
    folder = tmp_path_factory.mktemp("benchmark")
    recipes.write(folder)
    rows = [
        {"id": f"q{i}", "question": f"{i} + 1?", "answer": i + 1, "instructions": [{"type": "punctuation:no_comma"}]}
        for i in range(6)
    ]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    other = load_model(str(folder / "model"))
    with torch.no_grad():
        for weights in other.model.parameters():
            weights += 0.5
    (folder / "run").mkdir()
    other.model.save_pretrained(folder / "run" / "model")
    other.tokenizer.save_pretrained(folder / "run" / "model")
    (folder / "suite.yaml").write_text(SUITE.format(test=folder / "test.jsonl"))
    return folder


def suite(place: Path, *overrides: str) -> Suite:
    return load(Suite, place / "suite.yaml", overrides, presets=SUITES).config


def test_models_are_measured_on_each_set_and_compared_with_the_first(place: Path, tmp_path: Path) -> None:
    names = [str(place / "model"), str(place / "run")]
    result = benchmark(suite(place, f"folder={tmp_path}"), names, recipes.Quiet())
    assert list(result["sets"]) == ["sums", "quiet"]
    for of_set in result["sets"].values():
        assert of_set["prompts"] == 6
        assert list(of_set["models"]) == names
        assert list(of_set["differences"]) == names[1:]
    sums, quiet = result["sets"].values()
    assert list(sums["models"][names[0]])[-2:] == ["sampled/lenient/pass@1", "sampled/lenient/pass@2"]
    assert quiet["models"][names[0]]["greedy/strict"]["prompts"] == 6
    change = quiet["differences"][names[1]]["greedy/strict"]
    values = [quiet["models"][name]["greedy/strict"]["value"] for name in names]
    assert change["estimate"] == pytest.approx(values[1] - values[0])
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(result))
    assert (tmp_path / "results.md").read_text() == markdown(result)
    answers = sorted(tmp_path.glob("*.jsonl"))
    assert len(answers) == 4
    assert all(len(path.read_text().splitlines()) == 6 for path in answers)


def test_a_model_beside_itself_differs_in_nothing(place: Path) -> None:
    copy = place / "run" / ".." / "model"
    result = benchmark(suite(place), [str(place / "model"), str(copy)], recipes.Quiet())
    for of_set in result["sets"].values():
        for change in of_set["differences"][str(copy)].values():
            assert (change["estimate"], change["gained"], change["lost"]) == (0, 0, 0)


def test_a_limit_takes_the_same_prompts_of_each_set_for_every_model(place: Path, tmp_path: Path) -> None:
    names = [str(place / "model"), str(place / "run")]
    result = benchmark(suite(place, "limit=3", f"folder={tmp_path}"), names, recipes.Quiet())
    assert [of_set["prompts"] for of_set in result["sets"].values()] == [3, 3]
    asked = [[json.loads(line)["prompt_id"] for line in p.read_text().splitlines()] for p in tmp_path.glob("*.jsonl")]
    assert len({tuple(ids) for ids in asked}) == 1
    assert suite(place, "limit=3").limited()["sums"].data.shuffle == 0
    assert suite(place, "limit=9", "sets.sums.data.limit=2").limited()["sums"].data.limit == 2


def test_sampled_answers_are_those_of_the_seed(place: Path, tmp_path: Path) -> None:
    def answers(seed: int, name: str) -> str:
        folder = tmp_path / name
        benchmark(suite(place, f"folder={folder}", f"seed={seed}", "limit=6"), [str(place / "model")], recipes.Quiet())
        rows = [json.loads(line) for line in next(folder.glob("*-sums.jsonl")).read_text().splitlines()]
        return str(sorted((row["prompt_id"], str(row["sampled"])) for row in rows))

    assert answers(0, "first") == answers(0, "second") != answers(1, "third")


def test_what_cannot_be_measured_or_compared_is_one_line(place: Path) -> None:
    name = str(place / "model")
    with pytest.raises(ConfigError, match="is named twice"):
        benchmark(suite(place), [name, name], recipes.Quiet())
    with pytest.raises(InvalidConfig, match="unknown judge 'nubmer'; did you mean number"):
        suite(place, "sets.sums.judge=nubmer")
    with pytest.raises(UserCodeError, match="takes 'instructions', which is no column of the data"):
        benchmark(
            suite(place, "sets.sums.judge=instructions", f"sets.sums.data.path={place / 'train.jsonl'}"),
            [name],
            recipes.Quiet(),
        )


def test_a_table_shows_shares_with_intervals_and_marks_differences_beyond_chance() -> None:
    value = {"value": 0.5, "low": 0.4, "high": 0.6}
    better, same = {"estimate": 0.1, "low": 0.05, "high": 0.15}, {"estimate": 0.0, "low": -0.1, "high": 0.1}
    sets = {
        name: {"prompts": 1319, "models": {"a|b": {"greedy/strict": value}, "c": {"greedy/strict": value}}, "differences": {"c": {"greedy/strict": change}}}
        for name, change in (("better", better), ("same", same))
    }  # fmt: skip
    lines = markdown({"models": ["a|b", "c"], "sets": sets}).splitlines()
    assert lines[0] == r"| set | prompts | metric | a\|b | c | c − a\|b |"
    assert lines[2].endswith("| 50.0% [40.0%, 60.0%] | 50.0% [40.0%, 60.0%] | **+10.0% [+5.0%, +15.0%]** |")
    assert lines[3].endswith("| +0.0% [-10.0%, +10.0%] |")


@pytest.mark.parametrize("name", preset_names(SUITES))
def test_each_suite_is_valid_and_measures_sets_of_the_catalogue(name: str) -> None:
    loaded = load(Suite, name, presets=SUITES).config
    assert loaded.sets
    for chosen in loaded.sets.values():
        assert entry(chosen.data.path).kind == "data"
        assert not chosen.data.path.endswith("/train")
        assert chosen.data.filled == "{question}"
    assert loaded.sets.keys() <= load(Suite, "everything", presets=SUITES).config.sets.keys()


def test_the_command_prints_a_table_or_json(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["benchmark", str(place / "suite.yaml"), str(place / "model"), "limit=2"]
    app([*asked, "--json"], standalone_mode=False)
    result = json.loads(capsys.readouterr().out)
    assert result["models"] == [str(place / "model")]
    app(asked, standalone_mode=False)
    assert capsys.readouterr().out == markdown(result) + "\n"


def test_the_command_wants_a_model() -> None:
    with pytest.raises(ConfigError, match="no model is named; corollary benchmark quick"):
        app(["benchmark", "quick", "limit=2"], standalone_mode=False)


@pytest.mark.parametrize("judge", ["none", "environment"])
def test_a_judge_that_reads_no_answers_is_refused(place: Path, judge: str) -> None:
    with pytest.raises(InvalidConfig, match=rf"sets\.sums\.judge: {judge} reads no answers"):
        suite(place, f"sets.sums.judge={judge}")
