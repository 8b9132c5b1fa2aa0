"""Broken likelihood losses."""

import torch
import torch.nn.functional as F
from torch import nn

from corollary.declare import Fraction, NonNegative, declares
from corollary.types import Terms, TokenBatch
from theory.specimens import Mutants

mutant = MUTANTS = Mutants()


@mutant("split", "trl #2175, transformers #34191: each microbatch divides by its own count of tokens")
def nll_over_own_tokens(logprobs, trained):
    return -logprobs / trained.sum()


@mutant("split", "prime-rl #2034, slime #365: divides by the microbatch's own count of sequences")
def nll_over_own_sequences(logprobs):
    return -logprobs / len(logprobs)


@mutant("padding", "verl #3741: divides by the padded width")
def nll_over_padded_width(logprobs):
    return -logprobs / logprobs.shape[1]


@mutant("repeat", "NeMo RL masked_mean: 1e-8 in the denominator")
def nll_with_epsilon(logprobs, trained):
    count = trained.sum().double()
    return -logprobs * (count / (count + 1e-8))


@mutant("terms", "SkyRL's custom loss page: an example that returns .mean()")
def nll_mean_inside(logprobs, trained):
    return -(logprobs.where(trained, 0.0).sum() / trained.sum())


@mutant("mask", "SkyRL #1635: 0·NaN leaks through a mask that multiplies")
def nll_mask_multiplied(logprobs, trained):
    return -(logprobs * trained).sum(-1) / trained.sum(-1).clamp(min=1)


@mutant("mask", "OpenRLHF #237: log-probabilities summed over padding too")
def nll_sum_over_padding(logprobs):
    return -logprobs.sum(-1)


@mutant("loud", "trl #6668: NaN reported as 0.0")
def nll_nan_to_zero(logprobs):
    return torch.nan_to_num(-logprobs)


@mutant("loud", "open-instruct #1685: NaN-aware mean passes over a broken token")
def nll_nanmean(logprobs, trained):
    return -torch.nanmean(logprobs.where(trained, torch.nan), dim=-1).nan_to_num()


@mutant("trained", "verl #3287: off by one, the first generated token is never trained")
def nll_first_token_lost(logprobs):
    return F.pad(-logprobs[:, 1:], (1, 0))


@mutant("trained", "trl #3200, #976: the end of the sequence is never trained")
def nll_end_lost(logprobs, trained):
    last = torch.arange(logprobs.shape[1]) == trained.long().cumsum(-1).argmax(-1)[:, None]
    return -logprobs.where(~last, 0.0)


@mutant("own token", "transformers #47394: labels shifted twice")
def nll_rolled(logprobs):
    return -logprobs.roll(-1, dims=1)


@mutant("uniform", "transformers #37830, #46898: labels shifted twice, on logits")
def nll_shifted_targets(logits, targets):
    return F.cross_entropy(logits.transpose(1, 2), targets.roll(-1, dims=1), reduction="none")


@mutant("vocabulary", "logits taken for log-probabilities: tinker-cookbook #188's kin")
def nll_of_logits(logits, targets):
    return -logits.gather(-1, targets[..., None])[..., 0]


@mutant("raises target", "DFT without its stop-gradient: the sign turns at p = 1/e")
def dft_without_stop_gradient(logprobs):
    return -logprobs.exp() * logprobs


@mutant("raises target", "open-instruct #535: a sign, the loss lowers what it should raise")
def nll_sign(logprobs):
    return logprobs


@mutant("parameters", "ms-swift #10167: an option that is parsed and never used")
def smoothing_ignored(logprobs, mean_logprobs, *, epsilon: Fraction = 0.1):
    return -0.9 * logprobs - 0.1 * mean_logprobs


@mutant("inputs", "trl #6559: half wired, the uniform part of label smoothing is lost")
def smoothing_without_uniform_part(logprobs, mean_logprobs, *, epsilon: Fraction = 0.1):
    return -(1 - epsilon) * logprobs + 0 * mean_logprobs.detach()


@mutant("precision", "transformers #31267, OpenRLHF #634: softmax in bfloat16")
def nll_in_bfloat16(logits, targets):
    low = logits.to(torch.bfloat16).log_softmax(-1).to(logits.dtype)
    return -low.gather(-1, targets[..., None])[..., 0]


@mutant("extremes", "tinker-cookbook #188: the logarithm of a softmax that is 0")
def nll_log_of_softmax(logits, targets):
    return -logits.softmax(-1).gather(-1, targets[..., None])[..., 0].log()


@mutant("extremes", "trl #1473: log(1 - p) at p = 1")
def unlikelihood_of_almost_sure(logprobs, *, weight: NonNegative = 0.1):
    return -logprobs + weight * torch.log(1 - logprobs.exp())


@mutant("terms", "slime #2114: an in-place edit, here of the labels")
def nll_edits_targets(logits, targets, trained):
    targets[~trained] = 0
    return F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")


@mutant("pure", "verl #4708: dropout is active")
def nll_with_dropout(logprobs):
    return -F.dropout(logprobs, 0.1)


_SEEN = []


@mutant("pure", "SkyRL #2008: what an earlier call left behind changes the next")
def nll_with_memory(logprobs):
    _SEEN.append(1)
    return -logprobs * (1 - 0.5 ** len(_SEEN))


@mutant("metrics", "verl #6698: a metric keeps the graph of every microbatch")
def nll_metric_with_graph(logprobs):
    return Terms(-logprobs, {"nll": -logprobs})


@mutant("terms", "trl #6380: a metric is averaged before the ranks are")
def nll_metric_averaged(logprobs, trained):
    return Terms(-logprobs, {"nll": -logprobs.detach()[trained].mean()})


@mutant("metrics", "LlamaFactory #10830, trl #5620: a metric counts padding")
def nll_metric_over_padding(logprobs):
    return Terms(-logprobs, {"mean": (-logprobs.detach()).mean(-1, keepdim=True).expand_as(logprobs)})


@mutant("terms", "open-instruct #530: computed under no_grad")
def nll_without_gradient(logprobs):
    with torch.no_grad():
        return -logprobs


@mutant("terms", "a Python float comes back")
def nll_as_number(logprobs):
    return float(-logprobs.sum())


@mutant("trained", "transformers #46901: prompts masked by the wrong comparison, every other token lost")
def nll_every_other_token(logprobs):
    return -logprobs.where(torch.arange(logprobs.shape[1]) % 2 == 0, 0.0)


@mutant("unreduced", "verl #4711: divided by the answer's length, and then averaged again")
def nll_divided_twice(logprobs, trained):
    return -logprobs / trained.sum(-1, keepdim=True).clamp(min=1)


@mutant(
    "unreduced",
    "verl #3741 hidden: the mean over the padded width, times the width over the answer's tokens",
    passes="padding",
)
def nll_width_times_width(logprobs, trained):
    width = logprobs.shape[1]
    return -logprobs / width * (width / trained.sum(-1, keepdim=True).clamp(min=1))


@mutant(
    "independent",
    "prime-rl #816: the batch's mean on every token, which adds up over splits of a token mean",
    passes="order",
)
def nll_mean_on_every_token(logprobs, trained):
    mean = -logprobs.where(trained, 0.0).sum() / trained.sum().clamp(min=1)
    return mean.expand_as(logprobs)


@mutant("repeat", "OpenRLHF #1249: the weights divided out again, a sum where a mean is meant", passes="split")
def nll_sum_by_weights(logprobs, weights):
    return -logprobs / weights.where(weights > 0, 1.0)


@mutant("derivative", "tinker-cookbook #334: the weight by detached confidence, undeclared", passes="raises target")
def nll_confident_undeclared(logprobs):
    return -(1 - logprobs.exp()).detach() * logprobs


@mutant("mask", "verl #6345: the batch's own mask is not read")
def nll_of_batch(logprobs, batch: TokenBatch):
    return -logprobs.mean(-1)


@mutant("raises target", "two signs where three were needed: smoothing pushes the target down", passes="inputs")
@declares(family="likelihood")
def smoothing_sign(logprobs, mean_logprobs, *, epsilon: Fraction = 0.1):
    return (1 - epsilon) * logprobs - epsilon * mean_logprobs


class ScaledNLL(nn.Module):
    def __init__(self, scale: float = 2.0) -> None:
        super().__init__()
        self.scale = scale

    def __call__(self, logprobs, trained):
        return -self.scale * logprobs.where(trained, 0.0) / trained.sum()


mutant("split", "LlamaFactory #9409: a module that divides by its own tokens")(ScaledNLL)


@mutant("uniform", "label smoothing whose shares sum to 1 + ε", passes="raises target")
def smoothing_of_too_much(logprobs, mean_logprobs, *, epsilon: Fraction = 0.1):
    return -logprobs - epsilon * mean_logprobs


@mutant("trained", "log-probabilities clamped from below: the unlikeliest tokens are never learnt", passes="derivative")
def nll_clamped(logprobs):
    return -logprobs.clamp(min=-2.0)


@mutant("entropy", "the entropy's sign", passes="raises target")
def nll_with_entropy_penalty(logprobs, entropy, *, weight: NonNegative = 0.01):
    return -logprobs + weight * entropy
