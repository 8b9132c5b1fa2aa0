from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from corollary.config import variant
from corollary.declare import declaration_of
from corollary.losses.pairs import per_token, reduced
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
    log_odds,
    odds_ratio,
    orpo,
    simpo,
    slic_hf,
)
from corollary.types import Terms

F64 = torch.float64
POLICY = ("chosen", "rejected")
Loss = Callable[..., Terms]
Case = tuple[Loss, dict[str, Any]]

CASES: list[Case] = [
    (dpo, {}),
    (cdpo, {}),
    (robust_dpo, {}),
    (ipo, {}),
    (ipo_mean, {}),
    (hinge, {}),
    (ln_dpo, {}),
    (dpo_nll, {}),
    (dpo_nll, {"nll": "sum", "preference": "mean"}),
    (dpo_nll, {"nll": "token_mean", "preference_weight": 0.5, "nll_weight": 2.0}),
    (exo, {}),
    (nca, {}),
    (apo_zero, {}),
    (apo_down, {}),
    (bco_pair, {}),
    (bco_pair, {"shift": 0.3}),
    (sppo_hard, {}),
    (slic_hf, {}),
    (simpo, {}),
    (odds_ratio, {}),
    (orpo, {}),
    (orpo, {"nll": "token_mean"}),
    (cpo, {}),
    (cpo, {"nll": "sum"}),
    (dpop, {}),
    (length_dpo, {}),
    (f_dpo, {}),
    (f_dpo, {"divergence": "forward_kl"}),
    (f_dpo, {"divergence": "reverse_kl"}),
    (discopop, {}),
    (aot, {}),
]


def name(case: Case) -> str:
    return "-".join([case[0].__name__, *map(str, case[1].values())])


every = pytest.mark.parametrize("case", CASES, ids=name)


def pairs(seed: int = 0, n: int = 5) -> dict[str, Tensor]:
    """Answers of 1 to 8 tokens, the reference a little off the policy."""
    draw = torch.Generator().manual_seed(seed)
    given = {}
    for side in POLICY:
        lengths = torch.randint(1, 9, (n,), generator=draw)
        means = -2 * torch.rand(n, generator=draw, dtype=F64) - 0.05
        given |= {f"{side}_lengths": lengths, side: means * lengths}
        given[f"ref_{side}"] = given[side] + torch.randn(n, generator=draw, dtype=F64)
    return given | {"mean_chosen_length": given["chosen_lengths"].double().mean()}


def called(case: Case, given: dict[str, Tensor]) -> Terms:
    loss, parameters = case
    return loss(*(given[i] for i in variant(loss).inputs), **parameters)


def slopes(case: Case, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """Gradient of the sum to both answers' log-probabilities."""
    leaves = [given[side].clone().requires_grad_() for side in POLICY]
    loss = called(case, given | dict(zip(POLICY, leaves, strict=True))).loss
    return torch.autograd.grad(loss.sum(), leaves)


def lsg(x: float) -> float:
    return -math.log1p(math.exp(-x))


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# One pair: logπ -4 and -6, reference -5 and -5.5, so Δ = 1 and -0.5; 2 and 4 tokens, 2.5 in the mean.
ONE = {
    "chosen": -4.0, "rejected": -6.0, "ref_chosen": -5.0, "ref_rejected": -5.5,
    "chosen_lengths": 2, "rejected_lengths": 4, "mean_chosen_length": 2.5,
}  # fmt: skip
BY_HAND: list[tuple[Loss, dict[str, Any], float]] = [
    (dpo, {"beta": 2.0}, -lsg(3)),
    (cdpo, {"beta": 2.0, "flip_rate": 0.2}, -0.8 * lsg(3) - 0.2 * lsg(-3)),
    (robust_dpo, {"beta": 2.0, "flip_rate": 0.2}, (-0.8 * lsg(3) + 0.2 * lsg(-3)) / 0.6),
    (ipo, {"tau": 0.25}, 0.25),
    (ipo_mean, {"tau": 0.5}, (0.5 + 0.125 - 1) ** 2),
    (hinge, {"beta": 0.5}, 0.25),
    (ln_dpo, {"beta": 8.0}, -lsg(5)),
    (dpo_nll, {"beta": 2.0, "preference_weight": 3.0, "nll_weight": 0.5, "nll": "sum"}, -3 * lsg(3) + 0.5 * 4),
    (dpo_nll, {"beta": 2.0, "nll": "mean"}, -lsg(3) + 2),
    (dpo_nll, {"beta": 2.0, "nll": "token_mean"}, -lsg(3) + 1.6),
    (dpo_nll, {"beta": 8.0, "nll": "mean", "preference": "mean"}, -lsg(5) + 2),
    (
        exo,
        {"beta": 2.0, "smoothing": 0.1},
        sigma(3) * math.log(sigma(3) / 0.9) + sigma(-3) * math.log(sigma(-3) / 0.1),
    ),
    (nca, {"beta": 2.0}, -lsg(2) - lsg(-2) / 2 - lsg(1) / 2),
    (apo_zero, {"beta": 2.0}, 1 - sigma(2) + sigma(-1)),
    (apo_down, {"beta": 2.0}, sigma(2) + 1 - sigma(3)),
    (bco_pair, {"beta": 2.0, "shift": 0.5}, -lsg(1.5) - lsg(1.5)),
    (sppo_hard, {"beta": 0.25}, 1 + 1.5**2),
    (slic_hf, {"margin": 3.0, "nll_weight": 0.5}, 1 + 2),
    (simpo, {"beta": 2.0, "gamma": 0.5}, -lsg(-1.5)),
    (odds_ratio, {}, -lsg(math.log(math.expm1(1.5) / math.expm1(2)))),
    (orpo, {"odds_weight": 0.5, "nll": "mean"}, 2 - 0.5 * lsg(math.log(math.expm1(1.5) / math.expm1(2)))),
    (orpo, {"odds_weight": 0.0, "nll": "token_mean"}, 1.6),
    (cpo, {"beta": 0.5, "nll_weight": 2.0, "nll": "token_mean"}, -lsg(1) + 3.2),
    (dpop, {"beta": 2.0, "penalty": 7.0}, -lsg(3)),
    (length_dpo, {"beta": 2.0, "length_penalty": 0.25}, -lsg(3.5)),
    (f_dpo, {"beta": 2.0, "divergence": "reverse_kl"}, -lsg(3)),
    (f_dpo, {"beta": 2.0, "divergence": "forward_kl"}, -lsg(2 * (math.exp(0.5) - math.exp(-1)))),
    (f_dpo, {"beta": 2.0, "divergence": "js"}, -lsg(2 * (lsg(1) - lsg(-0.5)))),
    (discopop, {"beta": 2.0, "tau": 0.5}, -lsg(3) * sigma(-6) + math.exp(-3) * sigma(6)),
    (aot, {"beta": 2.0}, -lsg(3)),
]


@pytest.mark.parametrize(("loss", "parameters", "expected"), BY_HAND, ids=[name(c[:2]) for c in BY_HAND])
def test_one_pair_done_by_hand(loss: Loss, parameters: dict[str, Any], expected: float) -> None:
    one = {i: torch.tensor([v] if i != "mean_chosen_length" else v, dtype=F64) for i, v in ONE.items()}
    assert called((loss, parameters), one).loss.item() == pytest.approx(expected, rel=1e-13)


def test_dpop_counts_a_fall_of_the_chosen_answer_against_the_margin() -> None:
    one = [torch.tensor([x], dtype=F64) for x in (-7.0, -9.0, -5.0, -5.5)]  # Δ = -2 and -3.5
    assert dpop(*one, beta=2.0, penalty=0.5).loss.item() == pytest.approx(-lsg(3 - 2), rel=1e-13)


def test_every_loss_of_the_module_is_covered() -> None:
    assert {c[0].__name__ for c in CASES} == {c[0].__name__ for c in BY_HAND}


@every
def test_the_gradient_is_the_derivative(case: Case) -> None:
    given = pairs(1)
    leaves = [given[side].clone().requires_grad_() for side in POLICY]
    assert torch.autograd.gradcheck(
        lambda *moved: called(case, given | dict(zip(POLICY, moved, strict=True))).loss, leaves, rtol=1e-6, atol=1e-8
    )


@every
def test_no_gradient_reaches_the_reference_and_metrics_carry_none(case: Case) -> None:
    given = {i: v.clone().requires_grad_() if v.is_floating_point() and v.dim() else v for i, v in pairs(2).items()}
    terms = called(case, given)
    terms.loss.sum().backward()
    assert given["chosen"].grad is not None
    assert given["ref_chosen"].grad is None
    assert given["ref_rejected"].grad is None
    for value in (terms.loss, *terms.metrics.values()):
        assert value.shape == (5,)
    assert not any(value.requires_grad for value in terms.metrics.values())
    assert {"reward_chosen", "reward_rejected", "margin", "accuracy"} <= terms.metrics.keys()


@every
def test_the_value_at_the_reference_is_the_declared_one(case: Case) -> None:
    at = declaration_of(case[0]).value_at_reference
    if at is None:
        assert "ref_chosen" not in variant(case[0]).inputs or case[0] in (dpo_nll, length_dpo)
        return
    given = pairs(3)
    same = given | {f"ref_{side}": given[side] for side in POLICY}
    expected = at if isinstance(at, float | int) else at(**variant(case[0])(**case[1]).parameters)
    torch.testing.assert_close(called(case, same).loss, torch.full((5,), expected, dtype=F64), rtol=1e-13, atol=0)


@every
def test_policy_and_reference_move_together_unseen_where_declared(case: Case) -> None:
    given, by = pairs(4), torch.tensor([-0.7, -0.1, -3.0, -2.0, -5.0], dtype=F64)
    moved = given | {"chosen": given["chosen"] + by, "ref_chosen": given["ref_chosen"] + by}
    same = torch.allclose(called(case, given).loss, called(case, moved).loss, rtol=1e-12)
    assert same == declaration_of(case[0]).shift_invariant


@every
def test_the_margin_lowers_the_loss_where_declared(case: Case) -> None:
    draws = [pairs(seed) for seed in range(20)]
    for given in draws:  # margins from far on the wrong side to far on the right one
        for side, sign in (("chosen", 1), ("rejected", -1)):
            given[f"ref_{side}"] = given[side] + 40 * sign * torch.linspace(-1, 1, 5, dtype=F64)
    found = [slopes(case, given) for given in draws]
    falls = all(bool((chosen <= 0).all() and (rejected >= 0).all()) for chosen, rejected in found)
    assert falls == declaration_of(case[0]).monotone


@every
def test_repeating_every_token_changes_nothing_where_declared(case: Case) -> None:
    given = pairs(5)
    doubled = {i: 2 * v for i, v in given.items()}
    same = torch.allclose(called(case, given).loss, called(case, doubled).loss, rtol=1e-12)
    assert same == declaration_of(case[0]).length_invariant


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_margins_stay_finite_and_within_bounds(case: Case, dtype: torch.dtype) -> None:
    beta = variant(case[0])(**case[1]).parameters.get("beta", 0.1)
    bounds = declaration_of(case[0]).bounds
    assert bounds is not None
    wide, n = 500 / beta, torch.tensor([1, 7])
    for far in (wide, -wide, 60.0, -60.0):
        for chosen, rejected in ((far, -far), (far, 0.0), (0.0, far), (far, far)):
            given = {"chosen": torch.tensor([chosen, chosen]), "rejected": torch.tensor([rejected, rejected])}
            given = {i: (v - 2 * abs(far)).to(dtype) for i, v in given.items()}
            given |= {f"ref_{side}": torch.full((2,), -2 * abs(far), dtype=dtype) for side in POLICY}
            given |= {f"{side}_lengths": n for side in POLICY} | {"mean_chosen_length": torch.tensor(4.0)}
            loss = called(case, given).loss
            assert loss.dtype == torch.float32
            assert loss.isfinite().all()
            if not case[1]:  # bounds are declared at the default parameters
                assert (loss >= bounds[0]).all()
                assert (loss <= bounds[1]).all()
            assert all(slope.isfinite().all() for slope in slopes(case, given))


@every
def test_the_gradient_is_alive_far_on_the_wrong_side_where_declared(case: Case) -> None:
    far = {"chosen": -5200.0, "rejected": -200.0, "ref_chosen": -200.0, "ref_rejected": -5200.0}
    given = {i: torch.tensor([v], dtype=F64) for i, v in far.items()}
    given |= {f"{side}_lengths": torch.tensor([5]) for side in POLICY} | {"mean_chosen_length": torch.tensor(5.0)}
    chosen, rejected = slopes(case, given)
    if declaration_of(case[0]).tail:
        assert chosen.item() < -1e-3
        assert rejected.item() > 1e-3
    elif not case[1]:
        assert min(chosen.abs().item(), rejected.abs().item()) < 1e-3


@every
def test_one_pair_with_an_empty_answer_is_finite(case: Case) -> None:
    given = pairs(6, n=1) | {"rejected_lengths": torch.tensor([0])}
    given |= {"rejected": torch.zeros(1, dtype=F64), "ref_rejected": torch.zeros(1, dtype=F64)}
    assert called(case, given).loss.isfinite().all()
    assert all(slope.isfinite().all() for slope in slopes(case, given))


@every
def test_a_pairs_term_depends_on_the_others_only_where_declared(case: Case) -> None:
    given = pairs(7)
    alone = [called(case, {i: v[k : k + 1] if v.dim() else v for i, v in given.items()}).loss for k in range(5)]
    same = torch.allclose(torch.cat(alone), called(case, given).loss, rtol=1e-14, atol=0)
    assert same == (declaration_of(case[0]).cross_sample is None)
    order = torch.tensor([3, 0, 4, 2, 1])
    turned = {i: v[order] if v.dim() else v for i, v in given.items()}
    torch.testing.assert_close(called(case, turned).loss, called(case, given).loss[order], rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("loss", "parameters"),
    [
        (dpo, {"beta": 0.0}),
        (cdpo, {"flip_rate": 0.5}),
        (robust_dpo, {"flip_rate": 0.5}),
        (ipo, {"tau": -0.1}),
        (dpo_nll, {"nll_weight": -1.0}),
        (dpo_nll, {"nll": "tokens"}),
        (exo, {"smoothing": 0.0}),
        (slic_hf, {"margin": -1.0}),
        (simpo, {"gamma": -1.0}),
        (orpo, {"nll": "none"}),
        (f_dpo, {"divergence": "kl"}),
        (discopop, {"tau": 1.5}),
    ],
)
def test_a_parameter_out_of_its_range_is_refused(loss: Loss, parameters: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|reduced by"):
        called((loss, parameters), pairs())


@pytest.mark.parametrize("loss", [dpo_nll, cpo, orpo])
def test_the_token_mean_is_that_of_the_whole_step_however_it_is_split(loss: Loss) -> None:
    given = pairs(8, n=6)
    nll = called((loss, {"nll": "token_mean"}), given).metrics["nll"]
    whole = -given["chosen"].sum() / given["chosen_lengths"].sum()
    torch.testing.assert_close(nll.mean(), whole, rtol=1e-13, atol=0)
    parts = [{i: v[rows] if v.dim() else v for i, v in given.items()} for rows in (slice(0, 1), slice(1, 6))]
    split = torch.cat([called((loss, {"nll": "token_mean"}), part).metrics["nll"] for part in parts])
    assert torch.equal(split, nll)


def test_rdpo_is_clean_dpo_in_the_mean_over_flips() -> None:
    chosen, rejected, ref_chosen, ref_rejected = (pairs(9)[i] for i in variant(dpo).inputs)
    kept = robust_dpo(chosen, rejected, ref_chosen, ref_rejected, beta=0.3, flip_rate=0.2).loss
    flipped = robust_dpo(rejected, chosen, ref_rejected, ref_chosen, beta=0.3, flip_rate=0.2).loss
    clean = dpo(chosen, rejected, ref_chosen, ref_rejected, beta=0.3).loss
    torch.testing.assert_close(0.8 * kept + 0.2 * flipped, clean, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("case", "margin"),
    [
        ((cdpo, {"beta": 1.0, "flip_rate": 0.2}), math.log(4)),
        ((exo, {"beta": 1.0, "smoothing": 0.2}), math.log(4)),
        ((ipo, {"tau": 0.25}), 2.0),
    ],
    ids=["cdpo", "exo", "ipo"],
)
def test_a_finite_margin_is_the_optimum(case: Case, margin: float) -> None:
    zero = torch.zeros(1, dtype=F64)
    given = {"chosen": zero + margin, "rejected": zero, "ref_chosen": zero, "ref_rejected": zero}
    assert slopes(case, given)[0].item() == pytest.approx(0, abs=1e-12)


def test_discopop_has_a_local_minimum_at_a_negative_margin() -> None:
    zero = torch.zeros(401, dtype=F64)
    z = torch.linspace(-2, 2, 401, dtype=F64)
    loss = discopop(z, zero, zero, zero, beta=1.0).loss
    inner = (loss[1:-1] < loss[:-2]) & (loss[1:-1] < loss[2:])
    assert (z[1:-1][inner] < 0).any()


def test_aot_pairs_the_quantiles_of_both_margins() -> None:
    given = pairs(10)
    own = (given["chosen"] - given["rejected"]).sort().values
    ref = (given["ref_chosen"] - given["ref_rejected"]).sort().values
    expected = -torch.nn.functional.logsigmoid(0.1 * (own - ref))
    got = called((aot, {"beta": 0.1}), given).loss
    torch.testing.assert_close(got.sort().values, expected.sort().values, rtol=1e-13, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, F64])
def test_log_odds_are_finite_and_alive_where_a_probability_rounds_to_one(dtype: torch.dtype) -> None:
    x = torch.tensor([0.0, -1e-30, -1e-3, -60.0, -1e4], dtype=dtype, requires_grad=True)
    odds = log_odds(x)
    assert odds.isfinite().all()
    odds.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (x.grad >= 1).all()


def test_forward_kl_goes_on_in_a_straight_line_beyond_what_overflows() -> None:
    away = torch.tensor([-59.0, -61.0, -5000.0])
    zero = torch.zeros(3)
    terms = f_dpo(away, zero, zero, zero, beta=1.0, divergence="forward_kl")
    expected = torch.tensor([math.exp(59), 2 * math.exp(60), 4941 * math.exp(60)])
    torch.testing.assert_close(-terms.metrics["reward_chosen"], expected, rtol=1e-5, atol=0)


def test_metrics_are_the_implicit_rewards_and_a_tie_is_no_hit() -> None:
    pair = [torch.tensor(x) for x in ([-4.0, -5.0], [-6.0, -5.0], [-5.0, -5.0], [-5.5, -5.0])]
    metrics = dpo(*pair, beta=2.0).metrics
    expected = {"reward_chosen": [2.0, 0.0], "reward_rejected": [-1.0, 0.0], "margin": [3.0, 0.0], "accuracy": [1.0, 0]}
    assert {i: v.tolist() for i, v in metrics.items()} == expected


def test_a_sum_of_no_tokens_has_the_mean_zero() -> None:
    assert per_token(torch.tensor([0.0]), torch.tensor([0])).item() == 0
    with pytest.raises(ValueError, match="not by 'max'"):
        reduced(torch.zeros(1), torch.ones(1), 1.0, "max")  # type: ignore[arg-type]
