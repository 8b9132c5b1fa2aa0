"""The guides: their code blocks are the files that run, and their commands run, in order, in one folder."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from models.small import folder as model_folder
from models.small import smollm2
from run import recipes

GUIDES = Path(__file__).parents[1] / "docs" / "guides"
OWN_DPO, OWN_ALGORITHM = GUIDES / "own-dpo.md", GUIDES / "own-algorithm.md"
PAGES = [OWN_DPO, OWN_ALGORITHM]
RUNS = {OWN_DPO: "focal", OWN_ALGORITHM: "tanh"}  # the run that a guide ends in


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def files(page: Path) -> dict[str, str]:
    """The files of a guide by the name that their first line says."""
    found = {}
    for text in blocks(page, "(?:python|yaml)"):
        name = re.match(r"# (\S+\.(?:py|yaml))\n", text)
        if name:
            found[name[1]] = text
    return found


def commands(page: Path) -> list[list[str]]:
    """The arguments of each `$ corollary …` of a guide, in order."""
    lines = [line for text in blocks(page, "console") for line in text.splitlines()]
    return [shlex.split(line)[2:] for line in lines if line.startswith("$ corollary ")]


def carried_out(page: Path, folder: Path, *overrides: str) -> dict[str, str]:
    """The guide done by the letter, with settings added to each training; a command → what it printed."""
    for name, text in files(page).items():
        (folder / name).write_text(text)
    said = {}
    for arguments in commands(page):
        own = [o for o in overrides if not any(a.startswith(o.split("=")[0] + "=") for a in arguments)]
        process = recipes.command(*arguments, *(own if arguments[0] == "train" else ()), cwd=folder)
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, f"{arguments}: {err[-2000:]}"
        said[" ".join(arguments)] = out
    return said


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_a_guide_has_its_files_and_its_commands(page: Path) -> None:
    assert {name.rpartition(".")[2] for name in files(page)} == {"py", "yaml"}
    assert [arguments[0] for arguments in commands(page)].count("check") >= 1
    assert [arguments[0] for arguments in commands(page)].count("train") == 2
    (code,) = [text for name, text in files(page).items() if name.endswith(".py")]
    lines = [line for line in code.splitlines()[1:] if line.strip()]
    assert len(lines) <= {OWN_DPO: 20, OWN_ALGORITHM: 60}[page], "the guide's title says how long it is"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_a_guide_can_be_followed_on_a_tiny_model(page: Path, tmp_path: Path) -> None:
    model_folder(tmp_path / "tiny")
    rows = [
        {"id": f"q{i}", "question": f"{i} + 2?", "equation": f"{i} + 2", "answer": str(i + 2), "chosen": f"{i} + 2 = {i + 2}"}
        for i in range(9)
    ]  # fmt: skip
    text = "".join(json.dumps(row | {"rejected": f"{i} * 2 = {i * 2}"}) + "\n" for i, row in enumerate(rows))
    (tmp_path / "rows.jsonl").write_text(text)
    said = carried_out(
        page, tmp_path, "model.path=tiny", "model.dtype=float32", "data.path=rows.jsonl", "data.system=''",
        "evaluation.data.path=rows.jsonl", "evaluation.max_tokens=6", "run.steps=3", "run.threads=1",
    )  # fmt: skip
    metrics = [json.loads(line) for line in (tmp_path / "runs" / RUNS[page] / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics] == [1, 2, 3]
    assert (tmp_path / "runs" / RUNS[page] / "report.html").exists()
    for command, printed in said.items():
        if command.startswith("check ") and "--objective" not in command:
            assert " 0 fail" in printed
    assert any("greedy/strict" in printed for printed in said.values())


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_what_a_guide_shows_of_a_check_is_what_it_prints(page: Path, tmp_path: Path) -> None:
    for name, text in files(page).items():
        (tmp_path / name).write_text(text)
    shown = [block for block in blocks(page, "console") if block.startswith("$ corollary check")]
    assert shown
    for block in shown:
        command, *expected = block.rstrip("\n").splitlines()
        process = recipes.command(*shlex.split(command)[2:], cwd=tmp_path)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        settled = re.sub(r"; [\d.]+ s$", "", out.rstrip("\n"), flags=re.MULTILINE).splitlines()
        assert expected, command
        for line in expected:
            assert line in settled or line == "…", line


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_a_guide_can_be_followed_on_the_real_model(page: Path, tmp_path: Path) -> None:
    """A few steps of each training, and the run moves the way that the guide says."""
    smollm2()
    carried_out(page, tmp_path, "run.steps=4", "evaluation.data.limit=8", "run.export=true", "optimizer.warmup_steps=0")
    metrics = [json.loads(line) for line in (tmp_path / "runs" / RUNS[page] / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics] == [1, 2, 3, 4]
    if page == OWN_DPO:
        assert metrics[0]["margin"] == pytest.approx(0, abs=0.05)
        assert metrics[-1]["margin"] > 0
        assert metrics[-1]["accuracy"] > 0.5
    else:
        assert all(0 <= m["pass_rate"] <= 1 for m in metrics)
        assert metrics[0]["grad_norm"] >= 0


def test_the_guide_of_an_environment_can_be_followed_on_a_tiny_model(tmp_path: Path) -> None:
    page = GUIDES / "own-environment.md"
    model_folder(tmp_path / "tiny")
    said = carried_out(
        page, tmp_path, "model.path=tiny", "model.dtype=float32", "data.system=''", "data.params.n=12",
        "evaluation.data.params.n=4", "evaluation.max_tokens=4", "run.steps=2", "run.threads=1",
    )  # fmt: skip
    assert "4 hold, 0 fail" in said["check my_environment.py:close"]
    metrics = [json.loads(line) for line in (tmp_path / "runs" / "sums" / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics] == [1, 2]
    environment = json.loads((tmp_path / "runs" / "sums" / "environment.json").read_text())
    assert "my_environment.py" in json.dumps(environment)


@pytest.mark.parametrize("page", sorted(GUIDES.parent.rglob("*.md")), ids=lambda p: p.stem)
def test_no_page_was_left_half_written(page: Path) -> None:
    prose = re.sub(r"```.*?```|`[^`\n]*`|^    [^\n]*$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert not re.findall(r"\b[A-Z]{2,}_[A-Z]{2,}\b|TODO|FIXME|\bTBD\b", prose)
