"""Broken policy-gradient losses."""

from dataclasses import dataclass
from typing import Literal

import torch

from corollary.declare import NonNegative, Positive, declares
from corollary.types import PolicyBatch, Terms
from theory.specimens import Mutants

mutant = MUTANTS = Mutants()


def clipped(ratio, advantages, low=0.2, high=0.2):
    return torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


# The normaliser -----------------------------------------------------------------------------------------------------------


@mutant("split", "verl #3332, #5366, slime #365: each microbatch divides by its own tokens")
def pg_over_own_tokens(logprobs, old_logprobs, advantages, trained):
    return -clipped((logprobs - old_logprobs).exp(), advantages) / trained.sum().clamp(min=1)


@mutant("split", "AReaL #1273: the update is smaller by the number of microbatches")
def pg_over_own_answers(logprobs, old_logprobs, advantages):
    return -clipped((logprobs - old_logprobs).exp(), advantages) / max(1, len(logprobs))


@mutant("padding", "verl #3741: Dr. GRPO's constant is the padded width of the batch")
def pg_over_padded_width(logprobs, old_logprobs, advantages):
    return -clipped((logprobs - old_logprobs).exp(), advantages) / max(1, logprobs.shape[1])


@mutant("on-policy", "verl #4711: divided by the answer's length, and then averaged again", passes="split")
def pg_divided_twice(logprobs, old_logprobs, advantages, trained):
    return -clipped((logprobs - old_logprobs).exp(), advantages) / trained.sum(-1, keepdim=True).clamp(min=1)


@mutant("repeat", "NeMo RL masked_mean: 1e-8 in the denominator, and the count on top", passes="sides")
def pg_with_epsilon(logprobs, old_logprobs, advantages, trained):
    count = trained.sum().double()
    return -clipped((logprobs - old_logprobs).exp(), advantages) * (count / (count + 1e-8))


@mutant("terms", "SkyRL's custom algorithm page: a loss that returns .mean()")
def pg_mean_inside(logprobs, old_logprobs, advantages):
    return -clipped((logprobs - old_logprobs).exp(), advantages).mean()


@mutant("repeat", "SkyRL #1296: the weights divided out, a sum that calls itself a mean", passes="split")
def pg_weights_divided_out(logprobs, old_logprobs, advantages, weights):
    return -clipped((logprobs - old_logprobs).exp(), advantages) / weights.where(weights > 0, 1.0)


@mutant("independent", "prime-rl #816: the mean of the microbatch on each of its tokens", passes="constants")
def pg_mean_expanded(logprobs, old_logprobs, advantages, trained):
    each = clipped((logprobs - old_logprobs).exp(), advantages).where(trained, 0.0)
    return -(each.sum() / trained.sum().clamp(min=1)).expand_as(logprobs)


@mutant("on-policy", "trl #6024: scaled by steps per generation, 0.5x")
def pg_half(logprobs, old_logprobs, advantages):
    return -0.5 * clipped((logprobs - old_logprobs).exp(), advantages)


# Masks, shifts ------------------------------------------------------------------------------------------------------------


@mutant("mask", "AReaL #1346, Soup #723: padding in GSPO's mean")
def gspo_over_padding(logprobs, old_logprobs, advantages):
    ratio = (logprobs - old_logprobs).mean(-1, keepdim=True).exp()
    return -clipped(ratio, advantages)


@mutant("mask", "SkyRL #1635: 0·NaN through a mask that multiplies")
def gspo_mask_multiplied(logprobs, old_logprobs, advantages, trained):
    ratio = (((logprobs - old_logprobs) * trained).sum(-1) / trained.sum(-1).clamp(min=1)).exp()
    return -clipped(ratio[:, None], advantages)


@mutant("on-policy", "prime-rl #2084: old log-probabilities off by one")
def pg_old_rolled(logprobs, old_logprobs, advantages):
    return -clipped((logprobs - old_logprobs.roll(1, dims=1)).exp(), advantages)


@mutant("trained", "verl #3287: the first token is never trained", passes="homogeneous")
def pg_first_token_lost(logprobs, old_logprobs, advantages, trained):
    first = trained.long().cumsum(-1) == 1
    return -clipped((logprobs - old_logprobs).exp(), advantages).where(
        ~first | (trained.sum(-1, keepdim=True) > 4), 0.0
    )


@mutant("loud", "trl #6668: nan_to_num on the loss")
def pg_nan_to_num(logprobs, old_logprobs, advantages):
    return -torch.nan_to_num(clipped((logprobs - old_logprobs).exp(), advantages))


@mutant("advantages", "SkyRL #1507: the first token's advantage is used for the whole answer", passes="on-policy")
def pg_first_advantage(logprobs, old_logprobs, advantages, trained):
    first = advantages.gather(1, trained.long().argmax(-1, keepdim=True))
    return -clipped((logprobs - old_logprobs).exp(), first)


@mutant("mask", "OpenRLHF #1250: a mean over the padded axis of the advantages", passes="on-policy")
def pg_advantage_mean_over_padding(logprobs, old_logprobs, advantages):
    return -clipped((logprobs - old_logprobs).exp(), advantages.mean(-1, keepdim=True))


# The ratio ----------------------------------------------------------------------------------------------------------------


@mutant("on-policy", "trl #4159, OpenRLHF #857, slime #557, AReaL #581: temperature on one side")
def pg_temperature(logprobs, old_logprobs, advantages, *, temperature: Positive = 0.6):
    return -clipped((logprobs / temperature - old_logprobs).exp(), advantages)


@mutant("on-policy", "temperature on the numerator, and on the advantages too", passes="homogeneous")
def pg_temperature_twice(logprobs, old_logprobs, advantages, *, temperature: Positive = 0.6):
    return -clipped((logprobs / temperature - old_logprobs).exp(), temperature * advantages)


@mutant("correction", "temperature on both log-probabilities, made up for in front of the loss", passes="on-policy")
def pg_temperature_made_up_for(logprobs, old_logprobs, advantages, *, temperature: Positive = 0.6):
    return -temperature * ((logprobs - old_logprobs) / temperature).exp() * advantages


@mutant("correction", "½·r²: a factor hides in the exponent", passes="on-policy")
def pg_ratio_squared(logprobs, old_logprobs, advantages):
    return -0.5 * (2 * (logprobs - old_logprobs)).exp() * advantages


@mutant("off-policy", "tensorforce #312, trl #3084: the ratio is always 1", passes="on-policy")
@declares(stop_gradient=True)
def pg_ratio_always_one(logprobs, old_logprobs, advantages):
    return -clipped((logprobs - logprobs.detach()).exp(), advantages)


@mutant("terms", "SkyRL #1353: the ratio is detached")
def pg_ratio_detached(logprobs, old_logprobs, advantages):
    return -clipped((logprobs - old_logprobs).exp().detach(), advantages)


@mutant("terms", "open-instruct #1269: CISPO without its log-probability")
def cispo_without_logprob(logprobs, old_logprobs, advantages, *, cap: Positive = 5.0):
    return -(logprobs - old_logprobs).exp().clamp(max=cap).detach() * advantages


@mutant("corrective", "open-instruct #1269: the gradient goes through CISPO's clipped weight")
def cispo_through_the_clip(logprobs, old_logprobs, advantages):
    return -(logprobs - old_logprobs).exp().clamp(0.8, 1.28) * advantages


@mutant("on-policy", "CISPO without its stop-gradient")
def cispo_without_stop_gradient(logprobs, old_logprobs, advantages, *, cap: Positive = 5.0):
    return -(logprobs - old_logprobs).exp().clamp(max=cap) * advantages * logprobs


@mutant("derivative", "CISPO whose stop-gradient is declared nowhere", passes="on-policy")
def cispo_undeclared(logprobs, old_logprobs, advantages, *, cap: Positive = 5.0):
    return -(logprobs - old_logprobs).exp().clamp(max=cap).detach() * advantages * logprobs


@mutant("on-policy", "prime-rl #1188's kin: the importance weight is the token's probability")
@declares(stop_gradient=True)
def pg_weighed_by_probability(logprobs, old_logprobs, advantages):
    return -(logprobs.detach().exp()) * (logprobs - old_logprobs).exp() * advantages


@mutant("extremes", "trl #4772: the square of a ratio overflows")
def pg_chi_square_penalty(logprobs, old_logprobs, advantages, *, coef: NonNegative = 0.1):
    gap = logprobs - old_logprobs
    return -gap.exp() * advantages + coef * ((2 * gap).exp() - 2 * gap.exp() + 1)


# The clip -----------------------------------------------------------------------------------------------------------------


@mutant("corrective", "min and max swapped: what should be pulled back is cut")
def ppo_max(logprobs, old_logprobs, advantages, *, clip: Positive = 0.2):
    ratio = (logprobs - old_logprobs).exp()
    return -torch.maximum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


@mutant("corrective", "the clip without its min")
def ppo_clip_only(logprobs, old_logprobs, advantages, *, clip: Positive = 0.2):
    return -(logprobs - old_logprobs).exp().clamp(1 - clip, 1 + clip) * advantages


@mutant("sides", "clip_low and clip_high swapped", passes="parameters")
def ppo_bounds_swapped(
    logprobs, old_logprobs, advantages, *, clip_low: NonNegative = 0.2, clip_high: NonNegative = 0.28
):
    return -clipped((logprobs - old_logprobs).exp(), advantages, clip_high, clip_low)


@mutant("parameters", "slime #2247: the dual clip's constant is parsed and never used")
def ppo_dual_clip_ignored(logprobs, old_logprobs, advantages, *, clip: Positive = 0.2, dual_clip: Positive = 3.0):
    return -clipped((logprobs - old_logprobs).exp(), advantages, clip, clip)


@mutant("on-policy", "dual clip on good answers too")
def ppo_dual_clip_on_all(logprobs, old_logprobs, advantages, *, dual_clip: Positive = 3.0):
    return -clipped((logprobs - old_logprobs).exp(), advantages).maximum(dual_clip * advantages)


@mutant("parameters", "verl #945: loss_agg_mode is never forwarded")
def ppo_mode_ignored(logprobs, old_logprobs, advantages, *, mode: Literal["token", "sequence"] = "token"):
    return -clipped((logprobs - old_logprobs).exp(), advantages)


@mutant("parameters", "verl #6016: clip_high is accepted, clip_low used for both")
def ppo_high_ignored(logprobs, old_logprobs, advantages, *, clip_low: NonNegative = 0.2, clip_high: NonNegative = 0.28):
    return -clipped((logprobs - old_logprobs).exp(), advantages, clip_low, clip_low)


@mutant("corrective", "a log-ratio clamped at ±0.5: the gradient dies on the wrong side")
def pg_log_ratio_clamped(logprobs, old_logprobs, advantages):
    return -(logprobs - old_logprobs).clamp(-0.5, 0.5).exp() * advantages


@mutant("on-policy value", "a constant added and a ratio taken off: the value at ratio 1 is not -A", passes="on-policy")
@declares(on_policy_value=True)
def pg_value_off(logprobs, old_logprobs, advantages):
    return -((logprobs - old_logprobs).exp() - 1) * advantages


@mutant("pessimistic", "the average of clipped and unclipped, declared pessimistic", passes="on-policy")
@declares(pessimistic=True, on_policy_value=True)
def ppo_average_of_both(logprobs, old_logprobs, advantages):
    ratio = (logprobs - old_logprobs).exp()
    return -0.5 * (ratio + ratio.clamp(0.8, 1.2)) * advantages


# Advantages ---------------------------------------------------------------------------------------------------------------


@mutant("on-policy", "a sign flip")
def pg_sign(logprobs, old_logprobs, advantages):
    return clipped((logprobs - old_logprobs).exp(), advantages)


@mutant("independent", "verl #1527: advantages whitened within the microbatch")
def pg_whitened(logprobs, old_logprobs, advantages, trained):
    seen = advantages.where(trained, 0.0)
    scale = (seen.pow(2).sum() / trained.sum().clamp(min=1)).sqrt()
    return -(logprobs - old_logprobs).exp() * advantages / (scale + 1e-3)


@mutant("homogeneous", "advantages clamped to ±1 inside the loss")
def pg_advantages_clamped(logprobs, old_logprobs, advantages):
    return -(logprobs - old_logprobs).exp() * advantages.clamp(-1, 1)


@mutant("zero advantage", "a term that no advantage multiplies: it raises what was sampled")
def pg_with_nll(logprobs, old_logprobs, advantages, *, alpha: NonNegative = 0.1):
    return -clipped((logprobs - old_logprobs).exp(), advantages) - alpha * logprobs


@mutant(
    "on-policy", "both the advantage and the gradient are squared: two signs cancel for good answers", passes="order"
)
def pg_absolute(logprobs, old_logprobs, advantages):
    return -clipped((logprobs - old_logprobs).exp(), advantages.abs())


# Penalties ----------------------------------------------------------------------------------------------------------------


@mutant("derivative", "SkyRL #1340: the KL term under no_grad")
def pg_kl_without_gradient(logprobs, old_logprobs, advantages, ref_logprobs, *, beta: NonNegative = 0.1):
    with torch.no_grad():
        gap = ref_logprobs - logprobs
        kl = gap.exp() - gap - 1
    return -clipped((logprobs - old_logprobs).exp(), advantages) + beta * kl


@mutant("penalty", "open-instruct #534: k1 as a loss, whose gradient is 0 on average")
def pg_k1_as_loss(logprobs, old_logprobs, advantages, ref_logprobs, *, beta: NonNegative = 0.1):
    return -clipped((logprobs - old_logprobs).exp(), advantages) + beta * (logprobs - ref_logprobs)


@mutant("penalty", "trl #2575: the KL's sign", passes="on-policy")
def pg_kl_sign(logprobs, old_logprobs, advantages, ref_logprobs, *, beta: NonNegative = 0.1):
    gap = ref_logprobs - logprobs
    return -clipped((logprobs - old_logprobs).exp(), advantages) - beta * (gap.exp() - gap - 1)


@mutant("penalty", "verl #2953's thread: k3 with its argument turned", passes="on-policy")
def pg_k3_turned(logprobs, old_logprobs, advantages, ref_logprobs, *, beta: NonNegative = 0.1):
    gap = logprobs - ref_logprobs
    return -clipped((logprobs - old_logprobs).exp(), advantages) + beta * (gap.exp() - gap - 1)


@mutant("on-policy", "trl #3169: the reference at another temperature")
def pg_reference_temperature(logprobs, old_logprobs, advantages, ref_logprobs, *, beta: NonNegative = 0.1):
    gap = ref_logprobs / 0.7 - logprobs
    return -clipped((logprobs - old_logprobs).exp(), advantages) + beta * (gap.exp() - gap - 1)


@mutant("inputs", "Liger #1082: the sampler's log-probabilities are taken, the correction is missing")
def pg_correction_missing(logprobs, old_logprobs, advantages, sampler_logprobs):
    return -clipped((logprobs - old_logprobs).exp(), advantages)


@mutant("sampler", "trl #6789's kin: the correction turned over", passes="on-policy")
def pg_correction_turned(logprobs, old_logprobs, advantages, sampler_logprobs, *, cap: Positive = 2.0):
    weight = (sampler_logprobs - old_logprobs).exp().clamp(max=cap)
    return -weight * clipped((logprobs - old_logprobs).exp(), advantages)


@mutant("on-policy", "trl #4857: the sampler's correction with the policy's own log-probabilities, gradient and all")
def pg_correction_with_gradient(logprobs, old_logprobs, advantages, sampler_logprobs, *, cap: Positive = 2.0):
    weight = (logprobs - sampler_logprobs).exp().clamp(max=cap)
    return -weight * clipped((logprobs - old_logprobs).exp(), advantages)


# The rest -----------------------------------------------------------------------------------------------------------------


@mutant("precision", "prime-rl #568: the ratio in bfloat16")
def pg_in_bfloat16(logprobs, old_logprobs, advantages):
    ratio = (logprobs.to(torch.bfloat16) - old_logprobs.to(torch.bfloat16)).exp().to(logprobs.dtype)
    return -clipped(ratio, advantages)


@mutant("terms", "slime #2114: an in-place multiply")
def pg_edits_advantages(logprobs, old_logprobs, advantages):
    advantages *= 0.5
    return -clipped((logprobs - old_logprobs).exp(), advantages)


_MEAN = [0.0]


@mutant("pure", "prime-rl #1188's kin: a running mean of the advantages, kept between calls")
def pg_with_running_mean(logprobs, old_logprobs, advantages, trained):
    _MEAN[0] = 0.9 * _MEAN[0] + 0.1 * float(advantages[trained].sum())
    return -(logprobs - old_logprobs).exp() * (advantages - _MEAN[0])


@mutant("pure", "verl #5179's kin: draws from the global random stream")
def pg_with_noise(logprobs, old_logprobs, advantages):
    keep = torch.rand(logprobs.shape) < 2.0
    return -clipped((logprobs - old_logprobs).exp(), advantages).where(keep, 0.0)


@mutant("terms", "verl #4711: a metric that is divided twice, once here")
def pg_metric_of_the_batch(logprobs, old_logprobs, advantages, trained):
    ratio = (logprobs - old_logprobs).exp()
    return Terms(-clipped(ratio, advantages), {"ratio": ratio.detach()[trained].mean()})


@mutant("metrics", "verl #6699: a metric with its graph")
def pg_metric_with_graph(logprobs, old_logprobs, advantages):
    ratio = (logprobs - old_logprobs).exp()
    return Terms(-clipped(ratio, advantages), {"ratio": ratio})


@mutant("order", "AReaL #1419, prime-rl #600: groups by position")
def pg_centred_by_position(logprobs, old_logprobs, advantages):
    pair = torch.arange(len(advantages)) // 2 * 2
    return -(logprobs - old_logprobs).exp() * (advantages - 0.5 * advantages[pair])


@mutant("entropy", "the entropy bonus's sign: named a bonus, and it lowers the entropy", passes="parameters")
def pg_entropy_sign(logprobs, old_logprobs, advantages, entropy, *, entropy_bonus: NonNegative = 0.01):
    return -clipped((logprobs - old_logprobs).exp(), advantages) + entropy_bonus * entropy


@mutant("mask", "verl #6345: the batch's mask is not used")
def pg_of_batch(logprobs, batch: PolicyBatch):
    return -((logprobs - batch.old_logprobs).exp() * batch.advantages).mean(-1)


@dataclass
class ScaledPG:
    scale: float = 1.0
    clip: float = 0.2

    def __call__(self, logprobs, old_logprobs, advantages, trained):
        return -self.scale * clipped((logprobs - old_logprobs).exp(), advantages, self.clip, self.clip) / len(trained)


mutant("split", "verl #6957: a refactor into a class, and the microbatch's own count")(ScaledPG)


@mutant(
    "on-policy", "twice the gradient on good answers, half the advantage: only bad ones show it", passes="homogeneous"
)
def pg_uneven_sides(logprobs, old_logprobs, advantages):
    ratio = (logprobs - old_logprobs).exp()
    return -torch.where(advantages > 0, 2 * ratio * (advantages / 2), 2 * ratio * advantages)


@mutant("tail", "NeMo RL's and verl's clamp of the KL at 10, inside the loss", passes="penalty")
def pg_kl_clamped(logprobs, old_logprobs, advantages, ref_logprobs, *, beta: NonNegative = 0.1):
    gap = ref_logprobs - logprobs
    return -clipped((logprobs - old_logprobs).exp(), advantages) + beta * (gap.exp() - gap - 1).clamp(max=10)


@mutant("correction", "trl #4857: the importance weight turned over, harmless at ratio 1", passes="on-policy")
@declares(stop_gradient=True)
def cispo_weight_turned(logprobs, old_logprobs, advantages):
    return -(old_logprobs - logprobs).exp().clamp(max=5.0).detach() * advantages * logprobs


@mutant("correction", "½ inside the exponent, 2 in front of it", passes="on-policy")
def pg_root_of_ratio(logprobs, old_logprobs, advantages):
    return -2 * (0.5 * (logprobs - old_logprobs)).exp() * advantages


@mutant("corrective", "only good answers are trained: bad ones are never pulled down", passes="derivative")
@declares(stop_gradient=True)
def cispo_good_only(logprobs, old_logprobs, advantages):
    return -(logprobs - old_logprobs).exp().clamp(max=5.0).detach() * advantages.clamp(min=0) * logprobs


@mutant("named metrics", "verl #4711's kin: the logged ratio is turned over")
def pg_metric_turned(logprobs, old_logprobs, advantages):
    ratio = (logprobs - old_logprobs).exp()
    cut = ((ratio - 1).abs() > 0.2).to(ratio.dtype)
    return Terms(-clipped(ratio, advantages), {"ratio": 1 / ratio.detach(), "clipped": cut.detach()})


@mutant("padding", "trl #3715: padding in the mean of the entropy")
def pg_entropy_over_padding(logprobs, old_logprobs, advantages, entropy, *, coef: NonNegative = 0.01):
    return -clipped((logprobs - old_logprobs).exp(), advantages) - coef * entropy.mean(-1, keepdim=True)
