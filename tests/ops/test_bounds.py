"""Each bound against what it bounds, computed exactly on small worlds; figures in tables are the catalogue's."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from corollary.ops.bounds import (
    best_of_n_kl,
    best_of_n_win_rate,
    best_truncation_cap,
    clip_range_kl,
    cpo_floor,
    expected_sample_size,
    gain_at_kl,
    importance_second_moment,
    informative_share,
    kl_coefficient,
    kl_coefficient_of,
    learning_rate_for_kl,
    leave_one_out_noise,
    optimum_kl,
    reward_gap,
    selection_bias,
    total_variation_bound,
    trpo_floor,
    true_reward_floor,
    truncated_second_moment,
    truncation_bias,
    update_floor,
)
from corollary.ops.kl import kl_exact


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def pairs(count: int = 300, outcomes: int = 5) -> Iterator[tuple[Tensor, Tensor]]:
    """Two distributions over the same outcomes, from near to far."""
    for seed in range(count):
        a, step = normal(2, outcomes, seed=seed)
        yield a.softmax(-1), (a + step * 3 * (seed + 1) / count).softmax(-1)


def kl(p: Tensor, q: Tensor) -> float:
    return kl_exact(p.log(), q.log()).item()


def tv(p: Tensor, q: Tensor) -> Tensor:
    return (p - q).abs().sum(-1) / 2


def test_total_variation_and_reward_differ_by_no_more_than_the_bounds_and_come_near_them() -> None:
    ratios = []
    for seed, (p, q) in enumerate(pairs()):
        reward = torch.rand(5, generator=generator(seed), dtype=torch.float64) * 3 - 1
        distance, span = tv(p, q).item(), (reward.max() - reward.min()).item()
        for divergence in (kl(p, q), kl(q, p)):
            ratios.append(distance / total_variation_bound(divergence))
            assert abs(((p - q) * reward).sum().item()) <= reward_gap(divergence, reward_range=span) + 1e-15
    assert 0.9 < max(ratios) <= 1


def test_no_policy_gains_more_than_its_kl_pays_for() -> None:
    """And a reward model's error cannot hide more than that."""
    for seed, (ref, policy) in enumerate(pairs()):
        true, proxy = torch.rand(2, 5, generator=generator(seed), dtype=torch.float64)
        spent, error = kl(policy, ref), proxy - true
        gain = ((policy - ref) * true).sum().item()
        assert gain <= gain_at_kl(spent, sigma=(true.max() - true.min()).item() / 2)
        floor = true_reward_floor(
            (policy * proxy).sum().item(),
            (ref * error).sum().item(),
            spent,
            sigma=(error.max() - error.min()).item() / 2,
        )
        assert floor <= (policy * true).sum().item()


def test_a_small_kl_is_spent_at_the_best_rate() -> None:
    ref, reward = normal(6).softmax(-1), normal(6, seed=1)
    sigma = ((ref * reward.square()).sum() - (ref * reward).sum().square()).sqrt().item()
    best = (ref.log() + reward / 100).softmax(-1)
    assert ((best - ref) * reward).sum().item() == pytest.approx(gain_at_kl(kl(best, ref), sigma=sigma), rel=0.02)
    assert kl_coefficient(kl(best, ref), sigma=sigma) == pytest.approx(100, rel=0.02)


class World:
    """Four states, three actions, discounted; everything in closed form."""

    gamma = 0.9

    def __init__(self, seed: int) -> None:
        draws = torch.distributions.Dirichlet(torch.full((4, 3, 4), 0.5, dtype=torch.float64))
        torch.manual_seed(seed)
        self.moves, self.reward = draws.sample(), normal(4, 3, seed=seed)
        self.start = torch.full((4,), 0.25, dtype=torch.float64)

    def visits(self, policy: Tensor) -> Tensor:
        """Discounted, unnormalised."""
        step = (policy[..., None] * self.moves).sum(1)
        return torch.linalg.solve(torch.eye(4, dtype=torch.float64) - self.gamma * step.T, self.start)

    def objective(self, policy: Tensor) -> float:
        return (self.visits(policy)[:, None] * policy * self.reward).sum().item()

    def advantages(self, policy: Tensor) -> Tensor:
        step = (policy[..., None] * self.moves).sum(1)
        values = torch.linalg.solve(
            torch.eye(4, dtype=torch.float64) - self.gamma * step, (policy * self.reward).sum(1)
        )
        return self.reward + self.gamma * self.moves @ values - values[:, None]


def test_one_discounted_update_gains_at_least_its_floors() -> None:
    shortfalls = []
    for seed in range(200):
        world = World(seed)
        a, step = normal(2, 4, 3, seed=seed)
        old, new = a.softmax(-1), (a + step * (seed + 1) / 200).softmax(-1)
        advantage, visits = world.advantages(old), world.visits(old)
        surrogate = (visits[:, None] * new * advantage).sum().item()
        gained, distance = world.objective(new) - world.objective(old), tv(new, old)
        largest = advantage.abs().max().item()
        expected = (new * advantage).sum(1).abs().max().item()
        for far in (kl_exact(old.log(), new.log()).max().item(), distance.max().item() ** 2):
            assert trpo_floor(surrogate, far, gamma=0.9, max_advantage=largest) <= gained + 1e-12
        mean_tv = ((visits / visits.sum()) * distance).sum().item()
        floor = cpo_floor(surrogate, mean_tv, gamma=0.9, max_expected_advantage=expected)
        assert floor <= gained + 1e-12
        assert gained <= 2 * surrogate - floor + 1e-12
        shortfalls.append(surrogate - gained)
    assert min(shortfalls) < 0 < max(shortfalls)  # the surrogate alone is no floor and no ceiling


def test_one_undiscounted_update_over_a_tree_gains_at_least_its_floor() -> None:
    """Every sequence of three tokens over three symbols."""
    for seed in range(100):
        rewards, a, step = normal(27, seed=seed), normal(13, 3, seed=seed + 1000), normal(13, 3, seed=seed + 2000)
        old, new = a.softmax(-1), (a + step * (seed + 1) / 100).softmax(-1)
        levels = (slice(0, 1), slice(1, 4), slice(4, 13))

        def values(policy: Tensor, rewards: Tensor = rewards, levels: tuple[slice, ...] = levels) -> list[Tensor]:
            """Of the states of each depth, the leaves last."""
            found = [rewards]
            for level in reversed(levels):
                found.insert(0, (policy[level] * found[0].view(-1, 3)).sum(1))
            return found

        before, reached, surrogate, largest = values(old), torch.ones(1, dtype=torch.float64), 0.0, 0.0
        for depth, level in enumerate(levels):
            advantage = before[depth + 1].view(-1, 3) - before[depth][:, None]
            surrogate += (reached[:, None] * new[level] * advantage).sum().item()
            largest = max(largest, advantage.abs().max().item())
            reached = (reached[:, None] * old[level]).flatten()
        gained = (values(new)[0] - before[0]).item()
        floor = update_floor(surrogate, horizon=3, tv=tv(new, old).max().item(), max_advantage=largest)
        assert floor <= gained + 1e-12
        assert gained <= 2 * surrogate - floor + 1e-12


@pytest.mark.parametrize(
    ("n", "outcomes", "exact", "bound"),
    [(2, 10, 0.189318, 0.193147), (4, 1000, 0.636294, 0.636294), (16, 10, 1.733063, 1.835089), (64, 1000, 3.174337, 3.174508)],
)  # fmt: skip
def test_best_of_n_moves_as_far_as_the_catalogue_measured(n: int, outcomes: int, exact: float, bound: float) -> None:
    below = torch.arange(outcomes + 1, dtype=torch.float64) / outcomes
    law = below[1:] ** n - below[:-1] ** n
    measured = torch.special.xlogy(law, law * outcomes).sum().item()
    assert measured == pytest.approx(exact, abs=1e-6)
    assert best_of_n_kl(n) == pytest.approx(bound, abs=1e-6)
    assert measured <= best_of_n_kl(n)


def test_the_best_of_n_wins_as_often_as_its_rank_says() -> None:
    orders = list(itertools.permutations(range(5)))
    wins = sum(max(order[:4]) > order[4] for order in orders) / len(orders)
    assert best_of_n_win_rate(4) == pytest.approx(wins)


def test_ratios_inside_the_clip_range_keep_kl_inside_its_bound_and_two_points_reach_it() -> None:
    low, high = 0.2, 0.28
    bounds = [clip_range_kl(clip_low=low, clip_high=high, direction=d) for d in ("new_old", "old_new")]
    assert bounds == pytest.approx([0.027525, 0.027309], abs=1e-6)
    for seed in range(500):
        old = normal(4, seed=seed).softmax(-1)
        ratio = 1 - low + (low + high) * torch.rand(4, generator=generator(seed), dtype=torch.float64)
        new = old * ratio / (old * ratio).sum()
        if ((new / old) < 1 - low).any() or ((new / old) > 1 + high).any():
            continue
        assert kl(new, old) <= bounds[0]
        assert kl(old, new) <= bounds[1]
    old = torch.tensor([low, high], dtype=torch.float64) / (low + high)
    new = old * torch.tensor([1 + high, 1 - low], dtype=torch.float64)
    assert [kl(new, old), kl(old, new)] == pytest.approx(bounds, rel=1e-12)


def test_a_clip_range_without_room_on_one_side_allows_no_move() -> None:
    assert clip_range_kl(clip_low=0.0, clip_high=0.5) == clip_range_kl(clip_low=0.5, clip_high=0.0) == 0


def test_weights_obey_their_bounds() -> None:
    for seed, (sampler, target) in enumerate(pairs()):
        f, w = normal(5, seed=seed), target / sampler
        size, renyi = f.abs().max().item(), (sampler * w.square()).sum().log().item()
        assert (sampler * (w * f).square()).sum().item() <= importance_second_moment(renyi, max_abs=size) * (1 + 1e-12)
        for cap in (0.5, 1.0, 2.0, 5.0):
            short = w.clamp(max=cap)
            bias = (sampler * short * f).sum() - (target * f).sum()
            assert abs(bias.item()) <= truncation_bias(renyi, cap=cap, max_abs=size)
            assert (sampler * (short * f).square()).sum().item() <= truncated_second_moment(cap=cap, max_abs=size)


@pytest.mark.parametrize(
    ("cap", "bias", "moment"),
    [(0.5, 1.51369, 0.87774), (1.0, 0.75684, 1.75547), (2.0, 0.37842, 3.51095), (5.0, 0.15137, 8.77737), (20.0, 0.03784, 35.10949)],
)  # fmt: skip
def test_truncation_is_bounded_as_the_catalogue_measured(cap: float, bias: float, moment: float) -> None:
    size = math.sqrt(1.75547)
    assert truncation_bias(math.log(4 * 0.75684 / size), cap=cap, max_abs=size) == pytest.approx(bias, abs=2e-5)
    assert truncated_second_moment(cap=cap, max_abs=size) == pytest.approx(moment, rel=1e-5)


def test_the_best_cap_is_the_minimum_of_the_error_s_bound() -> None:
    samples, renyi = 500, 0.3

    def error(cap: float) -> float:
        return truncation_bias(renyi, cap=cap) ** 2 + truncated_second_moment(cap=cap) / samples

    best = best_truncation_cap(samples, renyi)
    assert all(error(best) < error(best * factor) for factor in (0.99, 1.01))


@pytest.mark.parametrize(("tokens", "share"), [(1, 0.9847), (10, 0.857), (100, 0.2136)])
def test_the_effective_sample_falls_with_every_token(tokens: int, share: float) -> None:
    assert expected_sample_size(1, -tokens * math.log(0.2136) / 100) == pytest.approx(share, abs=1e-4)


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("group", [2, 4])
def test_a_group_s_noise_and_use_are_what_enumeration_finds(p: float, group: int) -> None:
    mean, square, useful = 0.0, 0.0, 0.0
    for outcome in itertools.product((0.0, 1.0), repeat=group):
        r = torch.tensor(outcome, dtype=torch.float64)
        chance = p ** sum(outcome) * (1 - p) ** (group - sum(outcome))
        gradient = ((r - r.mean()) * group / (group - 1) * (r - p)).mean().item()
        mean, square = mean + chance * gradient, square + chance * gradient**2
        useful += chance * (0 < sum(outcome) < group)
    noise = group * (square - mean**2) / (p * (1 - p))
    assert leave_one_out_noise(p, group_size=group) == pytest.approx(noise, rel=1e-12)
    assert informative_share(p, group_size=group) == pytest.approx(useful, rel=1e-12)


def test_rare_successes_keep_their_digits() -> None:
    assert informative_share(1e-18, group_size=8) == pytest.approx(8e-18, rel=1e-12)
    assert informative_share(1.0) == informative_share(0.0) == 0


def test_beta_spends_the_kl_that_it_was_asked_to() -> None:
    rewards = normal(200).tolist()
    ref = torch.full((200,), 1 / 200, dtype=torch.float64)
    for budget in (0.004, 0.25, 2.0):
        beta = kl_coefficient_of(rewards, budget)
        best = (torch.tensor(rewards, dtype=torch.float64) / beta).softmax(-1)
        assert kl(best, ref) == pytest.approx(budget, rel=1e-9)
        assert optimum_kl(rewards, beta) == pytest.approx(budget, rel=1e-9)
    assert optimum_kl([1e6, 0.0], 1e-3) == pytest.approx(math.log(2))  # nothing overflows


def test_one_probe_finds_the_learning_rate_of_a_small_step() -> None:
    logits, direction = normal(5), normal(5, seed=1)

    def moved(lr: float) -> float:
        return kl_exact(logits, logits + lr * direction).item()

    assert moved(learning_rate_for_kl(1e-3, moved(1e-3), 1e-6)) == pytest.approx(1e-6, rel=0.01)


@pytest.mark.parametrize(
    ("candidates", "measured", "bound"), [(4, 1.028, 1.665), (16, 1.765, 2.355), (64, 2.345, 2.884)]
)
def test_the_best_of_many_scores_is_too_good_by_no_more_than(candidates: int, measured: float, bound: float) -> None:
    assert selection_bias(candidates) == pytest.approx(bound, abs=1e-3)
    drawn = normal(20_000, candidates).amax(1).mean().item()
    assert drawn == pytest.approx(measured, abs=0.02)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: total_variation_bound(-1.0), "kl must be >= 0"),
        (lambda: gain_at_kl(float("nan")), "kl must be >= 0"),
        (lambda: gain_at_kl(1.0, sigma=0.0), "sigma must be > 0"),
        (lambda: trpo_floor(0.0, 0.0, gamma=1.0), "gamma must be < 1"),
        (lambda: update_floor(0.0, horizon=0), "horizon must be >= 1"),
        (lambda: best_of_n_kl(0), "n must be >= 1"),
        (lambda: clip_range_kl(clip_low=1.0), "clip_low must be < 1"),
        (lambda: best_truncation_cap(0), "samples must be >= 1"),
        (lambda: truncation_bias(0.0, cap=0.0), "cap must be > 0"),
        (lambda: informative_share(1.1), "within"),
        (lambda: leave_one_out_noise(0.5, group_size=1), "group_size must be >= 2"),
        (lambda: kl_coefficient(0.0), "kl must be > 0"),
        (lambda: optimum_kl([], 1.0), "need rewards"),
        (lambda: kl_coefficient_of([0.0, 1.0], 0.7), "draw more answers"),
        (lambda: kl_coefficient_of([1.0, 1.0], 0.1), "draw more answers"),
        (lambda: learning_rate_for_kl(1e-6, 0.0, 0.1), "must be > 0"),
    ],
)
def test_what_cannot_be_is_refused_by_name(call: Callable[[], float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()
