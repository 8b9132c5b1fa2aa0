"""Broken losses of critics."""

import torch
import torch.nn.functional as F

from corollary.declare import Positive
from theory.specimens import Mutants

mutant = MUTANTS = Mutants()


@mutant("target", "verl #2016: the ½ is missing")
def value_without_half(values, returns):
    return (values - returns) ** 2


@mutant("towards", "the clip takes the smaller loss")
def value_clip_min(values, old_values, returns, *, clip: Positive = 0.2):
    near = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.minimum((values - returns) ** 2, (near - returns) ** 2)


@mutant("towards", "the clipped error alone, without its max")
def value_clip_only(values, old_values, returns, *, clip: Positive = 0.2):
    near = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * (near - returns) ** 2


@mutant("towards", "mean of clipped and unclipped: right at the target, and at the old values", passes="target")
def value_clip_mean(values, old_values, returns, *, clip: Positive = 0.2):
    near = old_values + (values - old_values).clamp(-clip, clip)
    return 0.25 * ((values - returns) ** 2 + (near - returns) ** 2)


@mutant("inputs", "slime #2247's kin: the old values are never read")
def value_clip_ignored(values, old_values, returns):
    return 0.5 * (values - returns) ** 2


@mutant("split", "verl #6957: the critic's gradient grows with the number of microbatches")
def value_over_own_tokens(values, returns, trained):
    return 0.5 * (values - returns) ** 2 / trained.sum().clamp(min=1)


@mutant("trained", "verl #1850: the value of the last token is masked away", passes="order")
def value_last_token_lost(values, returns, trained):
    last = trained.long().cumsum(-1) == trained.sum(-1, keepdim=True)
    return (0.5 * (values - returns) ** 2).where(~last, 0.0)


@mutant("independent", "verl #1440, #1527: returns whitened within the microbatch")
def value_whitened_returns(values, returns, trained):
    mean = returns.where(trained, 0.0).sum() / trained.sum().clamp(min=1)
    return 0.5 * (values - (returns - mean)) ** 2


@mutant("target", "shifted by one: the return of the next token")
def value_shifted(values, returns):
    return 0.5 * (values - returns.roll(-1, dims=1)) ** 2


@mutant("loud", "trl #6668: nan_to_num on the error")
def value_nan_to_num(values, returns):
    return 0.5 * torch.nan_to_num(values - returns) ** 2


@mutant("precision", "OpenRLHF #634: a critic's error in bfloat16")
def value_in_bfloat16(values, returns):
    return 0.5 * (values.to(torch.bfloat16) - returns.to(torch.bfloat16)).to(values.dtype) ** 2


@mutant("target", "½ twice: smooth L1 of twice the error, a quarter", passes="towards")
def value_huber_doubled(values, returns):
    return 0.5 * F.smooth_l1_loss(2 * values, 2 * returns, reduction="none")


@mutant("target", "slime #1928: the rollout's temperature on the critic's values")
def value_temperature(values, returns):
    return 0.5 * (values / 0.7 - returns) ** 2


@mutant("mask", "verl #3741: a mean over padding, with padding's weight")
def value_row_mean(values, returns):
    return 0.5 * ((values - returns) ** 2).mean(-1)


@mutant("towards", "the return is clipped and not the value", passes="target")
def value_clips_returns(values, old_values, returns, *, clip: Positive = 0.2):
    near = old_values + (returns - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (values - near) ** 2)


@mutant("mirror", "the clip acts on one side only", passes="target")
def value_clip_one_sided(values, old_values, returns, *, clip: Positive = 0.2):
    near = torch.minimum(values, old_values + clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)
