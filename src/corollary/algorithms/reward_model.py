"""Reward models: a language model with a scalar head learns which of two answers is the better.

    (prompt, chosen, rejected) → the head on the state after each answer → P(chosen is the better) = σ(r_w - r_l) → new weights

What it learns is a reward for reinforcement learning (`rewards: [{type: reward_model, params: {model: FOLDER}}]`) and a folder that
transformers loads as a model for sequence classification.
Sources: Christiano et al. 2017, https://arxiv.org/abs/1706.03741; Ouyang et al. 2022, https://arxiv.org/abs/2203.02155.
Page: docs/algorithms/reward_model.md
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from corollary.algorithms.base import Algorithm, Engines
from corollary.config import Variant, choice, variant
from corollary.data.collate import preference_batch
from corollary.data.pairs import Encode, Pair, PairRows
from corollary.declare import entries
from corollary.engines.base import Trainer
from corollary.losses.bind import REWARD_MODEL, Around, Bound, pair_inputs
from corollary.losses.pairs import reward_metrics
from corollary.losses.probe import probe
from corollary.losses.reward_model import bradley_terry
from corollary.ops.calibration import calibration
from corollary.types import Metrics, PreferenceBatch, Prompt, Step, Terms

if TYPE_CHECKING:
    RankingLoss = Variant
else:
    RankingLoss = choice([entry.variant for entry in entries("reward_model")], REWARD_MODEL)


class RewardModelConfig(PairRows, Algorithm):
    """All that the training of a reward model may vary."""

    is_reward_model: ClassVar[bool] = True

    type: Literal["reward_model"] = "reward_model"
    pairs_per_step: int = Field(default=16, ge=1)
    """rows of one optimizer step: a pair each, or several where a row has several rejected answers"""
    loss: RankingLoss = variant(bradley_terry)()  # type: ignore[call-arg]
    """what a pair costs; margins come from the column `margin`"""

    @property
    def batch_size(self) -> int:
        return self.pairs_per_step

    @property
    def has_scalar_head(self) -> bool:
        return True

    def probe(self) -> None:
        probe(self.loss, PreferenceBatch)

    def measured(self, engines: Engines, held_out: Sequence[Prompt]) -> Sequence[Metrics]:
        """What the model says of each held-out row's first pair.

        `accuracy` is 1 where the chosen answer has the higher reward (½ where both have the same), `margin` by how much, `nll` the
        nats -log σ(margin). `longer_is_chosen` is 1 where the chosen answer has more tokens: how often "the longer one wins" would be
        right; `prefers_longer` is 1 where the model ranks the longer answer first.
        """
        if not all(self.speak_of(prompt) for prompt in held_out):
            return ()
        pairs = [self.pairs(prompt, engines.encode)[0] for prompt in held_out]
        batch = ranked(pairs)
        rewards = (engines.trainer.values(batch) * batch.trained).sum(1)
        margins = (rewards[0::2] - rewards[1::2]).double()
        longer = torch.tensor([len(pair.chosen) - len(pair.rejected) for pair in pairs]).sign()
        told = {
            "accuracy": (margins.sign() + 1) / 2,
            "margin": margins,
            "nll": -F.logsigmoid(margins),
            "longer_is_chosen": (longer + 1) / 2,
            "prefers_longer": (margins.sign() * longer + 1) / 2,
        }
        return [dict(zip(told, row, strict=True)) for row in torch.stack([*told.values()], 1).tolist()]

    def overall(self, measures: Sequence[Metrics]) -> Mapping[str, Any]:
        """How sure the model is of its order against how often it is right."""
        return {"calibration": asdict(calibration([measure["margin"] for measure in measures]))}

    def steps(self, engines: Engines) -> Iterator[Step]:
        return steps(self, trainer=engines.trainer, encode=engines.encode, examples=engines.prompts)


def steps(
    config: RewardModelConfig, *, trainer: Trainer, encode: Encode, examples: Iterator[list[Prompt]]
) -> Iterator[Step]:
    """One optimizer step per item. `encode` turns an answer's text into tokens that end with end-of-sequence."""
    for asked in examples:
        batch = ranked([pair for prompt in asked for pair in config.usable(prompt, encode)])
        yield Step(trainer.step(batch, Ranking(Bound(config.loss))))


def ranked(pairs: Sequence[Pair]) -> PreferenceBatch:
    """Pairs for a scalar head: one token more behind each answer, which alone is trained, for the state before it has read it all."""
    answers = [answer for pair in pairs for answer in (pair.chosen, pair.rejected)]
    return preference_batch(
        [pair.prompt for pair in pairs],
        [(*pair.chosen, 0) for pair in pairs],
        [(*pair.rejected, 0) for pair in pairs],
        shares=[pair.share for pair in pairs],
        margins=None if any(pair.margin is None for pair in pairs) else [pair.margin or 0.0 for pair in pairs],
        trained=[(*(False,) * len(answer), True) for answer in answers],
    )


@dataclass(frozen=True, slots=True)
class Ranking(Around):
    """A loss on the rewards of pairs, with what is told of any: `reward_chosen`, `reward_rejected`, `margin` and `accuracy`."""

    @property
    def needs(self) -> frozenset[str]:
        return self.loss.needs | {"values"}

    def __call__(self, values: Tensor, batch: PreferenceBatch) -> Terms:
        terms, rewards = self.loss(values, batch), pair_inputs(values, batch)
        told = reward_metrics(rewards["chosen"], rewards["rejected"])
        spread = {name: value.repeat_interleave(2)[:, None].expand_as(values) for name, value in told.items()}
        return Terms(terms.loss, spread | terms.metrics)
