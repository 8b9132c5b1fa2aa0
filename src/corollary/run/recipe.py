"""A recipe: the typed tree of one run, and the engines that it builds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from corollary.algorithms.base import Algorithm
from corollary.algorithms.distill import DistillConfig
from corollary.algorithms.grpo import GRPOConfig
from corollary.algorithms.ppo import PPOConfig
from corollary.algorithms.preference import OnlinePreferenceConfig, PreferenceConfig
from corollary.algorithms.reward_model import RewardModelConfig
from corollary.algorithms.sft import SFTConfig
from corollary.algorithms.unpaired import UnpairedConfig
from corollary.config import Config, one_of_classes
from corollary.data.datasets import DataConfig
from corollary.engines.trainer import OptimizerConfig, TrainerConfig
from corollary.envs.base import Environment
from corollary.envs.calculator import CalculatorTools
from corollary.envs.guess import Guess
from corollary.envs.gymnasium import Gymnasium
from corollary.envs.reasoning_gym import ReasoningGym
from corollary.envs.tools import Tools
from corollary.envs.verifiers import Verifiers
from corollary.models.settings import ModelConfig
from corollary.rewards.parts import RewardSpec
from corollary.run.evaluation import EvaluationConfig
from corollary.run.loggers import LoggerName

if TYPE_CHECKING:
    AnyAlgorithm = Algorithm
    AnyEnvironment = Environment
else:
    AnyEnvironment = one_of_classes([Guess, CalculatorTools, Tools, Gymnasium, ReasoningGym, Verifiers], Environment)
    AnyAlgorithm = one_of_classes(
        [
            GRPOConfig,
            PPOConfig,
            SFTConfig,
            PreferenceConfig,
            OnlinePreferenceConfig,
            UnpairedConfig,
            RewardModelConfig,
            DistillConfig,
        ],
        Algorithm,
    )

PRESETS = Path(__file__).parents[1] / "configs"


class SamplerConfig(Config):
    """How answers are generated. It changes no answer beyond rounding."""

    max_sequences: int = Field(default=128, ge=1)
    """answers decoded at one time"""


class RunConfig(Config):
    """The run itself."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """its folder's name: letters, digits, dot, dash, underscore"""
    folder: str = "runs"
    """where run folders lie"""
    steps: int = Field(default=100, ge=0)
    """batches to train on"""
    seed: int = Field(default=0, ge=0)
    """of data order and sampling"""
    checkpoint_every: int = Field(default=25, ge=1)
    """steps; the last step is always saved"""
    keep_checkpoints: int = Field(default=2, ge=1)
    """how many are kept"""
    threads: int = Field(default=0, ge=0)
    """of the CPU; 0: all cores"""
    loggers: tuple[LoggerName, ...] = ()
    """trackers besides the run directory; each is an extra"""
    export: bool = True
    """write model/, a folder that transformers loads, at the end"""


class Recipe(Config):
    """One training run."""

    model: ModelConfig = ModelConfig()
    data: DataConfig
    """prompts or examples to train on"""
    algorithm: AnyAlgorithm = GRPOConfig()
    """one of ours, or your own: path/to/file.py:Name, a subclass of corollary.algorithms.base.Algorithm"""
    rewards: tuple[RewardSpec, ...] = ()
    """what answers earn; for algorithms that sample"""
    environment: AnyEnvironment | None = None
    """what answers are given to, over one turn or several; its rewards come on top. One of ours, or your own: path/to/file.py:Name, a
    subclass of corollary.envs.base.Environment"""
    optimizer: OptimizerConfig = OptimizerConfig()
    trainer: TrainerConfig = TrainerConfig()
    sampler: SamplerConfig = SamplerConfig()
    evaluation: EvaluationConfig | None = None
    run: RunConfig = RunConfig()

    @model_validator(mode="after")
    def _rewards_where_needed(self) -> Recipe:
        name = self.algorithm.type
        if self.algorithm.uses_rewards and not (self.rewards or self.environment):
            raise ValueError(f"algorithm: {name} needs at least one entry in rewards, or an environment")
        if self.rewards and not (self.algorithm.uses_rewards or self.measured_by_playing):
            raise ValueError(f"rewards: algorithm {name} uses none; remove them or choose another algorithm")
        return self

    @model_validator(mode="after")
    def _environment_where_played(self) -> Recipe:
        judge = self.evaluation.judge if self.evaluation else ""
        if judge == "environment" and not self.environment:
            raise ValueError("evaluation.judge: environment needs an environment")
        if self.environment and judge not in ("", "environment", "none"):
            raise ValueError(
                f"evaluation.judge: {judge} reads single answers; with an environment it is environment or none"
            )
        if self.environment and not (self.algorithm.uses_rewards or self.measured_by_playing):
            raise ValueError(
                f"environment: algorithm {self.algorithm.type} does not play it; remove it, or set evaluation.judge: environment"
            )
        return self

    @model_validator(mode="after")
    def _head_where_trained(self) -> Recipe:
        if self.optimizer.head_lr is not None and not self.algorithm.has_scalar_head:
            raise ValueError(f"optimizer.head_lr: what {self.algorithm.type} trains has no scalar head; leave it out")
        return self

    @property
    def measured_by_playing(self) -> bool:
        """Whether held-out prompts are episodes."""
        return self.environment is not None and self.evaluation is not None and self.evaluation.judge == "environment"

    @property
    def updates(self) -> int:
        """Optimizer steps of the whole run at most: the length of the learning rate's schedule."""
        return self.run.steps * self.algorithm.updates_per_step

    @property
    def folder(self) -> Path:
        return Path(self.run.folder) / self.run.name
