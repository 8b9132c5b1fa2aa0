"""Every algorithm on a tiny model: the same bits for the same seed, the same bits after a stop, and the curve that is on record."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from corollary.errors import Preempted
from corollary.run.loop import train
from golden import recipes
from run.recipes import Quiet

RECORDED = json.loads((Path(__file__).parent / "curves.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recipes.written(tmp_path_factory.mktemp("golden"))


class StopAfter3(Quiet):
    def step(self, number: int, *rest: object) -> None:
        if number == 3:
            signal.raise_signal(signal.SIGTERM)


def result(run: Path) -> dict[str, bytes]:
    """Everything that must be the same: the journals without the run's own name, and every tensor of the last checkpoint."""
    last = run / "checkpoints" / "step-000006"
    tensors = {file.name: file.read_bytes() for file in sorted(last.glob("*.safetensors"))}
    return tensors | {name: (run / name).read_bytes() for name in ("metrics.jsonl", "rollouts.jsonl", "ledger.jsonl")}


@pytest.mark.golden
@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_run_gives_the_same_bits_again_and_after_a_stop_and_its_curve_is_on_record(name: str, folder: Path) -> None:
    whole = train(recipes.recipe(name, folder, name), Quiet())
    again = train(recipes.recipe(name, folder, f"{name}-again"), Quiet())
    assert result(again) == result(whole)

    with pytest.raises(Preempted, match="after step 3 of 6"):
        train(recipes.recipe(name, folder, f"{name}-stopped"), StopAfter3())
    resumed = train(recipes.recipe(name, folder, f"{name}-stopped"), Quiet(), resume=True)
    assert result(resumed) == result(whole)

    found = recipes.curve(whole)
    assert len(set(found)) > 1, "nothing was learnt, so this shows nothing"
    # Other processors round otherwise; a change of the arithmetic is far larger than that.
    assert found == pytest.approx(RECORDED[name], rel=1e-3, abs=1e-6), (
        "if the change is meant: python scripts/record_curves.py"
    )


@pytest.mark.golden
def test_every_recorded_curve_has_its_recipe() -> None:
    assert set(RECORDED) == set(recipes.RECIPES)
