from __future__ import annotations

import pytest
import torch

import tiny
from corollary.engines.trainer import EmbeddedTrainer, OptimizerConfig, TrainerConfig
from corollary.errors import ModelError, NumericsError
from corollary.losses.likelihood import NLL
from corollary.types import Terms, TokenBatch


def trainer(dtype: torch.dtype = torch.float64, **settings: object) -> EmbeddedTrainer:
    return EmbeddedTrainer(
        tiny.model(dtype), TrainerConfig(), OptimizerConfig(**({"lr": 1e-2} | settings)), total_steps=10
    )


def weights(of: EmbeddedTrainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in of.scorer.model.parameters()])


def test_a_step_is_adamw_on_the_weighted_sum() -> None:
    ours, batch = trainer(weight_decay=0.1), tiny.batch()
    model = tiny.model()
    theirs = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    for _ in range(3):
        ours.step(batch, NLL())
        loss = torch.zeros((), dtype=torch.float64)
        for b, n in enumerate(batch.lengths.tolist()):
            prompt = batch.prompts[int(batch.prompt_of[b])]
            ids = torch.tensor([*prompt, *batch.targets[b, :n].tolist()])
            logprobs = model(ids[None]).logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
            loss = loss - (logprobs.gather(1, batch.targets[b, :n, None])[:, 0] * batch.weights[b, :n]).sum()
        theirs.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        theirs.step()
    torch.testing.assert_close(
        weights(ours), torch.cat([p.detach().flatten() for p in model.parameters()]), rtol=0, atol=1e-9
    )


def test_bfloat16_learns_what_float32_masters_keep() -> None:
    """Steps far below bfloat16's spacing add up in the masters, and reach the model when they have."""
    learner = trainer(torch.bfloat16, lr=1e-5)
    before = weights(learner).clone()
    masters = {n: m.detach().clone() for n, m in learner._masters.items()}
    batch = tiny.batch(torch.float32)
    learner.step(batch, NLL())
    assert all(not torch.equal(m, masters[n]) for n, m in learner._masters.items())
    assert (weights(learner) == before).float().mean() > 0.9
    for _ in range(60):
        learner.step(batch, NLL())
    assert (weights(learner) == before).float().mean() < 0.9


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_and_leaves_the_weights(bad: float) -> None:
    learner = trainer()
    before = weights(learner).clone()

    def poisoned(logprobs: torch.Tensor, batch: TokenBatch) -> Terms:
        return Terms(logprobs * bad, {})

    with pytest.raises(NumericsError, match="weights are as before"):
        learner.step(tiny.batch(), poisoned)
    assert torch.equal(weights(learner), before)
    assert all(p.grad is None for p in learner.scorer.model.parameters())
    assert learner.version == 0


def test_state_goes_on_to_the_same_bits() -> None:
    first, second = trainer(torch.float32), trainer(torch.float32)
    batch = tiny.batch(torch.float32)
    for _ in range(2):
        first.step(batch, NLL())
    second.load_state_dict({k: v.clone() for k, v in first.state_dict().items()})
    for learner in (first, second):
        learner.step(batch, NLL())
    assert torch.equal(weights(first), weights(second))
    assert first.version == second.version == 3


def test_a_state_of_another_model_is_refused_by_name() -> None:
    state = trainer().state_dict()
    del state["weight/model.norm.weight"]
    with pytest.raises(ModelError, match=r"model\.norm\.weight"):
        trainer().load_state_dict(state)


@pytest.mark.parametrize(("schedule", "last"), [("constant", 1.0), ("linear", 0.1), ("cosine", 0.0245)])
def test_the_schedule_ends_where_it_says(schedule: str, last: float) -> None:
    settings = OptimizerConfig(schedule=schedule)
    assert settings.scale(0, 10) == 1
    assert settings.scale(9, 10) == pytest.approx(last, abs=1e-3)
