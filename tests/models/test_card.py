"""What a model card says, and that what it tells to do can be done."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml

from corollary.models.card import Card, DataUse, Kind, Metric, readme
from corollary.models.export import export
from corollary.models.heads import as_reward_model, with_scalar_head
from models import small

CARD = Card(
    title="Tiny, trained", base_model="org/tiny", base_id="org/tiny", licence="Apache-2.0", method="GRPO, 40 steps",
    data=[DataUse(name="svamp", use="training", rows=1000, licence="MIT")],
    config_diff="steps: 40\nloss:\n  type: grpo\n", measured_on="217 prompts of svamp/test",
    metrics=[Metric(name="greedy/strict", before=0.12, after=0.32, low=0.14, high=0.26), Metric(name="new", after=0.5)],
    versions={"torch": "2.13.0"},
)  # fmt: skip


def test_a_card_says_base_model_data_metrics_and_config() -> None:
    text = readme(CARD)
    front = yaml.safe_load(text.split("---\n")[1])
    assert front == {
        "library_name": "transformers", "pipeline_tag": "text-generation", "license": "apache-2.0", "base_model": "org/tiny", "base_model_relation": "finetune", "datasets": ["svamp"], "tags": ["corollary"],
    }  # fmt: skip
    assert "org/tiny trained further with Corollary: GRPO, 40 steps." in text
    assert "| svamp | training | 1,000 | MIT |" in text
    assert "| greedy/strict | 0.120 | 0.320 | +0.200 (+0.140 to +0.260) |" in text
    assert "| new | – | 0.500 |  |" in text
    assert "On 217 prompts of svamp/test." in text
    assert "difference (95% interval)" in text
    assert "```yaml\nsteps: 40\nloss:\n  type: grpo\n```" in text
    assert "torch 2.13.0" in text


def test_a_card_without_data_or_metrics_has_no_empty_sections() -> None:
    text = readme(Card(title="t", base_model="b", licence="not stated", method="m"))
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "other"
    assert re.findall(r"^#+ .*", text, re.MULTILINE) == ["# t", "## Use", "## Limits"]
    assert "It was not evaluated." in text


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
    assert re.findall(r"^#+ [A-Z]", body.split("````")[0], re.MULTILINE) == ["## U", "## D", "## E", "## L", "## C"]
    assert all(line.count("|") - line.count("\\|") == 5 for line in body.splitlines() if line.startswith("| x"))
    assert body.count("````") == 2


def test_a_base_model_without_a_hub_id_is_named_in_words_alone() -> None:
    text = readme(Card(title="t", base_model="first-run", licence="MIT", method="SFT, 2 steps"))
    assert "first-run trained further" in text
    assert "base_model" not in text.split("---\n")[1]


def test_a_base_model_of_another_name_is_told_with_its_hub_id() -> None:
    text = readme(Card(title="t", base_model="tiny", base_id="org/tiny", licence="MIT", method="SFT, 2 steps"))
    assert "tiny (org/tiny) trained further" in text


def test_an_adapter_card_names_peft_and_the_relation() -> None:
    front = yaml.safe_load(readme(CARD, "adapter").split("---\n")[1])
    assert (front["library_name"], front["base_model_relation"]) == ("peft", "adapter")


@pytest.mark.parametrize("kind", ["chat model", "text model", "reward model"])
def test_the_code_of_a_card_loads_the_folder_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: Kind
) -> None:
    model, words = small.model(), small.tokenizer()
    card = Card(title="t", base_model="b", licence="MIT", method="m", kind=kind)
    if kind == "reward model":
        scored = with_scalar_head(model)
        torch.nn.init.ones_(scored.get_submodule("score").weight)
        model = as_reward_model(scored, padding=263)
    out = export(model, words, tmp_path / "out", card=card)
    text = (out / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.S)
    assert code
    exec(code[1].replace("FOLDER", str(out)).replace("max_new_tokens=256", "max_new_tokens=4"), {})
    assert capsys.readouterr().out.strip()
    assert ("corollary chat FOLDER" in text) == (kind == "chat model")
