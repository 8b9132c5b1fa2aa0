"""Broken losses on labelled answers."""

import torch
import torch.nn.functional as F

from corollary.declare import Positive, declares
from corollary.types import UnpairedBatch
from theory.specimens import Mutants

mutant = MUTANTS = Mutants()


@mutant("labels", "trl #1911: labels swapped")
def kto_labels_swapped(sequence_logprobs, sequence_ref_logprobs, desirable, baseline, *, beta: Positive = 0.1):
    gap = beta * (sequence_logprobs - sequence_ref_logprobs - baseline)
    return 1 - torch.where(desirable, -gap, gap).sigmoid()


@mutant("reference", "the reference is taken and ignored")
def kto_reference_ignored(sequence_logprobs, sequence_ref_logprobs, desirable, baseline, *, beta: Positive = 0.1):
    gap = beta * (sequence_logprobs - baseline)
    return 1 - torch.where(desirable, gap, -gap).sigmoid()


@mutant("independent", "trl #1380, #1402: the baseline comes from its own microbatch, undeclared")
def kto_own_baseline(sequence_logprobs, sequence_ref_logprobs, desirable, *, beta: Positive = 0.1):
    ratio = sequence_logprobs - sequence_ref_logprobs
    baseline = (ratio.detach().sum() / max(1, len(ratio))).clamp(min=0)
    gap = beta * (ratio - baseline)
    return 1 - torch.where(desirable, gap, -gap).sigmoid()


@mutant("derivative", "trl #1970's kin: the batch's own baseline, with its gradient cut and not said")
@declares(cross_sample="batch")
def kto_baseline_detached(sequence_logprobs, sequence_ref_logprobs, desirable, *, beta: Positive = 0.1):
    ratio = sequence_logprobs - sequence_ref_logprobs
    gap = beta * (ratio - ratio.detach().sum() / max(1, len(ratio)))
    return 1 - torch.where(desirable, gap, -gap).sigmoid()


@mutant("baseline", "the baseline's sign: it is added and not subtracted")
def kto_baseline_sign(sequence_logprobs, sequence_ref_logprobs, desirable, baseline, *, beta: Positive = 0.1):
    gap = beta * (sequence_logprobs - sequence_ref_logprobs + baseline)
    return 1 - torch.where(desirable, gap, -gap).sigmoid()


@mutant("parameters", "slime #2247: the weight of undesirable answers is parsed and dropped")
def kto_weight_ignored(
    sequence_logprobs, sequence_ref_logprobs, desirable, baseline,
    *, beta: Positive = 0.1, desirable_weight: Positive = 1.0, undesirable_weight: Positive = 1.0,
):  # fmt: skip
    gap = beta * (sequence_logprobs - sequence_ref_logprobs - baseline)
    return desirable_weight * (1 - torch.where(desirable, gap, -gap).sigmoid())


@mutant("weights", "labels and sign swapped together: the same curve, with each other's weight", passes="labels")
def kto_weights_swapped(
    sequence_logprobs, sequence_ref_logprobs, desirable, baseline,
    *, beta: Positive = 0.1, desirable_weight: Positive = 1.0, undesirable_weight: Positive = 1.0,
):  # fmt: skip
    gap = beta * (sequence_logprobs - sequence_ref_logprobs - baseline)
    weight = torch.where(~desirable, desirable_weight, undesirable_weight)
    return weight * torch.where(~desirable, gap, -gap).sigmoid()


@mutant("labels", "both kinds of answer are pushed the same way")
def kto_one_way(sequence_logprobs, sequence_ref_logprobs, desirable, baseline, *, beta: Positive = 0.1):
    gap = beta * (sequence_logprobs - sequence_ref_logprobs - baseline)
    return 1 - gap.sigmoid() + 0 * desirable


@mutant("extremes", "log(sigmoid) in BCO")
def bco_log_of_sigmoid(sequence_logprobs, sequence_ref_logprobs, desirable, shift, *, beta: Positive = 0.1):
    z = beta * (sequence_logprobs - sequence_ref_logprobs) - shift
    return -torch.where(desirable, z, -z).sigmoid().log()


@mutant("mask", "OpenRLHF #583: sums over padding of the batch")
def kto_over_padding(logprobs, batch: UnpairedBatch, *, beta: Positive = 0.1):
    gap = beta * ((logprobs - batch.ref_logprobs).sum(-1) - batch.baseline)
    return 1 - torch.where(batch.desirable, gap, -gap).sigmoid()


@mutant("split", "trl #2648: KTO's loss divided by the microbatch's answers")
def kto_over_own_answers(sequence_logprobs, sequence_ref_logprobs, desirable, baseline, *, beta: Positive = 0.1):
    gap = beta * (sequence_logprobs - sequence_ref_logprobs - baseline)
    return (1 - torch.where(desirable, gap, -gap).sigmoid()) / max(1, len(gap))


@mutant("order", "trl #1911: every other answer is taken for a desirable one")
def kto_labels_by_position(sequence_logprobs, sequence_ref_logprobs, desirable, baseline, *, beta: Positive = 0.1):
    gap = beta * (sequence_logprobs - sequence_ref_logprobs - baseline)
    good = torch.arange(len(gap)) % 2 == 0
    return 1 - torch.where(good, gap, -gap).sigmoid() + 0 * desirable


@mutant("inputs", "unpaired likelihood that never reads its labels", passes="terms")
def kto_without_baseline(sequence_logprobs, sequence_ref_logprobs, desirable, baseline, *, beta: Positive = 0.1):
    gap = beta * (sequence_logprobs - sequence_ref_logprobs)
    return -F.logsigmoid(torch.where(desirable, gap, -gap)) + 0 * baseline
