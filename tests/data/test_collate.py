from __future__ import annotations

import pytest
import torch

from corollary.data.collate import policy_batch, token_batch
from corollary.ops.reduce import SequenceMean, TokenMean
from corollary.types import Completion, Prompt, Rollout, Sampling


def rollout(
    prompt: str, *tokens: int, reward: float | None = 1.0, truncated: bool = False, **sampling: float
) -> Rollout:
    completion = Completion(
        token_ids=tokens, logprobs=tuple(-0.1 * t for t in tokens), text="", truncated=truncated, version=0,
        sampling=Sampling(**sampling),
    )  # fmt: skip
    return Rollout(prompt=Prompt(id=prompt, token_ids=(9, 8)), completion=completion, reward=reward)


GROUPS = [
    [rollout("a", 1, 2, 3), rollout("a", 4)],
    [rollout("b", 5, 6, reward=None), rollout("b", 7, 2, truncated=True)],
]
ADVANTAGES = torch.tensor([[1.0, -1.0], [0.0, 0.5]])


def test_index_t_is_response_token_t_in_every_field() -> None:
    batch = policy_batch(GROUPS, ADVANTAGES, TokenMean())
    assert batch.targets.tolist() == [[1, 2, 3], [4, 0, 0], [5, 6, 0], [7, 2, 0]]
    assert batch.lengths.tolist() == [3, 1, 2, 2]
    assert batch.prompt_of.tolist() == [0, 0, 1, 1]
    assert batch.advantages[:, 0].tolist() == [1.0, -1.0, 0.0, 0.5]
    torch.testing.assert_close(batch.sampler_logprobs[0], torch.tensor([-0.1, -0.2, -0.3]))


def test_an_answer_that_nobody_judged_trains_nothing_and_is_not_counted() -> None:
    weights = policy_batch(GROUPS, ADVANTAGES, TokenMean()).weights
    assert weights[2].tolist() == [0, 0, 0]
    assert weights.sum().item() == pytest.approx(1)
    assert weights[0, 0].item() == pytest.approx(1 / 6)


def test_truncated_answers_can_be_left_out() -> None:
    weights = policy_batch(GROUPS, ADVANTAGES, SequenceMean(), train_truncated=False).weights
    assert weights[3].tolist() == [0, 0, 0]
    assert weights.sum(1).tolist() == pytest.approx([0.5, 0.5, 0, 0])


def test_when_nobody_is_judged_every_weight_is_zero() -> None:
    groups = [[rollout("a", 1, reward=None), rollout("a", 2, reward=None)]]
    assert policy_batch(groups, torch.zeros(1, 2), TokenMean()).weights.abs().sum() == 0


@pytest.mark.parametrize("settings", [{"top_p": 0.9}, {"top_k": 5}, {"temperature": 0.0}], ids=str)
def test_answers_from_a_cut_distribution_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="whole vocabulary"):
        policy_batch([[rollout("a", 1, **settings), rollout("a", 2, **settings)]], torch.zeros(1, 2), TokenMean())


def test_answers_from_two_distributions_are_refused() -> None:
    with pytest.raises(ValueError, match="different distributions"):
        policy_batch([[rollout("a", 1), rollout("a", 2, temperature=0.5)]], torch.zeros(1, 2), TokenMean())


def test_worked_examples_train_every_token_of_the_answer_and_none_of_the_prompt() -> None:
    batch = token_batch([Prompt(id="a", token_ids=(1, 2)), Prompt(id="b", token_ids=(3,))], [[4, 5, 6], [7]])
    assert (batch.weights != 0).tolist() == [[True, True, True], [True, False, False]]
    assert batch.weights.sum().item() == pytest.approx(1)


def test_taking_rows_keeps_their_weights_and_drops_prompts_that_nobody_uses() -> None:
    batch = policy_batch(GROUPS, ADVANTAGES, TokenMean())
    part = batch.take([3, 2])
    assert part.targets.tolist() == [[7, 2], [5, 6]]
    assert len(part.prompts) == 1
    torch.testing.assert_close(part.weights, batch.weights[[3, 2], :2])
