"""All layouts give the same log-probabilities, and they are the model's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import tiny
from corollary.engines.layout import adopt
from corollary.engines.trainer import EmbeddedScorer, EmbeddedTrainer, OptimizerConfig, TrainerConfig
from corollary.losses.policy import KLInLoss, PolicyObjective, PPOClip
from corollary.types import PolicyBatch

LAYOUTS = ["shared_prefix", "packed", "padded"]


def one_at_a_time(batch: PolicyBatch) -> torch.Tensor:
    """The model as transformers runs it, a sequence at a time."""
    model = tiny.model().eval()
    out = torch.zeros(batch.targets.shape, dtype=torch.float64)
    for b, n in enumerate(batch.lengths.tolist()):
        prompt = batch.prompts[int(batch.prompt_of[b])]
        ids = torch.tensor([*prompt, *batch.targets[b, :n].tolist()])
        logprobs = model(ids[None]).logits[0].log_softmax(-1)
        out[b, :n] = logprobs[len(prompt) - 1 : -1].gather(1, batch.targets[b, :n, None])[:, 0].detach()
    return out


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("budget", [1, 20, 1000])
def test_log_probabilities_are_those_of_one_sequence_at_a_time(layout: str, budget: int) -> None:
    batch = tiny.batch()
    scorer = EmbeddedScorer(tiny.model(), TrainerConfig(layout=layout, tokens_per_microbatch=budget, head_chunk=3))
    torch.testing.assert_close(scorer.logprobs(batch), one_at_a_time(batch), rtol=0, atol=1e-12)


def test_a_sliding_window_is_the_models_own() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=tiny.VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=3, initializer_range=0.3,
    )  # fmt: skip
    model = MistralForCausalLM(config).double().eval()
    batch = tiny.batch()
    b, n = 8, int(batch.lengths[8])
    ids = torch.tensor([*batch.prompts[2], *batch.targets[b, :n].tolist()])
    wide = model(ids[None]).logits[0].log_softmax(-1).detach()
    expected = wide[len(batch.prompts[2]) - 1 : -1].gather(1, batch.targets[b, :n, None])[:, 0]
    ours = EmbeddedScorer(adopt(model), TrainerConfig()).logprobs(batch)[b, :n]
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


def gradient(batch: PolicyBatch, **settings: object) -> tuple[float, torch.Tensor]:
    """(loss, flat gradient) of a full objective, as the optimizer would get it."""
    model = tiny.model()
    trainer = EmbeddedTrainer(
        model, TrainerConfig(**settings), OptimizerConfig(lr=0.0, max_grad_norm=1e9), total_steps=1
    )
    kept: list[torch.Tensor] = []
    update = trainer._update

    def keep(predict: bool) -> dict[str, float]:
        kept.append(torch.cat([p.grad.flatten() for p in model.parameters()]).clone())
        return update(predict)

    trainer._update = keep
    objective = PolicyObjective(surrogate=PPOClip(clip_high=0.28), kl=KLInLoss(coef=0.1))
    return trainer.step(batch, objective)["loss"], kept[0]


def full_batch() -> PolicyBatch:
    batch = tiny.batch()
    noise = torch.Generator().manual_seed(5)
    away = torch.randn(batch.targets.shape, generator=noise, dtype=torch.float64) * 0.3
    own = EmbeddedScorer(tiny.model(), TrainerConfig()).logprobs(batch)
    return replace(batch, old_logprobs=own + away, ref_logprobs=own - away)


@pytest.mark.parametrize(
    "settings",
    [
        {"tokens_per_microbatch": 1},
        {"tokens_per_microbatch": 17},
        {"layout": "packed"},
        {"layout": "padded", "tokens_per_microbatch": 30},
        {"head_chunk": 2},
        {"gradient_checkpointing": True},
    ],
    ids=str,
)
def test_loss_and_gradient_do_not_change_with(settings: dict[str, object]) -> None:
    loss, grad = gradient(full_batch())
    other_loss, other = gradient(full_batch(), **settings)
    assert grad.abs().max() > 1e-3, "the gradient is zero, so this test shows nothing"
    assert abs(loss - other_loss) <= 1e-12
    torch.testing.assert_close(other, grad, rtol=0, atol=1e-12)


def test_loss_and_gradient_do_not_change_with_the_order_of_sequences() -> None:
    batch = full_batch()
    loss, grad = gradient(batch)
    other_loss, other = gradient(batch.take([8, 3, 0, 5, 1, 7, 2, 6, 4]))
    assert abs(loss - other_loss) <= 1e-12
    torch.testing.assert_close(other, grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_stands_behind_the_end_of_an_answer_is_invisible(bad: float) -> None:
    batch = full_batch()
    loss, grad = gradient(batch)
    behind = batch.weights == 0
    dirty = replace(
        batch,
        targets=batch.targets.masked_fill(behind, 7),
        advantages=batch.advantages.masked_fill(behind, bad),
        old_logprobs=batch.old_logprobs.masked_fill(behind, bad),
        ref_logprobs=batch.ref_logprobs.masked_fill(behind, bad),
        sampler_logprobs=batch.sampler_logprobs.masked_fill(behind, bad),
    )
    other_loss, other = gradient(dirty)
    assert abs(loss - other_loss) <= 1e-12
    torch.testing.assert_close(other, grad, rtol=0, atol=1e-12)
