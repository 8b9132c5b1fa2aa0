"""Sound losses on pairs, labelled answers and rewards of pairs."""

import math

import torch
import torch.nn.functional as F

from corollary.declare import FlipRate, NonNegative, Positive, declares
from corollary.types import PreferenceBatch, Terms
from theory.specimens import Correct

correct = CORRECT = Correct()


@correct
@declares(value_at_reference=math.log(2))
def dpo(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1):
    return -F.logsigmoid(beta * ((chosen - ref_chosen) - (rejected - ref_rejected)))


@correct
def rdpo(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1, flip: FlipRate = 0.1):
    """Unbiased under flipped labels, and unbounded below."""
    z = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
    return (-(1 - flip) * F.logsigmoid(z) + flip * F.logsigmoid(-z)) / (1 - 2 * flip)


@correct
def cdpo(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1, smoothing: FlipRate = 0.1):
    z = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
    return -(1 - smoothing) * F.logsigmoid(z) - smoothing * F.logsigmoid(-z)


@correct
def ipo(chosen, rejected, ref_chosen, ref_rejected, *, tau: Positive = 0.1):
    return ((chosen - ref_chosen) - (rejected - ref_rejected) - 1 / (2 * tau)) ** 2


@correct
def ipo_of_means(chosen, rejected, ref_chosen, ref_rejected, chosen_lengths, rejected_lengths, *, tau: Positive = 0.1):
    up = (chosen - ref_chosen) / chosen_lengths.clamp(min=1)
    return (up - (rejected - ref_rejected) / rejected_lengths.clamp(min=1) - 1 / (2 * tau)) ** 2


@correct
def focal_dpo(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1, gamma: NonNegative = 1.0):
    z = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
    return -(F.logsigmoid(-z) * gamma).exp() * F.logsigmoid(z)


@correct
def dpo_with_nll(
    chosen, rejected, ref_chosen, ref_rejected, chosen_lengths, *, beta: Positive = 0.1, alpha: NonNegative = 1.0
):
    nll = -chosen / chosen_lengths.clamp(min=1)
    return -F.logsigmoid(beta * ((chosen - ref_chosen) - (rejected - ref_rejected))) + alpha * nll


@correct
def dpo_with_margins(chosen, rejected, ref_chosen, ref_rejected, margins, *, beta: Positive = 0.1):
    return -F.logsigmoid(beta * ((chosen - ref_chosen) - (rejected - ref_rejected)) - margins)


@correct
def rebel(chosen, rejected, ref_chosen, ref_rejected, margins, *, eta: Positive = 1.0):
    """Regresses the difference of log-ratios on the difference of rewards."""
    return ((chosen - ref_chosen - rejected + ref_rejected) / eta - margins) ** 2


@correct
@declares(unimodal=False)
def dpo_weighed_by_margin(chosen, rejected, ref_chosen, ref_rejected, margins, *, beta: Positive = 0.1):
    return -(0.5 + margins) * F.logsigmoid(beta * ((chosen - ref_chosen) - (rejected - ref_rejected)))


@correct
def simpo(chosen, rejected, chosen_lengths, rejected_lengths, *, beta: Positive = 2.0, gamma: NonNegative = 1.0):
    means = chosen / chosen_lengths.clamp(min=1) - rejected / rejected_lengths.clamp(min=1)
    return -F.logsigmoid(beta * means - gamma)


@correct
def slic(chosen, rejected, *, delta: Positive = 1.0, weight: NonNegative = 0.1):
    return (delta - chosen + rejected).clamp(min=0) - weight * chosen


@correct
def dpo_per_token(
    chosen_logprobs, chosen_trained, rejected_logprobs, rejected_trained, ref_chosen_logprobs, ref_rejected_logprobs,
    *, beta: Positive = 0.1,
):  # fmt: skip
    up = (chosen_logprobs - ref_chosen_logprobs).where(chosen_trained, 0.0).sum(-1)
    down = (rejected_logprobs - ref_rejected_logprobs).where(rejected_trained, 0.0).sum(-1)
    return -F.logsigmoid(beta * (up - down))


@correct
def dpo_of_batch(logprobs, batch: PreferenceBatch, *, beta: Positive = 0.1):
    ratio = (logprobs - batch.ref_logprobs).where(batch.trained, 0.0).sum(-1)
    z = beta * (ratio[0::2] - ratio[1::2])
    return Terms(-F.logsigmoid(z), {"margin": z.detach()})


@correct
@declares(tail=False)
def clipped_dpo(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1, most: Positive = 5.0):
    """No more is asked than a margin of `most`."""
    z = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
    return -F.logsigmoid(z.clamp(max=most))


@correct
def nca(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1):
    up, down = beta * (chosen - ref_chosen), beta * (rejected - ref_rejected)
    return -F.logsigmoid(up) - 0.5 * F.logsigmoid(-up) - 0.5 * F.logsigmoid(-down)


@correct
def dpop(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1, weight: NonNegative = 5.0):
    lost = (ref_chosen - chosen).clamp(min=0)
    return -F.logsigmoid(beta * ((chosen - ref_chosen) - (rejected - ref_rejected) - weight * lost))


@correct
def length_corrected(
    chosen, rejected, ref_chosen, ref_rejected, chosen_lengths, rejected_lengths,
    *, beta: Positive = 0.1, alpha: NonNegative = 0.02,
):  # fmt: skip
    longer = alpha * (chosen_lengths - rejected_lengths)
    return -F.logsigmoid(beta * ((chosen - ref_chosen) - (rejected - ref_rejected)) - longer)


@correct
@declares(cross_sample="batch", stop_gradient=True)
def kto_of_its_batch(sequence_logprobs, sequence_ref_logprobs, desirable, *, beta: Positive = 0.1):
    ratio = sequence_logprobs - sequence_ref_logprobs
    baseline = (ratio.detach().sum() / max(1, len(ratio))).clamp(min=0)
    z = beta * (ratio - baseline)
    return 1 - torch.where(desirable, z, -z).sigmoid()


@correct
def kto(
    sequence_logprobs, sequence_ref_logprobs, desirable, baseline,
    *, beta: Positive = 0.1, desirable_weight: Positive = 1.0, undesirable_weight: Positive = 1.33,
):  # fmt: skip
    z = beta * (sequence_logprobs - sequence_ref_logprobs - baseline)
    weight = torch.where(desirable, desirable_weight, undesirable_weight)
    return weight * (1 - torch.where(desirable, z, -z).sigmoid())


@correct
def binary_classifier(sequence_logprobs, sequence_ref_logprobs, desirable, *, beta: Positive = 0.1):
    z = beta * (sequence_logprobs - sequence_ref_logprobs)
    return F.binary_cross_entropy_with_logits(z, desirable.to(z.dtype), reduction="none")


@correct
def bradley_terry_centred(chosen_rewards, rejected_rewards, margins, *, centring: NonNegative = 0.01):
    return (
        -F.logsigmoid(chosen_rewards - rejected_rewards - margins) + centring * (chosen_rewards + rejected_rewards) ** 2
    )


@correct
def hinge_of_rewards(chosen_rewards, rejected_rewards, *, width: Positive = 1.0):
    return (width - (chosen_rewards - rejected_rewards)).clamp(min=0)


@correct
def dpo_of_soft_labels(chosen, rejected, ref_chosen, ref_rejected, margins, *, beta: Positive = 0.1):
    z, sure = beta * ((chosen - ref_chosen) - (rejected - ref_rejected)), margins.sigmoid()
    return -sure * F.logsigmoid(z) - (1 - sure) * F.logsigmoid(-z)


@correct
@declares(cross_sample="batch", shift_invariant=False)
def aot(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1):
    own, ref = (chosen - rejected).sort().values, (ref_chosen - ref_rejected).sort().values
    return -F.logsigmoid(beta * (own - ref))


@correct
def bradley_terry_without_margins(chosen_rewards, rejected_rewards, margins=None):
    gap = chosen_rewards - rejected_rewards
    return F.softplus(-(gap if margins is None else gap - margins))
