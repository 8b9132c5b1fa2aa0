"""The catalogue's vectors of likelihood, preference, unpaired and reward-model losses, from the public functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from corollary.losses.likelihood import dft, label_smoothing, nll
from corollary.losses.pairs import per_token
from corollary.losses.preference import (
    apo_down,
    apo_zero,
    bco_pair,
    cdpo,
    dpo,
    dpo_nll,
    exo,
    hinge,
    ipo,
    ipo_mean,
    ln_dpo,
    nca,
    robust_dpo,
    sppo_hard,
)
from corollary.losses.preference_variants import (
    aot,
    cpo,
    discopop,
    dpop,
    f_dpo,
    length_dpo,
    odds_ratio,
    orpo,
    simpo,
    slic_hf,
)
from corollary.losses.reward_model import bradley_terry
from corollary.losses.unpaired import kto, kto_baseline
from corollary.ops.reduce import Constant, SequenceMean, SequenceSum, TokenMean, token_weights, weighted_sum
from corollary.types import Terms

F64 = torch.float64
Sft = Callable[[Tensor, Tensor], Terms]  # (logprobs, mean_logprobs)
Loss = Callable[[Tensor, Tensor], Tensor]  # (chosen, rejected) → mean over the pairs


def f64(*values: object) -> Tensor:
    return torch.tensor(values, dtype=F64)


LOGITS = f64([[1, 2, 3], [0, 0, 0], [2, 0, 1]], [[0, 1, 0], [3, 0, 0], [1, 1, 0]])
TARGETS = torch.tensor([[2, 1, 0], [0, 0, 1]])
TRAINED = torch.tensor([[1, 1, 0], [1, 1, 1]], dtype=torch.bool)

CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED = f64(-4, -7), f64(-6, -6.5), f64(-5, -6), f64(-5.5, -6.75)
PAIR = (CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED)
FREE = (CHOSEN, REJECTED)
N_CHOSEN, N_REJECTED = torch.tensor([4, 5]), torch.tensor([5, 2])
LENGTHS = (N_CHOSEN, N_REJECTED)
MEAN_LENGTH = f64(4, 5).mean()

RATIO = f64(1, -1, -0.5, 0.25)
DESIRABLE = torch.tensor([True, True, False, False])
MISMATCHED = f64(0.3, -0.1, 0.2, 0.4)

WON, LOST, MARGINS = f64(1.5, -0.2), f64(0.5, 0.3), f64(0.3, 0)


def sft_terms(loss: Sft, logits: Tensor) -> Tensor:
    rows = torch.log_softmax(logits, -1)
    return loss(rows.gather(-1, TARGETS[..., None])[..., 0], rows.mean(-1)).loss


def sft(loss: Sft, weights: Tensor) -> Tensor:
    return weighted_sum(sft_terms(loss, LOGITS), weights)


def sft_gradient(loss: Sft) -> Tensor:
    """Of the token mean, at the first token of the first sequence."""
    logits = LOGITS.clone().requires_grad_()
    weighted_sum(sft_terms(loss, logits), token_weights(TRAINED, TokenMean())).backward()
    assert logits.grad is not None
    return logits.grad[0, 0]


def plain(logprobs: Tensor, mean_logprobs: Tensor) -> Terms:
    return nll(logprobs)


def smoothed(logprobs: Tensor, mean_logprobs: Tensor) -> Terms:
    return label_smoothing(logprobs, mean_logprobs, smoothing=0.1)


def self_weighted(logprobs: Tensor, mean_logprobs: Tensor) -> Terms:
    return dft(logprobs)


def mean_of_means() -> Tensor:
    terms = sft_terms(plain, LOGITS)
    halves = [weighted_sum(terms[b], token_weights(TRAINED[b : b + 1], TokenMean())[0]) for b in (0, 1)]
    return torch.stack(halves).mean()


def on_pairs(*lengths: Tensor, loss: Callable[..., Terms], free: bool = False, **parameters: object) -> Loss:
    """Mean over the pairs of the fixture, as a function of the two policy log-probabilities."""
    rest = lengths if free else (REF_CHOSEN, REF_REJECTED, *lengths)

    def mean(chosen: Tensor, rejected: Tensor) -> Tensor:
        return loss(chosen, rejected, *rest, **parameters).loss.mean()

    return mean


def gradient(loss: Loss, side: int, at: tuple[Tensor, Tensor] = FREE) -> Tensor:
    inputs = [x.clone().requires_grad_() for x in at]
    return torch.autograd.grad(loss(*inputs), inputs)[side]


def reward_gradient() -> Tensor:
    return gradient(lambda won, lost: bradley_terry(won, lost, MARGINS).loss.mean(), 0, (WON, LOST))


def kto_mean(ratio: Tensor, **parameters: float) -> Tensor:
    z0 = kto_baseline(MISMATCHED, torch.zeros(4, dtype=F64))
    return kto(ratio, torch.zeros_like(ratio), DESIRABLE, z0, beta=0.1, **parameters).loss.mean()


def kto_gradient() -> Tensor:
    ratio = RATIO.clone().requires_grad_()
    return torch.autograd.grad(kto_mean(ratio), ratio)[0]


def odds_mean(chosen: Tensor, rejected: Tensor) -> Tensor:
    """As a function of the two per-token means."""
    one = torch.tensor([1, 1])
    return odds_ratio(chosen, rejected, one, one).loss.mean()


DPO = on_pairs(loss=dpo, beta=0.1)
CDPO = on_pairs(loss=cdpo, beta=0.1, flip_rate=0.1)
RDPO = on_pairs(loss=robust_dpo, beta=0.1, flip_rate=0.1)
IPO = on_pairs(loss=ipo, tau=0.1)
SIMPO = on_pairs(*LENGTHS, loss=simpo, free=True, beta=2.0, gamma=1.0)
SLIC = on_pairs(loss=slic_hf, free=True, margin=1.0, nll_weight=0.1)
CPO = on_pairs(N_CHOSEN, MEAN_LENGTH, loss=cpo, free=True, beta=0.1, nll_weight=1.0, nll="token_mean")
PREFERENCE_OF_CPO = on_pairs(N_CHOSEN, MEAN_LENGTH, loss=cpo, free=True, beta=0.1, nll_weight=0.0)
EXO = on_pairs(loss=exo, beta=0.1, smoothing=1e-3)
NCA = on_pairs(loss=nca, beta=0.1)
APO_ZERO = on_pairs(loss=apo_zero, beta=0.1)
APO_DOWN = on_pairs(loss=apo_down, beta=0.1)
BCO = on_pairs(loss=bco_pair, beta=0.1, shift=0.05)
SPPO = on_pairs(loss=sppo_hard, beta=0.1)
DPOP = on_pairs(loss=dpop, beta=0.1, penalty=5.0)
FORWARD_KL = on_pairs(loss=f_dpo, beta=0.1, divergence="forward_kl")
JS = on_pairs(loss=f_dpo, beta=0.1, divergence="js")
DISCOPOP = on_pairs(loss=discopop, beta=0.1, tau=0.05)


def dpo_and_nll(nll_weight: float, nll: str, preference: str = "sum") -> Tensor:
    settings = {"nll_weight": nll_weight, "nll": nll, "preference": preference}
    return on_pairs(*LENGTHS, MEAN_LENGTH, loss=partial(dpo_nll, beta=0.1, **settings))(*FREE)


CASES: dict[str, Callable[[], object]] = {
    "sft.nll_tokens": lambda: sft_terms(plain, LOGITS),
    "sft.token_mean": lambda: sft(plain, token_weights(TRAINED, TokenMean())),
    "sft.seq_mean_token_mean": lambda: sft(plain, token_weights(TRAINED, SequenceMean())),
    "sft.seq_mean_token_sum": lambda: sft(plain, token_weights(TRAINED, SequenceSum())),
    "sft.fixed_len4": lambda: sft(plain, token_weights(TRAINED, Constant(length=4))),
    "sft.two_microbatch_mean_of_means_WRONG": mean_of_means,
    "sft.grad_logits_b0t0_token_mean": lambda: sft_gradient(plain),
    "sft.label_smoothing0.1_token_mean": lambda: sft(smoothed, token_weights(TRAINED, TokenMean())),
    "sft.label_smoothing_grad_b0t0": lambda: sft_gradient(smoothed),
    "sft.dft_token_mean": lambda: sft(self_weighted, token_weights(TRAINED, TokenMean())),
    "sft.ppl": lambda: sft(plain, token_weights(TRAINED, TokenMean())).exp(),
    "pref.delta": lambda: dpo(*PAIR, beta=1.0).metrics["margin"],
    "pref.z": lambda: dpo(*PAIR, beta=0.1).metrics["margin"],
    "dpo.loss": lambda: DPO(*FREE),
    "dpo.loss_per_pair": lambda: dpo(*PAIR, beta=0.1).loss,
    "dpo.grad_pi_w": lambda: gradient(DPO, 0),
    "dpo.grad_pi_l": lambda: gradient(DPO, 1),
    "dpo.reward_accuracy": lambda: dpo(*PAIR, beta=0.1).metrics["accuracy"].mean(),
    "dpo.rewards_chosen": lambda: dpo(*PAIR, beta=0.1).metrics["reward_chosen"],
    "dpo.rewards_rejected": lambda: dpo(*PAIR, beta=0.1).metrics["reward_rejected"],
    "cdpo.loss_eps0.1": lambda: CDPO(*FREE),
    "cdpo.grad_pi_w": lambda: gradient(CDPO, 0),
    "rdpo.loss_eps0.1": lambda: RDPO(*FREE),
    "rdpo.grad_pi_w": lambda: gradient(RDPO, 0),
    "ipo.loss_sum_tau0.1": lambda: IPO(*FREE),
    "ipo.grad_pi_w_sum": lambda: gradient(IPO, 0),
    "ipo.delta_avg": lambda: ipo_mean(*PAIR, *LENGTHS, tau=1.0).metrics["margin"],
    "ipo.loss_avg_tau0.1": lambda: ipo_mean(*PAIR, *LENGTHS, tau=0.1).loss.mean(),
    "hinge.loss_beta0.1": lambda: hinge(*PAIR, beta=0.1).loss.mean(),
    "slic.loss_rank_delta1_lambda0.1": lambda: SLIC(*FREE),
    "slic.grad_pi_w": lambda: gradient(SLIC, 0),
    "slic.grad_pi_l": lambda: gradient(SLIC, 1),
    "simpo.z_beta2_gamma1": lambda: simpo(*FREE, *LENGTHS, beta=2.0).metrics["margin"] - 1.0,
    "simpo.loss": lambda: SIMPO(*FREE),
    "simpo.grad_pi_w": lambda: gradient(SIMPO, 0),
    "simpo.grad_pi_l": lambda: gradient(SIMPO, 1),
    "orpo.avg_logp_w": lambda: per_token(CHOSEN, N_CHOSEN),
    "orpo.avg_logp_l": lambda: per_token(REJECTED, N_REJECTED),
    "orpo.log_odds": lambda: odds_ratio(*FREE, *LENGTHS).metrics["margin"],
    "orpo.or_loss": lambda: odds_ratio(*FREE, *LENGTHS).loss.mean(),
    "orpo.loss_lambda0.1_nll_seqmean": lambda: orpo(
        *FREE, *LENGTHS, MEAN_LENGTH, odds_weight=0.1, nll="mean"
    ).loss.mean(),
    "orpo.grad_orloss_avg_logp_w": lambda: gradient(
        odds_mean, 0, (per_token(CHOSEN, N_CHOSEN), per_token(REJECTED, N_REJECTED))
    ),
    "kto.z0": lambda: kto_baseline(MISMATCHED, torch.zeros(4, dtype=F64)),
    "kto.loss_beta0.1_lD1_lU1": lambda: kto_mean(RATIO),
    "kto.loss_beta0.1_lD1_lU1.5": lambda: kto_mean(RATIO, undesirable_weight=1.5),
    "kto.grad_logratio": kto_gradient,
    "cpo.pref_loss_beta0.1": lambda: PREFERENCE_OF_CPO(*FREE),
    "cpo.loss_alpha1_nll_token_mean": lambda: CPO(*FREE),
    "cpo_alpha1.grad_pi_w": lambda: gradient(CPO, 0),
    "cpo_alpha1.grad_pi_l": lambda: gradient(CPO, 1),
    "nemo_dpo.loss_wp1_ws0.5_sum": lambda: dpo_and_nll(nll_weight=0.5, nll="sum"),
    "nemo_dpo.loss_wp1_ws0.5_avg_both": lambda: dpo_and_nll(nll_weight=0.5, nll="mean", preference="mean"),
    "sigmoid_norm.loss_beta0.1": lambda: ln_dpo(*PAIR, *LENGTHS, beta=0.1).loss.mean(),
    "rpo_trl.loss_sigmoid_plus_tokenmean_sft_alpha1": lambda: dpo_and_nll(nll_weight=1.0, nll="token_mean"),
    "exo.loss_eps0.001": lambda: EXO(*FREE),
    "exo.grad_pi_w": lambda: gradient(EXO, 0),
    "exo.grad_pi_l": lambda: gradient(EXO, 1),
    "nca.loss": lambda: NCA(*FREE),
    "nca.grad_pi_w": lambda: gradient(NCA, 0),
    "nca.grad_pi_l": lambda: gradient(NCA, 1),
    "apo_zero.loss": lambda: APO_ZERO(*FREE),
    "apo_zero.grad_pi_w": lambda: gradient(APO_ZERO, 0),
    "apo_zero.grad_pi_l": lambda: gradient(APO_ZERO, 1),
    "apo_down.loss": lambda: APO_DOWN(*FREE),
    "apo_down.grad_pi_w": lambda: gradient(APO_DOWN, 0),
    "apo_down.grad_pi_l": lambda: gradient(APO_DOWN, 1),
    "bco.loss_delta0.05": lambda: BCO(*FREE),
    "bco.grad_pi_w": lambda: gradient(BCO, 0),
    "bco.grad_pi_l": lambda: gradient(BCO, 1),
    "sppo_hard.loss_beta0.1": lambda: SPPO(*FREE),
    "sppo_hard.grad_pi_w": lambda: gradient(SPPO, 0),
    "sppo_hard.grad_pi_l": lambda: gradient(SPPO, 1),
    "dpop.loss_lambda5": lambda: DPOP(*FREE),
    "dpop.grad_pi_w": lambda: gradient(DPOP, 0),
    "dpop.grad_pi_l": lambda: gradient(DPOP, 1),
    "rdpo_len.loss_alpha0.02": lambda: length_dpo(*PAIR, *LENGTHS, beta=0.1, length_penalty=0.02).loss.mean(),
    "fdpo.forward_kl_loss": lambda: FORWARD_KL(*FREE),
    "fdpo.js_loss": lambda: JS(*FREE),
    "fdpo_fkl.grad_pi_w": lambda: gradient(FORWARD_KL, 0),
    "fdpo_fkl.grad_pi_l": lambda: gradient(FORWARD_KL, 1),
    "fdpo_js.grad_pi_w": lambda: gradient(JS, 0),
    "fdpo_js.grad_pi_l": lambda: gradient(JS, 1),
    "discopop.loss_tau0.05": lambda: DISCOPOP(*FREE),
    "discopop.grad_pi_w": lambda: gradient(DISCOPOP, 0),
    "discopop.grad_pi_l": lambda: gradient(DISCOPOP, 1),
    "aot.loss": lambda: aot(*PAIR, beta=0.1).loss.mean(),
    "rm.bt_loss": lambda: bradley_terry(WON, LOST).loss.mean(),
    "rm.bt_margin_loss": lambda: bradley_terry(WON, LOST, MARGINS).loss.mean(),
    "rm.bt_margin_center0.01_loss": lambda: bradley_terry(WON, LOST, MARGINS, centring=0.01).loss.mean(),
    "rm.bt_margin_grad_chosen": reward_gradient,
}
