"""A reward model as a reward function, called in this process on the token ids that were sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from corollary.data.collate import ended, pad
from corollary.engines.trainer import EmbeddedScorer
from corollary.types import TokenBatch


@dataclass(frozen=True, slots=True)
class RewardModel:
    """What a scalar head says of the state after each answer; all answers of a step at once, each prompt read once.

    An answer is judged as it was sampled: with its end-of-sequence token, or without it where it was cut.
    """

    scorer: EmbeddedScorer

    def __call__(self, prompt_ids: Sequence[Sequence[int]], completion_ids: Sequence[Sequence[int]]) -> list[float]:
        """The reward of each completion, on the reward model's own scale."""
        number = {ids: i for i, ids in enumerate(dict.fromkeys(map(tuple, prompt_ids)))}
        lengths = torch.tensor([len(ids) for ids in completion_ids])
        targets = pad(completion_ids, torch.long)
        batch = ended(
            TokenBatch(
                prompts=tuple(number),
                prompt_of=torch.tensor([number[tuple(ids)] for ids in prompt_ids]),
                targets=targets,
                lengths=lengths,
                weights=torch.zeros(targets.shape),
            )
        )
        return self.scorer.values(batch).gather(1, lengths[:, None])[:, 0].tolist()
