"""Broken metrics: each says what it estimates, and estimates something else."""

from dataclasses import dataclass

import torch

from corollary.declare import declares
from theory.specimens import Mutants

mutant = MUTANTS = Mutants()


@mutant("expectation", "NeMo RL js_divergence_error")
@declares(family="metric", estimates="js")
def js_of_nemo(logprobs, sampler_logprobs):
    mixed = torch.logaddexp(logprobs, sampler_logprobs) - torch.tensor(2.0).log()
    halves = [(mixed - x).exp() - 1 - (mixed - x) for x in (logprobs, sampler_logprobs)]
    return 0.5 * sum(halves)


@mutant("expectation", "NeMo RL policy_kl_error: tokens of the sampler, no weight")
@declares(family="metric", estimates="reverse_kl")
def policy_kl_of_nemo(logprobs, sampler_logprobs):
    gap = sampler_logprobs - logprobs
    return gap.exp() - 1 - gap


@mutant("expectation", "k3 with its argument turned")
@declares(family="metric", estimates="reverse_kl")
def k3_metric_turned(logprobs, ref_logprobs):
    gap = logprobs - ref_logprobs
    return gap.exp() - 1 - gap


@mutant("expectation", "trl #1161: the logged KL runs the other way")
@declares(family="metric", estimates="forward_kl")
def kl_of_wrong_direction(logprobs, ref_logprobs):
    return logprobs - ref_logprobs


@mutant("expectation", "trl #5620: the entropy's sign")
@declares(family="metric", estimates="entropy")
def entropy_sign(logprobs):
    return logprobs


@mutant("expectation", "k2 logged as the KL: biased")
@declares(family="metric", estimates="reverse_kl")
def k2_metric(logprobs, ref_logprobs):
    return 0.5 * (logprobs - ref_logprobs) ** 2


@mutant("expectation", "an importance weight turned over: its mean is not 1")
@declares(family="metric", estimates="one")
def weight_turned(logprobs, sampler_logprobs):
    return (sampler_logprobs - logprobs).exp()


@mutant("expectation", "a mean over tokens inside: verl #2259")
@declares(family="metric", estimates="reverse_kl")
def kl_mean_inside(logprobs, ref_logprobs):
    return (logprobs - ref_logprobs).mean()


@mutant("expectation", "weight and direction both turned: they cancel only where both agree", passes="pure")
@declares(family="metric", estimates="reverse_kl")
def kl_turned_twice(logprobs, sampler_logprobs):
    return (sampler_logprobs - logprobs).exp() * (sampler_logprobs - logprobs)


@mutant("pure", "a running mean in a metric")
@declares(family="metric", estimates="reverse_kl")
def kl_with_memory(logprobs, ref_logprobs, *, seen: list = []):  # noqa: B006
    seen.append(1)
    return (logprobs - ref_logprobs) * (1 - 0.5 ** len(seen))


@mutant("unbiased", "plug-in pass@k")
@declares(family="metric", estimates="pass@k")
def pass_at_k_plug_in_named_unbiased(samples, correct, k):
    return 1 - (1 - correct / samples) ** k


@mutant("unbiased", "plug-in pass^k")
@declares(family="metric", estimates="pass^k")
def pass_hat_k_plug_in(samples, correct, k):
    return (correct / samples) ** k


@mutant("unbiased", "pass@k for pass^k", passes="pure")
@declares(family="metric", estimates="pass^k")
def pass_at_for_hat(samples, correct, k):
    from corollary.ops.estimate import pass_at_k

    return pass_at_k(samples, correct, k)


@dataclass
class Interval:
    low: float
    high: float
    confidence: float = 0.95


@mutant("coverage", "Wald's interval has no width at 0 right answers")
@declares(family="metric", estimates="interval")
def wald(correct, total):
    p = correct / total
    half = 1.96 * (p * (1 - p) / total) ** 0.5
    return Interval(p - half, p + half)


@mutant("coverage", "Wilson's interval covers on average, and less at some p")
@declares(family="metric", estimates="interval")
def wilson(correct, total):
    z, p = 1.96, correct / total
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * (p * (1 - p) / total + z * z / (4 * total**2)) ** 0.5
    return Interval(middle - half, middle + half)
