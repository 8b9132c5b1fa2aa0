from __future__ import annotations

import pytest
import torch

from corollary.ops.advantage import (
    BatchStd,
    GroupMean,
    GroupStd,
    LeaveOneOut,
    centred,
    has_signal,
    leave_one_out,
    standardised,
)

ALL = [GroupMean(), GroupStd(), LeaveOneOut(), BatchStd()]
R = torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("function", "rewards", "expected"),
    [
        (centred, [1, 0, 0, 0], [0.75, -0.25, -0.25, -0.25]),
        (leave_one_out, [1, 0, 0, 0], [1, -1 / 3, -1 / 3, -1 / 3]),
        (standardised, [1, 0, 0, 0], [1.49999700001, -0.499999000002, -0.499999000002, -0.499999000002]),
        (standardised, [0.2, 0.9, 0.4], [-0.832047986652, 1.10939731554, -0.277349328884]),
        (leave_one_out, [0.2, 0.9, 0.4], [-0.45, 0.6, -0.15]),
    ],
)
def test_the_catalogues_vectors(function: object, rewards: list[float], expected: list[float]) -> None:
    got = function(torch.tensor([rewards], dtype=torch.float64))[0].tolist()  # type: ignore[operator]
    assert got == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("advantage", ALL, ids=lambda a: a.type)
def test_a_better_answer_has_a_larger_advantage_and_a_group_sums_to_zero(advantage: GroupMean) -> None:
    a = advantage(torch.tensor([[0.1, 0.9, 0.4], [0.0, 1.0, 0.0]], dtype=torch.float64))
    assert (a[0].argsort() == torch.tensor([0, 2, 1])).all()
    torch.testing.assert_close(a.sum(-1), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("advantage", ALL, ids=lambda a: a.type)
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1e6 + 0.1])
def test_equal_rewards_give_exactly_no_advantage(advantage: GroupMean, value: float) -> None:
    rewards = torch.cat([torch.full((1, 3), value), torch.tensor([[0.0, 1.0, 1.0]])])
    assert advantage(rewards)[0].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("advantage", ALL, ids=lambda a: a.type)
def test_an_answer_that_nobody_judged_leaves_its_group_s_statistics(advantage: GroupMean) -> None:
    nan = float("nan")
    whole, cut = (advantage(torch.tensor(r, dtype=torch.float64)) for r in ([[1.0, nan, 0.0, 0.5]], [[1.0, 0.0, 0.5]]))
    assert whole[0, 1] == 0
    torch.testing.assert_close(whole[:, [0, 2, 3]], cut)


@pytest.mark.parametrize("advantage", ALL, ids=lambda a: a.type)
def test_a_group_of_one_is_refused(advantage: GroupMean) -> None:
    with pytest.raises(ValueError, match="at least 2 answers"):
        advantage(torch.ones(3, 1))


def test_the_deviation_of_rewards_far_from_zero_keeps_its_digits() -> None:
    far = standardised(torch.tensor([[1000.1, 1000.2, 1000.3, 1000.4]]))
    near = standardised(torch.tensor([[0.1, 0.2, 0.3, 0.4]]))
    torch.testing.assert_close(far, near, rtol=2e-3, atol=2e-3)


def test_signal_is_seen_where_rewards_differ() -> None:
    nan = float("nan")
    assert has_signal(torch.tensor([[1.0, 1.0], [0.0, 1.0], [nan, 1.0], [nan, nan]])).tolist() == [
        False,
        True,
        False,
        False,
    ]
