"""Advantages and returns of single tokens, from rewards over time and a critic's values.

`trained` is False behind the end of a sequence and at tokens that the policy did not write (a tool's answer, an observation):
such a step is no decision, so what comes after it is carried over it unchanged, and whatever stands there, NaN included,
is not read. Constants throughout: no gradient flows into a reward or a value.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from corollary.declare import NonNegative, Positive, Probability, declares
from corollary.ops.kl import k1


@declares(family="advantage", zero_sum=False)
def reward_to_go(rewards: Tensor, trained: Tensor, *, gamma: Probability = 1.0) -> Tensor:
    """Sum of what is still to come, from each token on.

        R_t = r_t + γ·R_{t+1}

    Args:
        rewards: `[B, T]` reward units, of each trained token; those elsewhere are not read.
        trained: `[B, T]` bool, tokens that the policy wrote.
        gamma: γ, discount per token.

    Returns:
        `[B, T]`; 0 where not trained.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Sutton and Barto 2018, eq. 3.8, http://incompleteideas.net/book/the-book-2nd.html.
    Theory: docs/theory/estimators.md#reward_to_go

    >>> reward_to_go(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[True, False, True]]), gamma=0.5)
    tensor([[0.5000, 0.0000, 1.0000]])
    """
    zeros = torch.zeros_like(rewards)
    return _gae(rewards, zeros, trained, None, gamma, torch.ones_like(rewards[:, 0]))


@declares(family="advantage", zero_sum=False)
def gae(
    rewards: Tensor,
    values: Tensor,
    trained: Tensor,
    bootstrap: Tensor | None = None,
    *,
    gamma: Probability = 1.0,
    lam: Probability = 0.95,
) -> Tensor:
    """Generalised advantage estimate: temporal differences, summed with a decay that trades bias for variance.

        A_t = δ_t + γλ·A_{t+1}      δ_t = r_t + γ·V_{t+1} - V_t

    λ = 1 is unbiased whatever the critic says; below 1 only as unbiased as the critic. t + 1 is the next trained token.

    Args:
        rewards: `[B, T]` reward units, of each trained token.
        values: `[B, T]` reward units, the critic's value of the state that token t is written in.
        trained: `[B, T]` bool, tokens that the policy wrote.
        bootstrap: `[B]` reward units, the critic's value behind the last token of a truncated sequence, 0 of one that ended by
            itself; left out: all ended by themselves.
        gamma: γ, discount per token; 1 is usual for language models.
        lam: λ, 0.95 to 1 in use.

    Returns:
        `[B, T]`; 0 where not trained.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Schulman et al. 2016, https://arxiv.org/abs/1506.02438.
    Theory: docs/theory/estimators.md#gae

    >>> trained = torch.ones(1, 2, dtype=torch.bool)
    >>> gae(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.5]]), trained, lam=0.5)    # δ = 0, ½
    tensor([[0.2500, 0.5000]])
    >>> gae(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.5, 0.5]]), trained, torch.tensor([1.5]), lam=0.5)  # δ = 0, 1
    tensor([[0.5000, 1.0000]])
    """
    return _gae(rewards, values, trained, bootstrap, gamma, torch.full_like(rewards[:, 0], lam))


@declares(family="advantage", zero_sum=False)
def length_adaptive_gae(
    rewards: Tensor,
    values: Tensor,
    trained: Tensor,
    bootstrap: Tensor | None = None,
    *,
    gamma: Probability = 1.0,
    alpha: Positive = 0.05,
) -> Tensor:
    """GAE whose decay grows with the answer, so that the share of the bootstrapped value does not.

        A_t = δ_t + γλ_b·A_{t+1}      λ_b = max(0, 1 - 1/(α·n_b))      n_b trained tokens of sequence b

    Args:
        rewards: `[B, T]` reward units, of each trained token.
        values: `[B, T]` reward units, the critic's value of the state that token t is written in.
        trained: `[B, T]` bool, tokens that the policy wrote.
        bootstrap: `[B]` reward units, as in `gae`.
        gamma: γ, discount per token.
        alpha: α, per token; 1/α tokens is the length below which λ is 0.

    Returns:
        `[B, T]`; 0 where not trained.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Yue et al. 2025 (VAPO), https://arxiv.org/abs/2504.05118.
    Theory: docs/theory/estimators.md#length_adaptive_gae

    >>> trained = torch.ones(1, 2, dtype=torch.bool)
    >>> length_adaptive_gae(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.5]]), trained, alpha=1.0)  # λ = ½
    tensor([[0.2500, 0.5000]])
    """
    tokens = trained.sum(1).clamp(min=1).to(rewards)
    return _gae(rewards, values, trained, bootstrap, gamma, (1 - 1 / (alpha * tokens)).clamp(min=0))


@declares(family="advantage", zero_sum=False)
def lambda_returns(
    rewards: Tensor,
    values: Tensor,
    trained: Tensor,
    bootstrap: Tensor | None = None,
    *,
    gamma: Probability = 1.0,
    lam: Probability = 1.0,
) -> Tensor:
    """What the critic is trained towards: its own value plus the advantage.

        R_t = V_t + A_t      A by `gae`

    Args:
        rewards: `[B, T]` reward units, of each trained token.
        values: `[B, T]` reward units, the critic's value of the state that token t is written in.
        trained: `[B, T]` bool, tokens that the policy wrote.
        bootstrap: `[B]` reward units, as in `gae`.
        gamma: γ, discount per token.
        lam: λ; 1 gives the discounted sum of rewards, which no critic's error reaches.

    Returns:
        `[B, T]`; 0 where not trained.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Schulman et al. 2016, https://arxiv.org/abs/1506.02438.
    Theory: docs/theory/estimators.md#lambda_returns

    >>> trained = torch.ones(1, 2, dtype=torch.bool)
    >>> lambda_returns(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.5]]), trained, lam=0.5)
    tensor([[0.7500, 1.0000]])
    """
    a = gae(rewards, values, trained, bootstrap, gamma=gamma, lam=lam)
    return a + values.detach().where(trained, 0.0)


@declares(family="advantage", zero_sum=False)
def vtrace(
    rewards: Tensor,
    values: Tensor,
    logprobs: Tensor,
    old_logprobs: Tensor,
    trained: Tensor,
    bootstrap: Tensor | None = None,
    *,
    gamma: Probability = 1.0,
    lam: Probability = 1.0,
    ratio_cap: Positive = 1.0,
    trace_cap: Positive = 1.0,
) -> Tensor:
    """Advantages from another policy's samples, with truncated importance weights.

        A_t = ρ̂_t·(r_t + γ·v_{t+1} - V_t)      ρ̂_t = min(ρ̄, π/π_old)      v by `vtrace_returns`

    Args:
        rewards: `[B, T]` reward units, of each trained token.
        values: `[B, T]` reward units, the critic's value of the state that token t is written in.
        logprobs: `[B, T]` nats, of the policy; taken as constants.
        old_logprobs: `[B, T]` nats, of the policy that the tokens were drawn from.
        trained: `[B, T]` bool, tokens that the policy wrote.
        bootstrap: `[B]` reward units, as in `gae`.
        gamma: γ, discount per token.
        lam: λ, decay of the traces.
        ratio_cap: ρ̄, which decides whose value is estimated: at ∞ that of π, at 0 that of π_old.
        trace_cap: c̄, which decides how fast.

    Returns:
        `[B, T]`, its own weight ρ̂ included; 0 where not trained.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Espeholt et al. 2018 (IMPALA), https://arxiv.org/abs/1802.01561.
    Theory: docs/theory/estimators.md#vtrace

    >>> r, v, same, trained = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.5]]), torch.zeros(1, 2), torch.ones(1, 2) > 0
    >>> vtrace(r, v, same, same, trained)                  # on-policy: GAE with λ = 1
    tensor([[0.5000, 0.5000]])
    """
    return _vtrace(
        rewards, values, logprobs, old_logprobs, trained, bootstrap, gamma, lam, ratio_cap, trace_cap
    )[1]  # fmt: skip


@declares(family="advantage", zero_sum=False)
def vtrace_returns(
    rewards: Tensor,
    values: Tensor,
    logprobs: Tensor,
    old_logprobs: Tensor,
    trained: Tensor,
    bootstrap: Tensor | None = None,
    *,
    gamma: Probability = 1.0,
    lam: Probability = 1.0,
    ratio_cap: Positive = 1.0,
    trace_cap: Positive = 1.0,
) -> Tensor:
    """What the critic is trained towards on another policy's samples.

        v_t = V_t + δ_t + γ·c_t·(v_{t+1} - V_{t+1})      δ_t = ρ̂_t·(r_t + γ·V_{t+1} - V_t)
        ρ̂_t = min(ρ̄, π/π_old)      c_t = λ·min(c̄, π/π_old)

    Args:
        rewards: `[B, T]` reward units, of each trained token.
        values: `[B, T]` reward units, the critic's value of the state that token t is written in.
        logprobs: `[B, T]` nats, of the policy; taken as constants.
        old_logprobs: `[B, T]` nats, of the policy that the tokens were drawn from.
        trained: `[B, T]` bool, tokens that the policy wrote.
        bootstrap: `[B]` reward units, as in `gae`.
        gamma: γ, discount per token.
        lam: λ, decay of the traces.
        ratio_cap: ρ̄, of the temporal differences.
        trace_cap: c̄, of the traces.

    Returns:
        `[B, T]`; 0 where not trained.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Espeholt et al. 2018 (IMPALA), https://arxiv.org/abs/1802.01561.
    Theory: docs/theory/estimators.md#vtrace_returns

    >>> r, v, same, trained = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.5]]), torch.zeros(1, 2), torch.ones(1, 2) > 0
    >>> vtrace_returns(r, v, same, same, trained)
    tensor([[1., 1.]])
    """
    return _vtrace(
        rewards, values, logprobs, old_logprobs, trained, bootstrap, gamma, lam, ratio_cap, trace_cap
    )[0]  # fmt: skip


@declares(family="advantage", cross_sample="batch", zero_sum=False)
def whiten(
    values: Tensor, trained: Tensor, *, ddof: Literal[0, 1] = 1, eps: NonNegative = 1e-8, floor: NonNegative = 0.0
) -> Tensor:
    """Zero mean and unit variance over the trained tokens of the whole step.

        (x - mean x) / √(max(s², floor) + ε)      s² = Σ (x - mean x)² / (n - ddof), over the n trained tokens

    Args:
        values: `[B, T]`, of the whole optimizer step.
        trained: `[B, T]` bool, tokens that count.
        ddof: 1 divides by n - 1 (verl), 0 by n (NeMo RL's REINFORCE++).
        eps: ε, added to the variance.
        floor: the least variance that is divided by.

    Returns:
        `[B, T]`; 0 where not trained, and everywhere if all trained values are equal or there is only one.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Andrychowicz et al. 2020, https://arxiv.org/abs/2006.05990.
    Theory: docs/theory/estimators.md#whiten

    >>> whiten(torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([[True, True, False]]), ddof=0)
    tensor([[-1.,  1.,  0.]])
    """
    x = values.detach().double()[trained]
    out = torch.zeros_like(values, dtype=torch.float64)
    if len(x) > 1 and x.min() < x.max():
        deviation = x - x.mean()
        variance = deviation.square().sum() / (len(x) - ddof)
        out[trained] = deviation / (variance.clamp(min=floor) + eps).sqrt()
    return out.to(values.dtype)


@declares(family="advantage", cross_sample="batch", zero_sum=False)
def reinforce_plus_plus(
    rewards: Tensor,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    trained: Tensor,
    *,
    beta: NonNegative = 0.01,
    gamma: Probability = 1.0,
    baseline: Literal["none", "group_mean"] = "none",
    ddof: Literal[0, 1] = 0,
    floor: NonNegative = 1e-8,
) -> Tensor:
    """Reward-to-go with the KL penalty inside, whitened over all tokens of the step.

        A = whiten(R)      R_t by `kl_penalised_returns`, of r_b or of r_b - mean of its group

    Args:
        rewards: `[P, G]` or `[B]` reward units of whole answers, B = P·G; or `[B, T]` of each token. NaN: the answer was not
            judged and trains nothing.
        logprobs: `[B, T]` nats, of the policy at sampling; taken as constants.
        ref_logprobs: `[B, T]` nats, of the reference.
        trained: `[B, T]` bool, tokens that the policy wrote.
        beta: β, reward units per nat.
        gamma: γ, discount per token.
        baseline: `group_mean` subtracts each group's mean first (REINFORCE++-baseline); `none` needs no groups.
        ddof: of the variance; 0 in NeMo RL, 1 in verl.
        floor: the least variance that is divided by.

    Returns:
        `[B, T]`; 0 where not trained.

    Raises:
        ValueError: a group's mean of rewards that are not `[P, G]`, or a parameter is out of its range.

    Source: Hu et al. 2025, https://arxiv.org/abs/2501.03262.
    Theory: docs/theory/estimators.md#reinforce_plus_plus

    >>> lp, trained = torch.zeros(2, 1), torch.ones(2, 1) > 0
    >>> reinforce_plus_plus(torch.tensor([[1.0, 0.0]]), lp, lp, trained)
    tensor([[ 1.],
            [-1.]])
    """
    if baseline == "group_mean":
        if rewards.dim() != 2 or rewards.numel() != len(trained):
            raise ValueError(
                f"a group's mean needs rewards [P, G] of {len(trained)} answers, got {tuple(rewards.shape)}"
            )
        rewards = rewards - rewards.nanmean(-1, keepdim=True)
    rewards = at_last_token(rewards, trained)
    counted = trained & ~(rewards.isnan() & trained).any(1, keepdim=True)
    returns = kl_penalised_returns(rewards, logprobs, ref_logprobs, counted, beta=beta, gamma=gamma)
    return whiten(returns, counted, ddof=ddof, eps=0.0, floor=floor)


@declares(family="advantage", zero_sum=False)
def kl_penalised_returns(
    rewards: Tensor,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    trained: Tensor,
    *,
    beta: NonNegative = 0.01,
    gamma: Probability = 1.0,
) -> Tensor:
    """Reward-to-go of an answer's reward at its last token and a penalty at each: the KL gradient of the whole sequence.

        R_t = r_t + γ·R_{t+1}      r_t = -β·(logπ_t - logref_t) + r_b·1[t is the last trained token]

    Args:
        rewards: `[P, G]` or `[B]` reward units of whole answers, B = P·G; or `[B, T]` of each token.
        logprobs: `[B, T]` nats, of the policy at sampling; taken as constants.
        ref_logprobs: `[B, T]` nats, of the reference.
        trained: `[B, T]` bool, tokens that the policy wrote.
        beta: β, reward units per nat.
        gamma: γ, discount per token.

    Returns:
        `[B, T]`; 0 where not trained.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Hu et al. 2025, https://arxiv.org/abs/2501.03262.
    Theory: docs/theory/estimators.md#kl_penalised_returns

    >>> lp, ref = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -2.0]])
    >>> kl_penalised_returns(torch.tensor([1.0]), lp, ref, torch.ones(1, 2) > 0, beta=0.5)
    tensor([[0.7500, 1.0000]])
    """
    penalty = beta * k1(logprobs, ref_logprobs).detach()
    return reward_to_go(at_last_token(rewards, trained).to(penalty) - penalty, trained, gamma=gamma)


def at_last_token(rewards: Tensor, trained: Tensor) -> Tensor:
    """`[B, T]`: an answer's reward stands at its last trained token; what is per token already stays.

    >>> at_last_token(torch.tensor([2.0]), torch.tensor([[True, False, True, False]]))
    tensor([[0., 0., 2., 0.]])
    """
    if rewards.shape == trained.shape:
        return rewards
    last = trained & (trained.flip(1).cumsum(1).flip(1) == 1)
    return torch.where(last, rewards.reshape(-1, 1), 0.0)


def _gae(
    rewards: Tensor, values: Tensor, trained: Tensor, bootstrap: Tensor | None, gamma: float, lam: Tensor
) -> Tensor:
    rewards, values = (x.detach().where(trained, 0.0) for x in (rewards, values))
    value = torch.zeros_like(rewards[:, 0]) if bootstrap is None else bootstrap.detach().to(rewards)
    advantage, out = torch.zeros_like(value), torch.zeros_like(rewards)
    for t in reversed(range(rewards.shape[1])):
        here = trained[:, t]
        delta = rewards[:, t] + gamma * value - values[:, t]
        advantage = torch.where(here, delta + gamma * lam * advantage, advantage)
        value = torch.where(here, values[:, t], value)
        out[:, t] = advantage.where(here, 0.0)
    return out


def _vtrace(
    rewards: Tensor,
    values: Tensor,
    logprobs: Tensor,
    old_logprobs: Tensor,
    trained: Tensor,
    bootstrap: Tensor | None,
    gamma: float,
    lam: float,
    ratio_cap: float,
    trace_cap: float,
) -> tuple[Tensor, Tensor]:
    """(targets v, advantages), both `[B, T]`."""
    rewards, values = (x.detach().where(trained, 0.0) for x in (rewards, values))
    ratio = (logprobs - old_logprobs).detach().where(trained, 0.0).exp().to(rewards)
    weight, trace = ratio.clamp(max=ratio_cap), lam * ratio.clamp(max=trace_cap)
    value = torch.zeros_like(rewards[:, 0]) if bootstrap is None else bootstrap.detach().to(rewards)
    target, targets, advantages = value, torch.zeros_like(rewards), torch.zeros_like(rewards)
    for t in reversed(range(rewards.shape[1])):
        here = trained[:, t]
        delta = weight[:, t] * (rewards[:, t] + gamma * value - values[:, t])
        advantages[:, t] = (weight[:, t] * (rewards[:, t] + gamma * target - values[:, t])).where(here, 0.0)
        target = torch.where(here, values[:, t] + delta + gamma * trace[:, t] * (target - value), target)
        value = torch.where(here, values[:, t], value)
        targets[:, t] = target.where(here, 0.0)
    return targets, advantages
