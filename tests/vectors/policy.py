"""The catalogue's vectors of policy, value, correction and distillation losses, by public functions alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from corollary.losses.distillation import jsd, teacher_advantage
from corollary.losses.policy import cispo, ppo_clip, reinforce, sapo
from corollary.losses.sequence import gmpo, gspo, gspo_token
from corollary.losses.value import clipped, squared
from corollary.ops.kl import k1, k3
from corollary.ops.ratio import geometric_ratio, icepop, mis, sequence_product, tis
from corollary.ops.reduce import Constant, SequenceMean, SequenceSum, TokenMean, token_weights, weighted_sum
from corollary.types import Terms

F64 = torch.float64
OLD = torch.tensor([[-1, -2, -0.5], [-1.5, -0.7, -3]], dtype=F64)
RATIO = torch.tensor([[1.5, 0.5, 1.1], [0.9, 1.4, 1.0]], dtype=F64)
NEW = OLD + RATIO.log()
DUAL = OLD + torch.tensor([[1.5, 0.5, 1.1], [4.0, 1.4, 1.0]], dtype=F64).log()
TRAINED = torch.tensor([[1, 1, 1], [1, 1, 0]], dtype=torch.bool)
A = torch.tensor([[1.0], [-1.0]], dtype=F64).expand(2, 3)
PER_TOKEN = torch.tensor([[1, 2, -1], [-1, 0.5, 0]], dtype=F64)
SAMPLER = OLD - torch.tensor([[0.4, 1, 2.5], [6, 0.9, 1]], dtype=F64).log()
P, Q = torch.tensor([0.2, 0.5, 0.3], dtype=F64), torch.tensor([0.5, 0.3, 0.2], dtype=F64)
VALUES, OLD_VALUES, RETURNS = (torch.tensor([x], dtype=F64) for x in ([0.9, 0.6], [0.5, 1.0], [1.0, 1.0]))

Loss = Callable[[Tensor], Tensor]


def average(terms: Tensor, how: object, trained: Tensor = TRAINED) -> Tensor:
    return weighted_sum(terms, token_weights(trained, how))


def mean(how: object, formula: Callable[..., Terms], *inputs: Tensor, **parameters: float) -> Loss:
    """logprobs → the averaged loss."""
    return lambda logprobs: average(formula(logprobs, OLD, *inputs, **parameters).loss, how)


def value(loss: Loss, at: Tensor = NEW) -> Callable[[], object]:
    return lambda: loss(at).item()


def gradient(loss: Loss, at: Tensor = NEW) -> Callable[[], object]:
    def differentiated() -> Tensor:
        point = at.clone().requires_grad_()
        return torch.autograd.grad(loss(point), point)[0]

    return differentiated


def sapo_slope(ratio: float, advantage: float) -> float:
    """∂gate/∂r, out of the loss: ∂L/∂logπ = -A·r·gate'."""
    point = torch.tensor([ratio], dtype=F64).log().requires_grad_()
    loss = sapo(point, torch.zeros(1, dtype=F64), torch.tensor([advantage], dtype=F64)).loss
    return (torch.autograd.grad(loss.sum(), point)[0] / (-advantage * ratio)).item()


AVERAGES = {
    "token-mean": TokenMean(),
    "seq-mean-token-mean": SequenceMean(),
    "seq-mean-token-sum": SequenceSum(),
    "fixed": Constant(length=4),
}
GSPO = mean(SequenceMean(), gspo, A, TRAINED)
NO_CLIP = mean(SequenceMean(), gspo_token, PER_TOKEN, TRAINED, clip_low=1.0, clip_high=10.0)
CISPO = mean(TokenMean(), cispo, A, clip_low=1.0, clip_high=0.28)
GMPO = mean(SequenceMean(), gmpo, A, TRAINED)
SAPO = mean(SequenceMean(), sapo, A)


def jsd_of(logits: Tensor, beta: float) -> Tensor:
    return jsd(logits, P.log(), beta=beta).loss


CASES: dict[str, Callable[[], object]] = {
    "pg.logp_new": lambda: NEW,
    "ppo.token_loss_eps0.2": lambda: ppo_clip(NEW, OLD, A).loss,
    **{f"ppo.loss_eps0.2.{name}": value(mean(how, ppo_clip, A)) for name, how in AVERAGES.items()},
    "ppo.grad_logp_token_mean": gradient(mean(TokenMean(), ppo_clip, A)),
    "ppo.clipfrac": lambda: average(ppo_clip(NEW, OLD, A).metrics["clipped"], TokenMean()).item(),
    "ppo.approx_kl_k1_old_new": lambda: average(k1(OLD, NEW), TokenMean()).item(),
    "ppo.approx_kl_k3_old_new": lambda: average(k3(OLD, NEW), TokenMean()).item(),
    "dual.token_loss_noC": lambda: ppo_clip(DUAL, OLD, A).loss,
    "dual.token_loss_c3": lambda: ppo_clip(DUAL, OLD, A, dual_clip=3.0).loss,
    "dual.loss_noC.token-mean": value(mean(TokenMean(), ppo_clip, A), DUAL),
    "dual.loss_c3.token-mean": value(mean(TokenMean(), ppo_clip, A, dual_clip=3.0), DUAL),
    "value_clip.loss_half_mean": lambda: average(
        clipped(VALUES, OLD_VALUES, RETURNS).loss, TokenMean(), torch.ones(1, 2, dtype=torch.bool)
    ).item(),
    "value_clip.unclipped_half_mean": lambda: average(
        squared(VALUES, RETURNS).loss, TokenMean(), torch.ones(1, 2, dtype=torch.bool)
    ).item(),
    "dapo.loss_0.2_0.28.token-mean": value(mean(TokenMean(), ppo_clip, A, clip_high=0.28)),
    "drgrpo.loss_eps0.2_L4": value(mean(Constant(length=4), ppo_clip, A)),
    "gspo.s": lambda: geometric_ratio(NEW, OLD, TRAINED),
    "gspo.loss_A[1,-1]": value(GSPO),
    "gspo.loss_A[-1,1]": value(mean(SequenceMean(), gspo, -A, TRAINED)),
    "gspo.grad_logp_A[1,-1]": gradient(GSPO),
    "gspo_token.grad_logp_noclip": gradient(NO_CLIP),
    "gspo_token.loss_noclip": value(NO_CLIP),
    "cispo.loss_lo1_hi0.28_token-mean": value(CISPO),
    "cispo.grad_logp": gradient(CISPO),
    "cispo.loss_upper5_token-mean": value(mean(TokenMean(), cispo, A, clip_low=1.0, clip_high=4.0)),
    "reinforce.loss_token-mean": lambda: average(reinforce(NEW, A).loss, TokenMean()).item(),
    "reinforce.loss_seq-mean-token-sum": lambda: average(reinforce(NEW, A).loss, SequenceSum()).item(),
    "gmpo.seq_weight": lambda: gmpo(NEW, OLD, A, TRAINED).metrics["ratio"][:, 0],
    "gmpo.loss": value(GMPO),
    "gmpo.grad_logp": gradient(GMPO),
    "sapo.token_loss": lambda: sapo(NEW, OLD, A).loss,
    "sapo.loss.seq-mean-token-mean": value(SAPO),
    "sapo.grad_logp": gradient(SAPO),
    "sapo.gate_at_1_tau1": lambda: -sapo(OLD, OLD, torch.ones_like(OLD)).loss[0, 0].item(),
    "sapo.dgate_dr_at_1_tau1.05": lambda: sapo_slope(1.0, -1.0),
    "sapo.dgate_dr_at_1.5_tau1": lambda: sapo_slope(1.5, 1.0),
    "tis.C2": lambda: tis(OLD, SAMPLER, cap=2.0),
    "mis.C2": lambda: mis(OLD, SAMPLER, cap=2.0),
    "icepop.0.5_5": lambda: icepop(OLD, SAMPLER, low=0.5, high=5.0),
    "seqis.weights": lambda: sequence_product(OLD, SAMPLER, TRAINED)[:, 0],
    "seqis.geo_mean": lambda: geometric_ratio(OLD, SAMPLER, TRAINED),
    "tis.grpo_loss_C2.token-mean": lambda: average(
        ppo_clip(NEW, OLD, A).loss * tis(OLD, SAMPLER, cap=2.0), TokenMean()
    ).item(),
    "icepop.grpo_loss_0.5_5.token-mean": lambda: average(
        ppo_clip(NEW, OLD, A).loss * icepop(OLD, SAMPLER), TokenMean()
    ).item(),
    "opd.adv_tokens(teacher-student)": lambda: teacher_advantage(P.log(), Q.log()),
    **{f"gkd.jsd_beta{b}": value(partial(jsd_of, beta=b), Q.log()) for b in (0.1, 0.5, 0.9)},
    **{f"gkd.grad_logits_beta{b}": gradient(partial(jsd_of, beta=b), Q.log()) for b in (0.1, 0.5, 0.9)},
}
