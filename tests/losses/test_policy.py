from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tiny
from corollary.config import Config, Variant, variant
from corollary.declare import declaration_of
from corollary.errors import UserCodeError
from corollary.losses.policy import (
    SURROGATES,
    KLInLoss,
    KLInReward,
    NoKL,
    PolicyObjective,
    PPOClip,
    Reinforce,
    Surrogate,
    TruncatedImportance,
    cispo,
    clip_cov,
    gpg,
    kl_cov,
    ppo_clip,
    sapo,
    silent,
)
from corollary.losses.sequence import gmpo, gspo, gspo_token, luspo, vespo
from corollary.ops.ratio import sequence_mask, sequence_product
from corollary.ops.reduce import SequenceMean, TokenMean, token_weights, weighted_sum
from corollary.types import PolicyBatch, Terms

F64 = torch.float64
OLD = torch.tensor([[-1, -2, -0.5], [-1.5, -0.7, -3]], dtype=F64)
RATIO = torch.tensor([[1.5, 0.5, 1.1], [0.9, 1.4, 1.0]], dtype=F64)
NEW = OLD + RATIO.log()
A = torch.tensor([[1.0], [-1.0]], dtype=F64).expand(2, 3)
TRAINED = torch.tensor([[1, 1, 1], [1, 1, 0]], dtype=torch.bool)
W = token_weights(TRAINED, TokenMean())

Formula = Callable[..., Terms]
EVERY = pytest.mark.parametrize("formula", SURROGATES, ids=lambda f: f.__name__)
ESTIMATORS = ("k1_reverse", "k2", "k3", "k3_reverse")
WHOLE = (gspo, gspo_token, luspo, gmpo, vespo, gpg, clip_cov, kl_cov)  # take the mask, and must be blind behind it


def drawn(dtype: torch.dtype = F64, seed: int = 0) -> dict[str, Tensor]:
    """Inputs of every policy loss: six answers of unequal length, off-policy, an advantage each."""
    generator = torch.Generator().manual_seed(seed)
    old = -3 * torch.rand(6, 7, generator=generator, dtype=F64) - 0.05
    trained = torch.arange(7) < torch.tensor([7, 3, 5, 1, 6, 2])[:, None]
    new = old + 0.3 * torch.randn(6, 7, generator=generator, dtype=F64)
    advantages = torch.randn(6, 1, generator=generator, dtype=F64).expand(6, 7)
    given = {"logprobs": new, "old_logprobs": old, "advantages": advantages}
    return {name: value.to(dtype) for name, value in given.items()} | {"trained": trained}


def apply(formula: Formula, inputs: dict[str, Tensor], **parameters: object) -> Terms:
    return variant(formula)(**parameters)(**inputs)


def slope(formula: Formula, inputs: dict[str, Tensor], weights: Tensor | None = None, **parameters: object) -> Tensor:
    """∂Σ w·L/∂logprobs."""
    point = inputs["logprobs"].detach().clone().requires_grad_()
    loss = apply(formula, inputs | {"logprobs": point}, **parameters).loss
    weights = inputs["trained"].to(loss.dtype) if weights is None else weights
    return torch.autograd.grad(weighted_sum(loss, weights), point)[0]


@EVERY
def test_a_gradient_is_that_of_finite_differences_or_the_closed_form_that_was_declared(formula: Formula) -> None:
    inputs = drawn()
    declared = declaration_of(formula)
    if declared.gradient is None:
        assert not declared.stop_gradient
        point = inputs["logprobs"].requires_grad_()

        def loss(logprobs: Tensor) -> Tensor:
            return weighted_sum(apply(formula, inputs | {"logprobs": logprobs}).loss, inputs["trained"].double())

        assert torch.autograd.gradcheck(loss, point)
        return
    chosen = variant(formula)()
    taken = {name: inputs[name] for name in type(chosen).inputs}
    closed = declared.gradient(**taken, **chosen.parameters).where(inputs["trained"], 0.0)
    torch.testing.assert_close(slope(formula, inputs), closed, rtol=1e-12, atol=0)


@EVERY
def test_on_policy_the_gradient_is_that_of_reinforce_where_that_is_promised(formula: Formula) -> None:
    inputs = drawn()
    inputs["logprobs"] = inputs["old_logprobs"]
    weights = token_weights(inputs["trained"], SequenceMean())
    ours, expected = slope(formula, inputs, weights), -inputs["advantages"] * weights
    match declaration_of(formula).on_policy:
        case "exact":
            torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-15)
        case "direction":
            assert torch.equal(ours.sign(), expected.sign())
    if declaration_of(formula).on_policy_value:
        value = apply(formula, inputs).loss
        torch.testing.assert_close(value.where(inputs["trained"], 0), -inputs["advantages"].where(inputs["trained"], 0))


def named(value: object) -> str:
    """A name that is the same in every process."""
    return value.__name__ if callable(value) and hasattr(value, "__name__") else str(value)


@pytest.mark.parametrize("formula", WHOLE, ids=lambda f: f.__name__)
@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, -torch.inf, 1e4])
def test_what_stands_behind_the_end_changes_no_bit_of_value_or_gradient(formula: Formula, garbage: float) -> None:
    inputs = drawn()
    dirty = {n: v if n == "trained" else v.where(inputs["trained"], garbage) for n, v in inputs.items()}
    trained = inputs["trained"]
    assert torch.equal(apply(formula, dirty).loss[trained], apply(formula, inputs).loss[trained])
    assert torch.equal(slope(formula, dirty), slope(formula, inputs))
    assert (slope(formula, dirty)[~trained] == 0).all()


@EVERY
@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, 1e4])
def test_an_objective_is_blind_behind_the_end_whatever_its_surrogate(formula: Formula, garbage: float) -> None:
    clean = off_policy(tiny.batch())
    behind = {
        name: getattr(clean, name).where(clean.trained, garbage)
        for name in ("old_logprobs", "ref_logprobs", "sampler_logprobs", "advantages")
    }
    objective = PolicyObjective(surrogate=variant(formula)(), correction=variant(sequence_product)(), kl=KLInLoss())

    def told(batch: PolicyBatch, logprobs: Tensor) -> tuple[Tensor, Tensor]:
        point = logprobs.clone().requires_grad_()
        loss = weighted_sum(objective(point, batch).loss, batch.weights)
        return loss.detach(), torch.autograd.grad(loss, point)[0]

    point = clean.sampler_logprobs * 1.1
    for ours, theirs in zip(
        told(replace(clean, **behind), point.where(clean.trained, garbage)), told(clean, point), strict=True
    ):
        assert torch.equal(ours, theirs)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gap", [60.0, -60.0])
def test_extreme_log_ratios_stay_finite(formula: Formula, dtype: torch.dtype, gap: float) -> None:
    inputs = drawn(dtype)
    inputs["old_logprobs"] = inputs["logprobs"] - gap
    terms = apply(formula, inputs)
    assert terms.loss.dtype == torch.float32 or "old_logprobs" not in variant(formula).inputs
    assert torch.isfinite(terms.loss).all()
    assert torch.isfinite(slope(formula, inputs)).all()


@EVERY
def test_terms_and_metrics_have_a_value_per_token_and_metrics_no_gradient(formula: Formula) -> None:
    inputs = drawn()
    terms = apply(formula, inputs | {"logprobs": inputs["logprobs"].requires_grad_()})
    assert terms.loss.shape == (6, 7)
    for name, metric in terms.metrics.items():
        assert tuple(metric.shape) == (6, 7), name
        assert not metric.requires_grad, name


@EVERY
def test_one_answer_of_one_token_has_a_loss_and_an_answer_that_trains_nothing_none(formula: Formula) -> None:
    one = {n: v[3:4, :1] for n, v in drawn().items()}
    assert slope(formula, one).abs() > 0
    none = drawn()
    none["trained"] = torch.zeros_like(none["trained"])
    if formula in WHOLE:
        assert torch.isfinite(apply(formula, none).loss).all()
        assert (slope(formula, none, torch.ones(6, 7, dtype=F64)) == 0).all()


@pytest.mark.parametrize(
    ("formula", "wrong"),
    [
        (ppo_clip, {"clip_low": -0.1}), (ppo_clip, {"clip_high": -0.1}), (ppo_clip, {"dual_clip": 1.0}),
        (cispo, {"clip_low": -0.1}), (cispo, {"clip_high": -0.1}), (sapo, {"tau_pos": 0.0}), (sapo, {"tau_neg": 0.0}),
        (clip_cov, {"fraction": 0.0}), (clip_cov, {"fraction": 1.1}), (clip_cov, {"cov_low": -1.0}),
        (clip_cov, {"cov_high": 0.0}), (kl_cov, {"fraction": 0.0}), (kl_cov, {"coef": 0.0}),
        (gspo, {"clip_low": -1e-4}), (gspo_token, {"clip_high": -1e-4}), (luspo, {"clip_low": -1e-4}),
        (gmpo, {"log_clip_low": -0.1}), (gmpo, {"log_clip_high": -0.1}), (vespo, {"k_pos": -1.0}),
        (vespo, {"lambda_neg": 0.0}),
    ],
    ids=named,
)  # fmt: skip
def test_a_parameter_out_of_its_range_is_refused(formula: Formula, wrong: dict[str, float]) -> None:
    inputs = {n: v for n, v in drawn().items() if n in variant(formula).inputs}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        formula(**inputs, **wrong)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        variant(formula)(**wrong)


def test_ppo_clip_by_hand_in_value_and_gradient() -> None:
    logprobs = NEW.clone().requires_grad_()
    terms = ppo_clip(logprobs, OLD, A)
    expected = torch.tensor([[-1.2, -0.5, -1.1], [0.9, 1.4, 1.0]], dtype=F64)
    torch.testing.assert_close(terms.loss, expected, rtol=1e-10, atol=0)
    weighted_sum(terms.loss, W).backward()
    gradient = torch.tensor([[0, -0.1, -0.22], [0.18, 0.28, 0]], dtype=F64)
    torch.testing.assert_close(logprobs.grad, gradient, rtol=1e-10, atol=1e-12)
    assert weighted_sum(terms.metrics["clipped"], W).item() == pytest.approx(0.2)


@pytest.mark.parametrize(("dual", "loss", "cut"), [(None, 4.0, 0), (3.0, 3.0, 1)])
def test_dual_clip_bounds_the_loss_of_a_bad_answer_and_says_that_it_is_cut(
    dual: float | None, loss: float, cut: int
) -> None:
    terms = ppo_clip(torch.tensor([4.0]).log(), torch.zeros(1), -torch.ones(1), dual_clip=dual)
    assert terms.loss.item() == pytest.approx(loss)
    assert terms.metrics["clipped"].item() == cut


def test_cispo_never_cuts_a_gradient() -> None:
    inputs = {"logprobs": NEW, "old_logprobs": OLD, "advantages": A, "trained": TRAINED}
    ours = slope(cispo, inputs, clip_low=0.2, clip_high=0.2)
    torch.testing.assert_close(ours, torch.tensor([[-1.2, -0.8, -1.1], [0.9, 1.2, 0]], dtype=F64))
    assert apply(cispo, inputs, clip_low=0.2, clip_high=0.2).metrics["clipped"].tolist() == [[1, 1, 0], [0, 1, 0]]


@pytest.mark.parametrize(("advantage", "tau"), [(1.0, 1.0), (-1.0, 2.0), (0.0, 2.0)])
def test_the_gate_of_sapo_closes_by_the_sign_of_the_advantage(advantage: float, tau: float) -> None:
    x, a = torch.tensor([1.5], dtype=F64).log(), torch.tensor([advantage], dtype=F64)
    terms = sapo(x, torch.zeros(1, dtype=F64), a, tau_neg=2.0)
    opened = 1 / (1 + math.exp(-tau * 0.5))
    assert terms.loss.item() == pytest.approx(-advantage * 4 / tau * opened)
    assert terms.metrics["gate"].item() == pytest.approx(4 * opened * (1 - opened))


def test_the_slope_of_sapo_is_its_gate() -> None:
    inputs = {"logprobs": NEW, "old_logprobs": OLD, "advantages": A, "trained": torch.ones_like(TRAINED)}
    gate = apply(sapo, inputs).metrics["gate"]
    torch.testing.assert_close(slope(sapo, inputs), -A * RATIO * gate)


def test_gpg_scales_by_the_answers_that_teach() -> None:
    advantages = torch.tensor([[0.5], [0.0], [-0.5], [0.0]], dtype=F64).expand(4, 3)
    terms = gpg(torch.full((4, 3), -1.0, dtype=F64), advantages, torch.ones(4, 3, dtype=torch.bool))
    assert terms.loss[:, 0].tolist() == [1.0, 0.0, -1.0, 0.0]


SURPRISES = torch.tensor([[-6.0, -1.0, -1.0], [-3.0, -1.0, -1.0]], dtype=F64)  # mean -13/6
ADVANTAGES = torch.tensor([[-2.0, 1.0, 1.0], [-2.0, 1.0, 1.0]], dtype=F64)


@pytest.mark.parametrize(
    ("parameters", "left_out"),
    [
        ({"fraction": 0.01}, [[0, 0, 0], [1, 0, 0]]),  # 7.67 is an outlier, 1.67 the largest within the band
        ({"fraction": 0.01, "cov_high": 8.0}, [[1, 0, 0], [0, 0, 0]]),
        ({"fraction": 0.34, "cov_high": 8.0}, [[1, 0, 0], [1, 0, 0]]),
        ({"fraction": 1.0, "cov_low": 2.0}, [[0, 0, 0], [0, 0, 0]]),
    ],
)
def test_clip_cov_leaves_out_the_largest_covariances_within_its_band(
    parameters: dict[str, float], left_out: list[list[int]]
) -> None:
    terms = clip_cov(SURPRISES, SURPRISES, ADVANTAGES, ADVANTAGES != 0, **parameters)
    torch.testing.assert_close(
        terms.metrics["covariance"], torch.tensor([[23 / 3, 7 / 6, 7 / 6], [5 / 3, 7 / 6, 7 / 6]], dtype=F64)
    )
    assert terms.metrics["clipped"].tolist() == left_out
    assert torch.equal(terms.loss, (-ADVANTAGES).where(torch.tensor(left_out) == 0, 0.0))


def test_clip_cov_does_not_count_a_token_that_the_clip_has_cut_among_those_it_leaves_out() -> None:
    old = SURPRISES - torch.tensor([[0.0, 0, 0], [-1.0, 0, 0]], dtype=F64)  # a bad token whose ratio fell: cut
    left_out = clip_cov(SURPRISES, old, ADVANTAGES, ADVANTAGES != 0, fraction=0.01).loss == 0
    assert left_out.sum() == 1
    assert not left_out[1, 0]


def test_kl_cov_holds_the_largest_covariances_to_the_old_policy() -> None:
    old = SURPRISES - 0.5
    terms = kl_cov(SURPRISES, old, ADVANTAGES, ADVANTAGES != 0, fraction=0.34, coef=10.0)
    held = torch.tensor([[1, 0, 0], [1, 0, 0]])
    assert torch.equal(terms.metrics["held"], held.double())
    plain = -torch.tensor(0.5, dtype=F64).exp() * ADVANTAGES
    torch.testing.assert_close(terms.loss, plain + 5.0 * held)


def off_policy(batch: PolicyBatch) -> PolicyBatch:
    generator = torch.Generator().manual_seed(3)
    noise = [torch.randn(batch.targets.shape, generator=generator, dtype=F64) * 0.4 for _ in range(3)]
    return replace(batch, old_logprobs=noise[0] - 2, ref_logprobs=noise[1] - 2, sampler_logprobs=noise[2] - 2)


@pytest.mark.parametrize("surrogate", [PPOClip(clip_high=0.28, dual_clip=3.0), Reinforce()], ids=lambda s: s.type)
@pytest.mark.parametrize("kl", [NoKL(), *(KLInLoss(coef=0.3, estimator=e) for e in ESTIMATORS)], ids=str)
@pytest.mark.parametrize("tis", [False, True])
def test_the_gradient_is_that_of_finite_differences(surrogate: PPOClip, kl: KLInLoss, tis: bool) -> None:
    objective = PolicyObjective(surrogate=surrogate, kl=kl, **({"correction": TruncatedImportance()} if tis else {}))
    batch = off_policy(tiny.batch())
    noise = torch.randn(batch.targets.shape, generator=torch.Generator().manual_seed(4), dtype=F64)
    point = (noise * 0.4 - 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: weighted_sum(objective(x, batch).loss, batch.weights), point)


def test_without_old_logprobs_the_first_ratio_is_exactly_one_and_the_kl_to_itself_zero() -> None:
    logprobs = NEW.clone().requires_grad_()
    batch = tiny.batch()
    same = logprobs.detach().mean() * torch.ones(batch.targets.shape, dtype=F64)
    batch = replace(batch, ref_logprobs=same)
    terms = PolicyObjective(kl=KLInLoss(coef=0.1))(same.clone().requires_grad_(), batch)
    assert terms.metrics["ratio"].eq(1).all()
    assert terms.metrics["kl"].eq(0).all()
    assert terms.metrics["clipped"].eq(0).all()


def test_a_kl_penalty_pulls_towards_the_reference() -> None:
    """Descending the penalty alone brings logπ of a token that π likes too much down."""
    batch = replace(tiny.batch(), ref_logprobs=torch.full((9, 8), -3.0, dtype=F64))
    batch = replace(batch, advantages=torch.zeros_like(batch.advantages))
    for estimator in ("k2", "k3", "k3_reverse", "k1_reverse"):
        logprobs = torch.full((9, 8), -1.0, dtype=F64, requires_grad=True)
        weighted_sum(
            PolicyObjective(kl=KLInLoss(coef=1.0, estimator=estimator))(logprobs, batch).loss, batch.weights
        ).backward()
        assert (logprobs.grad[batch.weights != 0] > 0).all(), estimator


def test_kl_in_the_reward_takes_off_the_answers_whole_log_ratio() -> None:
    kl = KLInReward(coef=0.5)
    assert kl.penalty(torch.tensor([[-1.0, -1.0, 0.0]]), torch.tensor([[-2.0, -3.0, 0.0]])).tolist() == [1.5]


class Settings(Config):
    loss: Surrogate = PPOClip()


@EVERY
def test_yaml_names_every_surrogate(formula: Formula) -> None:
    assert Settings(loss=formula.__name__).loss == variant(formula)()  # type: ignore[arg-type]
    assert Settings.model_validate({"loss": {"type": formula.__name__}}).loss.type == formula.__name__


def test_an_objective_sees_what_its_parts_take_and_whether_they_look_across_samples() -> None:
    plain = PolicyObjective()
    assert not plain.cross_sample
    assert {"logprobs", "old_logprobs", "advantages"} <= plain.needs
    assert PolicyObjective(surrogate=variant(clip_cov)()).cross_sample
    assert "trained" in PolicyObjective(correction=variant(sequence_mask)()).needs


def own(tmp_path: Path, code: str) -> Variant:
    (tmp_path / "mine.py").write_text(code)
    return Settings.model_validate({"loss": {"type": f"{tmp_path}/mine.py:mine"}}).loss


def test_a_users_own_surrogate_stands_in_an_objective_and_is_never_left_out(tmp_path: Path) -> None:
    mine = own(
        tmp_path, "def mine(logprobs, advantages, *, scale: float = 2.0):\n    return -scale * advantages * logprobs\n"
    )
    batch = tiny.batch()
    logprobs = torch.full(batch.targets.shape, -1.0, dtype=F64, requires_grad=True)
    ours = PolicyObjective(surrogate=mine)(logprobs, batch).loss
    theirs = PolicyObjective(surrogate=Reinforce())(logprobs, batch).loss
    assert torch.equal(ours[batch.trained], 2 * theirs[batch.trained])
    assert silent(Reinforce())
    assert not silent(mine)


def test_a_users_surrogate_that_takes_what_the_batch_has_not_says_so(tmp_path: Path) -> None:
    mine = own(tmp_path, "def mine(logprobs, ref_logprobs):\n    return logprobs - ref_logprobs\n")
    batch = tiny.batch()
    with pytest.raises(UserCodeError, match="ref_logprobs"):
        PolicyObjective(surrogate=mine)(torch.zeros(batch.targets.shape, dtype=F64, requires_grad=True), batch)
