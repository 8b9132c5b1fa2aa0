"""A run that is killed and resumed ends as the one that was not: weights, optimizer, data order, metrics, byte for byte."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from corollary.errors import Preempted, ResumeError, StorageError
from corollary.run import checkpoint
from corollary.run.files import lock
from corollary.run.loop import train
from run import recipes

SAME = ("metrics.jsonl", "rollouts.jsonl", "ledger.jsonl", "evaluation.json", "config.yaml")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    return train(recipes.recipe(recipes.write(tmp_path_factory.mktemp("whole"))), recipes.Quiet())


@pytest.fixture
def source(whole: Path) -> Path:
    """The same recipe, with another run folder."""
    return whole.parents[1] / "run.yaml"


def assert_same(a: Path, b: Path) -> None:
    for name in SAME:
        assert (a / name).read_text().replace(a.name, "NAME") == (b / name).read_text().replace(b.name, "NAME"), name
    ours, theirs = (sorted((f / "checkpoints").iterdir()) for f in (a, b))
    assert [p.name for p in ours] == [p.name for p in theirs]
    for p, q in zip(ours, theirs, strict=True):
        assert {f.name for f in p.iterdir()} >= {"weight.safetensors", "exp_avg.safetensors", "exp_avg_sq.safetensors"}
        for file in p.glob("*.safetensors"):
            assert file.read_bytes() == (q / file.name).read_bytes(), file
        first, second = (json.loads((x / "state.json").read_text()) for x in (p, q))
        assert first.pop("offsets")["metrics"] == second.pop("offsets")["metrics"]
        assert first == second
    assert (a / "model" / "model.safetensors").read_bytes() == (b / "model" / "model.safetensors").read_bytes()


def test_the_run_did_something(whole: Path) -> None:
    metrics = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics] == list(range(1, 8))
    assert metrics[-1]["kl"] > 0.001
    assert {p.name for p in (whole / "checkpoints").iterdir()} == {"step-000006", "step-000007"}


@pytest.mark.slow
@pytest.mark.parametrize("lines", [0, 1, 3, 4, 6])
def test_kill_9_and_resume_gives_the_same_bytes(whole: Path, source: Path, lines: int) -> None:
    name = f"run.name=killed-{lines}"
    process = recipes.command("train", source, name)
    journal = whole.parent / f"killed-{lines}" / "metrics.jsonl"
    config = journal.with_name("config.yaml")
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if config.exists() and (journal.read_text().count("\n") if journal.exists() else 0) >= lines:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it had ended before it was killed, so this test shows nothing"
    folder = train(recipes.recipe(source, name), recipes.Quiet(), resume=True)
    assert_same(folder, whole)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_saves_the_step_says_so_and_resumes(whole: Path, source: Path, number: int, status: int) -> None:
    name = f"run.name=stopped-{status}"
    process = recipes.command("train", source, name)
    journal = whole.parent / f"stopped-{status}" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and not (journal.exists() and journal.read_text()):
        time.sleep(0.002)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == status, said
    assert "--resume" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert_same(train(recipes.recipe(source, name), recipes.Quiet(), resume=True), whole)


@pytest.fixture
def stopped(whole: Path, source: Path, request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """A run stopped after 5 of 7 steps, with checkpoints of steps 4 and 5; (source, run folder)."""
    name = f"halted-{abs(hash(request.node.name)) % 10**8}"

    class StopAt5(recipes.Quiet):
        def step(self, number: int, *rest: object) -> None:
            if number == 5:
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Preempted, match="after step 5 of 7"):
        train(recipes.recipe(source, f"run.name={name}"), StopAt5())
    return source, whole.parent / name


def test_a_damaged_checkpoint_is_passed_over_and_said_so(whole: Path, stopped: tuple[Path, Path]) -> None:
    source, folder = stopped
    newest = folder / "checkpoints" / "step-000005" / "exp_avg.safetensors"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    console = recipes.Quiet()
    train(recipes.recipe(source, f"run.name={folder.name}"), console, resume=True)
    assert any("step-000005 is damaged" in note and "sha256" in note for note in console.notes)
    assert console.steps == [5, 6, 7]
    assert_same(folder, whole)


def test_when_all_checkpoints_are_damaged_nothing_is_started_over(stopped: tuple[Path, Path]) -> None:
    source, folder = stopped
    for path in (folder / "checkpoints").iterdir():
        (path / "manifest.json").write_text("{")
    before = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(ResumeError, match="damaged") as caught:
        train(recipes.recipe(source, f"run.name={folder.name}"), recipes.Quiet(), resume=True)
    assert caught.value.exit_status == 3
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_another_learning_rate_refuses_to_resume_and_names_it(stopped: tuple[Path, Path]) -> None:
    source, folder = stopped
    with pytest.raises(ResumeError, match=r"optimizer\.lr"):
        train(recipes.recipe(source, f"run.name={folder.name}", "optimizer.lr=0.1"), recipes.Quiet(), resume=True)


def test_changed_data_refuse_to_resume(stopped: tuple[Path, Path]) -> None:
    source, folder = stopped
    data = source.with_name("train.jsonl")
    text = data.read_text()
    try:
        data.write_text(text.replace("What", "Tell me what"))
        with pytest.raises(ResumeError):
            train(recipes.recipe(source, f"run.name={folder.name}"), recipes.Quiet(), resume=True)
    finally:
        data.write_text(text)


def test_a_run_is_never_overwritten(whole: Path, source: Path) -> None:
    with pytest.raises(ResumeError, match="--resume"):
        train(recipes.recipe(source), recipes.Quiet())


def test_resuming_nothing_is_refused(source: Path) -> None:
    with pytest.raises(ResumeError, match="no run to continue"):
        train(recipes.recipe(source, "run.name=nobody"), recipes.Quiet(), resume=True)


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    held = lock(tmp_path)
    with pytest.raises(StorageError, match="in use by process"):
        lock(tmp_path)
    held.close()
    lock(tmp_path).close()


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    checkpoint.save(tmp_path, 1, {"a": torch.ones(3)}, {}, keep=1)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(StorageError, match="step 2 could not be written"):
        checkpoint.save(tmp_path, 2, {"a": torch.zeros(3)}, {}, keep=1)
    saved, damaged = checkpoint.newest(tmp_path)
    assert saved is not None
    assert saved.step == 1
    assert not damaged
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]
