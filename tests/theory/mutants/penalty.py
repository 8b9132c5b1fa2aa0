"""Broken estimators of the distance to the reference."""

import torch

from corollary.declare import Positive
from theory.specimens import Mutants

mutant = MUTANTS = Mutants()


@mutant("estimator", "tinker-cookbook #677: k3 with its argument turned")
def k3_turned(logprobs, ref_logprobs):
    gap = logprobs - ref_logprobs
    return gap.exp() - 1 - gap


@mutant("estimator", "trl #2575: k1's sign")
def k1_sign(logprobs, ref_logprobs):
    return ref_logprobs - logprobs


@mutant("estimator", "k2 without its ½")
def k2_without_half(logprobs, ref_logprobs):
    return (logprobs - ref_logprobs) ** 2


@mutant("estimator", "the absolute difference, taken for a KL")
def k1_absolute(logprobs, ref_logprobs):
    return (logprobs - ref_logprobs).abs()


@mutant(
    "tail", "NeMo RL kl_output_clamp_value=10, verl alike: no gradient where the policy is far off", passes="estimator"
)
def k3_clamped(logprobs, ref_logprobs):
    gap = ref_logprobs - logprobs
    return (gap.exp() - 1 - gap).clamp(max=10.0)


@mutant("tail", "verl's clamp of the log-ratio: beyond it there is no gradient", passes="estimator")
def k2_clamped(logprobs, ref_logprobs):
    return 0.5 * (logprobs - ref_logprobs).clamp(-3, 3) ** 2


@mutant("terms", "SkyRL #1340: under no_grad")
def k3_without_gradient(logprobs, ref_logprobs):
    with torch.no_grad():
        gap = ref_logprobs - logprobs
        return gap.exp() - 1 - gap


@mutant("at reference", "trl #3169: the reference at another temperature")
def k3_temperature(logprobs, ref_logprobs, *, temperature: Positive = 0.7):
    gap = ref_logprobs / temperature - logprobs
    return gap.exp() - 1 - gap


@mutant("at reference", "two offsets: e^x - x, the 1 forgotten", passes="estimator")
def k3_without_one(logprobs, ref_logprobs):
    gap = ref_logprobs - logprobs
    return gap.exp() - gap


@mutant("mask", "slime #1372: KL not masked")
def k3_over_padding(logprobs, ref_logprobs):
    gap = ref_logprobs - logprobs
    return (gap.exp() - 1 - gap).sum(-1)


@mutant("split", "trl #4967: a mean over its own tokens")
def k3_over_own_tokens(logprobs, ref_logprobs, trained):
    gap = ref_logprobs - logprobs
    return (gap.exp() - 1 - gap) / trained.sum().clamp(min=1)


@mutant("derivative", "DeepSeek-V3.2's ratio times k3, the ratio detached and not said")
def k3_ratio_detached(logprobs, ref_logprobs, old_logprobs):
    gap = ref_logprobs - logprobs
    return (logprobs - old_logprobs).exp().detach() * (gap.exp() - 1 - gap)


@mutant("inputs", "the distance to the old policy is measured, the reference only taken")
def k3_of_old(logprobs, ref_logprobs, old_logprobs):
    gap = old_logprobs - logprobs
    return gap.exp() - 1 - gap


@mutant("estimator", "½·x² at twice the argument: a factor moved into the square", passes="at reference")
def k2_doubled(logprobs, ref_logprobs):
    return 0.25 * (2 * (logprobs - ref_logprobs)) ** 2


@mutant("precision", "NeMo RL's thread on KL in bfloat16")
def k3_in_bfloat16(logprobs, ref_logprobs):
    gap = ref_logprobs.to(torch.bfloat16) - logprobs.to(torch.bfloat16)
    return (gap.exp() - 1 - gap).to(logprobs.dtype)


@mutant("unreduced", "verl #4711: divided by the answer's length, and averaged again", passes="split")
def k3_divided_twice(logprobs, ref_logprobs, trained):
    gap = ref_logprobs - logprobs
    return (gap.exp() - 1 - gap) / trained.sum(-1, keepdim=True).clamp(min=1)


@mutant("terms", "trl #1161: the logged KL is the batch's")
def k3_with_batch_metric(logprobs, ref_logprobs, trained):
    from corollary.types import Terms

    gap = ref_logprobs - logprobs
    each = gap.exp() - 1 - gap
    return Terms(each, {"kl": each.detach()[trained].mean()})
