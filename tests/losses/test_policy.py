from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import tiny
from corollary.losses.policy import (
    KLInLoss,
    KLInReward,
    NoKL,
    PolicyObjective,
    PPOClip,
    Reinforce,
    TruncatedImportance,
    ppo_clip,
    reinforce,
)
from corollary.ops.reduce import TokenMean, token_weights, weighted_sum

F64 = torch.float64
OLD = torch.tensor([[-1, -2, -0.5], [-1.5, -0.7, -3]], dtype=F64)
RATIO = torch.tensor([[1.5, 0.5, 1.1], [0.9, 1.4, 1.0]], dtype=F64)
NEW = OLD + RATIO.log()
A = torch.tensor([[1.0], [-1.0]], dtype=F64).expand(2, 3)
TRAINED = torch.tensor([[1, 1, 1], [1, 1, 0]], dtype=torch.bool)
W = token_weights(TRAINED, TokenMean())


def test_ppo_clip_is_the_catalogues_vector_in_value_and_gradient() -> None:
    logprobs = NEW.clone().requires_grad_()
    terms = ppo_clip(logprobs, OLD, A)
    expected = torch.tensor([[-1.2, -0.5, -1.1], [0.9, 1.4, 1.0]], dtype=F64)
    torch.testing.assert_close(terms.loss, expected, rtol=1e-10, atol=0)
    weighted_sum(terms.loss, W).backward()
    gradient = torch.tensor([[0, -0.1, -0.22], [0.18, 0.28, 0]], dtype=F64)
    torch.testing.assert_close(logprobs.grad, gradient, rtol=1e-10, atol=1e-12)
    assert weighted_sum(terms.metrics["clipped"], W).item() == pytest.approx(0.2)


def test_dapos_clip_is_the_catalogues_vector() -> None:
    assert weighted_sum(ppo_clip(NEW, OLD, A, clip_high=0.28).loss, W).item() == pytest.approx(-0.116, rel=1e-10)


@pytest.mark.parametrize(("dual", "expected"), [(None, 0.52), (3.0, 0.32)])
def test_dual_clip_is_the_catalogues_vector(dual: float | None, expected: float) -> None:
    new = OLD + torch.tensor([[1.5, 0.5, 1.1], [4.0, 1.4, 1.0]], dtype=F64).log()
    assert weighted_sum(ppo_clip(new, OLD, A, dual_clip=dual).loss, W).item() == pytest.approx(expected, rel=1e-10)


def test_reinforce_is_the_catalogues_vector() -> None:
    assert weighted_sum(reinforce(NEW, A).loss, W).item() == pytest.approx(0.344696722722, rel=1e-10)


def test_truncated_importance_weights_are_the_catalogues_vector() -> None:
    w = torch.tensor([[0.4, 1, 2.5], [6, 0.9, 1]], dtype=F64)
    got = TruncatedImportance(cap=2.0)(w.log(), torch.zeros(2, 3, dtype=F64))
    torch.testing.assert_close(got, torch.tensor([[0.4, 1, 2], [2, 0.9, 1]], dtype=F64))
    assert weighted_sum(ppo_clip(NEW, OLD, A).loss * got, W).item() == pytest.approx(-0.024, rel=1e-9)


def test_at_ratio_one_the_gradient_is_that_of_reinforce() -> None:
    logprobs = OLD.clone().requires_grad_()
    ppo_clip(logprobs, OLD, A).loss.sum().backward()
    torch.testing.assert_close(logprobs.grad, -A, rtol=0, atol=0)


@pytest.mark.parametrize("surrogate", [PPOClip(clip_high=0.28, dual_clip=3.0), Reinforce()], ids=lambda s: s.type)
@pytest.mark.parametrize(
    "kl", [NoKL(), *(KLInLoss(coef=0.3, estimator=e) for e in ("k2", "k3", "k3_reverse"))], ids=str
)
@pytest.mark.parametrize("tis", [False, True])
def test_the_gradient_is_that_of_finite_differences(surrogate: PPOClip, kl: KLInLoss, tis: bool) -> None:
    objective = PolicyObjective(surrogate=surrogate, kl=kl, **({"correction": TruncatedImportance()} if tis else {}))
    generator = torch.Generator().manual_seed(3)
    batch = tiny.batch()
    noise = [torch.randn(batch.targets.shape, generator=generator, dtype=F64) * 0.4 for _ in range(3)]
    batch = replace(batch, old_logprobs=noise[0] - 2, ref_logprobs=noise[1] - 2, sampler_logprobs=noise[2] - 2)
    point = (torch.randn(batch.targets.shape, generator=generator, dtype=F64) * 0.4 - 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: weighted_sum(objective(x, batch).loss, batch.weights), point)


def test_without_old_logprobs_the_first_ratio_is_exactly_one_and_the_kl_to_itself_zero() -> None:
    logprobs = NEW.clone().requires_grad_()
    batch = tiny.batch()
    same = logprobs.detach().mean() * torch.ones(batch.targets.shape, dtype=F64)
    batch = replace(batch, ref_logprobs=same)
    terms = PolicyObjective(kl=KLInLoss(coef=0.1))(same.clone().requires_grad_(), batch)
    assert terms.metrics["ratio"].eq(1).all()
    assert terms.metrics["kl"].eq(0).all()
    assert terms.metrics["clipped"].eq(0).all()


def test_a_kl_penalty_pulls_towards_the_reference() -> None:
    """Descending the penalty alone brings logπ of a token that π likes too much down."""
    batch = replace(tiny.batch(), ref_logprobs=torch.full((9, 8), -3.0, dtype=F64))
    batch = replace(batch, advantages=torch.zeros_like(batch.advantages))
    for estimator in ("k2", "k3", "k3_reverse"):
        logprobs = torch.full((9, 8), -1.0, dtype=F64, requires_grad=True)
        weighted_sum(
            PolicyObjective(kl=KLInLoss(coef=1.0, estimator=estimator))(logprobs, batch).loss, batch.weights
        ).backward()
        assert (logprobs.grad[batch.weights != 0] > 0).all(), estimator


def test_kl_in_the_reward_takes_off_the_answers_whole_log_ratio() -> None:
    kl = KLInReward(coef=0.5)
    assert kl.penalty(torch.tensor([[-1.0, -1.0, 0.0]]), torch.tensor([[-2.0, -3.0, 0.0]])).tolist() == [1.5]


@pytest.mark.parametrize(("wrong", "said"), [({"clip_low": -0.1}, "clip bounds"), ({"dual_clip": 1.0}, "dual_clip")])
def test_a_bound_out_of_range_is_refused(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ppo_clip(NEW, OLD, A, **wrong)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_log_ratios_stay_finite_where_the_clip_holds(dtype: torch.dtype) -> None:
    logprobs = torch.tensor([60.0, -60.0], dtype=dtype, requires_grad=True)
    ppo_clip(logprobs, torch.zeros(2, dtype=dtype), torch.ones(2, dtype=dtype)).loss.sum().backward()
    assert logprobs.grad is not None
    assert torch.isfinite(logprobs.grad).all()
