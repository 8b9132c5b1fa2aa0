"""How a step is split changes nothing: additive losses by a pass, losses across samples by two."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import tiny
from corollary.declare import declares
from corollary.engines.microbatches import microbatches
from corollary.engines.trainer import EmbeddedTrainer, OptimizerConfig, TrainerConfig
from corollary.losses.bind import bind
from corollary.types import PreferenceBatch, TokenBatch

BUDGETS = (1, 13, 30, 10_000)
LAYOUTS = ("shared_prefix", "packed", "padded")


@declares(family="policy", cross_sample="batch")
def whitened(logprobs: Tensor, advantages: Tensor, trained: Tensor) -> Tensor:
    """Each answer's advantage is weighed by its whitened log-probability, which carries gradient."""
    sums = logprobs.where(trained, 0.0).sum(-1)
    white = (sums - sums.mean()) / (sums.var(correction=0) + 1e-3).sqrt()
    return -(advantages * white.sigmoid()[:, None] * logprobs)


@declares(family="preference", cross_sample="batch")
def sorted_margins(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor) -> Tensor:
    """AOT's kind: the sorted chosen log-ratios against the sorted rejected ones."""
    up, down = ((a - b).sort().values for a, b in ((chosen, ref_chosen), (rejected, ref_rejected)))
    return -torch.nn.functional.logsigmoid(0.3 * (up - down))


@declares(family="policy", cross_sample="batch")
def entropy_weighted(logprobs: Tensor, entropy: Tensor, mean_logprobs: Tensor, trained: Tensor) -> Tensor:
    """Takes everything that the head can give, each with gradient."""
    share = entropy / entropy.where(trained, 0.0).sum()
    return -share * logprobs - 0.1 * entropy + 0.01 * mean_logprobs.square()


def pairs() -> PreferenceBatch:
    """Four pairs of unequal lengths on three prompts."""
    one = tiny.batch()
    rows = torch.tensor([0, 1, 3, 4, 6, 7, 2, 0])
    part = one.take(rows)
    return PreferenceBatch(
        prompts=part.prompts, prompt_of=part.prompt_of[[0, 0, 2, 2, 4, 4, 6, 6]], targets=part.targets, lengths=part.lengths,
        weights=part.weights, ref_logprobs=torch.linspace(-3, -1, part.targets.numel()).view(part.targets.shape).double(),
    )  # fmt: skip


CASES = {
    "whitened": (whitened, tiny.batch()),
    "sorted margins": (sorted_margins, pairs()),
    "entropy": (entropy_weighted, tiny.batch()),
}


def stepped(loss: object, batch: TokenBatch, budget: int, layout: str = "shared_prefix") -> tuple[Tensor, dict]:
    """The gradient of a step (what a plain step of 1 subtracts) and its metrics."""
    config = TrainerConfig(tokens_per_microbatch=budget, layout=layout, head_chunk=5)
    learner = EmbeddedTrainer(tiny.model(), config, OptimizerConfig(max_grad_norm=1e9), total_steps=1)
    taken: list[Tensor] = []
    learner._optimizer.register_step_pre_hook(
        lambda *_: taken.append(torch.cat([m.grad.flatten() for m in learner._masters.values()]))
    )
    metrics = learner.step(batch, loss)
    return taken[0], metrics


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CASES)
def test_a_loss_across_samples_is_exact_under_any_split(name: str, layout: str) -> None:
    loss, batch = CASES[name]
    whole, said = one_piece(loss, batch)
    assert whole.abs().max() > 1e-3
    for budget in BUDGETS:
        gradient, metrics = stepped(loss, batch, budget, layout)
        torch.testing.assert_close(gradient, whole, rtol=0, atol=1e-12)
        assert metrics["loss"] == pytest.approx(said, abs=1e-12)


def one_piece(loss: object, batch: TokenBatch) -> tuple[Tensor, float]:
    """Gradient and loss by one graph over the whole batch."""
    learner = EmbeddedTrainer(tiny.model(), TrainerConfig(), OptimizerConfig(), total_steps=1)
    bound = bind(loss)
    out = learner.scorer.forward(batch, batch.trained, bound.needs)
    total = (bound(out.logprobs, out.given(batch, bound.needs)).loss * batch.weights).sum()
    total.backward()
    return torch.cat([p.grad.flatten() for p in learner._named.values()]), total.item()


def test_without_its_declaration_such_a_loss_depends_on_the_split() -> None:
    """The premise of the test above: what the two passes are for."""

    def plain(logprobs: Tensor, advantages: Tensor, trained: Tensor) -> Tensor:
        return whitened(logprobs, advantages, trained)

    whole, split = (stepped(plain, tiny.batch(), budget)[0] for budget in (10_000, 13))
    assert (whole - split).abs().max() > 1e-4


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("budget", BUDGETS)
def test_a_pair_is_never_split_and_every_row_comes_once(budget: int, layout: str) -> None:
    parts = list(microbatches(pairs(), budget, layout))
    for rows in parts:
        assert [row % 2 for row in rows] == [0, 1] * (len(rows) // 2)
        assert all(a + 1 == b for a, b in zip(rows[::2], rows[1::2], strict=True))
    assert sorted(row for rows in parts for row in rows) == list(range(8))
    assert len(parts) == 4 if budget == 1 else True


def test_what_a_loss_does_not_take_is_not_computed() -> None:
    seen: list[TokenBatch] = []

    def curious(logprobs: Tensor, batch: TokenBatch) -> Tensor:
        seen.append(batch)
        return -logprobs

    stepped(curious, tiny.batch(), 10_000)
    assert seen[0].entropy is None
    assert seen[0].mean_logprobs is None


def test_an_entropy_bonus_raises_the_entropy() -> None:
    def bonus(entropy: Tensor) -> Tensor:
        return -entropy

    learner = EmbeddedTrainer(tiny.model(), TrainerConfig(), OptimizerConfig(lr=1e-3), total_steps=9)
    entropies = [learner.step(tiny.batch(), bonus)["entropy"] for _ in range(5)]
    assert entropies == sorted(entropies)
    assert entropies[-1] > entropies[0] + 0.01


def test_a_loss_that_breaks_leaves_no_gradient_behind() -> None:
    learner = EmbeddedTrainer(tiny.model(), TrainerConfig(tokens_per_microbatch=13), OptimizerConfig(), total_steps=1)
    calls = []

    def breaks_later(logprobs: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError("second microbatch")
        return -logprobs

    with pytest.raises(RuntimeError, match="second"):
        learner.step(tiny.batch(), breaks_later)
    assert all(p.grad is None for p in learner.scorer.model.parameters())
    assert learner.version == 0


def test_untrained_rows_may_hold_anything_in_a_loss_across_samples() -> None:
    batch = tiny.batch()
    weights = batch.weights.clone()
    weights[2] = 0
    clean = replace(batch, weights=weights)
    poisoned = replace(clean, advantages=clean.advantages.where(weights != 0, torch.nan))
    torch.testing.assert_close(stepped(whitened, clean, 13)[0], stepped(whitened, poisoned, 30)[0], rtol=0, atol=1e-12)
