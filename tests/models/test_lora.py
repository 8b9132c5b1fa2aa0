"""Adapters: the first model is the one that was loaded, they alone are trained, and what is saved is what was trained."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

import tiny
from corollary.engines.trainer import EmbeddedScorer, EmbeddedTrainer, OptimizerConfig, TrainerConfig
from corollary.errors import ConfigError
from corollary.losses.policy import Reinforce
from corollary.models.heads import with_scalar_head
from corollary.models.lora import LoRA, has_lora, merged, save_adapter, with_lora, without_adapters
from corollary.run.loop import train
from models import small
from run import recipes

SMALL = LoRA(rank=2, alpha=4)


def trained(dtype: torch.dtype = torch.float64, settings: LoRA = SMALL) -> EmbeddedTrainer:
    """A few steps, so that no adapter is zero any more."""
    model = with_lora(tiny.model(dtype), settings, seed=0)
    trainer = EmbeddedTrainer(model, TrainerConfig(), OptimizerConfig(lr=0.05), total_steps=3)
    for _ in range(3):
        trainer.step(tiny.batch(dtype), Reinforce())
    return trainer


def test_at_the_start_the_model_says_what_it_said_without_adapters() -> None:
    plain, adapted = tiny.model(), with_lora(tiny.model(), SMALL, seed=0)
    first, second = (EmbeddedScorer(m, TrainerConfig()).logprobs(tiny.batch()) for m in (plain, adapted))
    assert torch.equal(first, second)


def test_what_an_adapter_adds_is_alpha_over_r_times_b_a() -> None:
    model = with_lora(tiny.model(), LoRA(rank=2, alpha=6), seed=0)
    layer = model.get_submodule("model.layers.0.self_attn.q_proj")
    weights = dict(layer.named_parameters())
    a, b = weights["lora_A.default.weight"], weights["lora_B.default.weight"]
    x = torch.linspace(-1, 1, a.shape[1], dtype=a.dtype)[None]
    before = layer(x)
    with torch.no_grad():
        b.copy_(torch.arange(float(b.numel())).view_as(b))
        torch.testing.assert_close(layer(x) - before, 6 / 2 * x @ a.T @ b.T)


def test_only_the_adapters_move_and_only_they_are_saved() -> None:
    before = tiny.model().state_dict()
    trainer = trained()
    after = {n.replace(".base_layer", ""): p for n, p in trainer.scorer.model.named_parameters() if "lora_" not in n}
    assert set(after) == set(before) - {"lm_head.weight"}
    for name, weight in after.items():
        assert torch.equal(weight, before[name]), name
    saved = {n for n in trainer.state_dict() if n.startswith("weight/")}
    assert len(saved) == 2 * 7 * 2
    assert all("lora_" in name for name in saved)
    assert all(p.abs().max() > 0 for n, p in trainer.scorer.model.named_parameters() if "lora_B" in n)


def test_with_the_adapters_off_it_is_the_reference_and_then_itself_again() -> None:
    trainer = trained()
    model = trainer.scorer.model
    reference = EmbeddedScorer(model, TrainerConfig(), within=lambda: without_adapters(model))
    own = trainer.logprobs(tiny.batch())
    expected = EmbeddedScorer(tiny.model(), TrainerConfig()).logprobs(tiny.batch())
    torch.testing.assert_close(reference.logprobs(tiny.batch()), expected, rtol=1e-12, atol=1e-12)
    assert (own - expected).abs().max() > 1e-3
    assert torch.equal(trainer.logprobs(tiny.batch()), own)
    trainer.step(tiny.batch(), Reinforce())  # they still learn
    assert (trainer.logprobs(tiny.batch()) - own).abs().max() > 1e-4


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_merged_it_says_the_same_and_has_no_adapter(dtype: torch.dtype) -> None:
    trainer = trained(dtype)
    plain = merged(trainer.scorer.model)
    assert not has_lora(plain)
    assert has_lora(trainer.scorer.model)
    assert {n for n, _ in plain.named_parameters()} == {n for n, _ in tiny.model().named_parameters()}
    found, own = EmbeddedScorer(plain, TrainerConfig()).logprobs(tiny.batch()), trainer.logprobs(tiny.batch())
    torch.testing.assert_close(found, own, rtol=1e-10 if dtype == torch.float64 else 1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", ["all_linear", ("q_proj", "v_proj")])
def test_peft_loads_the_adapter_and_says_the_same(tmp_path: Path, layers: object) -> None:
    from peft import PeftModel

    settings = LoRA(rank=2, alpha=4, layers=layers)
    trainer = trained(torch.float32, settings)
    save_adapter(trainer.scorer.model, settings, tmp_path, base="tiny")
    loaded = PeftModel.from_pretrained(tiny.model(torch.float32), str(tmp_path))
    ids = torch.tensor([[5, 9, 3, 11]])
    model = copy.deepcopy(trainer.scorer.model)
    model.config._attn_implementation = loaded.config._attn_implementation = "sdpa"
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-5)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == "tiny"


def test_a_scalar_head_gets_no_adapter_and_is_trained_with_them() -> None:
    model = with_scalar_head(with_lora(tiny.model(), SMALL, seed=0))
    learnt = {n for n, p in model.named_parameters() if p.requires_grad}
    assert "score.weight" in learnt
    assert all("lora_" in n for n in learnt - {"score.weight"})


def test_the_start_is_the_seed_s_and_each_layer_s_own() -> None:
    first, same, other = (
        {n: p for n, p in with_lora(tiny.model(), SMALL, seed=s).named_parameters() if "lora_A" in n} for s in (0, 0, 1)
    )
    assert all(torch.equal(first[n], same[n]) for n in first)
    assert all(not torch.equal(first[n], other[n]) for n in first)
    assert len({p.sum().item() for p in first.values()}) == len(first)


def test_a_name_that_no_layer_has_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no linear layer is called .*nothing.*") as caught:
        with_lora(tiny.model(), LoRA(layers=("nothing",)), seed=0)
    assert "q_proj" in str(caught.value.hint)


def test_a_run_writes_the_adapter_and_the_merged_model(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    source = recipes.write(tmp_path)
    run = train(recipes.recipe(source, "model.lora.rank=2", "run.steps=2", "optimizer.warmup_steps=0"), recipes.Quiet())
    whole = AutoModelForCausalLM.from_pretrained(run / "model")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ids = torch.tensor([[40, 41, 42]])
    adapted = PeftModel.from_pretrained(base, str(run / "adapter"))(ids).logits
    torch.testing.assert_close(adapted, whole(ids).logits, rtol=1e-4, atol=1e-4)
    start = AutoModelForCausalLM.from_pretrained(tmp_path / "model")(ids).logits
    assert (whole(ids).logits - start).abs().max() > 1e-4
    assert small.tokenizer().eos_token == "<|end|>"


def test_on_4_bit_weights_only_the_adapters_learn_and_the_merged_model_says_the_same() -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra qlora")
    settings = LoRA(rank=2, alpha=4, base="nf4")
    plain = EmbeddedScorer(tiny.model(torch.float32), TrainerConfig()).logprobs(tiny.batch(torch.float32))
    start = EmbeddedScorer(with_lora(tiny.model(torch.float32), settings, seed=0), TrainerConfig())
    gap = (start.logprobs(tiny.batch(torch.float32)) - plain).abs().max()
    assert 1e-4 < gap < 3  # four bits round, and no more
    trainer = trained(torch.float32, settings)
    assert all("lora_" in name for name in trainer.state_dict() if name.startswith("weight/"))
    assert any(p.dtype == torch.uint8 for p in trainer.scorer.model.parameters())
    whole = merged(trainer.scorer.model)
    assert all(p.is_floating_point() for p in whole.parameters())
    found, own = (s.logprobs(tiny.batch(torch.float32)) for s in (EmbeddedScorer(whole, TrainerConfig()), trainer))
    torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-4)


def test_4_bit_weights_without_their_package_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", None)
    with pytest.raises(ConfigError, match="bitsandbytes") as caught:
        with_lora(tiny.model(torch.float32), LoRA(base="nf4"), seed=0)
    assert "corollary[qlora]" in str(caught.value.hint)
