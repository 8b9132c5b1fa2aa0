"""Sound advantages, averages, corrections, metrics and rewards."""

import math
from dataclasses import dataclass

import torch

from corollary.declare import NonNegative, Positive, Probability, declares
from theory.specimens import Correct

correct = CORRECT = Correct()


@correct
@declares(homogeneous=False)
def leave_one_out_clipped(rewards, *, most: Positive = 2.0):
    """Rewards are clipped first: a shift beyond the clip is meant to count."""
    seen = ~rewards.isnan()
    r = rewards.nan_to_num()
    centre = r.where(seen, 0.0).sum(-1, keepdim=True) / seen.sum(-1, keepdim=True).clamp(min=1)
    apart = (r - centre).clamp(-most, most).where(seen, 0.0)
    apart = apart - apart.sum(-1, keepdim=True) / seen.sum(-1, keepdim=True).clamp(min=1)
    flat = (r.where(seen, -torch.inf).amax(-1) == r.where(seen, torch.inf).amin(-1))[:, None]
    return apart.where(seen & ~flat, 0.0)


@correct
@declares(zero_sum=False)
def median_baseline(rewards):
    if rewards.shape[1] < 2:
        raise ValueError("a group of one has no baseline")
    return (rewards - rewards.nanmedian(-1, keepdim=True).values).nan_to_num()


@correct
@declares(zero_sum=False)
def quantile_baseline(rewards, *, quantile: Probability = 0.5):
    middle = rewards.nanquantile(quantile, dim=-1, keepdim=True)
    return (rewards - middle).nan_to_num()


@correct
@declares(cross_sample="batch")
def batch_scaled(rewards):
    seen = ~rewards.isnan()
    mean = rewards.nan_to_num().sum(-1, keepdim=True) / seen.sum(-1, keepdim=True).clamp(min=1)
    flat = (rewards.nan_to_num(-torch.inf).amax(-1) == rewards.nan_to_num(torch.inf).amin(-1))[:, None]
    centred = (rewards - mean).where(seen & ~flat, 0.0)
    return centred / (centred.pow(2).sum() / seen.sum().clamp(min=1)).sqrt().clamp(min=1e-2)


@correct
def sign_of_centred(rewards):
    """Just above or below the mean, in units of one, made to sum to 0."""
    seen = ~rewards.isnan()
    n = seen.sum(-1, keepdim=True).clamp(min=1)
    r = rewards.nan_to_num()
    centred = r - r.where(seen, 0.0).sum(-1, keepdim=True) / n
    flat = (r.where(seen, -torch.inf).amax(-1) == r.where(seen, torch.inf).amin(-1))[:, None]
    up = (centred > 0).to(r).where(seen, 0.0)
    return (up - up.sum(-1, keepdim=True) / n).where(seen & ~flat, 0.0)


@correct
def gae(rewards, values, trained, bootstrap, *, gamma: Probability = 0.99, lam: Probability = 0.95):
    advantages, following, ahead = torch.zeros_like(rewards), bootstrap.clone(), torch.zeros_like(bootstrap)
    for t in range(rewards.shape[1] - 1, -1, -1):
        new = rewards[:, t] + gamma * following - values[:, t] + gamma * lam * ahead
        ahead, following = torch.where(trained[:, t], new, ahead), torch.where(trained[:, t], values[:, t], following)
        advantages[:, t] = new
    return advantages.where(trained, 0.0)


@correct
def vtrace(rewards, values, trained, logprobs, old_logprobs, *, gamma: Probability = 1.0, cap: Positive = 1.0):
    ratio = (logprobs - old_logprobs).exp().clamp(max=cap)
    advantages, following, target = (
        torch.zeros_like(rewards),
        torch.zeros_like(rewards[:, 0]),
        torch.zeros_like(rewards[:, 0]),
    )
    for t in range(rewards.shape[1] - 1, -1, -1):
        here, v = trained[:, t], values[:, t]
        advantages[:, t] = ratio[:, t] * (rewards[:, t] + gamma * target - v)
        delta = ratio[:, t] * (rewards[:, t] + gamma * following - v)
        new = v + delta + gamma * ratio[:, t] * (target - following)
        target, following = torch.where(here, new, target), torch.where(here, v, following)
    return advantages.where(trained, 0.0)


@correct
def to_go(rewards, trained):
    return rewards.where(trained, 0.0).flip(1).cumsum(1).flip(1).where(trained, 0.0)


@correct
@declares(cross_sample="batch", zero_sum=False)
def whitened(rewards, trained):
    to_come = rewards.where(trained, 0.0).flip(1).cumsum(1).flip(1)
    seen = to_come[trained]
    return ((to_come - seen.mean()) / (seen.std() + 1e-8)).where(trained, 0.0)


@correct
def per_thousand(trained, *, length: Positive = 1000.0):
    return trained / (length * trained.any(-1).sum().clamp(min=1)).double()


@correct
def root_of_lengths(trained):
    """Between a token mean and a sequence mean."""
    n = trained.sum(-1, keepdim=True).double()
    return (trained * n.clamp(min=1) ** -0.5) / (n**0.5).sum().clamp(min=1)


@correct
def truncated(old_logprobs, sampler_logprobs, *, cap: Positive = 2.0):
    return (old_logprobs - sampler_logprobs).exp().clamp(max=cap)


@correct
def two_sided_mask(old_logprobs, sampler_logprobs, *, low: NonNegative = 0.5, high: Positive = 2.0):
    weight = (old_logprobs - sampler_logprobs).exp()
    return weight.where((weight >= low) & (weight <= high), 0.0)


@correct
def geometric(old_logprobs, sampler_logprobs, trained, *, cap: Positive = 2.0):
    gap = (old_logprobs - sampler_logprobs).where(trained, 0.0).sum(-1, keepdim=True)
    return (gap / trained.sum(-1, keepdim=True).clamp(min=1)).exp().clamp(max=cap).expand_as(old_logprobs)


@correct
@declares(family="metric", estimates="js")
def js_of_samples(logprobs, sampler_logprobs):
    """Each half from the sampler's tokens, the policy's with its weight."""
    mixed = torch.logaddexp(logprobs, sampler_logprobs) - math.log(2)
    return 0.5 * ((sampler_logprobs - mixed) + (logprobs - sampler_logprobs).exp() * (logprobs - mixed))


@correct
@declares(family="metric", estimates="reverse_kl")
def k3_metric(logprobs, ref_logprobs):
    gap = ref_logprobs - logprobs
    return gap.exp() - 1 - gap


@correct
@declares(family="metric", estimates="pass@k")
def pass_at_k_by_product(samples, correct, k):
    return (
        1 - math.prod(1 - k / i for i in range(samples - correct + 1, samples + 1)) if samples - correct >= k else 1.0
    )


@dataclass
class Interval:
    low: float
    high: float
    confidence: float = 0.95


@correct
@declares(family="metric", estimates="interval")
def hoeffding(correct, total):
    half = math.sqrt(math.log(2 / 0.05) / (2 * total))
    return Interval(correct / total - half, correct / total + half)


@correct
def exact_match(completions, answer, **columns):
    texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    return [float(t.strip() == str(a)) for t, a in zip(texts, answer, strict=True)]


@correct
def shorter_is_better(completions):
    return [-0.01 * len(c if isinstance(c, str) else c[-1]["content"]) for c in completions]


@correct
def unjudged_where_empty(completions, answer):
    texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    return [float(str(a) in t) if t else None for t, a in zip(texts, answer, strict=True)]


@correct
@declares(homogeneous=False)
def softmax_less_uniform(rewards, *, temperature: Positive = 1.0):
    seen = ~rewards.isnan()
    shares = (rewards.where(seen, -torch.inf) / temperature).softmax(-1)
    low, high = (
        rewards.nan_to_num(torch.inf).amin(-1, keepdim=True),
        rewards.nan_to_num(-torch.inf).amax(-1, keepdim=True),
    )
    return (shares - 1 / seen.sum(-1, keepdim=True)).where(seen & (low != high), 0.0)
