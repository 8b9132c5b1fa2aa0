"""Where a theorem is tried out: the sizes of its worlds, and its random numbers, all from one seed.

lab = Lab(seed=0)
world = lab.tree()                       # 27 answers of 3 tokens
theta = lab.policy(world)                # [N, V] logits
lab.normal("baseline", len(theta))       # the same numbers whenever this name is asked for
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from corollary.errors import ConfigError
from corollary.theory import tree as trees
from corollary.theory.bandit import bandit
from corollary.theory.mdp import MDP, random_mdp
from corollary.theory.tree import World

LIMITS: dict[str, tuple[float, float]] = {
    "vocabulary": (2, 5), "depth": (2, 4), "arms": (2, 6), "states": (2, 8), "actions": (2, 5), "discount": (0.1, 0.97),
}  # fmt: skip
ANSWERS = 130  # of a tree at most: pairs of answers are enumerated


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """The shipped worlds; other sizes, another seed or a world of your own by option."""

    seed: int = 0
    vocabulary: int = 3  # V of a tree
    depth: int = 3  # tokens of a tree's answers; with an end token up to one more
    arms: int = 3  # of a bandit
    states: int = 4  # of a decision process
    actions: int = 3
    discount: float = 0.9  # γ
    own: Callable[[Lab], World] | None = None  # stands for the tree

    def __post_init__(self) -> None:
        sizes = asdict(self)
        for name, (low, high) in LIMITS.items():
            if not low <= (value := sizes[name]) <= high:
                raise ConfigError(f"{name} of a world lies between {low:g} and {high:g}, got {value:g}")
        if self.vocabulary**self.depth > ANSWERS:
            raise ConfigError(
                f"a tree of {self.vocabulary} tokens and depth {self.depth} has {self.vocabulary**self.depth} answers",
                hint=f"at most {ANSWERS}: take a smaller vocabulary or depth",
            )

    def tree(self, name: str = "tree") -> World:
        """Answers of equal length with normal rewards; the user's own world where there is one."""
        if self.own:
            return self.own(self)
        return trees.tree(vocabulary=self.vocabulary, depth=self.depth, seed=self._number(name))

    def eos_tree(self, name: str = "eos tree") -> World:
        """Answers of different lengths: the last token of the vocabulary ends one."""
        depth = self.depth + 1 if self.vocabulary <= 3 else self.depth
        return trees.tree(vocabulary=self.vocabulary, depth=depth, end=self.vocabulary - 1, seed=self._number(name))

    def bandit(self, name: str = "bandit") -> World:
        """Arms with rewards uniform on [0, 1]."""
        return bandit(self.uniform(name, self.arms).tolist())

    def mdp(self, name: str = "mdp") -> MDP:
        """Random transitions and rewards in [0, 1]."""
        return random_mdp(states=self.states, actions=self.actions, discount=self.discount, seed=self._number(name))

    def policy(self, world: World | MDP, name: str = "policy", *, scale: float = 1.0) -> Tensor:
        """Logits, normal with standard deviation `scale`: `[N, V]` of a tree, `[S, A]` of a decision process."""
        return world.policy(self._number(name), scale=scale)

    def normal(self, name: str, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(shape, dtype=torch.float64, generator=self._generator(name))

    def uniform(self, name: str, *shape: int) -> Tensor:
        """Numbers uniform on [0, 1)."""
        return torch.rand(shape, dtype=torch.float64, generator=self._generator(name))

    def simplex(self, name: str, *shape: int) -> Tensor:
        """Distributions over the last dimension, uniform on the simplex."""
        drawn = -self.uniform(name, *shape).clamp(min=1e-300).log()
        return drawn / drawn.sum(-1, keepdim=True)

    def _number(self, name: str) -> int:
        return int.from_bytes(hashlib.sha256(f"{self.seed}/{name}".encode()).digest()[:7])

    def _generator(self, name: str) -> torch.Generator:
        return torch.Generator().manual_seed(self._number(name))


def sized(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings from a command line as `Lab` takes them.

    Raises:
        ConfigError: an unknown name, or no number.

    >>> sized({"depth": "2", "discount": "0.5"})
    {'depth': 2, 'discount': 0.5}
    """
    found = {}
    for name, text in settings.items():
        if name not in LIMITS:
            raise ConfigError(f"a world has no {name!r}", hint=f"its sizes are {', '.join(LIMITS)}")
        try:
            found[name] = float(text) if name == "discount" else int(text)
        except ValueError:
            raise ConfigError(f"{name} of a world is a number, got {text!r}") from None
    return found
