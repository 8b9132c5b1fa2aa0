from __future__ import annotations

import json
import os
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from corollary.data.chat import encode_chat
from corollary.errors import ModelError
from corollary.models import catalogue, hub, load
from corollary.models.load import load_model, load_tokenizer, stop_token_ids
from models import small


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small.folder(tmp_path / "model")


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def canary(path: Path) -> bytes:
    class Touch:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {path}",)

    return pickle.dumps(Touch())


def test_a_folder_loads_with_its_weights_and_limits(folder: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# x")
    loaded = load_model(str(folder))
    original = small.model().state_dict()
    assert all(torch.equal(t, original[n]) for n, t in loaded.model.state_dict().items())
    assert not loaded.model.training
    assert (loaded.name, loaded.path, loaded.licence, loaded.max_positions) == (str(folder), folder, "mit", 128)
    assert loaded.eos_token_ids == (small.tokenizer().eos_token_id,)
    assert loaded.tokenizer.pad_token_id is not None
    assert load_model(str(folder), dtype="bfloat16").model.dtype == torch.bfloat16
    assert load_tokenizer(str(folder)).get_vocab() == small.tokenizer().get_vocab()


def test_loading_is_silent_and_leaves_transformers_settings_alone(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_model(str(folder))
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "model.ckpt", "weights.pkl"])
def test_pickle_weights_are_refused_and_never_read(folder: Path, tmp_path: Path, file: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / file).write_bytes(canary(tmp_path / "canary"))
    with pytest.raises(ModelError, match=f"{file}: pickle weights are refused") as caught:
        load_model(str(folder))
    assert caught.value.code == "E0304"
    assert not (tmp_path / "canary").exists()


def test_no_pickle_beside_safetensors_is_read(folder: Path, tmp_path: Path) -> None:
    for file in ("pytorch_model.bin", "optimizer.pt", "training_args.bin", "rng_state.pth", "tokenizer.pkl"):
        (folder / file).write_bytes(canary(tmp_path / "canary"))
    seen: list[str] = []
    sys.addaudithook(lambda event, args: seen.append(str(args)) if event == "pickle.find_class" else None)
    load_model(str(folder))
    assert seen == []
    assert not (tmp_path / "canary").exists()


def test_a_model_s_own_code_is_never_run(folder: Path, tmp_path: Path) -> None:
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\nclass Evil: pass\n")
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\n")
    auto = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    edit(folder / "config.json", auto_map=auto, _attn_implementation_internal="some/kernel")
    load_model(str(folder))  # its architecture is known: the code is ignored
    edit(folder / "config.json", auto_map=auto, model_type="evil", architectures=["Evil"])
    with pytest.raises(ModelError) as caught:
        load_model(str(folder))
    assert caught.value.code in ("E0306", "E0310")
    assert not (tmp_path / "canary").exists()


def test_a_tokenizer_with_more_entries_than_the_embedding_is_refused_before_the_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.model(rows=200).save_pretrained(folder)
    monkeypatch.setattr(load, "_weights", lambda *a: pytest.fail("weights were read"))
    highest = len(small.tokenizer()) - 1
    with pytest.raises(
        ModelError, match=f"the tokenizer gives ids up to {highest}, the model's embedding has 200 rows"
    ):
        load_model(str(folder))


def test_a_larger_embedding_than_the_vocabulary_is_fine(folder: Path) -> None:
    small.model(rows=300).save_pretrained(folder)
    assert load_model(str(folder)).model.config.vocab_size == 300


def test_a_special_id_outside_the_embedding_is_refused(folder: Path) -> None:
    edit(folder / "config.json", eos_token_id=[3, 9999])
    with pytest.raises(ModelError, match=r"config\.json: eos_token_id is 9999, the embedding has"):
        load_model(str(folder))


def test_weights_that_lack_a_layer_are_refused_and_not_made_up(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 1 tensors .* the first model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(str(folder))


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    edit(folder / "config.json", intermediate_size=24)
    with pytest.raises(ModelError, match="its weights cannot be read"):
        load_model(str(folder))


@pytest.mark.parametrize("damage", ["cut", "header", "empty", "noise"])
def test_damaged_safetensors_are_one_line(folder: Path, damage: str) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    changed = {
        "cut": content[:-100], "header": (2**40).to_bytes(8, "little") + content[8:], "empty": b"", "noise": b"\x00" * 4096,
    }  # fmt: skip
    path.write_bytes(changed[damage])
    with pytest.raises(ModelError, match="its weights cannot be read") as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_damaged_json_is_one_line(folder: Path, file: str) -> None:
    (folder / file).write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(str(folder))


@pytest.mark.parametrize(
    "target", ["../../outside.safetensors", "/etc/x.safetensors", "pytorch_model.bin", "absent.safetensors"]
)
def test_an_index_may_only_name_safetensors_beside_it(folder: Path, target: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": target}}))
    with pytest.raises(ModelError, match="names"):
        load_model(str(folder))


def test_an_empty_folder_another_file_and_a_wrong_name_are_told(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "void").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    for name, reason in {
        str(tmp_path / "void"): "no config.json in it",
        str(tmp_path / "notes.txt"): "a file, and no .gguf",
        "smollm2-135m-instrukt": "there is no model 'smollm2-135m-instrukt'; did you mean smollm2-135m-instruct?",
        "./nowhere/model": "there is no model",
        "svamp": "'svamp' is a data set",
    }.items():
        with pytest.raises(ModelError, match=reason.replace("?", r"\?").replace("(", r"\(")):
            load_model(name)


def test_a_hub_that_does_not_answer_is_one_line_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    started = time.monotonic()
    with pytest.raises(
        ModelError, match=r"org/model: cannot be had from the hub \(http://127\.0\.0\.1:9 does not answer"
    ) as caught:
        load_model("org/model")
    assert time.monotonic() - started < 10
    assert "\n" not in str(caught.value)


def test_the_hub_is_asked_for_safetensors_of_one_revision_and_for_no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def refuse(hub_id: str, **settings: object) -> str:
        asked.update(settings, hub_id=hub_id)
        raise ConnectionError("cut off\ndetails")

    monkeypatch.setattr(hub, "refusal", lambda: "")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(
        ModelError, match=r"org/model: cannot be had from the hub \(ConnectionError: cut off\); check the name"
    ):
        load_model("org/model@v1")
    assert (asked["hub_id"], asked["revision"]) == ("org/model", "v1")
    assert not any(p.endswith((".bin", ".pt", ".pth", ".py")) for p in asked["allow_patterns"])


def test_a_hub_model_is_what_its_snapshot_holds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "refusal", lambda: "")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: str(folder))
    assert load_model("org/model").path == folder
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no \*\.safetensors in it"):
        load_model("org/model")


def test_every_end_of_sequence_token_that_anyone_names_ends_an_answer() -> None:
    model, tokenizer = small.model(), small.tokenizer()
    own = tokenizer.eos_token_id
    model.generation_config.eos_token_id = [5, 3]
    model.config.eos_token_id = 7
    assert stop_token_ids(model, tokenizer) == tuple(sorted({3, 5, 7, own}))
    model.generation_config.eos_token_id = model.config.eos_token_id = tokenizer.eos_token = None
    with pytest.raises(ModelError, match="neither the model nor its tokenizer names an end-of-sequence token"):
        stop_token_ids(model, tokenizer)


def test_a_tokenizer_without_padding_pads_with_its_end_of_sequence(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


@pytest.mark.slow
def test_smollm2_is_converted_once_and_then_needs_no_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf = small.fetched("smollm2-135m-instruct")
    monkeypatch.setenv("COROLLARY_CACHE", str(tmp_path))
    monkeypatch.setattr(catalogue, "fetch", lambda name, announce=None: gguf)
    first = load_model("smollm2-135m-instruct")
    monkeypatch.setattr(catalogue, "fetch", lambda *a, **k: pytest.fail("the GGUF was asked for again"))
    started = time.monotonic()
    second = load_model("smollm2-135m-instruct")
    assert time.monotonic() - started < 15
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))
    assert sum(p.numel() for p in second.model.parameters()) == 134_515_008
    assert (second.eos_token_ids, second.max_positions, second.licence) == ((2,), 8192, "Apache-2.0")
    assert second.model.dtype == torch.float32
    assert second.tokenizer("a  12\n\n3").tokens() == [
        "a",
        "ĠĠ",
        "1",
        "2",
        "ĊĊ",
        "3",
    ]  # digits first, as it was trained
    assert not hasattr(second.model.config, "quantization_config")
    provenance = json.loads((second.path / "provenance.json").read_text())
    assert provenance["gguf"]["sha256"] == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    (second.path / "config.json").unlink()  # a folder that is not whole is made again
    with pytest.raises(pytest.fail.Exception):
        load_model("smollm2-135m-instruct")


@pytest.mark.slow
def test_smollm2_answers_in_english() -> None:
    loaded = small.smollm2()
    ids = encode_chat(loaded.tokenizer, [{"role": "user", "content": "What is the capital of France?"}]).token_ids
    with torch.no_grad():
        out = loaded.model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=12,
            do_sample=False,
        )
    assert "Paris" in loaded.tokenizer.decode(out[0, len(ids) :])
