from __future__ import annotations

import pytest
import torch

from corollary.declare import CONSTANTS, Entry, declaration_of, entries, entry
from corollary.losses.bind import inputs_of
from corollary.theory.contract.samples import SHAPES, sample
from corollary.theory.contract.subject import LOSSES, subject_of
from corollary.types import Terms

LOSS_ENTRIES = [e for e in entries() if e.family in LOSSES]


@pytest.mark.parametrize("found", LOSS_ENTRIES, ids=lambda e: e.name)
def test_what_is_constant_gets_no_gradient_detached_or_not(found: Entry) -> None:
    subject = subject_of(found.function)
    at = sample(subject, SHAPES[5], 5)
    inputs = inputs_of(at.output, at.batch)
    named = {n: inputs[n].detach().clone() for n in subject.needs if n in inputs and n != "batch"}
    fixed = {n: v.requires_grad_() for n, v in named.items() if n in CONSTANTS and v.is_floating_point()}
    free = [v.requires_grad_() for n, v in named.items() if n not in CONSTANTS and v.is_floating_point()]
    got = found.function(*named.values())
    loss = got.loss if isinstance(got, Terms) else got
    grads = torch.autograd.grad(loss.sum(), [*fixed.values()], allow_unused=True, retain_graph=True) if fixed else ()
    assert all(g is None or not g.any() for g in grads)
    assert any(g is not None and g.any() for g in torch.autograd.grad(loss.sum(), free, allow_unused=True))


def test_an_undetached_policy_in_place_of_the_old_one_does_not_cancel_the_gradient() -> None:
    from corollary.losses.policy import ppo_clip

    logprobs = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    ppo_clip(logprobs, logprobs, torch.ones(1, 2)).loss.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[-1.0, -1.0]]


def test_a_ratio_that_overflows_gives_no_nan_gradient() -> None:
    from corollary.losses.policy import ppo_clip, sapo

    for old in (-95.0, -1000.0):
        for formula, advantage in ((ppo_clip, 1.0), (sapo, 1.0), (sapo, -1.0), (ppo_clip, -1.0)):
            logprobs = torch.tensor([[-1.0, -1.0]], requires_grad=True)
            formula(logprobs, torch.tensor([[-1.2, old]]), torch.full((1, 2), advantage)).loss.sum().backward()
            assert logprobs.grad is not None
            assert logprobs.grad.isfinite().all()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda f: f(*[torch.zeros(1)] * 4, beta=-1.0), "dpo: beta must be > 0, got -1.0"),
        (lambda f: f(*[torch.zeros(1)] * 4, bta=1.0), "unexpected keyword"),
    ],
)
def test_a_parameter_out_of_its_range_is_refused(call: object, said: str) -> None:
    found = entry("dpo")
    assert found is not None
    with pytest.raises((ValueError, TypeError), match=said):
        call(found.function)  # type: ignore[operator]


def test_an_option_that_does_not_exist_is_refused() -> None:
    found = entry("dpo_nll")
    assert found is not None
    with pytest.raises(ValueError, match="preference must be sum or mean, got 'token_mean'"):
        found.function(*[torch.zeros(1)] * 7, preference="token_mean")


def test_a_row_says_parameters_with_type_default_range_and_meaning() -> None:
    found = entry("ppo_clip")
    assert found is not None
    row = found.row()
    assert row["inputs"] == ["logprobs", "old_logprobs", "advantages"]
    (low,) = [p for p in row["parameters"] if p["name"] == "clip_low"]
    assert low["range"] == ">= 0"
    assert low["default"] == 0.2
    assert "ε_low" in low["meaning"]
    assert "arxiv.org/abs/1707.06347" in row["source"]
    assert row["page"] == "docs/losses/policy.md#ppo_clip"
    assert row["theory"].endswith("#ppo_clip")


def test_what_is_not_declared_promises_what_its_family_does() -> None:
    assert declaration_of(lambda logprobs: -logprobs).family is None
