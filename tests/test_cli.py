"""The command line as a user meets it: results on standard output, one clear last line and an exit status on failure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from run import recipes


def run(*arguments: str | Path, **settings: object) -> tuple[int, str, str]:
    process = recipes.command(*arguments, **settings)
    out, said = process.communicate(timeout=180)
    assert "Traceback" not in said, said
    return process.returncode, out, said


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return recipes.write(tmp_path)


def test_help_needs_neither_torch_nor_transformers() -> None:
    code = "import sys, corollary.cli; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    status, out, _ = run("--help")
    assert status == 0
    assert all(name in out for name in ("train", "evaluate", "generate", "chat", "config", "models"))


def test_an_unknown_command_is_a_usage_error() -> None:
    status, _, said = run("trian")
    assert status == 2
    assert "trian" in said


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "optimizer.learning_rte=1",
            "error[E0101] override optimizer.learning_rte=1: optimizer.learning_rte: unknown key",
        ),
        ("run.steps=many", "error[E0102] override run.steps=many: run.steps:"),
        ("algorithm.kl.type=in_los", "did you mean in_loss?"),
        ("algorithm.group_size=1", "algorithm.group_size"),
        ("run.name=../../x", "run.name"),
        ("no_equals_sign", "error[E0105]"),
    ],
)
def test_a_wrong_setting_is_one_line_with_its_place(source: Path, override: str, line: str) -> None:
    status, out, said = run("train", source, override)
    assert status == 2
    assert line in said.splitlines()[-1]
    assert out == ""


def test_every_mistake_of_a_file_is_listed_with_its_line(source: Path) -> None:
    source.write_text(source.read_text() + "optimiser: {lr: 1}\nsampler: {max_sequences: few}\n")
    status, _, said = run("config", "validate", source)
    assert status == 2
    lines = said.splitlines()
    assert any("run.yaml:9: optimiser: unknown key; did you mean optimizer?" in line for line in lines)
    assert any("run.yaml:10: sampler.max_sequences" in line for line in lines)
    assert "(+1 more)" in lines[-1]


def test_a_missing_recipe_data_file_model_or_reward_is_one_line(source: Path, tmp_path: Path) -> None:
    for arguments, status, words in (
        (["nothing.yaml"], 2, "nothing.yaml"),
        (["word-problem"], 2, "did you mean word-problems"),
        ([source, f"data.path={tmp_path / 'none.jsonl'}"], 2, "none.jsonl"),
        ([source, f"model.path={tmp_path / 'none.gguf'}"], 2, "none.gguf"),
        ([source, f"rewards.0.type={tmp_path / 'none.py'}:f"], 2, "none.py"),
    ):
        got, _, said = run("train", *arguments)
        assert (got, words in said.splitlines()[-1]) == (status, True), said
        assert said.splitlines()[-1].startswith("error[E")


def test_an_empty_data_set_says_what_was_read(source: Path, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("\n\n")
    status, _, said = run("train", source)
    assert status == 2
    assert "train.jsonl: 0 usable rows" in said.splitlines()[-1]


def test_a_reward_that_raises_names_itself_the_sample_and_the_line(source: Path, tmp_path: Path) -> None:
    (tmp_path / "vowels.py").write_text("def vowels(prompts, completions, **columns):\n    return [1 / 0]\n")
    status, _, said = run("train", source)
    assert status == 6
    last = said.splitlines()[-1]
    assert "vowels" in last
    assert "vowels.py:2" in last
    assert "ZeroDivisionError" in last
    assert "q" in last


def test_config_commands_print_what_loads_again(source: Path, tmp_path: Path) -> None:
    status, shown, _ = run("config", "show", source, "run.steps=3")
    assert status == 0
    assert "steps: 3" in shown
    (tmp_path / "again.yaml").write_text(shown)
    assert run("config", "show", tmp_path / "again.yaml")[1] == shown
    status, different, _ = run("config", "diff", source)
    assert "schedule: cosine" in different
    assert "beta1" not in different
    schema = json.loads(run("config", "schema")[1])
    assert "algorithm" in schema["properties"]


def test_models_lists_licences() -> None:
    status, out, _ = run("models", "--json")
    assert status == 0
    rows = {row["name"]: row for row in json.loads(out)}
    assert rows["smollm2-135m-instruct"]["licence"] == "Apache-2.0"


def test_a_run_from_end_to_end_then_generate_chat_evaluate_export_report(source: Path, tmp_path: Path) -> None:
    status, out, said = run("train", source, "run.steps=2")
    assert status == 0, said
    assert "greedy/strict" in out
    assert "step 2/2" in said
    folder = tmp_path / "runs" / "tiny"
    assert {"config.yaml", "config.diff.yaml", "metrics.jsonl", "timing.jsonl", "rollouts.jsonl", "evaluation.json",
            "environment.json", "data.json", "report.html", "model", "checkpoints", "evaluations"} <= {p.name for p in folder.iterdir()}  # fmt: skip
    status, out, said = run("generate", folder, "What is 1 + 2?", "--max-tokens", "5")
    assert status == 0, said
    status, out, said = run("generate", folder, "Hello", "--against", tmp_path / "model", "--max-tokens", "5")
    assert status == 0, said
    assert str(folder) in out.replace("\n", "")
    process = subprocess.run(
        [sys.executable, "-m", "corollary", "chat", str(folder), "--max-tokens", "3"],
        input="hi\nagain\n\n", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert process.stdout.count(">") >= 3
    status, out, said = run("evaluate", source, f"model.path={folder / 'model'}", "--json")
    assert status == 0, said
    assert json.loads(out)["prompts"] == 3
    status, out, said = run("export", folder, tmp_path / "exported")
    assert status == 0, said
    exported, model = (p / "model.safetensors" for p in (tmp_path / "exported", folder / "model"))
    assert exported.read_bytes() == model.read_bytes()
    assert run("report", folder)[0] == 0
    status, _, said = run("train", source, "run.steps=2")
    assert status == 3
    assert "--resume" in said.splitlines()[-1]


def test_a_prompt_that_leaves_the_models_positions_is_refused_before_step_1(source: Path) -> None:
    status, _, said = run("train", source, "algorithm.max_tokens=120")
    assert status == 2
    assert "128 positions" in said.splitlines()[-1]
    assert "max_prompt_tokens" in said.splitlines()[-1]
