"""The catalogue's vectors of advantages, returns, KL estimators, entropy, pass@k and effective sample size."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from corollary.ops.advantage import (
    difficulty_weight,
    group_mean,
    group_std,
    leave_one_out,
    leave_one_out_std,
    overlong_penalty,
)
from corollary.ops.estimate import (
    effective_sample_size,
    log_effective_sample_size,
    pass_at_k,
    pass_at_k_plug_in,
    pass_hat_k,
)
from corollary.ops.kl import entropy_exact, k1, k1_reverse, k2, k3, k3_reverse, kl_exact
from corollary.ops.ratio import token_ratio
from corollary.ops.returns import (
    gae,
    kl_penalised_returns,
    lambda_returns,
    reinforce_plus_plus,
    vtrace,
    vtrace_returns,
    whiten,
)

Case = Callable[[], object]


def f64(*values: object) -> Tensor:
    return torch.tensor(*values, dtype=torch.float64)


# Generalised advantages: one sequence of three tokens that ends by itself.
REWARDS, VALUES, ALL = f64([[0, 0, 1]]), f64([[0.5, 0.6, 0.7]]), torch.ones(1, 3, dtype=torch.bool)


def advantages(gamma: float, lam: float) -> Tensor:
    return gae(REWARDS, VALUES, ALL, f64([0.0]), gamma=gamma, lam=lam)[0]


def gae_cases() -> dict[str, Case]:
    settings = {"g1_l0.95": (1, 0.95), "g0.99_l0.95": (0.99, 0.95), "g1_l1": (1, 1), "g1_l0": (1, 0)}
    return {
        **{f"gae.{name}": partial(advantages, *s) for name, s in settings.items()},
        "gae.returns_g0.99_l0.95": lambda: lambda_returns(REWARDS, VALUES, ALL, gamma=0.99, lam=0.95)[0],
        "gae.whitened_unbiased_eps1e-8": lambda: whiten(advantages(0.99, 0.95)[None], ALL, ddof=1, eps=1e-8)[0],
    }


def vtrace_cases() -> dict[str, Case]:
    ratios = f64([[0.5, 2, 1.2]]).log()
    arguments = (f64([[0, 0.1, 1]]), VALUES, ratios, torch.zeros_like(ratios), ALL, f64([0.2]))
    return {
        "vtrace.vs": lambda: vtrace_returns(*arguments, gamma=0.9)[0],
        "vtrace.pg_adv": lambda: vtrace(*arguments, gamma=0.9)[0],
    }


def group_cases() -> dict[str, Case]:
    one, three = f64([[1, 0, 0, 0]]), f64([[0.2, 0.9, 0.4]])
    return {
        "grpo.adv_[1,0,0,0]_ddof1_eps1e-6": lambda: group_std(one, ddof=1, eps=1e-6)[0],
        "grpo.adv_[1,0,0,0]_ddof0_eps1e-6": lambda: group_std(one, ddof=0, eps=1e-6)[0],
        "grpo.adv_[1,0,0,0]_ddof1_eps1e-4(TRL)": lambda: group_std(one, ddof=1, eps=1e-4)[0],
        "grpo.adv_[.2,.9,.4]_ddof1_eps1e-6": lambda: group_std(three, ddof=1, eps=1e-6)[0],
        "drgrpo.adv_[1,0,0,0]": lambda: group_mean(one)[0],
        "rloo.adv_[1,0,0,0]": lambda: leave_one_out(one)[0],
        "rloo.adv_[.2,.9,.4]": lambda: leave_one_out(three)[0],
        "nemo_loo_std.adv_[1,0,0,0]": lambda: leave_one_out_std(one)[0],
        "nemo_loo_std.adv_[1,1,0,0]": lambda: leave_one_out_std(f64([[1, 1, 0, 0]]))[0],
    }


def reinforce_plus_plus_cases() -> dict[str, Case]:
    trained = torch.tensor([[1, 1, 1], [1, 1, 0]], dtype=torch.bool)
    arguments = (
        f64([[1, 0]]),
        f64([[-1, -2, -0.5], [-1.5, -0.7, -3]]),
        f64([[-1.2, -1.5, -0.5], [-1, -0.9, -9]]),
        trained,
    )
    return {
        "rfpp.returns": lambda: kl_penalised_returns(*arguments, beta=0.1),
        "rfpp.adv_popvar": lambda: reinforce_plus_plus(*arguments, beta=0.1, ddof=0),
    }


# KL: three tokens, sampled from π, against a reference.
PI, REF = f64([0.5, 0.3, 0.2]), f64([0.2, 0.5, 0.3])
ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}
LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "k1_loss": lambda lp, ref, old: k1(lp, ref),
    "k2_loss": lambda lp, ref, old: k2(lp, ref),
    "k3_loss": lambda lp, ref, old: k3(lp, ref),
    "ratio_times_k1": k1_reverse,
    "ratio_times_k2": lambda lp, ref, old: token_ratio(lp, old) * k2(lp, ref),
    "ratio_times_k3": k3_reverse,
}


def moments(estimator: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance over samples of π, exactly."""
    samples = estimator(PI.log(), REF.log())
    mean = (PI * samples).sum()
    return mean, (PI * (samples - mean).square()).sum()


def expected_gradient(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """Of the loss in the logits, over samples of π, which themselves are not differentiated."""
    logits = PI.log().requires_grad_()
    logprobs = logits.log_softmax(-1)
    return torch.autograd.grad((PI * loss(logprobs, REF.log(), logprobs.detach())).sum(), logits)[0]


def gradient(value: Callable[[Tensor], Tensor]) -> Tensor:
    logits = PI.log().requires_grad_()
    return torch.autograd.grad(value(logits), logits)[0]


def kl_cases() -> dict[str, Case]:
    cases: dict[str, Case] = {
        "kl.reverse": lambda: kl_exact(PI.log(), REF.log()),
        "kl.forward": lambda: kl_exact(REF.log(), PI.log()),
        "kl.grad_reverse_logits": lambda: gradient(lambda z: kl_exact(z, REF.log())),
        "kl.grad_forward_logits(=E[grad k3])": lambda: gradient(lambda z: kl_exact(REF.log(), z)),
        "entropy.H": lambda: entropy_exact(PI.log()),
        "entropy.grad_logits": lambda: gradient(entropy_exact),
    }
    for name, estimator in ESTIMATORS.items():
        cases[f"kl.{name}_samples"] = partial(estimator, PI.log(), REF.log())
        cases[f"kl.{name}_mean"] = lambda e=estimator: moments(e)[0]
        cases[f"kl.{name}_var"] = lambda e=estimator: moments(e)[1]
    return cases | {f"kl.Egrad_{name}": partial(expected_gradient, loss) for name, loss in LOSSES.items()}


def estimate_cases() -> dict[str, Case]:
    counts = [(10, 3, 1), (10, 3, 4), (16, 1, 8), (100, 5, 10), (4, 4, 2), (5, 0, 3)]
    lengths = (16384, 18432, 20480, 24576)
    return {
        **{f"passk.n{n}_c{c}_k{k}": partial(pass_at_k, n, c, k) for n, c, k in counts},
        "passk.plugin_biased_n10_c3_k4": lambda: pass_at_k_plug_in(10, 3, 4),
        "passhatk.n10_c3_k2": lambda: pass_hat_k(10, 3, 2),
        "ess.[1,2,3]": lambda: effective_sample_size(f64([1, 2, 3])),
        "ess.exp[.5,-.2,.1]": lambda: log_effective_sample_size(f64([0.5, -0.2, 0.1])),
        **{f"dapo.overlong_len{n}": lambda n=n: overlong_penalty(f64(n), longest=20480, buffer=4096) for n in lengths},
    }


def difficulty_cases() -> dict[str, Case]:
    finite: dict[str, Case] = {
        f"wG.ddof{ddof}_G{g}_p{p}": partial(difficulty_weight, p, group_size=g, ddof=ddof)
        for ddof in (0, 1)
        for g in (2, 4, 8, 16, 64)
        for p in (0.05, 0.1, 0.5)
    }
    return finite | {f"wG.inf_p{p}": partial(difficulty_weight, p) for p in (0.05, 0.1, 0.5)}


CASES: dict[str, Case] = {
    **gae_cases(),
    **vtrace_cases(),
    **group_cases(),
    **reinforce_plus_plus_cases(),
    **kl_cases(),
    **estimate_cases(),
    **difficulty_cases(),
}
