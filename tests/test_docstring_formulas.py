"""The formula that a docstring shows is what the function computes: read from the docstring, and run on random input.

What the reader cannot read (a sum over the vocabulary, a recursion in t, words) is run in its section of the book instead, and is
named in `IN_THE_BOOK`, so that nothing is left out in silence.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import docstrings
from corollary.declare import Entry, entries

Case = tuple[dict[str, Any], dict[str, Any]]  # what the function is given; what its symbols stand for
GENERATOR = torch.Generator()


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=GENERATOR)


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=GENERATOR)


def preference(settings: dict[str, Any]) -> Case:
    w, rw, rl = -3 - 2 * uniform(3, 24)
    l = w + 3 * normal(24).clamp(-0.9, 0.9)  # noqa: E741 - the rejected answer's letter in every formula
    n_w, n_l = torch.arange(1.0, 25.0).double(), torch.arange(24.0, 0.0, -1.0).double()
    given = {
        "chosen": w,
        "rejected": l,
        "ref_chosen": rw,
        "ref_rejected": rl,
        "chosen_lengths": n_w,
        "rejected_lengths": n_l,
    }
    nll = {"sum": -w, "mean": -w / n_w, "token_mean": -w / n_w.mean()}.get(settings.get("nll", ""), -w)
    known = {
        "lp_w": w, "lp_l": l, "lr_w": rw, "lr_l": rl, "Δ_w": w - rw, "Δ_l": l - rl, "n_w": n_w, "n_l": n_l, "NLL": nll,
        "z": settings.get("beta", 1.0) * (w - rw - l + rl), "o_w": log_odds(w / n_w), "o_l": log_odds(l / n_l),
    }  # fmt: skip
    return given | {"mean_chosen_length": n_w.mean()}, known


def log_odds(x: Tensor) -> Tensor:
    return x - torch.log1p(-x.exp())


def policy(settings: dict[str, Any]) -> Case:
    lp, ls, lr = -1 - uniform(3, 6, 5)
    lo, a = lp + 0.4 * normal(6, 5), normal(6, 1).expand(6, 5)
    given = {
        "logprobs": lp, "old_logprobs": lo, "sampler_logprobs": ls, "ref_logprobs": lr, "advantages": a, "entropy": -lr,
        "trained": torch.ones(6, 5, dtype=torch.bool),
    }  # fmt: skip
    signs = {"τ_pos": settings.get("tau_pos"), "τ_neg": settings.get("tau_neg")}
    return given, {"lp": lp, "lo": lo, "ls": ls, "lr": lr, "A": a, "H": -lr} | signs


def value(settings: dict[str, Any]) -> Case:
    v, old, r = normal(3, 6, 5)
    return {"values": v, "old_values": old, "returns": r}, {"V": v, "V_old": old, "R": r}


def reward_model(settings: dict[str, Any]) -> Case:
    w, l, m = normal(3, 12)  # noqa: E741
    return {"chosen_rewards": w, "rejected_rewards": l, "margins": m}, {"r_w": w, "r_l": l, "m": m}


def likelihood(settings: dict[str, Any]) -> Case:
    lp = -uniform(3, 5)
    return {"logprobs": lp}, {"lp": lp, "p": lp.exp()}


def advantage(settings: dict[str, Any]) -> Case:
    r, greedy = uniform(6, 5), uniform(6)
    centred = r - r.mean(1, keepdim=True)
    symbols = {"r": r, "greedy": greedy[:, None], "n": 5, "a": centred, "s": r.std(1, keepdim=True)}
    return {"rewards": r, "greedy_rewards": greedy}, symbols


MAKERS: dict[str, Callable[[dict[str, Any]], Case]] = {
    "preference": preference, "policy": policy, "penalty": policy, "correction": policy, "value": value,
    "reward_model": reward_model, "likelihood": likelihood, "advantage": advantage,
}  # fmt: skip
P, KL, N = 0.3, 0.5, 7
NUMBERS: dict[str, list[Case]] = {
    "pass_at_k_plug_in": [({"samples": 10, "correct": 3, "k": 4}, {"n": 10, "c": 3, "k": 4})],
    "pass_hat_k": [({"samples": 10, "correct": 3, "k": 2}, {"n": 10, "c": 3, "k": 2})],
    "perplexity": [({"nll": KL}, {"NLL": KL})],
    "total_variation_bound": [({"kl": kl}, {"KL": kl}) for kl in (KL, 3.0)],
    "reward_gap": [({"kl": kl, "reward_range": 2.0}, {"KL": kl, "r_max": 3.0, "r_min": 1.0}) for kl in (KL, 3.0)],
    "best_of_n_win_rate": [({"n": N}, {"n": N})],
    "best_of_n_kl": [({"n": N}, {"n": N})],
    "informative_share": [({"p": P}, {"p": P})],
    "leave_one_out_noise": [({"p": P}, {"p": P})],
    "kl_coefficient": [({"kl": KL}, {"KL": KL})],
    "clip_range_kl": [({"clip_low": 0.2, "clip_high": 0.28}, {"ε_l": 0.2, "ε_h": 0.28})],
    "selection_bias": [({"candidates": N, "sigma": 0.3}, {"N": N, "σ": 0.3})],
    "learning_rate_for_kl": [({"lr": 1e-3, "measured_kl": 0.02, "target_kl": 0.005}, {"lr": 1e-3, "measured": 0.02, "target": 0.005})],
}  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "ppo_clip": {"clip_low": 0.1, "clip_high": 0.28}, "reward_gap": {"reward_range": 2.0}, "bradley_terry": {"centring": 0.3},
    "clip_range_kl": {"clip_low": 0.2, "clip_high": 0.28}, "selection_bias": {"sigma": 0.3}, "sequence_product": {"cap": 1.2},
    "sequence_mask": {"low": 0.9, "high": 1.3, "cap": 1.5}, "icepop": {"low": 0.8, "high": 1.4}, "cispo": {"clip_high": 0.28},
    "mis": {"cap": 1.3}, "bco_pair": {"shift": 0.5}, "tis": {"cap": 1.3},
}  # fmt: skip
OTHER_SYMBOLS = {
    "sapo": ("τ",),
    "reward_gap": ("r_max",),
}  # read as the symbol of a parameter, and computed by the formula itself
IN_THE_BOOK = {
    # a sum over the vocabulary, the group or the tokens
    "label_smoothing", "forward_kl", "reverse_kl", "jsd", "forward_kl_top_k", "reverse_kl_top_k", "jsd_top_k", "kl_exact",
    "entropy_exact", "difficulty_weight", "opo", "gdpo", "effective_sample_size", "log_effective_sample_size", "leave_one_out_std",
    "batch_std", "token_mean", "sequence_mean", "sequence_sum", "constant", "pair_mean", "geometric_ratio", "vespo", "luspo",
    # a recursion in t, or a stop-gradient that the value does not show
    "reward_to_go", "gae", "length_adaptive_gae", "lambda_returns", "vtrace", "vtrace_returns", "kl_penalised_returns",
    "reinforce_plus_plus", "whiten", "gspo_token", "teacher_advantage",
    # cases in words, a rank, a distribution's quantile
    "dpo_nll", "f_dpo", "aot", "kto", "bco", "gmpo", "gpg", "clip_cov", "kl_cov", "pass_at_k_advantage", "max_rl",
    "overlong_penalty", "kto_baseline", "pass_at_k", "pass_at_k_interval", "clopper_pearson", "fraction_interval", "hoeffding",
    "empirical_bernstein", "paired_proportions", "mcnemar_exact", "paired_means", "kl_coefficient_of", "optimum_kl",
    # a bound whose right side names an expectation in words
    "gain_at_kl", "true_reward_floor", "update_floor", "trpo_floor", "cpo_floor", "importance_second_moment",
    "truncation_bias", "truncated_second_moment", "best_truncation_cap", "expected_sample_size",
}  # fmt: skip
READ = [e for e in entries() if e.name not in IN_THE_BOOK]
WAYS = [
    (r"\+", "-"),
    (r"-", "+"),
    (r"·", "/"),
    (r"min", "max"),
    (r"max", "min"),
    (r"≤", ">"),
    (r"\b1\b", "2"),
    (r"\b2\b", "3"),
]


def computed(formula: str, found: Entry) -> float:
    """How far the formula is from the function, at most, over its sides."""
    return max(_computed(formula, found, case) for case in NUMBERS.get(found.name, [None]))


def _computed(formula: str, found: Entry, case: Case | None) -> float:
    GENERATOR.manual_seed(3)
    settings = {p["name"]: p["default"] for p in found.row()["parameters"]} | SETTINGS.get(found.name, {})
    given, symbols = case or MAKERS[found.family](settings)
    row = found.row()
    taken = {k: v for k, v in given.items() if k in [*row["inputs"], *row["optional_inputs"]]}
    result = found.function(
        **taken, **{k: v for k, v in settings.items() if k in SETTINGS.get(found.name, {}) or k in given}
    )
    known = symbols | {
        k: v for k, v in docstrings.parameters(row, settings).items() if k not in OTHER_SYMBOLS.get(found.name, ())
    }
    expected = result if isinstance(result, Tensor | float) else result.loss
    return max(docstrings.same(side, expected) for side in docstrings.values(formula, known))


@pytest.mark.parametrize("found", READ, ids=[e.name for e in READ])
def test_the_formula_in_the_docstring_is_what_the_function_computes(found: Entry) -> None:
    assert computed(found.formula, found) <= 1e-9


@pytest.mark.parametrize("found", READ, ids=[e.name for e in READ])
def test_a_wrong_formula_in_the_docstring_is_noticed(found: Entry) -> None:
    """Every one-place change of its first equation that still reads as a formula."""
    head, gap, rest = (
        re.split(r"(\n| {4,})", found.formula, maxsplit=1)
        if re.search(r"\n| {4,}", found.formula)
        else (found.formula, "", "")
    )
    start = min((head.find(sign) + 3 for sign in (" = ", " ≤ ") if sign in head), default=0)
    noticed = unnoticed = 0
    for pattern, other in WAYS:
        for place in re.finditer(pattern, head[start:]):
            broken = head[:start] + head[start:][: place.start()] + other + head[start:][place.end() :]
            try:
                gone = not computed(broken + gap + rest, found) <= 1e-9
            except (SyntaxError, NameError, TypeError, AttributeError, RuntimeError):
                gone = True
            noticed, unnoticed = noticed + gone, unnoticed + (not gone)
    assert unnoticed == 0


def test_every_formula_is_run_from_its_docstring_or_in_the_book() -> None:
    names = {e.name for e in entries()}
    assert not IN_THE_BOOK - names
    assert len(READ) >= 50
