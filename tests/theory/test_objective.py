from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from corollary.config import variant
from corollary.declare import declares
from corollary.losses.policy import ppo_clip, reinforce
from corollary.ops.advantage import (
    group_mean,
    group_std,
    leave_one_out,
    leave_one_out_std,
    opo,
    pass_at_k_advantage,
    remax,
)
from corollary.ops.kl import k1, k2, k3, k3_reverse
from corollary.ops.reduce import constant, sequence_mean, sequence_sum, token_mean
from corollary.theory.bandit import bandit, solve_rate_policy
from corollary.theory.difficulty import effective_weight, recognised, two_arms, weight_at
from corollary.theory.expectation import expected_gradient, expected_penalty_gradient
from corollary.theory.objective import Finding, Report, examine, report
from corollary.theory.penalty import examine_penalty, penalty_row
from corollary.theory.tree import World, eos_tree, gradient_of, tree
from corollary.types import PolicyBatch

fixed = variant(constant)(type="constant", length=8)  # type: ignore[call-arg]
TREES = [tree(), eos_tree(), bandit([1.0, 0.35, 0.0])]
everywhere = pytest.mark.parametrize("world", TREES, ids=[w.name for w in TREES])
ONE = bandit([0.0, 0.0, 0.0])
PI = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log()
REF = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64).log()
REVERSE = [[0.346243037344, -0.220389084285, -0.125853953059]]


def raw(rewards: Tensor) -> Tensor:
    return rewards


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


def ratio_k1(logprobs: Tensor, ref_logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    return (logprobs - old_logprobs).exp() * (logprobs - ref_logprobs)


def token_ratio_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor) -> Tensor:
    return -(logprobs - old_logprobs).exp() * advantages


def sequence_ratio_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, trained: Tensor, lengths: Tensor
) -> Tensor:
    log = (logprobs - old_logprobs).where(trained, 0.0).sum(-1)
    return -log.exp() * advantages[:, 0] / lengths  # stands on each of the answer's tokens, and they are summed


# --- policies: RLOO, mean-centred, GRPO


@everywhere
def test_leave_one_out_with_a_constant_length_ascends_j_exactly(world: World) -> None:
    found = expected_gradient(reinforce, leave_one_out, fixed, world)
    exact = gradient_of(world.expected_reward, world.policy(1))
    assert torch.allclose(found.mean, exact / 8, rtol=0, atol=1e-15)


@everywhere
@pytest.mark.parametrize("loss", [reinforce, ppo_clip])
def test_the_groups_own_mean_as_baseline_costs_one_part_in_g(world: World, loss: Callable[..., Any]) -> None:
    found = expected_gradient(loss, group_mean, fixed, world)
    exact = gradient_of(world.expected_reward, world.policy(1))
    assert torch.allclose(found.mean, exact / 16, rtol=0, atol=1e-15)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_the_baselines_on_a_bandit_for_every_group_size(size: int) -> None:  # B2.b, B2.c
    world = TREES[2]
    exact = gradient_of(world.expected_reward, world.policy(1))
    alone = expected_gradient(reinforce, leave_one_out, sequence_sum, world, group_size=size)
    assert (len(alone.groups), alone.ordered) == (3**size, True)
    assert torch.allclose(alone.mean, exact, rtol=0, atol=1e-15)
    own = expected_gradient(reinforce, group_mean, sequence_sum, world, group_size=size)
    assert torch.allclose(own.mean, exact * (size - 1) / size, rtol=0, atol=1e-15)


def test_grpos_averages_bend_the_direction_where_lengths_differ() -> None:  # B13.c
    world = eos_tree()
    exact = gradient_of(world.expected_reward, world.policy(1))
    for average in (token_mean, sequence_mean):
        assert cosine(expected_gradient(ppo_clip, leave_one_out, average, world).mean, exact) < 0.99
        assert cosine(expected_gradient(ppo_clip, leave_one_out, average, tree()).mean,
                      gradient_of(tree().expected_reward, tree().policy(1))) > 1 - 1e-12  # fmt: skip


@pytest.mark.parametrize("size", [3, 4, 5])
def test_the_others_deviation_keeps_the_direction_and_the_groups_does_not(size: int) -> None:  # B13.e
    world = TREES[2]
    exact = gradient_of(world.expected_reward, world.policy(1))
    others = expected_gradient(reinforce, leave_one_out_std, sequence_sum, world, group_size=size).mean
    assert cosine(others, exact) > 1 - 1e-12
    own = expected_gradient(reinforce, group_std, sequence_sum, world, group_size=size).mean
    assert cosine(own, exact) < 1 - 1e-6


def test_multisets_give_the_same_expectation_as_ordered_groups() -> None:
    world = TREES[2]
    ordered = expected_gradient(ppo_clip, group_std, token_mean, world, group_size=4)
    some = expected_gradient(ppo_clip, group_std, token_mean, world, group_size=4, ordered=1)
    assert (len(ordered.groups), len(some.groups)) == (81, 15)
    assert torch.allclose(ordered.mean, some.mean, rtol=0, atol=1e-15)
    assert ordered.variance == pytest.approx(some.variance, rel=1e-12)


def test_a_world_with_too_many_groups_is_refused() -> None:
    with pytest.raises(ValueError, match="27405 groups of 4 out of 27 answers are too many"):
        expected_gradient(reinforce, raw, sequence_sum, tree(), group_size=4)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_the_variance_is_that_of_the_closed_form(size: int, p: float) -> None:  # B23.c, of a scalar logit: half of ours
    found = two_arms(reinforce, leave_one_out, sequence_sum, p, group_size=size)
    closed = (1 - 2 * p) ** 2 + 2 * p * (1 - p) / (size - 1)
    assert size * found.variance / 2 / (p * (1 - p)) == pytest.approx(closed, rel=1e-12)


def test_the_greedy_baseline_ascends_j_with_one_answer() -> None:
    world = eos_tree()
    found = expected_gradient(reinforce, remax, sequence_sum, world, group_size=1)
    exact = gradient_of(world.expected_reward, world.policy(1))
    assert torch.allclose(found.mean, exact, rtol=0, atol=1e-14)


def test_advantages_of_tokens_and_objects_that_take_the_batch_are_understood() -> None:
    @dataclass
    class OfBatch:
        scale: float = 2.0

        def __call__(self, logprobs: Tensor, batch: PolicyBatch) -> Tensor:
            return -self.scale * batch.advantages * logprobs

    def on_tokens(rewards: Tensor, trained: Tensor) -> Tensor:
        return leave_one_out(rewards).reshape(-1, 1) * trained

    world = eos_tree()
    exact = gradient_of(world.expected_reward, world.policy(1))
    assert torch.allclose(expected_gradient(OfBatch(), on_tokens, sequence_sum, world).mean, 2 * exact, atol=1e-14)


def test_an_input_that_no_world_has_is_named() -> None:
    def needs_values(rewards: Tensor, values: Tensor) -> Tensor:
        return rewards - values

    with pytest.raises(ValueError, match="needs_values takes 'values'; a world has"):
        expected_gradient(reinforce, needs_values, sequence_sum, TREES[2])


def test_entropy_carries_its_own_gradient() -> None:
    def bonus(logprobs: Tensor, entropy: Tensor) -> Tensor:
        return -entropy + 0 * logprobs

    found = expected_gradient(bonus, None, sequence_sum, ONE, group_size=1, policy=PI)
    assert torch.allclose(found.mean, -PI.exp() * (PI - (PI.exp() * PI).sum()), rtol=0, atol=1e-15)


# --- off-policy


def test_a_ratio_of_whole_answers_is_exact_and_one_of_tokens_is_not() -> None:  # B11.e
    world = tree()
    sampler = world.policy(1)

    def error(loss: Callable[..., Any], step: float) -> float:
        policy = sampler + world.policy(3, scale=step)
        exact = gradient_of(world.expected_reward, policy)
        found = expected_gradient(loss, raw, sequence_sum, world, group_size=1, policy=policy, sampler=sampler)
        return float((found.mean - exact).norm() / exact.norm())

    assert error(sequence_ratio_loss, 0.7) < 1e-13
    assert error(token_ratio_loss, 0.7) > 0.1
    assert error(token_ratio_loss, 0.05) / error(token_ratio_loss, 0.025) == pytest.approx(2, abs=0.15)  # B11.f
    assert error(token_ratio_loss, 0.1) < error(reinforce, 0.1)


def test_off_policy_a_finding_speaks_of_the_step_and_not_of_difficulty() -> None:
    for step, verdict in ((0.0, "holds"), (0.7, "violated")):
        found = examine(token_ratio_loss, advantage=raw, average=sequence_sum, objective="J", group_size=1, step=step)
        assert found.verdict == verdict
        assert (found.weight is None) is (step > 0)


# --- 0/1 rewards


def closed_weight(p: float, size: int, ddof: int) -> float:  # A.4
    some = [
        math.comb(size, k) * p**k * (1 - p) ** (size - k) * math.sqrt(k * (size - k)) / size for k in range(1, size)
    ]
    return sum(some) / (p * (1 - p)) * (math.sqrt((size - 1) / size) if ddof else 1)


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_the_groups_deviation_weighs_difficulty_by_its_closed_form(size: int, ddof: int) -> None:
    advantage = variant(group_std)(type="group_std", ddof=ddof, eps=1e-300)  # type: ignore[call-arg]
    for p in (0.05, 0.1, 0.5, 0.9):
        found = weight_at(two_arms(reinforce, advantage, sequence_sum, p, group_size=size), p)
        assert found == pytest.approx(closed_weight(p, size, ddof), rel=1e-12)


def successes(rewards: Tensor) -> Tensor:
    """The mean over right answers."""
    return rewards.shape[-1] * rewards / rewards.sum(-1, keepdim=True).clamp(min=1)


@pytest.mark.parametrize(
    ("advantage", "size", "name", "scale"),
    [
        (leave_one_out, 4, "p", 1.0),
        (group_mean, 4, "p", 0.75),
        (group_std, 2, "p", math.sqrt(0.5)),
        (group_std, 3, "p", math.sqrt(2) * math.sqrt(2 / 3)),
        (group_std, 8, "group_std's objective at G = 8 (2·arcsin√p as G grows)", 1.0),
        (pass_at_k_advantage, 4, "pass@2", 1.0),
        (successes, 4, "Σ pass@k/k for k up to 4 (log p as G grows)", 1.0),
    ],
)
def test_the_effective_objective_is_named(advantage: Any, size: int, name: str, scale: float) -> None:
    found = effective_weight(reinforce, advantage, sequence_sum, group_size=size)
    assert (found.name, found.exact) == (name, True)
    assert found.scale == pytest.approx(scale, rel=1e-5)


def test_the_integral_of_the_weight_is_the_objective() -> None:
    own = variant(pass_at_k_advantage)(type="pass_at_k_advantage", k=4)  # type: ignore[call-arg]
    found = effective_weight(reinforce, own, sequence_sum, group_size=4, p=(0.1, 0.4, 0.8))
    assert found.objective == pytest.approx([0, 0.9**4 - 0.6**4, 0.9**4 - 0.2**4], rel=1e-12)


@pytest.mark.parametrize(
    ("slope", "name"),
    [
        (lambda p: 1 / p, "log p"),
        (lambda p: -3 / math.sqrt(p * (1 - p)), "2·arcsin√p"),
        (lambda p: p, "pass^2"),
        (lambda p: math.sin(30 * p), ""),
    ],
)
def test_weights_are_recognised_up_to_scale(slope: Callable[[float], float], name: str) -> None:
    grid = [0.1 * i for i in range(1, 10)]
    assert recognised(grid, [slope(p) for p in grid], group_size=4)[0] == name


# --- KL penalties and estimators


@pytest.mark.parametrize(
    ("penalty", "expected"),
    [(k1, [[0.0, 0.0, 0.0]]), (k2, REVERSE), (k3, [[0.3, -0.2, -0.1]]), (ratio_k1, REVERSE), (k3_reverse, REVERSE)],
)
def test_penalties_on_one_state_have_the_gradient_of_the_table(penalty: Any, expected: list[list[float]]) -> None:
    found = -expected_penalty_gradient(penalty, ONE, policy=PI, reference=REF).mean
    assert found.flatten().tolist() == pytest.approx(expected[0], rel=1e-10, abs=1e-12)
    exact = {"k3": gradient_of(lambda t: ONE.kl(REF, t), PI), "k1": torch.zeros(1, 3, dtype=torch.float64)}
    reverse = gradient_of(lambda t: ONE.kl(t, REF), PI)
    assert torch.allclose(found, exact.get(penalty.__name__, reverse), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("penalty", "value", "variance"),
    [
        (k1, 0.223804657186, 0.480869064229),
        (k2, 0.265478794403, 0.0240928956725),
        (k3, 0.223804657186, 0.00900468730947),
    ],
)
def test_estimators_have_the_mean_and_variance_of_the_table(penalty: Any, value: float, variance: float) -> None:
    row = penalty_row(penalty, ONE, policy=PI, reference=REF)
    assert (row.value, row.variance) == (pytest.approx(value, rel=1e-11), pytest.approx(variance, rel=1e-11))
    assert row.kl == pytest.approx(0.223804657186, rel=1e-11)


@pytest.mark.parametrize(
    ("penalty", "descends", "unbiased"),
    [
        (k1, "nothing", True),
        (k2, "reverse_kl", False),
        (k3, "forward_kl", True),
        (ratio_k1, "reverse_kl", True),
        (k3_reverse, "reverse_kl", True),
        (lambda logprobs, ref_logprobs: (logprobs - ref_logprobs).abs(), "neither", False),
    ],
)
def test_what_a_penalty_descends_and_whether_it_measures(penalty: Any, descends: str, unbiased: bool) -> None:
    found = examine_penalty(penalty)
    assert found.descends == descends
    assert all(abs(row.bias) < 1e-13 for row in found.rows) is unbiased
    assert ("unbiased" in found.sentence) is unbiased
    assert examine_penalty(penalty, objective="reverse_kl").verdict == (
        "holds" if descends == "reverse_kl" else "violated"
    )


def test_a_loss_on_tokens_leaves_out_the_prefixes_that_follow() -> None:  # B21.b
    tokens, answers = (
        penalty_row(k2, tree(), policy=tree().policy(1), reference=tree().policy(2), level=level)
        for level in ("token", "sequence")
    )
    assert tokens.reverse.error < 1e-13
    assert tokens.whole.error > 0.1
    assert answers.whole.error < 1e-13


def test_with_the_ratio_a_penalty_stays_right_off_policy_and_k2_does_not() -> None:
    assert examine_penalty(k3_reverse, objective="reverse_kl", step=0.7).verdict == "holds"
    assert examine_penalty(k2, objective="reverse_kl", step=0.7).verdict == "violated"


def test_kl_taken_off_the_reward_descends_the_kl_of_whole_answers() -> None:
    world = eos_tree()
    pi, ref = world.policy(1), world.policy(2)
    shaped = world.earning(world.sequence_logprobs(ref) - world.sequence_logprobs(pi))
    found = expected_gradient(reinforce, leave_one_out, sequence_sum, shaped).mean
    assert torch.allclose(found, -gradient_of(lambda t: world.kl(t, ref), pi), rtol=0, atol=1e-14)


def test_a_penalty_is_held_against_a_kl_only() -> None:
    with pytest.raises(ValueError, match="reverse_kl or forward_kl"):
        examine_penalty(k2, objective="J")


# --- findings and reports


@pytest.mark.parametrize("size", [2, 8])
def test_rloo_is_found_to_ascend_j_at_every_group_size(size: int) -> None:
    found = examine(reinforce, advantage=leave_one_out, average=fixed, objective="J", group_size=size)
    assert found.verdict == "holds"
    assert all(row.direction.norm_ratio == pytest.approx(1 / 8, rel=1e-9) for row in found.rows)
    assert found.sentence == "It ascends J: E[-∇loss] = 0.125·∇J in every world."


@pytest.mark.parametrize(
    ("loss", "advantage", "average", "said"),
    [
        (ppo_clip, leave_one_out, token_mean, "answers count by their length"),
        (ppo_clip, leave_one_out, sequence_mean, "answers count by their length"),
        (reinforce, opo, fixed, "lengths enter it"),
        (reinforce, leave_one_out_std, fixed, "prompts count by their difficulty"),
        (reinforce, group_std, fixed, "Even for answers of one token its direction is off"),
        (reinforce, group_std, token_mean, "weighs a token by the lengths"),
        (lambda logprobs, advantages: logprobs * advantages, leave_one_out, fixed, "It descends J"),
        (lambda logprobs, advantages: -logprobs, raw, fixed, "It moves nothing on average"),
        (lambda logprobs, advantages: 0 * logprobs * advantages, raw, fixed, "It moves nothing: no group"),
        (lambda logprobs, advantages: -logprobs * advantages * torch.nan, raw, fixed, "not finite"),
    ],
)
def test_the_finding_says_why_it_is_not_j(loss: Any, advantage: Any, average: Any, said: str) -> None:
    found = examine(loss, advantage=advantage, average=average, objective="J", group_size=3)
    assert found.verdict == "violated"
    assert said in found.sentence


@pytest.mark.parametrize("size", [2, 3])
def test_pass_at_k_is_ascended_by_its_own_advantage_and_not_by_rloo(size: int) -> None:  # B24
    for advantage, verdict in ((pass_at_k_advantage, "holds"), (leave_one_out, "violated")):
        found = examine(reinforce, advantage=advantage, average=sequence_sum, objective="pass@2", group_size=size)
        assert (found.objective, found.verdict) == ("pass@2", verdict)
        ratios = [row.direction.norm_ratio for row in found.rows]
        assert (ratios == pytest.approx([1.0] * 4, rel=1e-9)) is (verdict == "holds")


def test_k_of_pass_at_k_is_the_advantages_own() -> None:
    own = variant(pass_at_k_advantage)(type="pass_at_k_advantage", k=1)  # type: ignore[call-arg]
    for advantage, name in ((own, "pass@1"), (pass_at_k_advantage, "pass@2"), (leave_one_out, "pass@3")):
        found = examine(reinforce, advantage=advantage, average=sequence_sum, objective="pass@k", group_size=3)
        assert found.objective == name


def test_an_objective_of_ones_own_is_compared_with() -> None:
    def best_of_two(world: World, theta: Tensor) -> Tensor:
        return 1 - (1 - world.pass_at_k(theta, 1)) ** 2

    def bonus(rewards: Tensor) -> Tensor:
        return pass_at_k_advantage((rewards > 0).double(), k=2)

    found = examine(reinforce, advantage=bonus, average=sequence_sum, objective=best_of_two, group_size=3)
    assert (found.objective, found.verdict) == ("best_of_two", "holds")


def test_nothing_declared_is_reported_and_a_declared_objective_is_held_against() -> None:
    def plain(logprobs: Tensor, advantages: Tensor) -> Tensor:
        return -advantages * logprobs

    declared = declares(family="policy", objective="J")(lambda logprobs, advantages: -advantages * logprobs)
    for loss, advantage, objective, verdict in (
        (plain, leave_one_out_std, "J", "reported"),
        (declared, leave_one_out_std, "J", "violated"),
        (declared, leave_one_out, "J", "holds"),
        (plain, pass_at_k_advantage, "pass@2", "reported"),
        (declared, pass_at_k_advantage, "pass@2", "holds"),
    ):
        found = examine(loss, advantage=advantage, average=fixed, group_size=3)
        assert (found.objective, found.verdict) == (objective, verdict)


def test_a_report_is_text_and_json_and_fails_where_an_objective_is_violated() -> None:
    good = report(reinforce, advantage=leave_one_out, average=fixed, against="J", group_size=3)
    bad = report(reinforce, advantage=leave_one_out, average=token_mean, against="J", group_size=3)
    assert (good.failed, bad.failed) == (False, True)
    for found in (good, bad, report(k1, against="reverse_kl")):
        written = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert written["failed"] is found.failed
        assert written["findings"][0]["sentence"] in " ".join(found.text().split())
        assert len(written["findings"][0]["worlds"]) >= 3
    assert "cosine" in good.text()
    assert "verdict: violated" in bad.text()


def test_a_users_file_gives_the_loss_the_advantage_and_the_objective(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "def loss(logprobs, advantages, *, scale: float = 2.0):\n    return -scale * advantages * logprobs\n"
        "def centred(rewards):\n    return rewards - rewards.mean(-1, keepdim=True)\n"
        "def weights(trained):\n    return trained.double() / len(trained)\n"
        "def objective(world, theta):\n    return 3 * world.expected_reward(theta) + 1\n"
    )
    found = report(
        f"{file}:loss",
        advantage=f"{file}:centred",
        average=f"{file}:weights",
        against=f"{file}:objective",
        group_size=3,
    )
    assert not found.failed
    assert f"{file}:loss(scale=2.0)" in found.text()
    (finding,) = found.findings
    assert isinstance(finding, Finding)
    assert finding.rows[0].direction.norm_ratio == pytest.approx(4 / 9)  # 2 · (G-1)/G of a third


def test_an_unknown_objective_and_an_impossible_group_are_refused() -> None:
    with pytest.raises(ValueError, match="no objective 'K'"):
        examine(reinforce, advantage=raw, average=fixed, objective="K")
    with pytest.raises(ValueError, match="1 to 16"):
        examine(reinforce, advantage=raw, average=fixed, group_size=17)


def test_a_loss_may_couple_the_answers_of_its_group() -> None:
    def among_themselves(logprobs: Tensor, advantages: Tensor) -> Tensor:  # REINFORCE with the baseline inside the loss
        return -(advantages - advantages.mean()) * logprobs

    world = bandit([1.0, 0.0])
    found = expected_gradient(among_themselves, raw, sequence_sum, world, group_size=2, policy=solve_rate_policy(0.3))
    exact = gradient_of(world.expected_reward, solve_rate_policy(0.3))
    assert torch.allclose(found.mean, exact / 2, rtol=0, atol=1e-15)


def test_a_loss_without_advantages_is_held_against_an_objective_of_its_own_only() -> None:
    def bonus(logprobs: Tensor, entropy: Tensor) -> Tensor:
        return -entropy + 0 * logprobs

    def entropy_of_tokens(world: World, theta: Tensor) -> Tensor:
        seen = world.probabilities(theta).detach()[:, None] * world.entropy(theta)
        return seen.sum()

    with pytest.raises(ValueError, match="bonus takes no advantages"):
        examine(bonus, advantage=raw, average=fixed, objective="J")
    found = examine(bonus, advantage=None, average=fixed, objective=entropy_of_tokens, group_size=1)
    assert (found.verdict, found.weight) == ("holds", None)


def test_an_empty_report_has_not_failed() -> None:
    assert not Report(()).failed
