from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from corollary.theory.bandit import bandit, solve_rate_policy
from corollary.theory.tree import World, eos_tree, gradient_of, tree

WORLDS = [tree(), eos_tree(), bandit([1.0, 0.35, 0.0]), tree(vocabulary=2, depth=3, end=1)]
every = pytest.mark.parametrize("world", WORLDS, ids=[w.name for w in WORLDS])


def scores(world: World, theta: Tensor) -> Tensor:
    """`[S, N, V]` ∇logπ(y)."""
    return torch.func.jacrev(world.sequence_logprobs)(theta)


@pytest.mark.parametrize(
    ("world", "answers", "prefixes", "longest"), [(tree(), 27, 13, 3), (eos_tree(), 31, 15, 4)], ids=["tree", "eos"]
)
def test_the_worlds_have_the_answers_and_prefixes_that_they_should(
    world: World, answers: int, prefixes: int, longest: int
) -> None:
    assert (len(world.rewards), len(world.policy(0)), world.tokens.shape[1]) == (answers, prefixes, longest)
    assert (
        len({tuple(row[:n]) for row, n in zip(world.tokens.tolist(), world.lengths.tolist(), strict=True)}) == answers
    )


def test_an_answer_of_the_eos_tree_ends_at_the_end_token_or_at_the_last_place() -> None:
    world = eos_tree()
    for row, n in zip(world.tokens.tolist(), world.lengths.tolist(), strict=True):
        assert 2 not in row[: n - 1]
        assert n == 4 or row[n - 1] == 2


@every
def test_probabilities_sum_to_one_over_answers_and_over_groups(world: World) -> None:
    theta = world.policy(1)
    assert float(world.probabilities(theta).sum()) == pytest.approx(1, abs=1e-14)
    groups = world.groups(2)
    rows, ways = world.multisets(2)
    assert len(groups) == len(world.rewards) ** 2 == int(ways.sum())
    assert float(world.group_probabilities(theta, groups).sum()) == pytest.approx(1, abs=1e-14)
    assert float((ways * world.group_probabilities(theta, rows)).sum()) == pytest.approx(1, abs=1e-14)


def test_groups_are_all_ordered_groups() -> None:
    assert len(tree().groups(2)) == 729
    assert len(eos_tree().groups(2)) == 961
    assert len(bandit([1.0, 0.5, 0.0]).groups(5)) == 243


@every
def test_the_score_function_gives_the_gradient_of_j(world: World) -> None:  # B1
    theta = world.policy(1)
    by_score = torch.einsum("s,snv->nv", world.probabilities(theta) * world.rewards, scores(world, theta))
    exact = gradient_of(world.expected_reward, theta)
    assert torch.allclose(by_score, exact, rtol=0, atol=1e-15)
    spot, h = torch.zeros_like(theta), 1e-6
    spot[0, 1] = h
    slope = (world.expected_reward(theta + spot) - world.expected_reward(theta - spot)) / (2 * h)
    assert float(exact[0, 1]) == pytest.approx(float(slope), abs=1e-9)


@every
def test_a_baseline_of_the_prefix_leaves_the_gradient_alone(world: World) -> None:  # B2.a
    theta = world.policy(1)
    baseline = torch.randn(len(theta), dtype=torch.float64)[world.states].where(world.trained, 0.0)  # [S, T]
    steps = torch.func.jacrev(world.logprobs)(theta)  # [S, T, N, V]
    assert torch.einsum("s,st,stnv->nv", world.probabilities(theta), baseline, steps).abs().max() < 1e-15


def test_the_surrogate_has_the_value_and_gradient_of_j_and_leaves_it_with_the_square_of_the_step() -> None:  # B4
    world = tree()
    theta, way = world.policy(1), world.policy(5)
    log, weights = world.logprobs(theta), world.probabilities(theta) * world.rewards

    def surrogate(new: Tensor) -> Tensor:  # J + Σ over tokens of (ratio - 1)·reward
        return world.expected_reward(theta) + (weights[:, None] * ((world.logprobs(new) - log).exp() - 1)).sum()

    assert torch.allclose(gradient_of(surrogate, theta), gradient_of(world.expected_reward, theta), rtol=0, atol=1e-15)
    gaps = [float((surrogate(theta + h * way) - world.expected_reward(theta + h * way)).abs()) for h in (1e-3, 1e-4)]
    assert math.log10(gaps[0] / gaps[1]) == pytest.approx(2, abs=0.05)


def test_pass_at_k_has_the_gradient_that_its_formula_has() -> None:
    world = eos_tree().binary()
    theta = world.policy(1)
    p, slope = float(world.expected_reward(theta)), gradient_of(world.expected_reward, theta)
    assert 0 < p < 1
    assert torch.allclose(
        gradient_of(lambda t: world.pass_at_k(t, 4), theta), 4 * (1 - p) ** 3 * slope, rtol=0, atol=1e-15
    )


def test_kl_on_one_state_has_the_catalogues_value_and_gradients() -> None:
    world = bandit([0.0, 0.0, 0.0])
    pi, ref = (torch.tensor([row], dtype=torch.float64).log() for row in ([0.5, 0.3, 0.2], [0.2, 0.5, 0.3]))
    assert float(world.kl(pi, ref)) == pytest.approx(0.223804657186, rel=1e-11)
    assert float(world.kl(ref, pi)) == pytest.approx(0.193794197941, rel=1e-11)
    reverse = [[0.346243037344, -0.220389084285, -0.125853953059]]
    assert torch.allclose(
        gradient_of(lambda t: world.kl(t, ref), pi), torch.tensor(reverse).double(), rtol=0, atol=1e-7
    )
    assert torch.allclose(
        gradient_of(lambda t: world.kl(ref, t), pi), (pi - ref).softmax(-1) * 0 + pi.exp() - ref.exp()
    )


def test_tokens_kl_sums_to_the_kl_of_answers_though_not_its_gradient() -> None:
    world = eos_tree()
    pi, ref = world.policy(1), world.policy(2)
    visits = world.visits(pi)
    assert float(visits[0]) == pytest.approx(1)
    assert float(visits.sum()) == pytest.approx(float((world.probabilities(pi) * world.lengths).sum()))
    assert float(world.token_kl(pi, ref, visits)) == pytest.approx(float(world.kl(pi, ref)), rel=1e-13)
    assert not torch.allclose(
        gradient_of(lambda t: world.token_kl(t, ref, visits), pi), gradient_of(lambda t: world.kl(t, ref), pi)
    )


def test_the_entropy_of_answers_is_that_of_their_tokens() -> None:
    world = eos_tree()
    theta = world.policy(1)
    probabilities = world.probabilities(theta)
    whole = -(probabilities * probabilities.log()).sum()
    assert float((probabilities[:, None] * world.entropy(theta)).sum()) == pytest.approx(float(whole), rel=1e-13)


def test_the_greedy_answer_takes_the_likeliest_token_at_each_prefix() -> None:
    world = tree(vocabulary=2, depth=2)
    theta = torch.tensor([[0.0, 1.0], [5.0, 0.0], [1.0, 0.0]])  # root, after 0, after 1
    assert world.tokens[world.greedy(theta)].tolist() == [1, 0]


def test_a_policy_of_two_arms_has_the_success_rate_asked_for() -> None:
    assert float(bandit([1.0, 0.0]).expected_reward(solve_rate_policy(0.3))) == pytest.approx(0.3)
