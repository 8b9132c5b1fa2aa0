"""What a trainer asks of a model besides log-probabilities: values of a scalar head, and whole distributions."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tiny
from corollary.engines.trainer import EmbeddedScorer, EmbeddedTrainer, OptimizerConfig, TrainerConfig
from corollary.losses import distillation
from corollary.losses.bind import Bound, bind
from corollary.losses.policy import PPOClip
from corollary.losses.reward_model import bradley_terry
from corollary.losses.value import squared
from corollary.models.heads import with_scalar_head
from corollary.types import DistillBatch, PolicyBatch, PreferenceBatch, Terms, TokenBatch, ValueBatch


def with_head(seed: int = 3) -> torch.nn.Module:
    model = with_scalar_head(tiny.model())
    with torch.no_grad():
        model.score.weight.copy_(torch.randn(1, 16, generator=torch.Generator().manual_seed(seed)))
    return model


def as_kind(kind: type[TokenBatch], **more: Tensor) -> TokenBatch:
    batch = tiny.batch()
    shared = {f.name: getattr(batch, f.name) for f in fields(TokenBatch)}
    return kind(**shared | more)


def value_batch() -> ValueBatch:
    shape = tiny.batch().targets.shape
    goal = torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return as_kind(ValueBatch, returns=goal, old_values=torch.zeros(shape, dtype=torch.float64))


def gradients(model: torch.nn.Module, batch: TokenBatch, loss: object, **settings: object) -> dict[str, Tensor]:
    """Weights before minus after one step of plain descent stand for the gradient: Adam's first step hides its size."""
    trainer = EmbeddedTrainer(model, TrainerConfig(**settings), OptimizerConfig(), total_steps=1)
    trainer._split(batch, bind(loss))
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_a_value_is_the_head_on_the_state_before_the_token() -> None:
    model, batch = with_head(), tiny.batch()
    values = EmbeddedScorer(model, TrainerConfig(tokens_per_microbatch=30)).values(batch)
    for b, n in enumerate(batch.lengths.tolist()):
        whole = [*batch.prompts[batch.prompt_of[b]], *batch.targets[b, :n].tolist()]
        model.config._attn_implementation = "sdpa"
        states = model.model(torch.tensor([whole])).last_hidden_state[0]
        expected = F.linear(states, model.score.weight)[:, 0][len(whole) - n - 1 : -1]
        torch.testing.assert_close(values[b, :n], expected, rtol=1e-10, atol=1e-10)
        assert not values[b, n:].any()


@pytest.mark.parametrize("budget", [8, 40, 1000])
def test_a_critic_s_gradient_does_not_depend_on_the_split_and_leaves_the_language_head_alone(budget: int) -> None:
    whole, found = (
        gradients(with_head(), value_batch(), squared, tokens_per_microbatch=b) for b in (1_000_000, budget)
    )
    assert whole["score.weight"].abs().max() > 0
    for name, grad in whole.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-10, atol=1e-12)


def test_a_critic_learns_its_returns() -> None:
    trainer = EmbeddedTrainer(
        with_scalar_head(tiny.model()), TrainerConfig(), OptimizerConfig(lr=1e-3, head_lr=3e-2), total_steps=99
    )
    losses = [trainer.step(value_batch(), squared)["loss"] for _ in range(60)]
    assert losses[-1] < 0.3 * losses[0]


def test_a_policy_that_is_its_own_critic_gives_a_loss_both() -> None:
    batch = tiny.batch()

    class Both:
        needs = Bound(PPOClip()).needs | {"values"}
        cross_sample = False

        def __call__(self, logprobs: Tensor, batch: PolicyBatch) -> Terms:
            assert batch.values is not None
            policy = Bound(PPOClip())(logprobs, batch)
            return Terms(policy.loss + (batch.values - 1).square(), {"value": batch.values.detach()})

    found = gradients(with_head(), batch, Both())
    policy = gradients(with_head(), batch, PPOClip())
    assert found["score.weight"].abs().max() > 0
    assert "score.weight" not in policy or not policy["score.weight"].any()
    assert not torch.allclose(found["model.layers.0.mlp.up_proj.weight"], policy["model.layers.0.mlp.up_proj.weight"])


def test_a_reward_model_s_reward_is_the_value_of_its_one_trained_token() -> None:
    """Six answers as three pairs; only the last token of each is trained, and its value is the reward."""
    base = tiny.batch().take(range(6))
    last = torch.arange(base.targets.shape[1]) == base.lengths[:, None] - 1
    shared = {f.name: getattr(base, f.name) for f in fields(TokenBatch)} | {"weights": last.double() / 3}
    batch = PreferenceBatch(**shared)
    model = with_head()
    values = EmbeddedScorer(model, TrainerConfig()).values(batch)
    rewards = (values * last).sum(1)
    trainer = EmbeddedTrainer(model, TrainerConfig(), OptimizerConfig(), total_steps=1)
    loss = trainer.step(batch, bradley_terry)["loss"]
    assert loss == pytest.approx(2 * -F.logsigmoid(rewards[0::2] - rewards[1::2]).mean().item(), rel=1e-9)


@pytest.mark.parametrize("budget", [8, 1000])
@pytest.mark.parametrize("chunk", [3, 512])
def test_a_loss_on_distributions_sees_every_logit_once_and_the_split_changes_nothing(budget: int, chunk: int) -> None:
    teacher = EmbeddedScorer(tiny.model(seed=7), TrainerConfig())
    batch = as_kind(DistillBatch, teacher_hidden=teacher.states(tiny.batch()))

    class OfTeacher:
        bound = bind(distillation.reverse_kl)
        needs = bound.needs
        cross_sample = False

        def __call__(self, logits: Tensor, batch: DistillBatch) -> Terms:
            assert batch.teacher_hidden is not None
            return self.bound(logits, replace(batch, teacher_logits=F.linear(batch.teacher_hidden, teacher.head())))

    found = gradients(tiny.model(), batch, OfTeacher(), tokens_per_microbatch=budget, head_chunk=chunk)
    model = tiny.model()
    total = torch.zeros((), dtype=torch.float64)
    for b, n in enumerate(batch.lengths.tolist()):
        whole = torch.tensor([[*batch.prompts[batch.prompt_of[b]], *batch.targets[b, :n].tolist()]])
        logits, theirs = (m(whole).logits[0, -n - 1 : -1] for m in (model, tiny.model(seed=7)))
        terms = distillation.reverse_kl(logits, theirs.detach()).loss
        total = total + (terms * batch.weights[b, :n]).sum()
    total.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-8, atol=1e-11)
