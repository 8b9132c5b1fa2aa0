"""Worlds so small that every answer can be written down: expectations over answers, and over groups of them, are sums.

    theta = world.policy(seed=1)                   # [N, V] logits, one row per prefix
    world.expected_reward(theta)                   # J
    gradient_of(world.expected_reward, theta)      # ∇J, exact

All float64. Softmax over a table of logits, so that any policy over these answers can be written down as well.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """All answers to one prompt, with what each earns."""

    name: str
    tokens: Tensor  # [S, T] int64; 0 behind the end
    lengths: Tensor  # [S] int64, tokens of each answer
    states: Tensor  # [S, T] int64, the prefix that each token follows: a row of the policy's table; 0 behind the end
    rewards: Tensor  # [S] reward units
    vocabulary: int  # V

    @property
    def trained(self) -> Tensor:
        """`[S, T]` True where an answer has a token."""
        return torch.arange(self.tokens.shape[1]) < self.lengths[:, None]

    def policy(self, seed: int, *, scale: float = 1.0) -> Tensor:
        """`[N, V]` logits, normal with standard deviation `scale`; N prefixes."""
        rows = int(self.states.max()) + 1
        return scale * torch.randn(rows, self.vocabulary, dtype=torch.float64, generator=_generator(seed))

    def logprobs(self, theta: Tensor) -> Tensor:
        """`[S, T]` nats of each token given its prefix; 0 behind the end."""
        return theta.log_softmax(-1)[self.states, self.tokens].where(self.trained, 0.0)

    def entropy(self, theta: Tensor) -> Tensor:
        """`[S, T]` nats, of the distribution that each token is drawn from; 0 behind the end."""
        each = -(theta.softmax(-1) * theta.log_softmax(-1)).sum(-1)
        return each[self.states].where(self.trained, 0.0)

    def sequence_logprobs(self, theta: Tensor) -> Tensor:
        """`[S]` nats of each answer."""
        return self.logprobs(theta).sum(-1)

    def probabilities(self, theta: Tensor) -> Tensor:
        """`[S]`, of each answer; sums to 1."""
        return self.sequence_logprobs(theta).exp()

    def expected_reward(self, theta: Tensor) -> Tensor:
        """J = Σ_y π(y) r(y)."""
        return (self.probabilities(theta) * self.rewards).sum()

    def pass_at_k(self, theta: Tensor, k: int) -> Tensor:
        """1 - (1-p)^k, where p = P(reward > 0)."""
        return 1 - (1 - (self.probabilities(theta) * (self.rewards > 0)).sum()) ** k

    def kl(self, theta: Tensor, other: Tensor) -> Tensor:
        """KL(π‖other) over whole answers; swap the arguments for the forward one."""
        gap = self.sequence_logprobs(theta) - self.sequence_logprobs(other)
        return (self.probabilities(theta) * gap).sum()

    def token_kl(self, theta: Tensor, other: Tensor, visits: Tensor) -> Tensor:
        """Σ_prefix d·KL(π(·|prefix)‖other(·|prefix)) with the visits d held fixed: what a loss on single tokens can see.

        Args:
            theta: `[N, V]` logits.
            other: `[N, V]` logits.
            visits: `[N]` from `visits`.
        """
        log, other_log = theta.log_softmax(-1), other.log_softmax(-1)
        return (visits * (log.exp() * (log - other_log)).sum(-1)).sum()

    def scores(self, theta: Tensor) -> Tensor:
        """`[S, N, V]` ∇logπ(y) of every answer."""
        return torch.func.jacrev(self.sequence_logprobs)(theta.detach())

    def action_values(self, theta: Tensor) -> Tensor:
        """`[N, V]` Q: what an answer earns on average from each prefix and its next token; 0 where none goes on."""
        logs = self.logprobs(theta)
        after = logs.flip(1).cumsum(1).flip(1) - logs  # [S, T] nats of the tokens behind this one
        reached = (after.exp() * self.rewards[:, None])[self.trained]
        places = (self.states[self.trained], self.tokens[self.trained])
        return torch.zeros_like(theta).index_put(places, reached, accumulate=True)

    def values(self, theta: Tensor) -> Tensor:
        """`[N]` V: what an answer earns on average from each prefix."""
        return (theta.softmax(-1) * self.action_values(theta)).sum(-1)

    def advantages(self, theta: Tensor) -> Tensor:
        """`[N, V]` A = Q - V."""
        return self.action_values(theta) - self.values(theta)[:, None]

    def visits(self, theta: Tensor) -> Tensor:
        """`[N]` how often an answer passes each prefix, without gradient."""
        each = (self.probabilities(theta.detach())[:, None] * self.trained).flatten()
        return torch.zeros(len(theta), dtype=torch.float64).index_add(0, self.states.flatten(), each)

    def greedy(self, theta: Tensor) -> int:
        """Which answer takes the likeliest token at each prefix."""
        likeliest = theta.argmax(-1)[self.states] == self.tokens
        return int((likeliest | ~self.trained).all(1).nonzero()[0, 0])

    def groups(self, size: int) -> Tensor:
        """`[S^G, G]` every ordered group of `size` answers."""
        return torch.tensor(list(itertools.product(range(len(self.rewards)), repeat=size)))

    def multisets(self, size: int) -> tuple[Tensor, Tensor]:
        """(`[M, G]` every group of `size` answers once whatever its order, `[M]` in how many orders it can come)."""
        rows = list(itertools.combinations_with_replacement(range(len(self.rewards)), size))
        return torch.tensor(rows), torch.tensor([_orders(row) for row in rows], dtype=torch.float64)

    def group_probabilities(self, theta: Tensor, groups: Tensor) -> Tensor:
        """`[M]` of drawing each of `groups` `[M, G]` in its order, answers independent of each other."""
        return self.sequence_logprobs(theta)[groups].sum(-1).exp()

    def binary(self) -> World:
        """The same answers, earning 1 where they earned more than 0 and 0 elsewhere."""
        return self.earning((self.rewards > 0).double())

    def earning(self, rewards: Tensor) -> World:
        """The same answers with other rewards `[S]`."""
        return replace(self, rewards=rewards)


def tree(*, vocabulary: int = 3, depth: int = 3, end: int | None = None, seed: int = 0) -> World:
    """Answers of `depth` tokens; with `end`, a token that ends an answer early.

    Args:
        vocabulary: V, tokens.
        depth: of the longest answer, tokens.
        end: which token ends an answer; None: all have the same length.
        seed: of the rewards, standard normal.

    >>> len(tree().rewards), len(eos_tree().rewards)
    (27, 31)
    >>> tree(vocabulary=2, depth=2, end=1).lengths          # 00, 01, 1
    tensor([2, 2, 1])
    """
    answers = [
        row for n in range(1, depth + 1) for row in itertools.product(range(vocabulary), repeat=n)
        if end not in row[:-1] and (n == depth or row[-1] == end)
    ]  # fmt: skip
    answers.sort()
    prefixes: dict[tuple[int, ...], int] = {}
    states = [[prefixes.setdefault(row[:t], len(prefixes)) for t in range(len(row))] for row in answers]
    kind = f"of {depth} tokens" if end is None else f"of 1 to {depth} tokens"
    return World(
        name=f"{len(answers)} answers {kind}",
        tokens=_padded([list(row) for row in answers], depth),
        lengths=torch.tensor([len(row) for row in answers]),
        states=_padded(states, depth),
        rewards=torch.randn(len(answers), dtype=torch.float64, generator=_generator(seed)),
        vocabulary=vocabulary,
    )


def eos_tree(*, seed: int = 0) -> World:
    """The 31 answers of at most 4 tokens out of 3, of which token 2 ends the answer: lengths differ."""
    return tree(vocabulary=3, depth=4, end=2, seed=seed)


def gradient_of(objective: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    """`[N, V]` exact derivative of a scalar of the policy.

    >>> gradient_of(lambda theta: theta.square().sum() / 2, torch.tensor([[1.0, 2.0]]))
    tensor([[1., 2.]])
    """
    leaf = theta.detach().requires_grad_()
    return torch.autograd.grad(objective(leaf), leaf)[0]


def _padded(rows: list[list[int]], width: int) -> Tensor:
    return torch.tensor([row + [0] * (width - len(row)) for row in rows])


def _orders(row: tuple[int, ...]) -> float:
    return math.factorial(len(row)) / math.prod(math.factorial(n) for n in Counter(row).values())


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
