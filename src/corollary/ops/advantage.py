"""Advantages of whole answers, from the rewards of one group of answers to the same prompt.

An answer that no reward could judge (NaN here) is left out of its group's statistics and gets advantage 0. Statistics are
computed in float64, so that rewards far from zero keep their digits; equal rewards give exactly 0, whatever they are.
Per-token advantages stand in `ops.returns`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from corollary.config import Variant, choice, variant
from corollary.declare import Positive, declares
from corollary.ops.returns import reinforce_plus_plus

Count = Annotated[int, Field(ge=1)]


@declares(family="advantage", cross_sample="group")
def group_mean(rewards: Tensor) -> Tensor:
    """Reward less the mean of its group, itself included. No division.

        A_i = r_i - mean r

    In expectation (G-1)/G of the policy gradient: the direction is exact.

    Args:
        rewards: `[P, G]` reward units; NaN: not judged.

    Returns:
        `[P, G]`; sums to 0 over G.

    Raises:
        ValueError: G < 2.

    Source: Liu et al. 2025 (Dr. GRPO), https://arxiv.org/abs/2503.20783.
    Theory: docs/theory/estimators.md#group_mean

    >>> group_mean(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    tensor([[ 0.7500, -0.2500, -0.2500, -0.2500]])
    """
    return _as(rewards, _centred(rewards))


@declares(family="advantage", cross_sample="group", objective="J")
def leave_one_out(rewards: Tensor) -> Tensor:
    """Reward less the mean of the other answers: the baseline without bias.

        A_i = r_i - mean_{j≠i} r_j = n/(n-1) · (r_i - mean r)      n judged answers

    Args:
        rewards: `[P, G]` reward units; NaN: not judged.

    Returns:
        `[P, G]`; in expectation the policy gradient itself. 0 where an answer has no judged sibling.

    Raises:
        ValueError: G < 2.

    Source: Kool et al. 2019; Ahmadian et al. 2024 (RLOO), https://arxiv.org/abs/2402.14740.
    Theory: docs/theory/estimators.md#leave_one_out

    >>> leave_one_out(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    tensor([[ 1.0000, -0.3333, -0.3333, -0.3333]])
    """
    _, n, _ = _judged(rewards)
    return _as(rewards, _centred(rewards) * n / (n - 1).clamp(min=1))


@declares(family="advantage", cross_sample="group")
def group_std(rewards: Tensor, *, ddof: Literal[0, 1] = 1, eps: Positive = 1e-6) -> Tensor:
    """Reward less the mean of its group, over the standard deviation of its group.

        A_i = (r_i - mean r) / (s + ε)      s² = Σ (r_j - mean r)² / (n - ddof)

    Another objective, not less variance: for right-or-wrong rewards the expected gradient is w_G(p)·∇p, see
    `difficulty_weight`; for other rewards not even the direction of ∇J is kept.

    Args:
        rewards: `[P, G]` reward units; NaN: not judged.
        ddof: 1 divides by n - 1, 0 by n.
        eps: ε > 0, reward units; 1e-6 in verl, 1e-4 in TRL.

    Returns:
        `[P, G]`; sums to 0 over G.

    Raises:
        ValueError: G < 2, or a parameter is out of its range.

    Source: Shao et al. 2024 (GRPO), https://arxiv.org/abs/2402.03300.
    Theory: docs/theory/estimators.md#group_std

    >>> group_std(torch.tensor([[0.2, 0.9, 0.4]]))
    tensor([[-0.8320,  1.1094, -0.2773]])
    """
    return _as(rewards, _standardised(rewards, ddof, eps))


@declares(family="advantage", cross_sample="group", zero_sum=False, tail=False)
def leave_one_out_std(rewards: Tensor, *, eps: Positive = 1e-6) -> Tensor:
    """Reward less the mean of the other answers, over the standard deviation of the others where that is not 0.

        A_i = (r_i - mean_{j≠i} r_j) / (s_i + ε)      s_i² = Σ_{j≠i} (r_j - mean_{k≠i} r_k)² / (n - 2)
        A_i = r_i - mean_{j≠i} r_j                    where the others are all equal, or only one

    Both statistics are independent of answer i, so the expected direction is that of ∇J for any reward. The price: it does
    not sum to 0, and it jumps where the others come to agree.

    Args:
        rewards: `[P, G]` reward units; NaN: not judged.
        eps: ε > 0, reward units.

    Returns:
        `[P, G]`.

    Raises:
        ValueError: G < 2, or a parameter is out of its range.

    Source: NeMo RL, `use_leave_one_out_baseline` with `normalize_rewards`, https://github.com/NVIDIA-NeMo/RL.
    Theory: docs/theory/estimators.md#leave_one_out_std

    >>> leave_one_out_std(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    tensor([[ 1.0000, -0.5773, -0.5773, -0.5773]])
    """
    judged, n, r = _judged(rewards)
    others = judged[:, None] & ~torch.eye(r.shape[1], dtype=torch.bool, device=r.device)  # [P, G, G]
    peers = r[:, None].expand_as(others)
    mean = peers.where(others, 0.0).sum(-1, keepdim=True) / (n - 1).clamp(min=1)[:, None]
    squares = (peers - mean).where(others, 0.0).square().sum(-1)
    std = (squares / (n - 2).clamp(min=1)).sqrt()
    a = _centred(rewards) * n / (n - 1).clamp(min=1)
    return _as(rewards, torch.where(_equal(peers, others)[..., 0], a, a / (std + eps)))


@declares(family="advantage", cross_sample="batch")
def batch_std(rewards: Tensor, *, of: Literal["advantages", "rewards"] = "advantages", eps: Positive = 1e-6) -> Tensor:
    """Reward less the mean of its group, over one standard deviation for the whole batch, so that no group is favoured.

        A_i = a_i / (s + ε)      a_i = r_i - mean r of its group      s with N - 1, over all N answers of the step

    Args:
        rewards: `[P, G]` reward units, of the whole optimizer step; NaN: not judged.
        of: what s is the deviation of: the centred `advantages` a, or the raw `rewards`, whose spread between prompts counts too.
        eps: ε > 0, reward units.

    Returns:
        `[P, G]`; sums to 0 over G.

    Raises:
        ValueError: G < 2, or a parameter is out of its range.

    Source: of advantages: Hu et al. 2025 (REINFORCE++-baseline), https://arxiv.org/abs/2501.03262; of rewards:
        TRL, `scale_rewards="batch"`, https://huggingface.co/docs/trl/grpo_trainer.
    Theory: docs/theory/estimators.md#batch_std

    >>> batch_std(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    tensor([[ 1.2247, -1.2247],
            [ 0.0000,  0.0000]])
    """
    judged, _, r = _judged(rewards)
    a = _centred(rewards)
    seen = (a if of == "advantages" else r)[judged]
    return _as(rewards, a / (seen.std() + eps) if len(seen) > 1 else a)


@declares(family="advantage", zero_sum=False)
def remax(rewards: Tensor, greedy_rewards: Tensor) -> Tensor:
    """Reward less that of the greedy answer to the same prompt.

        A_i = r_i - r_greedy

    In expectation the policy gradient: the baseline does not depend on the sampled answers. G = 1 is enough.

    Args:
        rewards: `[P, G]` reward units; NaN: not judged.
        greedy_rewards: `[P]` reward units, of the likeliest answer; NaN: not judged, and its prompt teaches nothing.

    Returns:
        `[P, G]`.

    Source: Li et al. 2023 (ReMax), https://arxiv.org/abs/2310.10505.
    Theory: docs/theory/estimators.md#remax

    >>> remax(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([1.0, 0.0]))
    tensor([[ 0., -1.],
            [ 1.,  1.]])
    """
    a = rewards.double() - greedy_rewards.double()[:, None]
    return _as(rewards, a.where(~a.isnan(), 0.0))


@declares(family="advantage", cross_sample="group", zero_sum=False)
def opo(rewards: Tensor, lengths: Tensor) -> Tensor:
    """Reward less the mean of its group, each answer weighed by its length: the baseline of least variance.

        A_i = r_i - Σ_j n_j·r_j / Σ_j n_j      n tokens

    Optimal where ‖∇logπ‖² grows with the number of tokens; sums to 0 over a group only when weighed by length.

    Args:
        rewards: `[P, G]` reward units; NaN: not judged.
        lengths: `[P, G]` tokens of each answer.

    Returns:
        `[P, G]`.

    Raises:
        ValueError: G < 2.

    Source: Hao et al. 2025 (OPO), https://arxiv.org/abs/2505.23585.
    Theory: docs/theory/estimators.md#opo

    >>> opo(torch.tensor([[1.0, 0.0]]), torch.tensor([[3, 1]]))
    tensor([[ 0.2500, -0.7500]])
    """
    judged, _, _ = _judged(rewards)
    a = _centred(rewards)  # the offset is gone before anything is weighed
    weights = lengths.to(a).where(judged, 0.0)
    baseline = (weights * a).sum(-1, keepdim=True) / weights.sum(-1, keepdim=True).clamp(min=1)
    return _as(rewards, (a - baseline).where(judged, 0.0))


@declares(family="advantage", cross_sample="batch", probes={"weights": ((1.0, 3.0),)})
def gdpo(part_rewards: Tensor, *, weights: tuple[float, ...] = (), eps: Positive = 1e-6) -> Tensor:
    """Several rewards, each standardised within its group, summed, then divided by one deviation for the whole batch.

        A_i = a_i / (s + ε)      a_i = Σ_k w_k · (r_ik - mean r_k) / (s_k + ε)      s over all answers of the step

    Standardising the sum instead gives different combinations of rewards the same advantage. The paper also subtracts the
    batch's mean of a, which is 0, since a sums to 0 over each group.

    Args:
        part_rewards: `[P, G, K]` reward units of K rewards, of the whole optimizer step; NaN in one: the answer is not judged.
        weights: w, one for each reward; all 1 when left out. They act after standardising, where a reward's own scale is gone.
        eps: ε > 0.

    Returns:
        `[P, G]`; sums to 0 over G.

    Raises:
        ValueError: G < 2, not one weight for each reward, or a parameter is out of its range.

    Source: Liu et al. 2026 (GDPO), https://arxiv.org/abs/2601.05242.
    Theory: docs/theory/estimators.md#gdpo

    >>> gdpo(torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]]]))
    tensor([[ 0.5477, -0.5477],
            [ 1.0954, -1.0954]])
    """
    parts = part_rewards.shape[-1]
    if weights and len(weights) != parts:
        raise ValueError(f"gdpo: weights must be one for each of {parts} rewards, got {len(weights)}")
    judged = ~part_rewards.isnan().any(-1, keepdim=True)
    each = part_rewards.double().where(judged, torch.nan).unbind(-1)
    a = sum(w * _standardised(r, 1, eps) for w, r in zip(weights or (1.0,) * parts, each, strict=True))
    assert isinstance(a, Tensor)
    seen = a[judged[..., 0]]
    return _as(part_rewards, a / (seen.std() + eps) if len(seen) > 1 else a)


@declares(family="advantage", cross_sample="group", zero_sum=False, objective="pass@k")
def pass_at_k_advantage(rewards: Tensor, *, k: Count = 2) -> Tensor:
    """What an answer adds to the best of k: its reward above the best of k - 1 others, and 0 where it is not above.

        A_i = k · mean over all k-1 others of max(0, r_i - their largest reward)
        k·C(wrong, k-1)/C(n-1, k-1) of a right answer, 0 of a wrong one      rewards 0 or 1, n judged answers

    The leave-one-out marginal max(S) - max(S without i), averaged over the k-subsets S that hold i; at k = 1 the baseline is
    one other answer and this is `leave_one_out`. Times k, so that its mean over the group ascends pass@k itself.

    Args:
        rewards: `[P, G]` reward units; NaN: not judged. Any reward; with 0 and 1 its objective is pass@k.
        k: answers that one may try, at most G.

    Returns:
        `[P, G]`, ≥ 0 for k ≥ 2; 0 in a group with fewer than k judged answers, and where all are right.

    Raises:
        ValueError: G < 2, k > G, or a parameter is out of its range.

    Source: Tang et al. 2025, https://arxiv.org/abs/2503.19595; over subsets, for any reward, Walder and Karkhanis 2025,
        https://arxiv.org/abs/2505.15201.
    Theory: docs/theory/estimators.md#pass_at_k_advantage

    >>> pass_at_k_advantage(torch.tensor([[1.0, 1.0, 0.0, 0.0]]), k=2)
    tensor([[1.3333, 1.3333, 0.0000, 0.0000]])
    """
    judged, n, r = _judged(rewards)
    answers = r.shape[1]
    if k > answers:
        raise ValueError(f"pass_at_k_advantage: k must be at most the {answers} answers of a group, got {k}")
    if k == 1:
        return leave_one_out(rewards)
    ranked = r.where(judged, torch.inf).sort(-1).values  # what is not judged ranks last, above everything
    below = [math.comb(j, k - 2) for j in range(answers)]  # (k-1)-subsets whose best is the answer with j below it
    sets = [max(1, math.comb(max(0, m - 1), k - 1)) for m in range(answers + 1)]  # (k-1)-subsets of m - 1 others
    share = torch.tensor([[c / all_sets for c in below] for all_sets in sets], dtype=r.dtype)
    above = (r[:, :, None] - ranked[:, None, :]).clamp(min=0)  # [P, G, G]
    a = k * (above * share[n[:, 0]][:, None, :]).sum(-1)
    return _as(rewards, a.where(judged & (n >= k), 0.0))


@declares(family="advantage", cross_sample="group", relative=True)
def max_rl(rewards: Tensor) -> Tensor:
    """A group's rewards against their mean, divided by it: the likelihood of being right in place of its probability.

        A_i = (r_i - mean r) / mean r        0 in a group whose mean is not above 0

    Of rewards 0 and 1. The expected gradient is that of Σ_{k=1}^{G} pass@k/k, the first G terms of log p = -Σ_k (1-p)^k/k, but
    for the baseline of groups without a right answer, which is left out with them.

    Args:
        rewards: `[P, G]` reward units, not negative; NaN: not judged.

    Returns:
        `[P, G]`; the mean over a group is 0.

    Raises:
        ValueError: G < 2.

    Source: Tajwar et al. 2026, algorithm 1, https://arxiv.org/abs/2602.02710.
    Theory: docs/theory/estimators.md#max_rl

    >>> max_rl(torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    tensor([[ 3., -1., -1., -1.],
            [ 0.,  0.,  0.,  0.]])
    """
    _, n, r = _judged(rewards)
    mean = r.sum(-1, keepdim=True) / n
    return _as(rewards, (_centred(rewards) / mean).where(mean > 0, 0.0))


GroupMean: Any = variant(group_mean)
GroupStd: Any = variant(group_std)
LeaveOneOut: Any = variant(leave_one_out)
LeaveOneOutStd: Any = variant(leave_one_out_std)
BatchStd: Any = variant(batch_std)
OPO: Any = variant(opo)
PassAtK: Any = variant(pass_at_k_advantage)
ADVANTAGES = (
    group_mean,
    group_std,
    leave_one_out,
    leave_one_out_std,
    batch_std,
    opo,
    gdpo,
    pass_at_k_advantage,
    max_rl,
)
"""those of a group's rewards; per token there is `returns.reinforce_plus_plus`"""

INPUTS = ("rewards", "lengths", "part_rewards", "logprobs", "ref_logprobs", "trained")
"""what an advantage may take: `[P, G]`, `[P, G]`, `[P, G, parts]` and, of every token `[B, T]`, the sampler's and the reference's
log-probabilities and the mask"""

if TYPE_CHECKING:
    Advantage = Variant
else:
    Advantage = choice([*(variant(f) for f in ADVANTAGES), variant(reinforce_plus_plus)], INPUTS)


@declares(family="metric")
def difficulty_weight(p: float, *, group_size: Count | None = None, ddof: Literal[0, 1] = 1) -> float:
    """How much `group_std` favours a prompt that the policy solves with probability p: its gradient is w_G(p)·∇p.

        w_G(p) = Σ_k C(G,k) p^{k-1} (1-p)^{G-k-1} √(k(G-k)) / G      k = 1 … G-1, times √((G-1)/G) for ddof = 1
        w_∞(p) = 1 / √(p(1-p))

    For rewards 0 and 1 and ε → 0; the gradient is the mean over the group of A·∇logπ. At G = 2 it is constant.

    Args:
        p: probability in [0, 1] that an answer is right.
        group_size: G ≥ 2, answers to each prompt; None: the limit of large groups.
        ddof: of the standard deviation that is divided by.

    Raises:
        ValueError: p outside [0, 1], G < 2, or p = 0 or 1 without a group size, where the limit is infinite.

    Source: Davis and Recht 2025, https://arxiv.org/abs/2510.13651.
    Theory: docs/theory/estimators.md#difficulty_weight

    >>> difficulty_weight(0.5), round(difficulty_weight(0.3, group_size=2, ddof=0), 12)
    (2.0, 1.0)
    """
    if not 0 <= p <= 1 or (group_size is None and p in (0, 1)) or group_size == 1:
        raise ValueError(f"difficulty_weight: p must lie within [0, 1] and G be at least 2, got p={p}, G={group_size}")
    if group_size is None:
        return 1 / math.sqrt(p * (1 - p))
    g = group_size
    k = torch.arange(1, g, dtype=torch.float64)
    count = math.lgamma(g + 1) - torch.lgamma(k + 1) - torch.lgamma(g - k + 1)
    q = torch.tensor([p, 1 - p], dtype=torch.float64)
    terms = (count + torch.xlogy(k - 1, q[0]) + torch.xlogy(g - k - 1, q[1])).exp() * (k * (g - k)).sqrt()
    return terms.sum().item() / g * math.sqrt((g - ddof) / g)


def has_signal(rewards: Tensor) -> Tensor:
    """`[P]` True where a group's judged rewards differ, so that its advantages are not all 0.

    >>> has_signal(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    tensor([ True, False])
    """
    judged, _, r = _judged(rewards)
    return ~_equal(r, judged)[:, 0]


@declares(family="metric")
def overlong_penalty(lengths: Tensor, *, longest: Count = 20480, buffer: Count = 4096) -> Tensor:
    """DAPO's soft punishment of long answers, added to the reward.

        0 if n ≤ L - c;   (L - c - n) / c if n ≤ L;   -1 beyond

    Args:
        lengths: tokens n of each answer.
        longest: L, tokens.
        buffer: c, tokens over which the penalty grows from 0 to -1.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Yu et al. 2025 (DAPO), eq. 13, https://arxiv.org/abs/2503.14476.
    Theory: docs/theory/estimators.md#overlong_penalty

    >>> overlong_penalty(torch.tensor([16384.0, 18432.0, 20480.0, 24576.0]), longest=20480, buffer=4096)
    tensor([ 0.0000, -0.5000, -1.0000, -1.0000])
    """
    exact = lengths if lengths.is_floating_point() else lengths.double()
    return ((longest - buffer - exact) / buffer).clamp(-1, 0) + 0.0


def _judged(rewards: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(mask of judged answers, their number per group `[P, 1]`, float64 rewards with 0 elsewhere)."""
    if rewards.dim() != 2 or rewards.shape[-1] < 2:
        raise ValueError(
            f"a group needs at least 2 answers to compare, got rewards of shape {tuple(rewards.shape)}; raise group_size"
        )
    judged = ~rewards.isnan()
    return judged, judged.sum(-1, keepdim=True).clamp(min=1), rewards.double().where(judged, 0.0)


def _centred(rewards: Tensor) -> Tensor:
    """r_i - mean r in float64; exactly 0 where all judged rewards are the same number, whatever their mean rounds to."""
    judged, n, r = _judged(rewards)
    kept = judged & ~_equal(r, judged)
    return (r - r.sum(-1, keepdim=True) / n).where(kept, 0.0)


def _standardised(rewards: Tensor, ddof: int, eps: float) -> Tensor:
    _, n, _ = _judged(rewards)
    a = _centred(rewards)  # two passes: the squares are of deviations, so an offset costs no digits
    return a / ((a.square().sum(-1, keepdim=True) / (n - ddof).clamp(min=1)).sqrt() + eps)


def _equal(values: Tensor, counted: Tensor) -> Tensor:
    """`[…, 1]` True where all counted values of the last dimension are the same number."""
    top = values.where(counted, -torch.inf).amax(-1, keepdim=True)
    low = values.where(counted, torch.inf).amin(-1, keepdim=True)
    return top <= low


def _as(rewards: Tensor, advantages: Tensor) -> Tensor:
    return advantages.to(rewards.dtype if rewards.is_floating_point() else torch.double)
