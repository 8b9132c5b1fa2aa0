from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from corollary.config import Config, variant
from corollary.declare import declares
from corollary.errors import UserCodeError
from corollary.losses.bind import PREFERENCE, bind, blamer, values
from corollary.losses.policy import PolicyObjective
from corollary.losses.probe import made_up, probe
from corollary.types import Loss, PolicyBatch, PreferenceBatch, Terms, TokenBatch


def scaled(logprobs: Tensor, *, by: float = 2.0) -> Tensor:
    return -by * logprobs


@dataclass
class Scaled:
    """Called by instances; not hashable."""

    by: float = 2.0

    def __call__(self, logprobs: Tensor) -> Tensor:
        return -self.by * logprobs


class ScaledConfig(Config):
    by: float = 2.0

    def __call__(self, logprobs: Tensor, batch: TokenBatch) -> Terms:
        return Terms(-self.by * logprobs, {})


WAYS: dict[str, Callable] = {
    "function": scaled,
    "partial": partial(scaled, by=2.0),
    "variant": variant(scaled)(by=2.0),
    "class": Scaled,
    "object": Scaled(),
    "settings": ScaledConfig(),
    "lambda": lambda logprobs, batch: -2.0 * logprobs,
}


@pytest.mark.parametrize("way", WAYS)
def test_whatever_is_called_can_be_bound_and_gives_the_same(way: str) -> None:
    logprobs, batch = made_up(TokenBatch)
    loss = bind(WAYS[way])
    assert isinstance(loss, Loss)
    assert "logprobs" in loss.needs
    assert not loss.cross_sample
    terms = loss(logprobs.requires_grad_(), batch)
    torch.testing.assert_close(terms.loss, (-2 * logprobs).where(batch.trained, 0.0))


def test_a_loss_stays_the_loss_that_it_is() -> None:
    objective = PolicyObjective()
    assert bind(objective) is objective
    assert bind(bind(scaled)) == bind(scaled)


def test_what_is_declared_across_samples_is_bound_so() -> None:
    @declares(family="policy", cross_sample="batch")
    def ranked(logprobs: Tensor) -> Tensor:
        return -logprobs

    assert bind(ranked).cross_sample


@pytest.mark.parametrize(
    ("kind", "shape"), [(TokenBatch, (4, 5)), (TokenBatch, (4,)), (PreferenceBatch, (2,)), (PreferenceBatch, (4,))]
)
def test_a_value_of_a_sequence_or_pair_stands_on_each_of_its_tokens(
    kind: type[TokenBatch], shape: tuple[int, ...]
) -> None:
    logprobs, batch = made_up(kind)

    def given(logprobs: Tensor) -> Tensor:
        return (
            logprobs.sum() + torch.arange(4.0)[:, None].expand(4, 5)[tuple(slice(n) for n in shape)].reshape(shape)
            if len(shape) == 2
            else logprobs.sum() + torch.arange(float(shape[0]))
        )

    out = bind(given)(logprobs.requires_grad_(), batch).loss - logprobs.where(batch.trained, 0.0).sum()
    rows = [0, 0, 1, 1] if shape == (2,) else [0, 1, 2, 3]
    torch.testing.assert_close(out.detach(), torch.tensor(rows).float()[:, None].expand(4, 5), atol=1e-5, rtol=0)


def edits_the_batch(logprobs: Tensor, batch: PolicyBatch) -> Tensor:
    batch.old_logprobs.add_(1.0)
    return -logprobs


def metric_as_a_float(logprobs: Tensor) -> Terms:
    return Terms(-logprobs, {"mean": 1.0})


def metric_of_another_shape(logprobs: Tensor) -> Terms:
    return Terms(-logprobs, {"mean": logprobs.mean()})


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (edits_the_batch, r"edits its input 'batch.old_logprobs' in place; contract clause: pure"),
        (metric_as_a_float, r"metric 'mean' as a float, .*clause: terms"),
        (metric_of_another_shape, r"metric 'mean' of shape \[\], .*clause: terms"),
    ],
)
def test_what_breaks_the_contract_is_blamed_on_its_line(loss: Callable, words: str) -> None:
    logprobs, batch = made_up(PolicyBatch)
    with pytest.raises(UserCodeError, match=words) as caught:
        bind(loss)(logprobs.requires_grad_(), batch)
    assert caught.value.where == f"{__file__}:{loss.__code__.co_firstlineno}"


def test_a_line_is_found_whatever_folder_the_path_was_seen_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text("def mine(logprobs):\n    x = 1\n    return logprobs / [][x]\n")
    monkeypatch.chdir(tmp_path)
    from corollary.config.variants import from_file

    formula = from_file("mine.py:mine", PREFERENCE)()
    with pytest.raises(UserCodeError, match="IndexError") as caught:
        probe(formula, PreferenceBatch)
    assert caught.value.where == f"{os.path.realpath(tmp_path)}/mine.py:3"


def test_what_is_no_loss_is_held_to_its_shape() -> None:
    formula = variant(scaled)()
    ones = torch.ones(2, 3)
    torch.testing.assert_close(values(formula, {"logprobs": ones}, shape=(2, 3)), -2 * ones)
    with pytest.raises(UserCodeError, match=r"shape \[2, 3\], expected \[3, 2\]"):
        values(formula, {"logprobs": ones}, shape=(3, 2))
    with pytest.raises(UserCodeError, match="not finite"):
        values(formula, {"logprobs": ones * torch.inf}, shape=(2, 3))


def test_a_blame_without_an_exception_names_the_definition() -> None:
    with pytest.raises(UserCodeError) as caught:
        blamer(variant(scaled)())("terms", "is wrong", None)
    assert caught.value.where == f"{__file__}:{scaled.__code__.co_firstlineno}"
