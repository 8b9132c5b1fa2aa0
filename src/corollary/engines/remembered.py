"""A reference's log-probabilities of a data set's answers: computed once each, kept for the later epochs and in the checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from corollary.engines.base import Scorer
from corollary.types import TokenBatch


def remembered(batch: TokenBatch, names: Sequence[str], reference: Scorer, kept: dict[str, Tensor]) -> Tensor:
    """`[B, T]` nats of a batch's answers under the reference, each computed once in a run.

    They go into the checkpoint, and are not computed again after a stop: the last bits of a log-probability depend on what else
    was computed beside it, so other ones would come of another step's batch.

    Args:
        batch: answers.
        names: of each pair, or of each answer where there are no pairs; unique in the data set.
        reference: is asked for those that are not kept yet.
        kept: log-probabilities by name `[unit, T]`; is added to.
    """
    unit = batch.unit
    if fresh := [i for i, name in enumerate(names) if name not in kept]:
        asked = batch.take([unit * i + row for i in fresh for row in range(unit)])
        for i, found in zip(fresh, reference.logprobs(asked).split(unit), strict=True):
            width = int(batch.lengths[unit * i : unit * (i + 1)].max())
            kept[names[i]] = found[:, :width].clone()
    out = kept[names[0]].new_zeros(batch.targets.shape)
    for i, name in enumerate(names):
        out[unit * i : unit * (i + 1), : kept[name].shape[1]] = kept[name]
    return out
