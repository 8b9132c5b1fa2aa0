"""A run's newest checkpoint as what others load, and what its card says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel

from corollary.errors import ConfigError, DataError, ModelError, ResumeError
from corollary.models.load import load_model
from corollary.run.exporting import export_run
from corollary.run.loop import train
from run import recipes


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COROLLARY_CACHE", str(tmp_path / "cache"))


def trained(path: Path, *overrides: str) -> Path:
    source = recipes.write(path)
    return train(recipes.recipe(source, "run.steps=2", "evaluation.samples=0", *overrides), recipes.Quiet())


LORA = "model.lora={rank: 2}"
IDS = torch.tensor([[1, 2, 3, 40, 50]])


def logits(name: Path) -> torch.Tensor:
    return load_model(str(name)).model(IDS).logits


@pytest.mark.parametrize("settings", [(), (LORA,)], ids=["all weights", "adapters"])
def test_a_gguf_file_of_a_run_is_its_exported_folder(tmp_path: Path, settings: tuple[str, ...]) -> None:
    run = trained(tmp_path, *settings)
    folder = export_run(run, tmp_path / "out")
    file = export_run(run, tmp_path / "out.gguf", form="gguf", dtype="f32")
    assert torch.equal(logits(file), logits(folder))
    assert torch.equal(logits(folder), logits(run / "model"))
    assert not torch.equal(logits(folder), logits(tmp_path / "model"))


def test_an_adapter_folder_of_a_run_on_its_base_is_the_merged_folder(tmp_path: Path) -> None:
    run = trained(tmp_path, LORA)
    adapter = export_run(run, tmp_path / "adapter", form="adapter")
    merged = export_run(run, tmp_path / "merged")
    base = load_model(str(tmp_path / "model")).model
    assert torch.allclose(PeftModel.from_pretrained(base, str(adapter))(IDS).logits, logits(merged), atol=1e-6)


def test_a_card_says_method_data_numbers_and_no_path_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    run = trained(tmp_path, LORA)
    text = (export_run(run, tmp_path / "out") / "README.md").read_text()
    assert "GRPO by the reward vowels, 2 steps, adapters of rank 2" in text
    assert "On 3 prompts of " in text
    assert "| greedy/strict | " in text
    assert "corollary 0." in text
    assert yaml.safe_load(text.split("---\n")[1])["library_name"] == "transformers"
    assert str(tmp_path) not in text


def test_a_card_passes_on_the_hub_id_that_a_run_goes_back_to(tmp_path: Path) -> None:
    source = recipes.write(tmp_path)
    (tmp_path / "model" / "README.md").write_text("---\nlicense: mit\nbase_model: org/tiny\n---\n")
    run = train(recipes.recipe(source, "run.steps=1", "evaluation.samples=0"), recipes.Quiet())
    front = yaml.safe_load((run / "model" / "README.md").read_text().split("---\n")[1])
    assert (front["base_model"], front["license"]) == ("org/tiny", "mit")


def test_what_cannot_be_exported_is_refused_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = recipes.write(tmp_path)
    run = tmp_path / "runs" / "tiny"
    train(recipes.recipe(source, "run.steps=0", "evaluation.samples=0", "run.export=false"), recipes.Quiet())
    monkeypatch.setattr("corollary.run.exporting.starting_model", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(ConfigError, match="tiny: has no adapters: it trained all weights; export a folder"):
        export_run(run, tmp_path / "out", form="adapter")
    with pytest.raises(ConfigError, match=r"out: a GGUF file's name ends in \.gguf"):
        export_run(run, tmp_path / "out", form="gguf")
    with pytest.raises(DataError, match="is no run's folder"):
        export_run(tmp_path / "model", tmp_path / "out")
    for step in (run / "checkpoints").iterdir():
        step.rename(tmp_path / step.name)
    with pytest.raises(ResumeError, match="has no checkpoint"):
        export_run(run, tmp_path / "out")


def test_a_model_that_gguf_cannot_say_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path)
    (tmp_path / "exports").mkdir()
    monkeypatch.setattr("corollary.models.gguf_writer._ARCHITECTURES", {})
    with pytest.raises(ModelError, match="type llama is not written as GGUF"):
        export_run(run, tmp_path / "exports" / "out.gguf", form="gguf")
    assert list((tmp_path / "exports").iterdir()) == []
