"""Decision processes small enough to solve: values, advantages and visits by linear algebra, in float64.

mdp = random_mdp(states=4, actions=3, discount=0.9, seed=0)
theta = mdp.policy(seed=1)                          # [S, A] logits, softmax in each state
gradient_of(mdp.expected_reward, theta)             # ∇J, exact
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class MDP:
    """States, actions, and what follows: everything known."""

    transitions: Tensor  # [S, A, S] probabilities
    rewards: Tensor  # [S, A] reward units
    start: Tensor  # [S] probabilities
    discount: float  # γ in [0, 1)

    def policy(self, seed: int, *, scale: float = 1.0) -> Tensor:
        """`[S, A]` logits, normal with standard deviation `scale`."""
        return scale * torch.randn(self.rewards.shape, dtype=torch.float64, generator=_generator(seed))

    def values(self, theta: Tensor) -> Tensor:
        """`[S]` V^π = (I - γP_π)⁻¹ r_π."""
        pi = theta.softmax(-1)
        kernel = torch.einsum("sa,sat->st", pi, self.transitions)
        eye = torch.eye(len(kernel), dtype=torch.float64)
        return torch.linalg.solve(eye - self.discount * kernel, (pi * self.rewards).sum(-1))

    def action_values(self, theta: Tensor) -> Tensor:
        """`[S, A]` Q^π = r + γPV^π."""
        return self.backed_up(self.values(theta))

    def backed_up(self, values: Tensor) -> Tensor:
        """`[S, A]` r + γPV of any values `[S]`."""
        return self.rewards + self.discount * self.transitions @ values

    def advantages(self, theta: Tensor) -> Tensor:
        """`[S, A]` A^π = Q^π - V^π."""
        return self.action_values(theta) - self.values(theta)[:, None]

    def visits(self, theta: Tensor) -> Tensor:
        """`[S]` d^π = (1-γ) Σ_t γ^t P(s_t = s); sums to 1."""
        kernel = torch.einsum("sa,sat->st", theta.softmax(-1), self.transitions)
        eye = torch.eye(len(kernel), dtype=torch.float64)
        return (1 - self.discount) * torch.linalg.solve(eye - self.discount * kernel.T, self.start)

    def expected_reward(self, theta: Tensor) -> Tensor:
        """J = Σ_s start(s) V^π(s), discounted reward."""
        return self.start @ self.values(theta)

    def optimal_values(self, *, temperature: float = 0.0) -> Tensor:
        """`[S]` V*; with a temperature τ > 0 the soft ones, V = τ·logsumexp(Q/τ), of the reward plus τ·entropy.

        By value iteration to float64's last digits: the error shrinks by γ a sweep.
        """
        values = torch.zeros(len(self.start), dtype=torch.float64)
        for _ in range(100_000):
            q = self.backed_up(values)
            new = temperature * (q / temperature).logsumexp(-1) if temperature else q.max(-1).values
            if float((new - values).abs().max()) <= 1e-15 * max(1.0, float(new.abs().max())):
                return new
            values = new
        return values


def random_mdp(*, states: int = 4, actions: int = 3, discount: float = 0.9, seed: int = 0) -> MDP:
    """Transitions uniform on the simplex, rewards uniform on [0, 1], start uniform on the simplex.

    >>> mdp = random_mdp()
    >>> torch.allclose(mdp.transitions.sum(-1), torch.ones(4, 3, dtype=torch.float64))
    True
    """
    generator = _generator(seed)

    def simplex(*shape: int) -> Tensor:
        drawn = -torch.rand(*shape, dtype=torch.float64, generator=generator).clamp(min=1e-300).log()
        return drawn / drawn.sum(-1, keepdim=True)

    return MDP(
        transitions=simplex(states, actions, states),
        rewards=torch.rand(states, actions, dtype=torch.float64, generator=generator),
        start=simplex(states),
        discount=discount,
    )


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
