"""What the CPU suite shows, on a GPU."""

from __future__ import annotations

import pytest
import torch

import tiny
from corollary.engines.sampler import EmbeddedSampler
from corollary.engines.trainer import EmbeddedScorer, EmbeddedTrainer, OptimizerConfig, TrainerConfig
from corollary.losses.policy import PolicyObjective
from corollary.types import Sampling

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def test_log_probabilities_are_those_of_the_cpu() -> None:
    here, there = (EmbeddedScorer(tiny.model(torch.float32).to(d), TrainerConfig()) for d in ("cpu", "cuda"))
    batch = tiny.batch(torch.float32)
    torch.testing.assert_close(there.logprobs(batch), here.logprobs(batch), rtol=0, atol=1e-4)


def test_answers_and_a_step_are_those_of_the_cpu() -> None:
    answers, norms = [], []
    for device in ("cpu", "cuda"):
        model = tiny.model().to(device)
        sampler = EmbeddedSampler(model, decode=tiny.decode, eos_token_ids=[tiny.EOS])
        groups = sampler.generate(tiny.prompts(3, 5), 4, Sampling(max_tokens=8), names=["x"])
        answers.append([c.token_ids for g in groups for c in g])
        trainer = EmbeddedTrainer(model, TrainerConfig(), OptimizerConfig(lr=1e-3), total_steps=2)
        norms.append([trainer.step(tiny.batch(), PolicyObjective())["grad_norm"] for _ in range(2)])
        again = EmbeddedTrainer(tiny.model().to(device), TrainerConfig(), OptimizerConfig(lr=1e-3), total_steps=2)
        again.load_state_dict({name: tensor.cpu() for name, tensor in trainer.state_dict().items()})
    assert answers[0] == answers[1]
    assert norms[0] == pytest.approx(norms[1], abs=1e-9)
