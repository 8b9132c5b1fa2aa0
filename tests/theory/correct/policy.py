"""Sound policy-gradient losses that look unlike PPO."""

from dataclasses import dataclass

import torch
from torch import Tensor

from corollary.config import Config
from corollary.declare import NonNegative, Positive, declares
from corollary.types import PolicyBatch, Terms
from theory.specimens import Correct

correct = CORRECT = Correct()


def mean_of(values: Tensor, trained: Tensor) -> Tensor:
    """Over each answer's trained tokens, `[B, 1]`."""
    return values.where(trained, 0.0).sum(-1, keepdim=True) / trained.sum(-1, keepdim=True).clamp(min=1)


@correct
@declares(stop_gradient=True)
def cispo(logprobs, old_logprobs, advantages, *, cap: Positive = 5.0):
    weight = (logprobs - old_logprobs).exp().clamp(max=cap).detach()
    return -weight * advantages * logprobs


@correct
@declares(stop_gradient=True)
def reinforce_weighted(logprobs, old_logprobs, advantages):
    return -(logprobs - old_logprobs).exp().detach() * advantages * logprobs


@correct
@declares(tail=False)
def sapo(logprobs, old_logprobs, advantages, *, up: Positive = 1.0, down: Positive = 1.05):
    tau = torch.where(advantages > 0, up, down)
    gate = 4 / tau * torch.sigmoid(tau * ((logprobs - old_logprobs).exp() - 1))
    return -advantages * gate


@correct
def gspo(logprobs, old_logprobs, advantages, trained, *, clip_low: NonNegative = 3e-4, clip_high: NonNegative = 4e-4):
    ratio = mean_of(logprobs - old_logprobs, trained).exp()
    each = mean_of(advantages, trained)
    return -torch.minimum(ratio * each, ratio.clamp(1 - clip_low, 1 + clip_high) * each)[:, 0]


@correct
@declares(stop_gradient=True)
def gspo_token(logprobs, old_logprobs, advantages, trained, *, clip: Positive = 4e-4):
    ratio = mean_of(logprobs - old_logprobs, trained).exp().detach() * (logprobs - logprobs.detach()).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


@correct
def ppo_with_dual_clip(logprobs, old_logprobs, advantages, *, clip: Positive = 0.2, dual: Positive = 3.0):
    ratio = (logprobs - old_logprobs).exp()
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return -torch.where(advantages < 0, gain.maximum(dual * advantages), gain)


@correct
def ppo_in_log_space(logprobs, old_logprobs, advantages, *, clip: Positive = 0.2):
    gap = logprobs - old_logprobs
    return -torch.minimum(gap * advantages, gap.clamp(-clip, clip) * advantages)


@correct
def ppo_one_sided(
    logprobs, old_logprobs, advantages, *, clip_low: NonNegative | None = None, clip_high: NonNegative = 0.28
):
    ratio = (logprobs - old_logprobs).exp()
    low = 0.0 if clip_low is None else 1 - clip_low
    return -torch.minimum(ratio * advantages, ratio.clamp(low, 1 + clip_high) * advantages)


@correct
def two_sided(logprobs, old_logprobs, advantages, *, clip: Positive = 0.2, delta: Positive = 4.0):
    """TRL's two-sided clip: the unclipped ratio has a ceiling of its own."""
    ratio = (logprobs - old_logprobs).exp()
    return -torch.minimum(ratio.clamp(max=delta) * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


@correct
@declares(on_policy="direction", stop_gradient=True)
def entropy_weighted(logprobs, old_logprobs, advantages, entropy, *, power: NonNegative = 1.0):
    weight = (1 + entropy.detach()) ** power
    return -weight * (logprobs - old_logprobs).exp() * advantages


@correct
@declares(on_policy="direction")
def length_weighted(logprobs, old_logprobs, advantages, trained, *, power: Positive = 0.5):
    weight = trained.sum(-1, keepdim=True).clamp(min=1) ** -power
    return -weight * (logprobs - old_logprobs).exp() * advantages


@correct
@declares(on_policy=None, homogeneous=False)
def awr(logprobs, advantages, *, temperature: Positive = 1.0, most: Positive = 20.0):
    return -(advantages / temperature).exp().clamp(max=most) * logprobs


@correct
def ppo_with_own_k3(
    logprobs, old_logprobs, advantages, ref_logprobs, *, clip: Positive = 0.2, beta: NonNegative = 0.04
):
    ratio, gap = (logprobs - old_logprobs).exp(), ref_logprobs - logprobs
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return Terms(-gain + beta * (gap.exp() - gap - 1), {"kl": (gap.exp() - gap - 1).detach()})


@correct
def ppo_with_k2(logprobs, old_logprobs, advantages, ref_logprobs, *, beta: NonNegative = 0.04):
    return -(logprobs - old_logprobs).exp() * advantages + 0.5 * beta * (logprobs - ref_logprobs) ** 2


@correct
def ppo_with_weighted_k3(logprobs, old_logprobs, advantages, ref_logprobs, *, beta: NonNegative = 0.04):
    ratio, gap = (logprobs - old_logprobs).exp(), ref_logprobs - logprobs
    return -ratio * advantages + beta * ratio * (gap.exp() - gap - 1)


@correct
@declares(homogeneous=False)
def pull_to_old(logprobs, old_logprobs, advantages, *, coef: NonNegative = 0.1):
    """A quadratic pull to the old policy where PPO clips."""
    gap = logprobs - old_logprobs
    return -gap.exp() * advantages + 0.5 * coef * gap**2


@correct
def with_entropy_bonus(logprobs, old_logprobs, advantages, entropy, *, entropy_coef: NonNegative = 0.01):
    ratio = (logprobs - old_logprobs).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages) - entropy_coef * entropy


@correct
def truncated_sampler(logprobs, old_logprobs, advantages, sampler_logprobs, *, cap: Positive = 2.0):
    weight = (old_logprobs - sampler_logprobs).exp().clamp(max=cap)
    ratio = (logprobs - old_logprobs).exp()
    return -weight * torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)


@correct
@declares(stop_gradient=True)
def sampler_reinforce(logprobs, advantages, sampler_logprobs, *, cap: Positive = 2.0):
    return -(logprobs.detach() - sampler_logprobs).exp().clamp(max=cap) * advantages * logprobs


@correct
def in_float32(logprobs, old_logprobs, advantages):
    """Casts up first, as every careful loss does."""
    ratio = (logprobs.float() - old_logprobs.to(torch.float32)).exp()
    return -torch.minimum(ratio * advantages.float(), ratio.clamp(0.8, 1.2) * advantages.float())


@correct
def of_batch(logprobs, batch: PolicyBatch, *, clip: Positive = 0.2):
    ratio = (logprobs - batch.old_logprobs).exp()
    gain = torch.minimum(ratio * batch.advantages, ratio.clamp(1 - clip, 1 + clip) * batch.advantages)
    return Terms(-gain, {"ratio": ratio.detach()})


@correct
@dataclass
class Shaped:
    clip: float = 0.2
    soft: bool = False

    def __call__(self, logprobs, old_logprobs, advantages):
        ratio = (logprobs - old_logprobs).exp()
        bound = ratio.clamp(1 - self.clip, 1 + self.clip)
        bound = 0.9 * bound + 0.1 * ratio if self.soft else bound
        return -torch.minimum(ratio * advantages, bound * advantages)


@correct
class Configured(Config):
    clip_low: float = 0.2
    clip_high: float = 0.28

    def __call__(self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor) -> Terms:
        ratio = (logprobs - old_logprobs).exp()
        gain = torch.minimum(ratio * advantages, ratio.clamp(1 - self.clip_low, 1 + self.clip_high) * advantages)
        return Terms(-gain, {"clipped": (gain != ratio * advantages).detach().to(ratio.dtype)})


@correct
@declares(stop_gradient=True, on_policy="direction")
def focal(logprobs, old_logprobs, advantages, *, gamma: NonNegative = 1.0):
    weight = (1 - logprobs.exp()).detach() ** gamma
    return -weight * (logprobs - old_logprobs).exp() * advantages


@correct
@declares(cross_sample="batch", on_policy="direction", homogeneous=False)
def batch_normalised(logprobs, old_logprobs, advantages, trained):
    seen = advantages.where(trained, 0.0)
    scale = (seen.pow(2).sum() / trained.sum().clamp(min=1)).sqrt()
    return -(logprobs - old_logprobs).exp() * advantages / (scale + 1e-6)


@correct
@declares(stop_gradient=True)
def sequence_product(logprobs, old_logprobs, advantages, trained, *, most: Positive = 10.0):
    gap = (logprobs - old_logprobs).where(trained, 0.0).sum(-1, keepdim=True)
    weight = gap.clamp(max=torch.tensor(most).log().item()).exp().detach()
    return -weight * advantages * logprobs


@correct
def reinforce(logprobs, advantages):
    return -advantages * logprobs


@correct
@declares(stop_gradient=True)
def penalty_in_advantage(logprobs, ref_logprobs, advantages, *, beta: Positive = 0.1):
    return -(advantages - beta * (logprobs - ref_logprobs).detach()) * logprobs


@correct
def softly_clipped(logprobs, old_logprobs, advantages, *, width: Positive = 0.2):
    ratio = (logprobs - old_logprobs).exp()
    return -torch.minimum(ratio * advantages, (1 + width * torch.tanh((ratio - 1) / width)) * advantages)
