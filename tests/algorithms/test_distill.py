"""Distillation on a tiny real transformer: the student becomes the teacher, by every loss and on any answers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pytest
import torch
import torch.nn.functional as F

import tiny
from corollary.algorithms import distill
from corollary.algorithms.distill import DataAnswers, DistillConfig, Divergence, PolicyGradient, StudentAnswers
from corollary.config import variant
from corollary.data.collate import token_batch
from corollary.declare import entries
from corollary.engines.sampler import EmbeddedSampler
from corollary.engines.trainer import EmbeddedScorer, EmbeddedTrainer, OptimizerConfig, TrainerConfig, frozen
from corollary.losses.distillation import forward_kl, reverse_kl, reverse_kl_top_k
from corollary.types import Prompt, Step

ON_POLICY = StudentAnswers(group_size=4, max_tokens=6)
LOSSES = [entry.name for entry in entries("distillation")]


def teacher() -> EmbeddedScorer:
    return frozen(tiny.model(torch.float32, seed=7), TrainerConfig())


def asked() -> Iterator[list[Prompt]]:
    rows = [p for p in tiny.prompts(3, 5, 2, 4)]
    return iter(lambda: [Prompt(id=p.id, token_ids=p.token_ids, columns={"answer": "x"}) for p in rows], None)


def start(config: DistillConfig, *, lr: float = 1e-2) -> tuple[Iterator[Step], EmbeddedTrainer]:
    model = tiny.model(torch.float32)
    trainer = EmbeddedTrainer(model, TrainerConfig(), OptimizerConfig(lr=lr), total_steps=999)
    sampler = EmbeddedSampler(model, decode=tiny.decode, eos_token_ids=[tiny.EOS])
    stream = distill.steps(
        config,
        trainer=trainer,
        sampler=sampler,
        teacher=teacher(),
        encode=lambda _: [5, 9, 4, 11, tiny.EOS],
        prompts=asked(),
    )
    return stream, trainer


def distance(trainer: EmbeddedTrainer) -> float:
    """Exact reverse KL to the teacher, mean over the tokens of fixed sequences that no run was trained on."""
    batch = tiny.batch(torch.float32)
    student, master = (s.states(batch) @ s.head().T for s in (trainer.scorer, teacher()))
    terms = reverse_kl(student, master).loss
    real = torch.arange(terms.shape[1]) < batch.lengths[:, None]
    return terms[real].mean().item()


@pytest.mark.parametrize("loss", LOSSES)
def test_the_student_comes_near_the_teacher_on_its_own_answers(loss: str) -> None:
    entry = next(e for e in entries("distillation") if e.name == loss)
    top_k = 12 if loss.endswith("top_k") else None
    stream, trainer = start(
        DistillConfig(teacher="t", answers=ON_POLICY, objective=Divergence(loss=entry.variant(), top_k=top_k))
    )
    before = distance(trainer)
    metrics = [step.metrics for step in islice(stream, 60)]
    assert metrics[0]["loss"] > 0.05
    assert sum(m["loss"] for m in metrics[-5:]) / 5 < 0.4 * metrics[0]["loss"]
    assert distance(trainer) < 0.6 * before


def test_the_policy_gradient_comes_near_it_too_and_says_how_far_it_is() -> None:
    stream, trainer = start(DistillConfig(teacher="t", answers=ON_POLICY, objective=PolicyGradient()))
    before = distance(trainer)
    drift = [step.metrics["reverse_kl"] for step in islice(stream, 80)]
    assert sum(drift[-10:]) / 10 < 0.5 * sum(drift[:3]) / 3
    assert distance(trainer) < 0.7 * before


def test_the_data_s_answers_teach_it_as_well() -> None:
    stream, _ = start(
        DistillConfig(teacher="t", answers=DataAnswers(), objective=Divergence(loss=variant(forward_kl)()))
    )
    losses = [step.metrics["loss"] for step in islice(stream, 60)]
    assert losses[-1] < 0.1 * losses[0]


def test_a_student_that_is_its_teacher_has_nothing_to_learn() -> None:
    trainer = EmbeddedTrainer(tiny.model(torch.float32, seed=7), TrainerConfig(), OptimizerConfig(), total_steps=1)
    batch, loss = distill.compared(Divergence(), tiny.batch(torch.float32), teacher())
    said = trainer.step(batch, loss)
    assert said["loss"] == pytest.approx(0, abs=1e-6)
    assert said["grad_norm"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_both_distributions_are_at_the_temperature_of_the_sampling(temperature: float) -> None:
    from dataclasses import replace

    whole = replace(token_batch(tiny.prompts(3), [[5, 9, 4, tiny.EOS]]), temperature=temperature)
    student = EmbeddedTrainer(tiny.model(torch.float32), TrainerConfig(), OptimizerConfig(), total_steps=1)
    logits = [s.states(whole) @ s.head().T / temperature for s in (student.scorer, teacher())]
    expected = reverse_kl(*logits).loss.mean().item()
    batch, loss = distill.compared(Divergence(), whole, teacher())
    assert student.step(batch, loss)["loss"] == pytest.approx(expected, rel=1e-5)


def test_all_tokens_as_the_top_k_are_the_whole_vocabulary() -> None:
    batch = tiny.batch(torch.float32)
    losses = [
        EmbeddedTrainer(tiny.model(torch.float32), TrainerConfig(), OptimizerConfig(), total_steps=1).step(
            *distill.compared(Divergence(loss=variant(f)(), top_k=k), batch, teacher())
        )["loss"]
        for f, k in ((reverse_kl, None), (reverse_kl_top_k, tiny.VOCABULARY))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_policy_gradient_s_expectation_is_the_reverse_kl_s_gradient() -> None:
    """One next token, all V of them sampled in proportion: Σ q·∇(-A·log q) = ∇KL(Q‖P)."""
    z = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    p = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    exact = torch.autograd.grad(reverse_kl(z[None], p[None]).loss.sum(), z)[0]
    logq = F.log_softmax(z, -1)
    advantage = distill.teacher_advantage(p, logq)
    sampled = torch.autograd.grad(-(logq.exp().detach() * advantage * logq).sum(), z)[0]
    torch.testing.assert_close(sampled, exact, rtol=1e-10, atol=1e-12)


def test_the_policy_gradient_on_the_data_s_answers_is_refused() -> None:
    with pytest.raises(ValueError, match="student"):
        DistillConfig(teacher="t", answers=DataAnswers(), objective=PolicyGradient())


def test_a_top_k_that_nothing_reads_is_refused() -> None:
    with pytest.raises(ValueError, match="top_k: reverse_kl takes the whole vocabulary"):
        Divergence(top_k=8)
