"""What an algorithm is: settings, and a loop that is pulled one step at a time.

    class Mine(Algorithm):
        prompts_per_step: int = 16

        def steps(self, engines: Engines) -> Iterator[Step]:
            for prompts in engines.prompts:
                …
                yield Step(metrics)

Whoever pulls logs, evaluates, checkpoints and stops; the loop knows nothing of it. Ours and a user's go the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from corollary.config import Config
from corollary.engines.base import Sampler, Scorer, Teacher, Trainer
from corollary.engines.trainer import OptimizerConfig
from corollary.errors import ConfigError
from corollary.losses.policy import KL, Correction, NoCorrection, NoKL, PolicyObjective, PPOClip, Surrogate
from corollary.rollout import Player, Reward, Score, SingleTurn
from corollary.types import Completion, Formula, Metrics, Prompt, Sampling, Step, TokenBatch


class Unjudged:
    """Stands for a reward where the algorithm said that it uses none."""

    full_mark = 1.0

    def score(
        self, groups: Sequence[tuple[Prompt, Sequence[Completion]]], *, step: int = 0
    ) -> Sequence[Sequence[Score]]:
        raise ConfigError("it scores answers, but says that it uses no rewards", hint="set uses_rewards = True in it")


class Unreferenced:
    """Stands for a reference policy where the algorithm said that it needs none."""

    def logprobs(self, batch: TokenBatch) -> Tensor:
        raise ConfigError(
            "it compares with a reference policy, but says that it needs none", hint="let its needs_reference be True"
        )


class Untaught:
    """Stands for a teacher where the algorithm named none."""

    def logprobs(self, batch: TokenBatch) -> Tensor:
        return self.head()

    states = logprobs

    def head(self) -> Tensor:
        raise ConfigError("it learns from a teacher, but names none", hint="let its teacher_path be that of a model")


class Uncriticised:
    """Stands for a critic where the algorithm said that it has none of its own."""

    version = 0

    def logprobs(self, batch: TokenBatch) -> Tensor:
        raise ConfigError("it asks a critic, but has none of its own", hint="let its own_critic be settings of one")

    values = logprobs

    def step(self, batch: TokenBatch, loss: Formula) -> Metrics:
        self.values(batch)
        return {}


class OwnCritic(Config):
    """A critic that is a model of its own, with a scalar head."""

    model: str = ""
    """the model that it starts from, one with a scalar head or without; empty: that of the policy"""
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-5)
    """of the critic"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines:
    """What a run lends an algorithm."""

    trainer: Trainer
    sampler: Sampler
    prompts: Iterator[list[Prompt]]  # `batch_size` of them per item, shuffled, without end
    first: int = 0  # number of the first item: above 0 in a resumed run; names the random streams of sampling
    reward: Reward = field(default_factory=Unjudged)
    environment: Player | None = None  # what answers are given to in place of the reward, where the recipe has one
    reference: Scorer = field(default_factory=Unreferenced)  # the model that the run started from, frozen
    critic: Trainer = field(default_factory=Uncriticised)  # a model of its own with a scalar head
    teacher: Teacher = field(default_factory=Untaught)
    encode: Callable[[str], list[int]] = lambda _: []  # an answer's text → its tokens, end-of-sequence last
    memory: dict[str, Any] = field(default_factory=dict)  # JSON; what is kept here comes back in a resumed run
    kept: dict[str, Tensor] = field(default_factory=dict)  # the same for tensors

    @property
    def player(self) -> Player:
        """Who gives rollouts: the environment, or the sampler and the reward."""
        return self.environment or SingleTurn(self.sampler, self.reward)


class Algorithm(Config):
    """Settings of an algorithm; fields called `prompts_per_step` and `max_tokens` are understood as in ours."""

    uses_rewards: ClassVar[bool] = False
    """whether answers are sampled and judged, so that the recipe must name rewards"""
    is_reward_model: ClassVar[bool] = False
    """whether what is trained gives rewards and no text, and is exported as such"""

    type: str

    @property
    def batch_size(self) -> int:
        """Prompts or examples of one step."""
        return int(dict(self)["prompts_per_step"])

    @property
    def longest_answer(self) -> int:
        """Tokens that are sampled after a prompt at most."""
        return int(dict(self).get("max_tokens", 0))

    @property
    def updates_per_step(self) -> int:
        """Optimizer steps of one step at most: the learning rate's schedule counts them."""
        return 1

    @property
    def needs_reference(self) -> bool:
        """Whether a frozen copy of the starting model is kept."""
        return False

    @property
    def has_scalar_head(self) -> bool:
        """Whether the trained model ends in a scalar head: a reward model, or a policy that is its own critic."""
        return False

    @property
    def own_critic(self) -> OwnCritic | None:
        """Settings of a critic that is a model of its own."""
        return None

    @property
    def teacher_path(self) -> str:
        """The model that is learnt from, by name or folder; empty: none."""
        return ""

    def lack(self) -> str:
        """What a subclass has left out; empty where it is whole."""
        cls = type(self)
        if cls.steps is Algorithm.steps:
            return "defines no steps(self, engines)"
        if cls.batch_size is Algorithm.batch_size and "prompts_per_step" not in cls.model_fields:
            return "has no field prompts_per_step, so nobody knows how many prompts a step takes"
        return ""

    def probe(self) -> None:
        """Try the user's own functions on a little made-up data, before anything expensive.

        Raises:
            UserCodeError: one breaks the contract.
        """

    def refusal(self, prompt: Prompt, encode: Callable[[str], list[int]]) -> str:
        """Why an example is left out, such as "ties"; empty: it is trained on. Asked of every example before the first step.

        Raises:
            DataError: the example lacks what the algorithm learns from.
        """
        return ""

    def measured(self, engines: Engines, held_out: Sequence[Prompt]) -> Sequence[Metrics]:
        """What can be said of each held-out example without sampling, such as 1 where a pair is told apart; () : nothing.

        It is measured before and after the run, and compared example by example. The trainer is not stepped.
        """
        return ()

    def overall(self, measures: Sequence[Metrics]) -> Mapping[str, Any]:
        """What the measures of all held-out examples say together, besides their means; JSON, kept in evaluation.json."""
        return {}

    def steps(self, engines: Engines) -> Iterator[Step]:
        """One optimizer step, or a few on one batch of rollouts, per item."""
        raise NotImplementedError


class OnRollouts(Algorithm):
    """What algorithms that learn from the model's own answers have in common."""

    uses_rewards: ClassVar[bool] = True

    prompts_per_step: int = Field(default=16, ge=1)
    """P, prompts of one batch of rollouts"""
    group_size: int = Field(default=8, ge=2)
    """G, answers to each prompt"""
    temperature: float = Field(default=1.0, gt=0)
    """answers are drawn from the whole vocabulary at this temperature"""
    max_tokens: int = Field(default=256, ge=1)
    """of one answer"""
    stop: tuple[str, ...] = ()
    """strings that end an answer, besides end-of-sequence"""

    @property
    def sampling(self) -> Sampling:
        """The distribution that answers are drawn from."""
        return Sampling(temperature=self.temperature, max_tokens=self.max_tokens, stop=self.stop)


class OnPolicy(OnRollouts):
    """What policy gradients have in common: answers are trained at the temperature that they were drawn at."""

    loss: Surrogate = PPOClip()
    """the surrogate"""
    correction: Correction = NoCorrection()
    """weights for a sampler whose probabilities differ from the trainer's"""
    kl: KL = NoKL()
    """distance to the reference policy, the model that the run started from"""

    @property
    def objective(self) -> PolicyObjective:
        """The policy's whole loss."""
        return PolicyObjective(surrogate=self.loss, correction=self.correction, kl=self.kl)

    @property
    def trains_with_reference(self) -> bool:
        """Whether the reference's log-probabilities of every answer are part of a step."""
        return not isinstance(self.kl, NoKL) or "ref_logprobs" in self.objective.needs

    @property
    def needs_reference(self) -> bool:
        return self.trains_with_reference or (isinstance(self.kl, NoKL) and self.kl.measure > 0)
