from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from corollary.ops.returns import (
    gae,
    kl_penalised_returns,
    lambda_returns,
    length_adaptive_gae,
    reinforce_plus_plus,
    reward_to_go,
    vtrace,
    vtrace_returns,
    whiten,
)

NAN = float("nan")
GENERATOR = torch.Generator().manual_seed(0)
B, T = 4, 7
REWARDS, VALUES, LOGPROBS, OLD = (torch.randn(B, T, generator=GENERATOR, dtype=torch.float64) for _ in range(4))
BOOTSTRAP = torch.tensor([0.0, 1.3, -0.4, 2.0], dtype=torch.float64)
TRAINED = torch.tensor(
    [[1, 1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 1, 1, 0], [0, 1, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]], dtype=torch.bool
)

Estimate = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
ESTIMATES: dict[str, Estimate] = {
    "reward_to_go": lambda r, v, lp, old, m, b: reward_to_go(r, m, gamma=0.9),
    "gae": lambda r, v, lp, old, m, b: gae(r, v, m, b, gamma=0.9, lam=0.8),
    "length_adaptive_gae": lambda r, v, lp, old, m, b: length_adaptive_gae(r, v, m, b, gamma=0.9, alpha=0.7),
    "lambda_returns": lambda r, v, lp, old, m, b: lambda_returns(r, v, m, b, gamma=0.9, lam=0.8),
    "vtrace": lambda r, v, lp, old, m, b: vtrace(r, v, lp, old, m, b, gamma=0.9, ratio_cap=1.5),
    "vtrace_returns": lambda r, v, lp, old, m, b: vtrace_returns(r, v, lp, old, m, b, gamma=0.9, ratio_cap=1.5),
}
each = pytest.mark.parametrize("estimate", ESTIMATES.values(), ids=ESTIMATES)


def whole(estimate: Estimate, **changed: Tensor) -> Tensor:
    inputs = {"r": REWARDS, "v": VALUES, "lp": LOGPROBS, "old": OLD, "m": TRAINED, "b": BOOTSTRAP} | changed
    return estimate(*inputs.values())


def test_advantages_of_a_truncated_answer_by_hand() -> None:
    """δ = 0.1 + 0.5·0.4 - 0.2 = 0.1 and 0 + 0.5·2 - 0.4 = 0.6; A₀ = 0.1 + 0.5·0.5·0.6."""
    r, v, all_ = torch.tensor([[0.1, 0.0]]), torch.tensor([[0.2, 0.4]]), torch.ones(1, 2, dtype=torch.bool)
    torch.testing.assert_close(gae(r, v, all_, torch.tensor([2.0]), gamma=0.5, lam=0.5), torch.tensor([[0.25, 0.6]]))
    ended = gae(r, v, all_, gamma=0.5, lam=0.5)
    torch.testing.assert_close(ended, torch.tensor([[0.0, -0.4]]))


def test_off_policy_targets_by_hand() -> None:
    """Ratios ½ and 2, caps 1: δ₁ = 1·(1 - 0.4) = 0.6, v₁ = 1; δ₀ = ½·(0 + 0.4 - 0.2) = 0.1, v₀ = 0.2 + 0.1 + ½·0.6."""
    r, v, all_ = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.2, 0.4]]), torch.ones(1, 2, dtype=torch.bool)
    ratio = torch.tensor([[0.5, 2.0]]).log()
    torch.testing.assert_close(vtrace_returns(r, v, ratio, torch.zeros(1, 2), all_), torch.tensor([[0.6, 1.0]]))
    torch.testing.assert_close(vtrace(r, v, ratio, torch.zeros(1, 2), all_), torch.tensor([[0.4, 0.6]]))
    torch.testing.assert_close(vtrace(r, v, ratio, torch.zeros(1, 2), all_, ratio_cap=3.0), torch.tensor([[0.7, 1.2]]))


@each
def test_an_observation_inside_an_answer_is_as_if_it_were_not_there(estimate: Estimate) -> None:
    got = whole(estimate)
    for b in range(B):
        keep = TRAINED[b]
        r, v, lp, old, m = (x[b : b + 1, keep] for x in (REWARDS, VALUES, LOGPROBS, OLD, TRAINED))
        alone = estimate(r, v, lp, old, m, BOOTSTRAP[b : b + 1])
        torch.testing.assert_close(got[b : b + 1, keep], alone, rtol=0, atol=1e-14)
        assert (got[b, ~keep] == 0).all()


@each
@pytest.mark.parametrize("bad", [NAN, float("inf"), 1e30])
def test_what_stands_where_nothing_is_trained_is_not_read(estimate: Estimate, bad: float) -> None:
    behind = {k: x.where(TRAINED, bad) for k, x in {"r": REWARDS, "v": VALUES, "lp": LOGPROBS, "old": OLD}.items()}
    assert torch.equal(whole(estimate, **behind), whole(estimate))


@each
def test_no_gradient_flows_into_what_is_constant(estimate: Estimate) -> None:
    inputs = {
        k: x.clone().requires_grad_()
        for k, x in {"r": REWARDS, "v": VALUES, "lp": LOGPROBS, "old": OLD, "b": BOOTSTRAP}.items()
    }
    order = {k: inputs.get(k, TRAINED) for k in ("r", "v", "lp", "old", "m", "b")}
    assert not estimate(*order.values()).requires_grad


@each
def test_an_answer_of_one_token_and_one_of_none(estimate: Estimate) -> None:
    one = whole(estimate)[3]
    assert one[0] != 0
    assert (whole(estimate, m=torch.zeros_like(TRAINED)) == 0).all()


@each
def test_float32_agrees_with_float64(estimate: Estimate) -> None:
    single = {k: x.float() for k, x in {"r": REWARDS, "v": VALUES, "lp": LOGPROBS, "old": OLD, "b": BOOTSTRAP}.items()}
    order = {k: single.get(k, TRAINED) for k in ("r", "v", "lp", "old", "m", "b")}
    got = estimate(*order.values())
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), whole(estimate), rtol=1e-5, atol=1e-5)


def test_at_the_ends_of_lambda_stand_the_return_and_the_temporal_difference() -> None:
    all_ = torch.ones(B, T, dtype=torch.bool)
    following = torch.cat([VALUES[:, 1:], BOOTSTRAP[:, None]], dim=1)
    torch.testing.assert_close(
        gae(REWARDS, VALUES, all_, BOOTSTRAP, gamma=0.9, lam=0.0), REWARDS + 0.9 * following - VALUES
    )
    discounts = 0.9 ** torch.arange(T + 1, dtype=torch.float64)
    total = (torch.cat([REWARDS, BOOTSTRAP[:, None]], dim=1) * discounts).sum(1)
    returns = lambda_returns(REWARDS, VALUES, all_, BOOTSTRAP, gamma=0.9, lam=1.0)
    torch.testing.assert_close(returns[:, 0], total)
    last = torch.cat([REWARDS[:, :-1], REWARDS[:, -1:] + 0.9 * BOOTSTRAP[:, None]], dim=1)
    torch.testing.assert_close(reward_to_go(last, all_, gamma=0.9), returns)


def test_on_its_own_samples_v_trace_is_gae() -> None:
    got = vtrace_returns(REWARDS, VALUES, OLD, OLD, TRAINED, BOOTSTRAP, gamma=0.9, lam=0.8)
    torch.testing.assert_close(got, lambda_returns(REWARDS, VALUES, TRAINED, BOOTSTRAP, gamma=0.9, lam=0.8))


@pytest.mark.parametrize("gap", [60.0, -60.0])
@pytest.mark.parametrize("function", [vtrace, vtrace_returns])
def test_an_extreme_ratio_is_capped_or_vanishes(function: Callable[..., Tensor], gap: float) -> None:
    lp = torch.full((B, T), gap)
    assert function(REWARDS.float(), VALUES.float(), lp, torch.zeros(B, T), TRAINED).isfinite().all()


def test_a_decay_by_length_is_gae_with_that_decay_for_each_answer() -> None:
    got = length_adaptive_gae(REWARDS, VALUES, TRAINED, BOOTSTRAP, alpha=0.5)
    for b, tokens in enumerate(TRAINED.sum(1).tolist()):
        lam = max(0.0, 1 - 1 / (0.5 * tokens))
        torch.testing.assert_close(got[b], gae(REWARDS, VALUES, TRAINED, BOOTSTRAP, lam=lam)[b])


@pytest.mark.parametrize("ddof", [0, 1])
def test_whitened_values_have_zero_mean_and_unit_variance_over_what_is_trained(ddof: Any) -> None:
    values = torch.where(TRAINED, 1000 + VALUES, NAN)
    got = whiten(values, TRAINED, ddof=ddof, eps=0.0)[TRAINED]
    assert got.mean().item() == pytest.approx(0, abs=1e-12)
    assert got.var(correction=ddof).item() == pytest.approx(1, rel=1e-12)
    far = whiten((1000 + VALUES).float(), TRAINED, ddof=ddof)
    torch.testing.assert_close(
        far.double(), whiten((1000 + VALUES).float().double(), TRAINED, ddof=ddof), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("values", [[[5.0]], [[0.1, 0.1, 0.1]], [[1000.1, 1000.1, NAN]]])
def test_what_cannot_be_whitened_is_exactly_zero(values: list[list[float]]) -> None:
    x = torch.tensor(values)
    assert whiten(x, ~x.isnan(), eps=0.0).tolist() == [[0.0] * x.shape[1]]


def test_a_floor_keeps_noise_small() -> None:
    noise = torch.tensor([[0.0, 1e-9]], dtype=torch.float64)
    assert whiten(noise, noise > -1, eps=0.0, floor=1e-8).abs().max() < 1e-4
    assert whiten(noise, noise > -1, eps=0.0).abs().max() > 0.7


class TestReinforcePlusPlus:
    REWARDS = torch.tensor([[1.0, 0.0], [2.0, NAN]], dtype=torch.float64)  # B = 4, the last not judged

    def test_a_return_is_the_reward_less_the_kl_that_is_still_to_come(self) -> None:
        got = kl_penalised_returns(self.REWARDS.nan_to_num(0.7), LOGPROBS, OLD, TRAINED, beta=0.3)
        for b, reward in enumerate([1.0, 0.0, 2.0, 0.7]):
            for t in TRAINED[b].nonzero()[:, 0].tolist():
                later = TRAINED[b, t:]
                want = reward - 0.3 * (LOGPROBS - OLD)[b, t:][later].sum().item()
                assert got[b, t].item() == pytest.approx(want, rel=1e-12)

    def test_an_answer_that_nobody_judged_trains_nothing_and_leaves_the_statistics(self) -> None:
        got = reinforce_plus_plus(self.REWARDS, LOGPROBS, OLD, TRAINED)
        assert (got[3] == 0).all()
        others = reinforce_plus_plus(torch.tensor([[1.0, 0.0, 2.0]]), LOGPROBS[:3], OLD[:3], TRAINED[:3])
        torch.testing.assert_close(got[:3], others)

    def test_the_group_s_mean_is_taken_off_where_it_is_asked_for(self) -> None:
        none = reinforce_plus_plus(self.REWARDS, LOGPROBS, OLD, TRAINED, beta=0.1)
        group = reinforce_plus_plus(self.REWARDS, LOGPROBS, OLD, TRAINED, beta=0.1, baseline="group_mean")
        by_hand = reinforce_plus_plus(torch.tensor([[0.5, -0.5], [0.0, NAN]]), LOGPROBS, OLD, TRAINED, beta=0.1)
        torch.testing.assert_close(group, by_hand)
        assert not torch.allclose(group, none)

    def test_equal_rewards_and_no_penalty_give_exactly_nothing(self) -> None:
        got = reinforce_plus_plus(torch.full((2, 2), 1000.1), LOGPROBS, OLD, TRAINED, beta=0.0)
        assert (got == 0).all()

    def test_rewards_of_tokens_are_taken_as_they_are(self) -> None:
        at_the_end = torch.zeros(B, T, dtype=torch.float64)
        for b, t in enumerate((6, 5, 3, 0)):
            at_the_end[b, t] = self.REWARDS.flatten()[b]
        got = reinforce_plus_plus(at_the_end, LOGPROBS, OLD, TRAINED)
        assert torch.equal(got, reinforce_plus_plus(self.REWARDS, LOGPROBS, OLD, TRAINED))
        with pytest.raises(ValueError, match=r"needs rewards \[P, G\] of 4 answers"):
            reinforce_plus_plus(at_the_end, LOGPROBS, OLD, TRAINED, baseline="group_mean")

    def test_the_policy_s_log_probabilities_are_constants(self) -> None:
        lp = LOGPROBS.clone().requires_grad_()
        assert not reinforce_plus_plus(self.REWARDS, lp, OLD, TRAINED).requires_grad


@pytest.mark.parametrize(
    ("function", "inputs", "parameters"),
    [
        (gae, (REWARDS, VALUES, TRAINED), {"lam": 1.1}),
        (gae, (REWARDS, VALUES, TRAINED), {"gamma": -0.1}),
        (length_adaptive_gae, (REWARDS, VALUES, TRAINED), {"alpha": 0.0}),
        (vtrace, (REWARDS, VALUES, LOGPROBS, OLD, TRAINED), {"ratio_cap": 0.0}),
        (vtrace_returns, (REWARDS, VALUES, LOGPROBS, OLD, TRAINED), {"trace_cap": -1.0}),
        (whiten, (VALUES, TRAINED), {"eps": -1.0}),
        (reinforce_plus_plus, (torch.eye(2), LOGPROBS, OLD, TRAINED), {"beta": -0.1}),
    ],
)
def test_a_parameter_out_of_its_range_is_refused(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...], parameters: dict[str, float]
) -> None:
    with pytest.raises(ValueError, match=f"{function.__name__}: {next(iter(parameters))} must be"):
        function(*inputs, **parameters)
