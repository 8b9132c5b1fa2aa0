from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from corollary.losses.distillation import (
    forward_kl,
    forward_kl_top_k,
    jsd,
    jsd_top_k,
    reverse_kl,
    reverse_kl_top_k,
    teacher_advantage,
)
from corollary.losses.policy import reinforce

F64 = torch.float64
P, Q = torch.tensor([0.2, 0.5, 0.3], dtype=F64), torch.tensor([0.5, 0.3, 0.2], dtype=F64)
WHOLE = {"forward_kl": forward_kl, "reverse_kl": reverse_kl, "jsd": jsd}
TOP = {"forward_kl": forward_kl_top_k, "reverse_kl": reverse_kl_top_k, "jsd": jsd_top_k}
Loss = Callable[..., Tensor]


def drawn(dtype: torch.dtype = F64) -> tuple[Tensor, Tensor]:
    """A student's and a teacher's logits."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (2 * torch.randn(2, 3, 7, generator=generator, dtype=F64) for _ in range(2))
    return student.to(dtype).requires_grad_(), teacher.to(dtype)


def top(teacher: Tensor, k: int) -> tuple[Tensor, Tensor]:
    best = teacher.log_softmax(-1).topk(k)
    return best.values, best.indices


@pytest.mark.parametrize("name", WHOLE)
def test_a_gradient_is_that_of_finite_differences_and_the_teacher_gets_none(name: str) -> None:
    student, teacher = drawn()
    teacher.requires_grad_()
    loss = WHOLE[name](student, teacher).loss
    assert loss.shape == (2, 3)
    loss.sum().backward()
    assert teacher.grad is None
    assert torch.autograd.gradcheck(lambda z: WHOLE[name](z, teacher.detach()).loss, student)


@pytest.mark.parametrize("name", TOP)
@pytest.mark.parametrize("tail", ["bucket", "renormalise"])
@pytest.mark.parametrize("k", [1, 3, 7])
def test_a_gradient_on_the_top_k_is_that_of_finite_differences(name: str, tail: str, k: int) -> None:
    student, teacher = drawn()
    assert torch.autograd.gradcheck(lambda z: TOP[name](z, *top(teacher, k), tail=tail).loss, student)


def test_the_gradients_are_the_closed_forms() -> None:
    z = Q.log().requires_grad_()
    kl, mixture = (Q * (Q / P).log()).sum(), 0.3 * P + 0.7 * Q
    expected = {
        forward_kl: Q - P,
        reverse_kl: Q * ((Q / P).log() - kl),
        jsd: 0.7 * Q * ((Q / mixture).log() - (Q * (Q / mixture).log()).sum()),
    }
    for loss, closed in expected.items():
        value = loss(z, P.log(), **({"beta": 0.3} if loss is jsd else {})).loss
        torch.testing.assert_close(torch.autograd.grad(value, z)[0], closed, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", WHOLE)
def test_at_the_teacher_value_and_gradient_are_zero(name: str) -> None:
    student, _ = drawn()
    loss = WHOLE[name](student, student.detach()).loss
    torch.testing.assert_close(loss, torch.zeros_like(loss), rtol=0, atol=1e-15)
    gradient = torch.autograd.grad(loss.sum(), student)[0]
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-15)


def test_jsd_goes_to_zero_at_its_ends_and_its_slope_there_is_a_kl() -> None:
    for beta, kl in ((1e-6, forward_kl), (1 - 1e-6, reverse_kl)):
        value = jsd(Q.log(), P.log(), beta=beta).loss
        assert value.item() < 1e-6
        torch.testing.assert_close(value / (beta * (1 - beta)), kl(Q.log(), P.log()).loss, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("tail", ["bucket", "renormalise"])
def test_with_the_whole_vocabulary_the_top_k_is_the_whole(name: str, tail: str) -> None:
    student, teacher = drawn()
    ours, theirs = TOP[name](student, *top(teacher, 7), tail=tail).loss, WHOLE[name](student, teacher).loss
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", WHOLE)
def test_a_bucket_is_one_token_that_holds_the_rest(name: str) -> None:
    student, teacher = drawn()
    values, ids = top(teacher, 3)
    merged = []
    for logits in (student, teacher):
        p = logits.softmax(-1)
        kept = p.gather(-1, ids)
        merged.append(torch.cat([kept, 1 - kept.sum(-1, keepdim=True)], -1).log())
    ours, theirs = TOP[name](student, values, ids).loss, WHOLE[name](*merged).loss
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-15)
    assert (ours <= WHOLE[name](student, teacher).loss + 1e-12).all(), "coarser, so never more"


def test_what_a_student_says_outside_the_top_k_counts_in_a_bucket_and_not_when_renormalised() -> None:
    ids, teacher = torch.tensor([[0, 1]]), torch.tensor([[0.6, 0.3]], dtype=F64).log()
    honest, strays = (torch.tensor([[*p]], dtype=F64).log() for p in ((0.6, 0.3, 0.1), (0.06, 0.03, 0.91)))
    assert forward_kl_top_k(honest, teacher, ids).loss.item() == pytest.approx(0, abs=1e-12)
    assert forward_kl_top_k(strays, teacher, ids).loss.item() > 1
    assert forward_kl_top_k(strays, teacher, ids, tail="renormalise").loss.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e4, -1e4])
@pytest.mark.parametrize("name", WHOLE)
def test_huge_logits_stay_finite_and_are_computed_in_float32(name: str, scale: float, dtype: torch.dtype) -> None:
    student = torch.tensor([[scale, 0.0, 1.0], [0.0, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[0.0, scale, 1.0], [0.0, scale, -scale]], dtype=dtype)
    for loss in (
        WHOLE[name](student, teacher).loss,
        TOP[name](student, *top(teacher.float(), 2)).loss,
        TOP[name](student, *top(teacher.float(), 2), tail="renormalise").loss,
    ):
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss).all()
        assert torch.isfinite(torch.autograd.grad(loss.sum(), student)[0]).all()
        if name == "jsd":
            assert ((loss >= -1e-6) & (loss <= math.log(2) + 1e-6)).all()


@pytest.mark.parametrize("name", WHOLE)
def test_a_token_that_both_forbid_counts_for_nothing(name: str) -> None:
    forbidden = torch.tensor([-torch.inf], dtype=F64)
    z = torch.cat([Q.log(), forbidden]).requires_grad_()
    loss = WHOLE[name](z, torch.cat([P.log(), forbidden])).loss
    torch.testing.assert_close(loss, WHOLE[name](Q.log(), P.log()).loss)
    short = Q.log().requires_grad_()
    ours, theirs = torch.autograd.grad(loss, z)[0], torch.autograd.grad(WHOLE[name](short, P.log()).loss, short)[0]
    torch.testing.assert_close(ours, torch.cat([theirs, torch.zeros(1, dtype=F64)]))


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_the_ends_of_jsd_are_refused(beta: float) -> None:
    with pytest.raises(ValueError, match="beta must be"):
        jsd(Q.log(), P.log(), beta=beta)
    with pytest.raises(ValueError, match="beta must be"):
        jsd_top_k(Q.log(), P.log()[:2], torch.tensor([0, 1]), beta=beta)


def test_reinforce_with_the_teachers_advantage_descends_the_reverse_kl_in_expectation() -> None:
    z = Q.log().requires_grad_()
    logprobs = z.log_softmax(-1)
    advantages = teacher_advantage(P.log(), logprobs)
    assert not advantages.requires_grad
    expected = (Q * reinforce(logprobs, advantages).loss).sum()
    exact = reverse_kl(z, P.log()).loss
    torch.testing.assert_close(torch.autograd.grad(expected, z)[0], torch.autograd.grad(exact, z)[0])
