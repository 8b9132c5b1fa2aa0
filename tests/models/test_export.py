from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import torch
import yaml

from corollary.data.chat import encode_chat
from corollary.errors import StorageError
from corollary.models import export as exporting
from corollary.models.export import Card, DataUse, Metric, export, readme
from corollary.models.load import Dtype, load_model
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
    monkeypatch.setattr(exporting, "readme", lambda card: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StorageError, match=r"out: cannot be written \(No space left on device\)"):
        export(small.model(), small.tokenizer(), tmp_path / "out", card=CARD)
    assert list(tmp_path.iterdir()) == []


def test_an_export_is_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    export(small.model(), small.tokenizer(), tmp_path / "out", card=CARD)
    assert capfd.readouterr() == ("", "")


def test_an_export_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    with pytest.raises(StorageError, match="exists already; name another folder"):
        export(small.model(), small.tokenizer(), tmp_path / "out", card=CARD)
    assert os.listdir(tmp_path / "out") == ["mine.txt"]
    (tmp_path / "out" / "mine.txt").unlink()
    export(small.model(), small.tokenizer(), tmp_path / "out", card=CARD)


def test_a_card_says_base_model_data_metrics_and_config() -> None:
    text = readme(CARD)
    front = yaml.safe_load(text.split("---\n")[1])
    assert front == {
        "library_name": "transformers", "license": "apache-2.0", "base_model": "org/tiny", "datasets": ["svamp"], "tags": ["corollary"],
    }  # fmt: skip
    assert "| svamp | training | 1,000 | MIT |" in text
    assert "| greedy/strict | 0.120 | 0.320 | +0.200 (+0.140 to +0.260) |" in text
    assert "| new | – | 0.500 |  |" in text
    assert "difference (95% interval)" in text
    assert "```yaml\nsteps: 40\nloss:\n  type: grpo\n```" in text
    assert "torch 2.13.0" in text


def test_a_card_without_data_or_metrics_has_no_empty_sections() -> None:
    text = readme(Card(title="t", base_model="b", licence="not stated", method="m"))
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "other"
    assert re.findall(r"^#+ .*", text, re.MULTILINE) == ["# t"]


def test_text_in_a_card_opens_no_markup(tmp_path: Path) -> None:
    hostile = "x | y\n# z <script>alert(1)</script> [a](javascript:b) `c` \x1b[31m"
    card = Card(
        title=hostile, base_model=hostile, licence=hostile, method=hostile, config_diff="a: |\n  ```\n  # not a heading\n",
        data=[DataUse(name=hostile, use=hostile, rows=1, licence=hostile)], metrics=[Metric(name=hostile, before=1.0)],
    )  # fmt: skip
    text = readme(card)
    yaml.safe_load(text.split("---\n")[1])
    body = text.split("---\n", 2)[2]
    assert "\x1b" not in text
    assert not re.search(r"(?<!\\)<script", body)
    assert not re.search(r"(?<!\\)\[a", body)
    assert re.findall(r"^#+ ", body.split("````")[0], re.MULTILINE) == ["# ", "## ", "## ", "## "]
    assert all(line.count("|") - line.count("\\|") == 5 for line in body.splitlines() if line.startswith("| x"))
    assert body.count("````") == 2
