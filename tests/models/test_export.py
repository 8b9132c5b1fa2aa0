from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from peft import PeftModel
from tokenizers import normalizers

from corollary.data.chat import encode_chat
from corollary.errors import ModelError, StorageError
from corollary.models import export as exporting
from corollary.models.card import Card, DataUse, Metric
from corollary.models.export import export, export_adapter, export_gguf
from corollary.models.load import Dtype, load_model
from corollary.models.lora import LoRA, with_lora
from models import small

CARD = Card(
    title="Tiny, trained", base_model="org/tiny", licence="Apache-2.0", method="GRPO, 40 steps",
    data=[DataUse(name="svamp", use="training", rows=1000, licence="MIT")],
    config_diff="steps: 40\nloss:\n  type: grpo\n",
    metrics=[Metric(name="greedy/strict", before=0.12, after=0.32, low=0.14, high=0.26), Metric(name="new", after=0.5)],
    versions={"torch": "2.13.0"},
)  # fmt: skip


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_reloaded_export_gives_the_same_logits_bit_for_bit(tmp_path: Path, name: Dtype, tied: bool) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    small.model(tie_word_embeddings=tied).save_pretrained(tmp_path / "base")
    small.tokenizer().save_pretrained(tmp_path / "base")
    model = load_model(str(tmp_path / "base"), dtype=name).model
    dtype = model.dtype
    with torch.no_grad():
        model.model.norm.weight += torch.linspace(-0.3, 0.3, 16).to(dtype)  # as if trained
    export(model, small.tokenizer(), tmp_path / "out", card=CARD)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    messages = [{"role": "user", "content": "3 + 4?"}]
    ids = torch.tensor([encode_chat(tokenizer, messages).token_ids])
    assert tuple(ids[0].tolist()) == encode_chat(small.tokenizer(), messages).token_ids
    assert again.dtype == dtype
    assert torch.equal(model(ids).logits, again(ids).logits)
    assert torch.equal(model(ids).logits, load_model(str(tmp_path / "out"), dtype=name).model(ids).logits)


def test_an_export_holds_what_others_read_and_no_path_of_this_machine(tmp_path: Path) -> None:
    small.folder(tmp_path / "base")
    loaded = load_model(str(tmp_path / "base"))
    out = export(loaded.model, loaded.tokenizer, tmp_path / "out", card=CARD)
    assert {p.name for p in out.iterdir()} >= {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja", "README.md",
    }  # fmt: skip
    assert json.loads((out / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    for path in out.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path.name
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1


def test_an_export_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        exporting, "readme", lambda card, form: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(StorageError, match=r"out: cannot be written \(No space left on device\)"):
        export(small.model(), small.tokenizer(), tmp_path / "out", card=CARD)
    assert list(tmp_path.iterdir()) == []


def test_an_export_is_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    export(small.model(), small.tokenizer(), tmp_path / "out", card=CARD)
    assert capfd.readouterr() == ("", "")


def test_an_export_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    with pytest.raises(StorageError, match="exists already; give another name"):
        export(small.model(), small.tokenizer(), tmp_path / "out", card=CARD)
    assert os.listdir(tmp_path / "out") == ["mine.txt"]
    (tmp_path / "out" / "mine.txt").unlink()
    export(small.model(), small.tokenizer(), tmp_path / "out", card=CARD)


def test_a_gguf_file_appears_whole_or_not_at_all_and_replaces_nothing(tmp_path: Path) -> None:
    words = small.tokenizer()
    words.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(ModelError, match="cannot say this tokenizer"):
        export_gguf(small.model(), words, tmp_path / "m.gguf", card=CARD, dtype="f16")
    assert list(tmp_path.iterdir()) == []
    out = export_gguf(small.model(), small.tokenizer(), tmp_path / "m.gguf", card=CARD, dtype="f16")
    with pytest.raises(StorageError, match=r"m\.gguf: exists already"):
        export_gguf(small.model(), small.tokenizer(), out, card=CARD, dtype="f16")
    fields = GGUFReader(out).fields
    assert fields["general.name"].contents() == "Tiny, trained"
    assert fields["general.license"].contents() == "Apache-2.0"
    assert fields["general.description"].contents() == "org/tiny trained further with Corollary: GRPO, 40 steps"


def test_an_adapter_folder_gives_peft_the_same_logits(tmp_path: Path) -> None:
    small.folder(tmp_path / "base")
    settings = LoRA(rank=2)
    loaded = load_model(str(tmp_path / "base"))
    tuned = with_lora(loaded.model, settings, seed=0)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    out = export_adapter(tuned, loaded.tokenizer, tmp_path / "out", card=CARD, settings=settings, base="org/tiny")
    ids = torch.tensor([[1, 2, 3]])
    again = PeftModel.from_pretrained(load_model(str(tmp_path / "base")).model, str(out))
    assert torch.allclose(again(ids).logits, tuned(ids).logits, atol=1e-6)
    assert not torch.equal(again(ids).logits, load_model(str(tmp_path / "base")).model(ids).logits)
    assert "PeftModel.from_pretrained" in (out / "README.md").read_text()
    assert (out / "chat_template.jinja").exists()
