"""Losses of a reward model: one term per pair, to minimise."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from corollary.declare import NonNegative, declares
from corollary.losses.pairs import precise, reward_metrics
from corollary.types import Terms


@declares(family="reward_model", bounds=(0.0, math.inf), probes={"centring": (0.0, 0.01)}, monotone=True)
def bradley_terry(
    chosen_rewards: Tensor, rejected_rewards: Tensor, margins: Tensor | None = None, *, centring: NonNegative = 0.0
) -> Terms:
    """Bradley-Terry likelihood of the preference, with an optional margin and a pull of the rewards to 0.

        L = -log σ(r_w - r_l - m) + λ·(r_w + r_l)²

    Only differences of rewards are learnt; λ > 0 settles where they are.

    Args:
        chosen_rewards: `[N]` reward units, of the preferred answers; carries the gradient.
        rejected_rewards: `[N]` reward units, of the others; carries the gradient.
        margins: `[N]` reward units, by how much each pair should be apart; none: 0.
        centring: λ, 1 per reward unit squared.

    Returns:
        Terms with metrics `reward_chosen`, `reward_rejected`, `margin` (r_w - r_l) and `accuracy`.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Christiano et al. 2017, https://arxiv.org/abs/1706.03741; margin from Llama 2, https://arxiv.org/abs/2307.09288;
        centring from Eisenstein et al. 2023, https://arxiv.org/abs/2312.09244.
    Theory: docs/theory/losses-preference.md#bradley_terry

    >>> import torch
    >>> bradley_terry(torch.tensor([2.0]), torch.tensor([1.0]), torch.tensor([1.0])).loss  # -log σ(0)
    tensor([0.6931])
    """
    chosen, rejected = precise(chosen_rewards), precise(rejected_rewards)
    gap = chosen - rejected if margins is None else chosen - rejected - margins
    loss = -F.logsigmoid(gap)
    if centring:
        loss = loss + centring * (chosen + rejected).square()
    return Terms(loss, reward_metrics(chosen, rejected))
