"""Broken losses on pairs."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from corollary.declare import FlipRate, NonNegative, Positive, declares
from corollary.types import PreferenceBatch, Terms
from theory.specimens import Mutants

mutant = MUTANTS = Mutants()


@mutant("prefers", "chosen and rejected swapped: invisible at π = ref and to the reference")
def dpo_swapped(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1):
    return -F.logsigmoid(beta * ((rejected - ref_rejected) - (chosen - ref_chosen)))


@mutant("prefers", "tinker-cookbook #677: a sign")
def dpo_sign(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1):
    return F.logsigmoid(beta * ((chosen - ref_chosen) - (rejected - ref_rejected)))


@mutant("reference", "the reference is taken and ignored: Liger #1082's kin")
def dpo_reference_ignored(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1):
    return -F.logsigmoid(beta * (chosen - rejected))


@mutant("reference", "OpenRLHF #237: the reference's log-probabilities count half")
def dpo_reference_scaled(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1):
    return -F.logsigmoid(beta * ((chosen - 0.5 * ref_chosen) - (rejected - 0.5 * ref_rejected)))


@mutant("reference", "verl #1411: the rejected answer's ids stacked wrongly, the chosen one's reference for both")
def dpo_one_reference(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1):
    return -F.logsigmoid(beta * ((chosen - ref_chosen) - (rejected - ref_chosen)))


@mutant("reference", "references swapped")
def dpo_references_swapped(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1):
    return -F.logsigmoid(beta * ((chosen - ref_rejected) - (rejected - ref_chosen)))


@mutant("reference", "tinker-cookbook #172: β on the policy only")
def dpo_beta_on_policy_only(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1):
    return -F.logsigmoid(beta * (chosen - rejected) - (ref_chosen - ref_rejected))


@mutant("balanced", "tinker-cookbook #172: β twice on one answer", passes="reference")
def dpo_beta_twice_on_rejected(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1):
    return -F.logsigmoid(beta * ((chosen - ref_chosen) - beta * (rejected - ref_rejected)))


@mutant("balanced", "tinker-cookbook #172: β on the chosen answer only", passes="reference")
def dpo_beta_on_chosen_only(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1):
    return -F.logsigmoid(beta * (chosen - ref_chosen) - (rejected - ref_rejected))


@mutant("extremes", "tinker-cookbook #188: log(sigmoid) is -inf below -88 in float32")
def dpo_log_of_sigmoid(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1):
    return -torch.sigmoid(beta * ((chosen - ref_chosen) - (rejected - ref_rejected))).log()


@mutant("independent", "trl #2617: the batch's mean on every pair, which adds up over equal splits", passes="order")
def dpo_mean_expanded(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1):
    each = -F.logsigmoid(beta * ((chosen - ref_chosen) - (rejected - ref_rejected)))
    return each.sum().expand_as(each) / max(1, len(each))


@mutant("terms", "trl #2615: mean inside")
def dpo_mean_inside(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1):
    return -F.logsigmoid(beta * ((chosen - ref_chosen) - (rejected - ref_rejected))).mean()


@mutant("split", "transformers #34191 seen in DPO: the loss comes out times the number of microbatches")
def dpo_over_own_pairs(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1):
    z = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
    return -F.logsigmoid(z) / max(1, len(z))


@mutant("independent", "margins standardised over the batch")
def dpo_standardised(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1):
    z = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
    return -F.logsigmoid(z / (1 + z.detach().pow(2).sum().sqrt()))


@mutant("mask", "OpenRLHF's DPO loss mask fix: prompt and padding in the sums")
def dpo_over_padding(
    chosen_logprobs, rejected_logprobs, ref_chosen_logprobs, ref_rejected_logprobs, *, beta: Positive = 0.1
):
    policy = (chosen_logprobs - rejected_logprobs).sum(-1)
    return -F.logsigmoid(beta * (policy - (ref_chosen_logprobs - ref_rejected_logprobs).sum(-1)))


@mutant("mask", "LlamaFactory #10126: a mask that multiplies lets NaN through")
def dpo_mask_multiplied(
    chosen_logprobs, rejected_logprobs, chosen_trained, rejected_trained, ref_chosen_logprobs, ref_rejected_logprobs,
    *, beta: Positive = 0.1,
):  # fmt: skip
    chosen = ((chosen_logprobs - ref_chosen_logprobs) * chosen_trained).sum(-1)
    rejected = ((rejected_logprobs - ref_rejected_logprobs) * rejected_trained).sum(-1)
    return -F.logsigmoid(beta * (chosen - rejected))


@mutant("trained", "trl #2332: truncation drops the last column")
def dpo_last_column_lost(
    chosen_logprobs, rejected_logprobs, chosen_trained, rejected_trained, ref_chosen_logprobs, ref_rejected_logprobs,
    *, beta: Positive = 0.1,
):  # fmt: skip
    def total(x, m):
        last = m.long().cumsum(-1) == m.sum(-1, keepdim=True)
        return x.where(m & ~last, 0.0).sum(-1)

    chosen = total(chosen_logprobs - ref_chosen_logprobs, chosen_trained)
    rejected = total(rejected_logprobs - ref_rejected_logprobs, rejected_trained)
    return -F.logsigmoid(beta * (chosen - rejected))


@mutant("order", "AReaL #1419: paired by halves of the batch, and the batch lies in pairs")
def dpo_paired_by_halves(logprobs, batch: PreferenceBatch, *, beta: Positive = 0.1):
    ratio = (logprobs - batch.ref_logprobs).where(batch.trained, 0.0).sum(-1)
    half = len(ratio) // 2
    return -F.logsigmoid(beta * (ratio[:half] - ratio[half:]))


@mutant("margins", "the margin's sign: a larger one asks for less")
def dpo_margin_sign(chosen, rejected, ref_chosen, ref_rejected, margins, *, beta: Positive = 0.1):
    return -F.logsigmoid(beta * ((chosen - ref_chosen) - (rejected - ref_rejected)) + margins)


@mutant("gradient", "hinge with min for max: no gradient where it should pull")
def hinge_with_min(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1):
    return (1 - beta * ((chosen - ref_chosen) - (rejected - ref_rejected))).clamp(max=0)


@mutant("margin", "EXO with ε and 1 - ε swapped: its optimum has the rejected answer ahead")
def exo_targets_swapped(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1, eps: Positive = 1e-3):
    z = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
    up, down = F.logsigmoid(z), F.logsigmoid(-z)
    return up.exp() * (up - torch.tensor(eps).log()) + down.exp() * (down - torch.tensor(1 - eps).log())


@mutant("prefers", "DPOP's max turned: a chosen answer that gets likelier is punished")
def dpop_turned(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1, weight: NonNegative = 5.0):
    z = (chosen - ref_chosen) - (rejected - ref_rejected) - weight * (chosen - ref_chosen).clamp(min=0)
    return -F.logsigmoid(beta * z)


@mutant("parameters", "trl #7062, ms-swift #10167: label smoothing is accepted and ignored")
def cdpo_smoothing_ignored(
    chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1, smoothing: FlipRate = 0.0
):
    return -F.logsigmoid(beta * ((chosen - ref_chosen) - (rejected - ref_rejected)))


@mutant("parameters", "torchtune #1615: τ is ignored in IPO's target")
def ipo_tau_ignored(chosen, rejected, ref_chosen, ref_rejected, *, tau: Positive = 0.1):
    return ((chosen - ref_chosen) - (rejected - ref_rejected) - 5.0) ** 2


@mutant("length", "trl #1265: IPO divides both answers by the chosen one's length", passes="reference")
def ipo_chosen_length_for_both(chosen, rejected, ref_chosen, ref_rejected, chosen_lengths, *, tau: Positive = 0.1):
    gap = ((chosen - ref_chosen) - (rejected - ref_rejected)) / chosen_lengths.clamp(min=1)
    return (gap - 1 / (2 * tau)) ** 2


@mutant(
    "length",
    "torchtune #1291, ms-swift #9925: each answer by the other's length; both twice as long hides it",
    passes="reference",
)
@declares(length_invariant=True)
def ipo_lengths_swapped(
    chosen, rejected, ref_chosen, ref_rejected, chosen_lengths, rejected_lengths, *, tau: Positive = 0.1
):
    up = (chosen - ref_chosen) / rejected_lengths.clamp(min=1)
    return (up - (rejected - ref_rejected) / chosen_lengths.clamp(min=1) - 1 / (2 * tau)) ** 2


@mutant("length", "SimPO with the lengths swapped")
def simpo_lengths_swapped(
    chosen, rejected, chosen_lengths, rejected_lengths, *, beta: Positive = 2.0, gamma: NonNegative = 1.0
):
    means = chosen / rejected_lengths.clamp(min=1) - rejected / chosen_lengths.clamp(min=1)
    return -F.logsigmoid(beta * means - gamma)


@mutant("length", "trl #1265: declared a mean per token, and it is a sum")
@declares(length_invariant=True)
def ipo_of_sums(chosen, rejected, ref_chosen, ref_rejected, *, tau: Positive = 0.1):
    return ((chosen - ref_chosen) - (rejected - ref_rejected) - 1 / (2 * tau)) ** 2


@mutant(
    "derivative", "adapter not disabled: the policy itself stands in for the reference, detached", passes="at reference"
)
@declares(value_at_reference=0.6931471805599453)
def dpo_policy_as_reference(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1):
    return -F.logsigmoid(beta * ((chosen - chosen.detach()) - (rejected - rejected.detach())))


@mutant("reference", "pair and sign swapped together, but the references were not", passes="prefers")
def dpo_swapped_and_turned(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1):
    return -F.logsigmoid(-beta * ((rejected - ref_chosen) - (chosen - ref_rejected)))


@mutant(
    "reference",
    "the sign of both references: at one sample's ref_chosen = ref_rejected nothing shows",
    passes="prefers",
)
def dpo_reference_sign(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1):
    return -F.logsigmoid(beta * ((chosen + ref_chosen) - (rejected + ref_rejected)))


@mutant("at reference", "a constant factor hidden in the slope: ½ outside, 2 inside", passes="reference")
@declares(value_at_reference=0.6931471805599453)
def dpo_half_times_two(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1):
    return -0.5 * F.logsigmoid(2 * beta * ((chosen - ref_chosen) - (rejected - ref_rejected)))


@mutant("precision", "trl #3237, OpenRLHF #634: sums of log-probabilities in bfloat16")
def dpo_in_bfloat16(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1):
    low = [x.to(torch.bfloat16) for x in (chosen, rejected, ref_chosen, ref_rejected)]
    return -F.logsigmoid(beta * ((low[0] - low[2]) - (low[1] - low[3]))).to(chosen.dtype)


@mutant("extremes", "f-DPO: e^{-Δ} of a summed log-ratio overflows")
def fdpo_overflow(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1):
    up, down = (-(chosen - ref_chosen)).exp(), (-(rejected - ref_rejected)).exp()
    return -F.logsigmoid(beta * (down - up))


@mutant("loud", "trl #2553: NaN rewards turned into a constant loss")
def dpo_nan_to_num(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1):
    return -F.logsigmoid(torch.nan_to_num(beta * ((chosen - ref_chosen) - (rejected - ref_rejected))))


@mutant("edges", "trl #1033: 0/0 for an answer without tokens")
def lndpo_zero_length(
    chosen, rejected, ref_chosen, ref_rejected, chosen_lengths, rejected_lengths, *, beta: Positive = 0.1
):
    z = (chosen - ref_chosen) / chosen_lengths - (rejected - ref_rejected) / rejected_lengths
    return -F.logsigmoid(beta * z).sum().expand_as(z) / len(z)


@mutant("inputs", "trl #2502: the NLL is half wired, its length is read and not used")
def dpo_with_nll(
    chosen, rejected, ref_chosen, ref_rejected, chosen_lengths, *, beta: Positive = 0.1, alpha: Positive = 1.0
):
    return -F.logsigmoid(beta * ((chosen - ref_chosen) - (rejected - ref_rejected))) - alpha * chosen


@dataclass
class SharpDPO:
    beta: float = 0.1
    sharpness: float = 1.0

    def __call__(self, chosen, rejected, ref_chosen, ref_rejected):
        return -F.logsigmoid(self.beta * ((chosen - ref_chosen) - (rejected - ref_rejected)))


mutant("parameters", "slime #2247: a dataclass whose second field is never read")(SharpDPO)


def per_token(answer, lengths):
    return answer / lengths.clamp(min=1)


@mutant("prefers", "ORPO's odds with the sign of log(1 - p) turned: right while both are unlikely", passes="derivative")
def orpo_odds_turned(chosen, rejected, chosen_lengths, rejected_lengths, *, weight: Positive = 0.1):
    up, down = per_token(chosen, chosen_lengths), per_token(rejected, rejected_lengths)
    odds = up - down + torch.log(-torch.expm1(up)) - torch.log(-torch.expm1(down))
    return -up - weight * F.logsigmoid(odds)


@mutant("extremes", "trl #1473, #2564: log(1 - exp(x)) of an almost sure answer")
def orpo_naive(chosen, rejected, chosen_lengths, rejected_lengths, *, weight: Positive = 0.1):
    up, down = per_token(chosen, chosen_lengths), per_token(rejected, rejected_lengths)
    odds = up - down - (torch.log(1 - up.exp()) - torch.log(1 - down.exp()))
    return -up - weight * F.logsigmoid(odds)


@mutant("reference", "trl #2502: the NLL is of the rejected answer")
def dpo_nll_of_rejected(
    chosen, rejected, ref_chosen, ref_rejected, rejected_lengths, *, beta: Positive = 0.1, alpha: Positive = 1.0
):
    nll = -per_token(rejected, rejected_lengths)
    return -F.logsigmoid(beta * ((chosen - ref_chosen) - (rejected - ref_rejected))) + alpha * nll


@mutant("margin", "cDPO with ε and 1 - ε swapped")
def cdpo_turned(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1, flip: FlipRate = 0.1):
    z = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
    return -flip * F.logsigmoid(z) - (1 - flip) * F.logsigmoid(-z)


@mutant("parameters", "the flipped half is not flipped: ε cancels", passes="margin")
def cdpo_not_flipped(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1, flip: FlipRate = 0.1):
    z = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
    return -(1 - flip) * F.logsigmoid(z) - flip * F.logsigmoid(z)


@mutant("named metrics", "trl #5079: the logged rewards are overwritten")
def dpo_metrics_overwritten(chosen, rejected, ref_chosen, ref_rejected, *, beta: Positive = 0.1):
    up, down = beta * (chosen - ref_chosen), beta * (rejected - ref_rejected)
    logged = {"reward_chosen": up.detach(), "reward_rejected": up.detach(), "margin": (up - down).detach()}
    return Terms(-F.logsigmoid(up - down), logged)
