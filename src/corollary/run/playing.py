"""A recipe's environment at work: the prompts that its episodes begin with, and who plays them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from corollary.engines.base import Sampler
from corollary.envs.multi_turn import MultiTurn
from corollary.envs.opening import opened
from corollary.errors import ConfigError
from corollary.models.load import LoadedModel
from corollary.rollout import Reward
from corollary.run.recipe import Recipe
from corollary.types import Group, Prompt, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def begun(recipe: Recipe, prompts: list[Prompt], tokenizer: PreTrainedTokenizerBase) -> list[Prompt]:
    """The prompts as the episodes of the recipe's environment begin; as they are where it has none.

    Raises:
        ConfigError: nothing that is done in it earns anything.
        UserCodeError: the environment breaks its contract.
    """
    if recipe.environment is None:
        return prompts
    made = opened(recipe.environment, prompts, tokenizer, seed=recipe.run.seed)
    if not recipe.environment.full_mark and not recipe.rewards:
        what = f"environment {recipe.environment.type} gives no reward by itself"
        raise ConfigError(what, where="rewards", hint="name at least one, which judges the last turn")
    return made


def player(
    recipe: Recipe,
    model: LoadedModel,
    sampler: Sampler,
    reward: Reward | None,
    *,
    purpose: str = "rollout",
) -> MultiTurn:
    """Who plays the recipe's environment."""
    assert recipe.environment is not None, "asked for where there is one"
    return MultiTurn(sampler, model.tokenizer, recipe.environment, reward, seed=recipe.run.seed, purpose=purpose)


class ToldPlayer:
    """A player whose masked faults are told once each."""

    def __init__(self, inner: MultiTurn, note: Callable[[str], None]) -> None:
        self.inner, self.note, self.told = inner, note, set[str]()

    @property
    def full_mark(self) -> float:
        return self.inner.full_mark

    def play(self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling, *, number: int) -> list[Group]:
        groups = self.inner.play(prompts, group_size, sampling, number=number)
        for fault in sorted({fault for group in groups for answer in group for fault in answer.faults} - self.told):
            self.note(f"masked: {fault}")
            self.told.add(fault)
        return groups
