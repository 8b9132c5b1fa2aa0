"""Broken averages and corrections."""

import torch

from corollary.declare import NonNegative, Positive
from theory.specimens import Mutants

mutant = MUTANTS = Mutants()


@mutant("padding", "verl #3741: the padded width")
def mean_of_width(trained):
    return trained.double() / trained.numel()


@mutant("edges", "trl #6439: answers that train nothing are counted")
def sequence_mean_of_all(trained):
    return trained / trained.sum(-1, keepdim=True).clamp(min=1).double() / len(trained)


@mutant("repeat", "NeMo RL masked_mean: 1e-8 in the denominator")
def token_mean_with_epsilon(trained):
    return trained / (trained.sum().double() + 1e-8)


@mutant("repeat", "SkyRL #1296: a sum that calls itself a mean")
def token_sum(trained):
    return trained.double()


@mutant("repeat", "a square root over the count: half a mean", passes="padding")
def token_root(trained):
    return trained / trained.sum().double().sqrt()


@mutant("edges", "Automodel #3796: 0/0")
def sequence_mean_of_nothing(trained):
    return (1 / trained.sum(-1, keepdim=True).double()) * trained / len(trained)


@mutant("others", "verl #3741: the longest answer of the batch stands in for the constant", passes="padding")
def constant_of_longest(trained):
    rows = trained.any(-1).sum().clamp(min=1)
    return trained / (rows * trained.sum(-1).amax().clamp(min=1)).double()


@mutant("tokens", "the first token weighs more")
def position_weighted(trained):
    place = trained.long().cumsum(-1).clamp(min=1)
    return (trained / place.double()) / trained.sum().clamp(min=1)


@mutant("order", "AReaL #1419: rows grouped by position")
def weights_by_position(trained):
    return trained * (1 + torch.arange(len(trained))[:, None]).double() / trained.sum().clamp(min=1) / len(trained)


@mutant("weights", "a weight behind the mask")
def weights_everywhere(trained):
    return torch.ones_like(trained, dtype=torch.double) / trained.sum().clamp(min=1)


@mutant("weights", "an in-place edit of the mask")
def mask_edited(trained):
    trained[:, -1] = False
    return trained / trained.sum().clamp(min=1).double()


@mutant("repeat", "a mean over width and a count of one answer more: they cancel in one batch", passes="order")
def token_mean_plus_one(trained):
    return trained / (trained.sum() + 1).double()


# Corrections --------------------------------------------------------------------------------------------------------------


@mutant("weights", "trl #4530: the ratio turned over")
def tis_turned(old_logprobs, sampler_logprobs, *, cap: Positive = 2.0):
    return (sampler_logprobs - old_logprobs).exp().clamp(max=cap)


@mutant("parameters", "slime #2247: the cap is parsed and never used")
def tis_not_capped(old_logprobs, sampler_logprobs, *, cap: Positive = 2.0):
    return (old_logprobs - sampler_logprobs).exp()


@mutant("extremes", "capped from below: clamp's min for its max")
def tis_floor(old_logprobs, sampler_logprobs, *, cap: Positive = 0.8):
    return (old_logprobs - sampler_logprobs).exp().clamp(min=cap)


@mutant("mask", "AReaL #1346: padding in the sequence's product")
def product_over_padding(old_logprobs, sampler_logprobs):
    return (old_logprobs - sampler_logprobs).sum(-1, keepdim=True).exp().expand_as(old_logprobs)


@mutant("mask", "SkyRL #1635: a mask that multiplies")
def product_mask_multiplied(old_logprobs, sampler_logprobs, trained):
    gap = ((old_logprobs - sampler_logprobs) * trained).sum(-1, keepdim=True)
    return gap.clamp(max=20).exp().expand_as(old_logprobs)


@mutant("mask", "a geometric mean over the padded width")
def geometric_of_width(old_logprobs, sampler_logprobs, trained):
    gap = (old_logprobs - sampler_logprobs).where(trained, 0.0).mean(-1, keepdim=True)
    return gap.exp().expand_as(old_logprobs)


@mutant("mask", "weights normalised over the batch, undeclared")
def self_normalised(old_logprobs, sampler_logprobs, trained):
    weight = (old_logprobs - sampler_logprobs).exp()
    return weight / (weight.where(trained, 0.0).sum() / trained.sum().clamp(min=1))


@mutant("extremes", "trl #4772: a product without a bound")
def product_overflows(old_logprobs, sampler_logprobs):
    return (2 * (old_logprobs - sampler_logprobs)).exp()


@mutant("weights", "prime-rl #697: temperature on one side")
def tis_temperature(old_logprobs, sampler_logprobs, *, cap: Positive = 2.0):
    return (old_logprobs / 0.7 - sampler_logprobs).exp().clamp(max=cap)


@mutant("weights", "IcePop with its comparison turned: it keeps what it should drop", passes="mask")
def icepop_turned(old_logprobs, sampler_logprobs, *, low: NonNegative = 0.5, high: Positive = 5.0):
    weight = (old_logprobs - sampler_logprobs).exp()
    return weight.where((weight < low) | (weight > high), 0.0)


@mutant("parameters", "MIS whose cap acts on the turned ratio of a clamp that never binds", passes="weights")
def mis_never_masks(old_logprobs, sampler_logprobs, *, cap: Positive = 2.0):
    weight = (old_logprobs - sampler_logprobs).exp()
    return weight.where(weight <= weight + cap, 0.0)


@mutant("steady", "trl #4159's kin: the ratio squared, and 1 where both agree", passes="mask")
def tis_squared(old_logprobs, sampler_logprobs, *, cap: Positive = 2.0):
    return (2 * (old_logprobs - sampler_logprobs)).exp().clamp(max=cap)


@mutant("weights", "the distance and not the ratio: both sides count more")
def tis_of_distance(old_logprobs, sampler_logprobs, *, cap: Positive = 2.0):
    return (old_logprobs - sampler_logprobs).abs().exp().clamp(max=cap)


@mutant("order", "each half of the batch has a mean of its own: prime-rl #2562's ranks", passes="weights")
def mean_of_halves(trained):
    half = len(trained) // 2
    parts = [part / part.sum().clamp(min=1).double() / 2 for part in (trained[:half], trained[half:])]
    return torch.cat(parts)
