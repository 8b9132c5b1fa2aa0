from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from corollary.losses.distillation import forward_kl, forward_kl_top_k, jsd, jsd_top_k, reverse_kl, reverse_kl_top_k
from corollary.losses.likelihood import nll
from corollary.ops.logprob import TokenLogprobs, logprobs_of, over_logits, token_logprobs

N, D, V, K = 7, 5, 11, 3
CHUNKS = pytest.mark.parametrize("chunk", [1, 3, N])
TEMPERATURES = pytest.mark.parametrize("temperature", [1.0, 0.7])
DTYPES = pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])


def drawn(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """hidden, head, targets, a teacher's logits, its top log-probabilities and their ids."""
    generator = torch.Generator().manual_seed(0)
    hidden, head = (torch.randn(n, D, generator=generator, dtype=torch.float64) for n in (N, V))
    targets = torch.randint(V, (N,), generator=generator)
    teacher = torch.randn(N, V, generator=generator, dtype=torch.float64)
    top = teacher.log_softmax(-1).topk(K)
    hidden, head = (x.to(dtype).requires_grad_() for x in (hidden, head))
    return hidden, head, targets, teacher.to(dtype), top.values.to(dtype), top.indices


def with_gradients(columns: tuple[Tensor | None, ...], hidden: Tensor, head: Tensor) -> list[Tensor]:
    """The columns, and the gradients of one number made of all those that carry any."""
    there = [c for c in columns if c is not None]
    number = sum(c.square().sum() * (i + 1) for i, c in enumerate(there) if c.requires_grad)
    assert isinstance(number, Tensor)
    return [c.detach() for c in there] + list(torch.autograd.grad(number, (hidden, head)))


def all_close(ours: list[Tensor], theirs: list[Tensor], within: float) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=within, atol=within)


@CHUNKS
@TEMPERATURES
@DTYPES
@pytest.mark.parametrize("entropy_gradient", [False, True])
@pytest.mark.parametrize("mean_logprobs", [False, True])
def test_chunks_change_neither_value_nor_gradient(
    chunk: int, temperature: float, dtype: torch.dtype, within: float, entropy_gradient: bool, mean_logprobs: bool
) -> None:
    hidden, head, targets, *_ = drawn(dtype)
    fused = token_logprobs(
        hidden, head, targets, temperature=temperature, chunk=chunk,
        entropy_gradient=entropy_gradient, mean_logprobs=mean_logprobs,
    )  # fmt: skip
    logp = (hidden @ head.T / temperature).log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1)
    eager = TokenLogprobs(
        logp.gather(1, targets[:, None])[:, 0],
        entropy if entropy_gradient else entropy.detach(),
        logp.mean(-1) if mean_logprobs else None,
    )
    assert fused.entropy.requires_grad == entropy_gradient
    all_close(with_gradients(fused, hidden, head), with_gradients(eager, hidden, head), within)


TEACHER: dict[str, Callable[..., Tensor]] = {
    "forward_kl": lambda z, y, teacher, top, ids: forward_kl(z, teacher).loss,
    "reverse_kl": lambda z, y, teacher, top, ids: reverse_kl(z, teacher).loss,
    "jsd": lambda z, y, teacher, top, ids: jsd(z, teacher, beta=0.3).loss,
    "forward_kl_top_k": lambda z, y, teacher, top, ids: forward_kl_top_k(z, top, ids).loss,
    "reverse_kl_top_k": lambda z, y, teacher, top, ids: reverse_kl_top_k(z, top, ids).loss,
    "jsd_top_k": lambda z, y, teacher, top, ids: jsd_top_k(z, top, ids, tail="renormalise").loss,
    "nll": lambda z, y, teacher, top, ids: nll(logprobs_of(z, y).logprobs).loss,
}


@CHUNKS
@TEMPERATURES
@DTYPES
@pytest.mark.parametrize("loss", TEACHER)
def test_any_loss_on_logits_is_the_same_in_chunks(
    loss: str, chunk: int, temperature: float, dtype: torch.dtype, within: float
) -> None:
    hidden, head, *rows = drawn(dtype)
    fused = over_logits(
        hidden, head, lambda *given: (TEACHER[loss](*given),), *rows, temperature=temperature, chunk=chunk
    )
    eager = (TEACHER[loss](hidden @ head.T / temperature, *rows),)
    all_close(with_gradients(fused, hidden, head), with_gradients(eager, hidden, head), within)


def test_a_teachers_hidden_states_may_be_the_rows() -> None:
    """So that not even the teacher's logits exist all at once."""
    hidden, head, _, _, _, _ = drawn(torch.float64)
    own = torch.randn(N, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fused = over_logits(hidden, head, lambda z, h: (forward_kl(z, h @ head.detach().T).loss,), own, chunk=2)
    eager = (forward_kl(hidden @ head.T, own @ head.detach().T).loss,)
    all_close(with_gradients(fused, hidden, head), with_gradients(eager, hidden, head), 1e-12)


def test_rows_of_another_number_are_refused_and_not_cut() -> None:
    hidden, head, targets, *_ = drawn(torch.float64)
    with pytest.raises(ValueError, match="zip"):
        over_logits(hidden, head, lambda z, y: (z.sum(-1),), targets[:3], chunk=2)


def test_without_gradient_nothing_is_kept_for_a_backward_pass() -> None:
    hidden, head, targets, *_ = drawn(torch.float64)
    with torch.no_grad():
        assert not any(c.requires_grad for c in token_logprobs(hidden, head, targets, chunk=2)[:2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_huge_logits_stay_finite(scale: float, dtype: torch.dtype) -> None:
    logits = torch.tensor([[scale, 0.0, 1.0]], dtype=dtype, requires_grad=True)
    said = logprobs_of(logits, torch.tensor([2]), entropy_gradient=True, mean_logprobs=True)
    assert said.mean_logprobs is not None
    (said.logprobs + said.entropy + said.mean_logprobs).sum().backward()
    assert all(c is not None and torch.isfinite(c).all() for c in said)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_a_forbidden_token_adds_nothing_to_the_entropy_and_gets_no_gradient() -> None:
    logits = torch.tensor([[0.0, 0.0, -torch.inf]], requires_grad=True)
    said = logprobs_of(logits, torch.tensor([0]), entropy_gradient=True)
    assert said.entropy.item() == pytest.approx(torch.tensor(2.0).log().item())
    (said.entropy + said.logprobs).sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.5, -0.5, 0.0]]))


def test_half_precision_logits_are_summed_in_float32() -> None:
    assert logprobs_of(torch.zeros(1, 3, dtype=torch.bfloat16), torch.tensor([0])).logprobs.dtype == torch.float32
