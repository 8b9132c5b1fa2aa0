from __future__ import annotations

import pytest
import torch

from corollary.ops.logprob import logprob_and_entropy, token_logprobs


def test_chunks_change_neither_value_nor_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, head = (torch.randn(n, 5, generator=generator, dtype=torch.float64).requires_grad_() for n in (7, 11))
    targets = torch.randint(11, (7,), generator=generator)

    def run(chunk: int) -> list[torch.Tensor]:
        logprobs, entropy = token_logprobs(hidden, head, targets, temperature=0.7, chunk=chunk)
        return [logprobs.detach(), entropy, *torch.autograd.grad(logprobs.square().sum(), (hidden, head))]

    whole = (hidden @ head.T / 0.7).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    for chunk in (100, 7, 3, 1):
        for ours, theirs in zip(run(chunk), run(100), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    torch.testing.assert_close(run(2)[0], whole.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_huge_logits_stay_finite(scale: float) -> None:
    logits = torch.tensor([[scale, 0.0, 1.0]], requires_grad=True)
    logprobs, entropy = logprob_and_entropy(logits, torch.tensor([2]))
    logprobs.sum().backward()
    assert torch.isfinite(logprobs).all()
    assert torch.isfinite(entropy).all()
    assert torch.isfinite(logits.grad).all()


def test_half_precision_logits_are_summed_in_float32() -> None:
    assert logprob_and_entropy(torch.zeros(1, 3, dtype=torch.bfloat16), torch.tensor([0]))[0].dtype == torch.float32
