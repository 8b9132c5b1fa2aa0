from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from corollary.algorithms.grpo import GRPOConfig
from corollary.config import InvalidConfig, diff, load, to_yaml
from corollary.ops.advantage import (
    OPO,
    BatchStd,
    GroupMean,
    GroupStd,
    LeaveOneOut,
    LeaveOneOutStd,
    PassAtK,
    batch_std,
    difficulty_weight,
    gdpo,
    group_mean,
    group_std,
    has_signal,
    leave_one_out,
    leave_one_out_std,
    max_rl,
    opo,
    overlong_penalty,
    pass_at_k_advantage,
    remax,
)

NAN = float("nan")
ALL = [
    GroupMean(), GroupStd(), GroupStd(ddof=0), LeaveOneOut(), LeaveOneOutStd(), BatchStd(), BatchStd(of="rewards"), OPO(),
    PassAtK(k=2), PassAtK(k=3),
]  # fmt: skip
NAMES = [f"{a.type}-{i}" for i, a in enumerate(ALL)]
each = pytest.mark.parametrize("advantage", ALL, ids=NAMES)


def f64(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def of(advantage: Any, rewards: Tensor, lengths: Tensor | None = None) -> Tensor:
    """As a run calls it."""
    return advantage(rewards=rewards, lengths=torch.ones_like(rewards) if lengths is None else lengths)


@pytest.mark.parametrize(
    ("function", "rewards", "expected"),
    [
        (group_mean, [1, 0, 0, 0], [0.75, -0.25, -0.25, -0.25]),
        (leave_one_out, [0.2, 0.9, 0.4], [-0.45, 0.6, -0.15]),
        (group_std, [0.2, 0.9, 0.4], [-0.832047986652, 1.10939731554, -0.277349328884]),
        (leave_one_out_std, [0.0, 1.0], [-1, 1]),  # one other answer has no deviation: not divided
        (leave_one_out_std, [1e6, 0.1, 0.3], [(1e6 - 0.2) / (0.02**0.5 + 1e-6), *[None] * 2]),
        (lambda r: remax(r, f64([0.25])), [1, 0, 0.5], [0.75, -0.25, 0.25]),
        (lambda r: opo(r, torch.tensor([[1, 2, 5]])), [1, 0, 0.5], [1 - 3.5 / 8, -3.5 / 8, 0.5 - 3.5 / 8]),
        (lambda r: pass_at_k_advantage(r, k=4), [1, 0, 0, 0], [4, 0, 0, 0]),
        (lambda r: pass_at_k_advantage(r, k=1), [1, 0, 0, 0], [1, -1 / 3, -1 / 3, -1 / 3]),
        (lambda r: pass_at_k_advantage(r, k=2), [0.2, 0.9, 0.4], [0, 0.5 + 0.7, 0.2]),
    ],
)
def test_a_group_by_hand(function: Callable[[Tensor], Tensor], rewards: list[float], expected: list[float]) -> None:
    got = function(f64([rewards]))[0].tolist()
    for value, wanted in zip(got, expected, strict=True):
        assert wanted is None or value == pytest.approx(wanted, rel=1e-10, abs=1e-12)


@each
def test_a_better_answer_never_has_the_smaller_advantage(advantage: Any) -> None:
    a = of(advantage, f64([[0.1, 0.9, 0.4, 0.2], [0.0, 1.0, 0.0, 0.0]]))
    assert (a[0].argsort(stable=True)[-2:] == torch.tensor([2, 1])).all()
    assert (a[1, 1] > a[1, [0, 2, 3]]).all()


@pytest.mark.parametrize("advantage", ALL[:4] + ALL[5:7], ids=NAMES[:4] + NAMES[5:7])
def test_a_group_sums_to_zero(advantage: Any) -> None:
    a = of(advantage, f64([[0.1, 0.9, 0.4], [0.0, 1.0, 0.0]]))
    torch.testing.assert_close(a.sum(-1), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)


@each
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1000.1, 1e6 + 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rewards_give_exactly_no_advantage(advantage: Any, value: float, dtype: torch.dtype) -> None:
    lengths = torch.arange(1, 15).view(2, 7)
    rewards = torch.cat([torch.full((1, 7), value, dtype=dtype), torch.eye(7, dtype=dtype)[:1]])
    assert of(advantage, rewards, lengths)[0].tolist() == [0.0] * 7


@each
def test_an_answer_that_nobody_judged_leaves_its_group_s_statistics(advantage: Any) -> None:
    lengths = f64([[2, 50, 3, 4]])
    whole = of(advantage, f64([[1.0, NAN, 0.0, 0.5]]), lengths)
    cut = of(advantage, f64([[1.0, 0.0, 0.5]]), lengths[:, [0, 2, 3]])
    assert whole[0, 1] == 0
    torch.testing.assert_close(whole[:, [0, 2, 3]], cut)


@each
def test_a_group_of_which_one_answer_or_none_was_judged_teaches_nothing(advantage: Any) -> None:
    rewards = f64([[NAN, 1.0, NAN], [NAN, NAN, NAN], [1.0, 0.0, 0.0]])
    assert of(advantage, rewards)[:2].tolist() == [[0.0] * 3] * 2


@each
def test_a_group_of_one_is_refused(advantage: Any) -> None:
    with pytest.raises(ValueError, match="at least 2 answers"):
        of(advantage, torch.ones(3, 1))


@each
def test_rewards_far_from_zero_keep_their_digits_in_float32(advantage: Any) -> None:
    rewards = 1000 + torch.rand(6, 7, generator=torch.Generator().manual_seed(0))
    exact = of(advantage, rewards.double())
    torch.testing.assert_close(of(advantage, rewards).double(), exact, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(of(advantage, rewards.double() - 1000), exact, rtol=1e-6, atol=1e-6)


@each
def test_groups_do_not_see_each_other_unless_the_batch_shares_a_deviation(advantage: Any) -> None:
    rewards = f64([[0.1, 0.9, 0.4], [0.0, 1.0, 0.0], [3.0, -2.0, 0.5]])
    lengths = f64([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    order = [2, 0, 1]
    torch.testing.assert_close(
        of(advantage, rewards[order], lengths[order]), of(advantage, rewards, lengths)[order], rtol=1e-14, atol=0
    )
    alone = of(advantage, rewards[:1], lengths[:1])
    assert torch.equal(alone, of(advantage, rewards, lengths)[:1]) == (advantage.type != "batch_std")


@pytest.mark.parametrize("advantage", ALL[1:3] + ALL[4:7], ids=NAMES[1:3] + NAMES[4:7])
def test_a_standardised_advantage_does_not_know_the_reward_s_scale(advantage: Any) -> None:
    rewards = f64([[0.1, 0.9, 0.4, 0.2], [0.0, 1.0, 0.3, 0.0]])
    small = advantage.model_copy(update={"eps": 1e-300})
    torch.testing.assert_close(of(small, rewards), of(small, 7 * rewards), rtol=1e-12, atol=1e-12)


def test_the_batch_s_deviation_is_of_what_was_asked_for() -> None:
    rewards = f64([[1.0, 0.0], [11.0, 11.0]])
    assert batch_std(rewards)[0, 0] == pytest.approx(0.5 / (math.sqrt(0.5 / 3) + 1e-6), rel=1e-12)
    assert batch_std(rewards, of="rewards")[0, 0] == pytest.approx(0.5 / (rewards.std().item() + 1e-6), rel=1e-12)


def test_a_greedy_answer_that_nobody_judged_teaches_nothing() -> None:
    a = remax(f64([[1.0, NAN], [1.0, 0.0]]), f64([0.5, NAN]))
    assert a.tolist() == [[0.5, 0.0], [0.0, 0.0]]
    assert remax(torch.ones(2, 1), torch.zeros(2)).tolist() == [[1.0], [1.0]]


def test_the_length_weighted_baseline_has_no_variance_left_over() -> None:
    """It minimises Σ n·(r - b)² over b."""
    rewards, lengths = f64([[0.3, 1.0, 0.0, 2.0]]), f64([[3, 8, 1, 5]])
    a = opo(rewards, lengths)
    best = (lengths * a.square()).sum()
    assert (lengths * a).sum().item() == pytest.approx(0, abs=1e-12)
    assert all((lengths * (a + d).square()).sum() > best for d in (-0.01, 0.01))


class TestSeveralRewards:
    PARTS = f64([[[1, 0], [0, 1], [0, 0]], [[1, 5], [0, 5], [1, 7]]])

    def test_each_is_standardised_before_the_sum_and_the_batch_after_it(self) -> None:
        a = group_std(self.PARTS[..., 0]) + group_std(self.PARTS[..., 1])
        torch.testing.assert_close(gdpo(self.PARTS), a / (a.std() + 1e-6))
        assert gdpo(self.PARTS).std().item() == pytest.approx(1, abs=1e-5)

    def test_combinations_of_rewards_that_a_sum_would_confuse_stay_apart(self) -> None:
        """The paper's example: (0, 1) and (0, 2) right parts; the sum's advantage is the same for both."""
        two = f64([[[0, 0], [1, 0]], [[0, 0], [1, 1]]])
        assert group_std(two.sum(-1), eps=1e-12)[:, 1].tolist() == pytest.approx([0.5**0.5] * 2)
        assert gdpo(two)[1, 1].item() == pytest.approx(2 * gdpo(two)[0, 1].item())

    def test_a_weight_acts_and_a_reward_s_own_scale_does_not(self) -> None:
        scaled = gdpo(self.PARTS * f64([1, 100]), eps=1e-12)
        torch.testing.assert_close(scaled, gdpo(self.PARTS, eps=1e-12), rtol=1e-9, atol=1e-9)
        assert not torch.allclose(gdpo(self.PARTS, weights=(1.0, 3.0)), gdpo(self.PARTS))
        with pytest.raises(ValueError, match="one for each of 2 rewards"):
            gdpo(self.PARTS, weights=(1.0,))

    def test_an_answer_that_one_reward_could_not_judge_leaves_all_statistics(self) -> None:
        parts = torch.cat([self.PARTS, f64([[[9, NAN]], [[NAN, NAN]]])], dim=1)
        a = gdpo(parts)
        assert a[:, 3].tolist() == [0.0, 0.0]
        torch.testing.assert_close(a[:, :3], gdpo(self.PARTS))

    def test_equal_rewards_give_exactly_nothing(self) -> None:
        parts = torch.stack([torch.full((3, 2), 1000.1), torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])])
        assert gdpo(parts)[0].tolist() == [0.0, 0.0, 0.0]


# Expected gradients, exactly: all groups of answers of a policy that is right with probability p = σ(θ).


def expected(function: Callable[[Tensor], Tensor], p: float, group: int) -> float:
    """E[mean over the group of A·∂logπ/∂p]."""
    total = 0.0
    for outcome in itertools.product((0.0, 1.0), repeat=group):
        r = f64([outcome])
        score = torch.where(r == 1, f64(1 / p), f64(-1 / (1 - p)))
        chance = torch.where(r == 1, f64(p), f64(1 - p)).prod()
        total += (chance * (function(r) * score).mean()).item()
    return total


P = pytest.mark.parametrize("p", [0.05, 0.3, 0.8])
G = pytest.mark.parametrize("group", [2, 3, 5])


@P
@G
def test_leave_one_out_ascends_the_success_rate_and_the_group_mean_a_part_of_it(p: float, group: int) -> None:
    assert expected(leave_one_out, p, group) == pytest.approx(1, rel=1e-12)
    assert expected(group_mean, p, group) == pytest.approx((group - 1) / group, rel=1e-12)


@P
@G
@pytest.mark.parametrize("ddof", [0, 1])
def test_standardising_weighs_a_prompt_by_its_difficulty(p: float, group: int, ddof: Any) -> None:
    measured = expected(lambda r: group_std(r, ddof=ddof, eps=1e-300), p, group)
    assert measured == pytest.approx(difficulty_weight(p, group_size=group, ddof=ddof), rel=1e-12)


@P
@pytest.mark.parametrize(("group", "k"), [(2, 1), (2, 2), (4, 2), (4, 3), (5, 5)])
def test_pass_at_k_ascends_pass_at_k(p: float, group: int, k: int) -> None:
    measured = expected(lambda r: pass_at_k_advantage(r, k=k), p, group)
    assert measured == pytest.approx(k * (1 - p) ** (k - 1), rel=1e-12)


def test_pass_at_k_is_the_mean_over_subsets_for_any_rewards() -> None:
    rewards = f64([[0.3, 1.5, -2.0, 0.3, 0.7]])
    for k in (2, 3, 5):
        for i in range(5):
            sets = list(itertools.combinations([j for j in range(5) if j != i], k - 1))
            gains = [max(0.0, (rewards[0, i] - rewards[0, list(s)].max()).item()) for s in sets]
            want = k * sum(gains) / len(sets)
            assert pass_at_k_advantage(rewards, k=k)[0, i].item() == pytest.approx(want, rel=1e-12, abs=1e-14)


def test_pass_at_k_of_more_answers_than_a_group_has_is_refused_and_of_too_few_judged_is_nothing() -> None:
    with pytest.raises(ValueError, match="at most the 2 answers"):
        pass_at_k_advantage(torch.eye(2), k=3)
    assert pass_at_k_advantage(f64([[1.0, 0.0, NAN]]), k=3).tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("group", [3, 4, 5])
def test_leave_one_out_std_keeps_the_direction_of_the_gradient_and_group_std_does_not(group: int) -> None:
    """A three-armed bandit with rewards that are not right-or-wrong, enumerated (catalogue B13.e)."""
    pi, reward = f64([0.05, 0.15, 0.8]), f64([1.0, 0.35, 0.0])
    true = pi * (reward - (pi * reward).sum())
    cosines = {}
    for function in (leave_one_out_std, group_std):
        total = torch.zeros(3, dtype=torch.float64)
        for arms in itertools.product(range(3), repeat=group):
            score = torch.eye(3, dtype=torch.float64)[list(arms)] - pi
            a = function(reward[list(arms)][None])[0]
            total += pi[list(arms)].prod() * (a[:, None] * score).mean(0)
        cosines[function] = torch.cosine_similarity(total, true, dim=0).item()
    assert cosines[leave_one_out_std] == pytest.approx(1, abs=1e-12)
    assert cosines[group_std] < 0.99


@pytest.mark.parametrize("p", [0.0, 1e-9, 0.5, 1.0])
@pytest.mark.parametrize("group", [2, 8, 4000])
def test_the_difficulty_weight_is_finite_at_its_ends_and_tends_to_its_limit(p: float, group: int) -> None:
    got = difficulty_weight(p, group_size=group, ddof=0)
    ends = {0.0: math.sqrt(group - 1), 1.0: math.sqrt(group - 1)}
    assert got == pytest.approx(ends.get(p, got), rel=1e-9)
    if p == 0.5 and group == 4000:
        assert got == pytest.approx(difficulty_weight(p), rel=1e-3)


@pytest.mark.parametrize("bad", [{"p": -0.1}, {"p": 0.0}, {"p": 0.5, "group_size": 1}, {"p": 0.5, "group_size": 0}])
def test_a_difficulty_weight_that_does_not_exist_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="difficulty_weight"):
        difficulty_weight(**bad)


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (group_std, {"eps": 0.0}),
        (leave_one_out_std, {"eps": -1.0}),
        (batch_std, {"eps": 0.0}),
        (gdpo, {"eps": 0.0}),
        (pass_at_k_advantage, {"k": 0}),
        (overlong_penalty, {"buffer": 0}),
    ],
)
def test_a_parameter_out_of_its_range_is_refused(function: Callable[..., Tensor], parameters: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{function.__name__}: {next(iter(parameters))} must be"):
        function(torch.eye(3), **parameters)


def test_signal_is_seen_where_rewards_differ() -> None:
    rewards = torch.tensor([[1.0, 1.0], [0.0, 1.0], [NAN, 1.0], [NAN, NAN]])
    assert has_signal(rewards).tolist() == [False, True, False, False]


@pytest.mark.parametrize("advantage", ALL, ids=NAMES)
def test_a_setting_survives_its_file(advantage: Any, tmp_path: Path) -> None:
    config = GRPOConfig(advantage=advantage)
    file = tmp_path / "settings.yaml"
    file.write_text(to_yaml(config))
    assert load(GRPOConfig, file).config == config
    assert load(GRPOConfig, file).config.advantage == advantage
    assert diff(config).get("advantage", {"type": "group_std"})["type"] == advantage.type


def test_an_advantage_of_the_user_s_own_is_called_with_what_it_takes(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def per_token(rewards, lengths, *, by: float = 1.0):\n    return by * rewards / lengths\n"
    )
    file = tmp_path / "settings.yaml"
    file.write_text(f"advantage: {{type: '{tmp_path}/mine.py:per_token', by: 2}}\n")
    advantage = load(GRPOConfig, file).config.advantage
    assert advantage(rewards=f64([[1.0, 2.0]]), lengths=f64([[4, 4]])).tolist() == [[0.5, 1.0]]
    file.write_text("advantage: {type: group_std, eps: 0}\n")
    with pytest.raises(InvalidConfig, match="eps"):
        load(GRPOConfig, file)


def test_max_rl_s_expected_gradient_is_that_of_the_harmonic_mixture_of_pass_at_k() -> None:
    """Two answers, right with probability p = σ(θ); all outcomes of a group of G enumerated.

    E[mean of A·∇log π] = Σ_{k=1}^{G} ∇pass@k/k - (what the left-out baseline of an all-wrong group would have given).
    """
    size, theta = 4, torch.tensor(-0.7, dtype=torch.float64)
    p = theta.sigmoid().item()
    expected = 0.0
    for right in range(size + 1):
        probability = math.comb(size, right) * p**right * (1 - p) ** (size - right)
        rewards = torch.tensor([[1.0] * right + [0.0] * (size - right)], dtype=torch.float64)
        score = rewards - p  # ∇ log π of a right and of a wrong answer
        expected += probability * (max_rl(rewards) * score).mean().item()
    mixture = sum((1 - p) ** (k - 1) * p * (1 - p) for k in range(1, size + 1))  # ∇pass@k / k
    left_out = (1 - p) ** size * p  # -E[1{all wrong} · mean score]
    assert expected == pytest.approx(mixture - left_out, rel=1e-12)
