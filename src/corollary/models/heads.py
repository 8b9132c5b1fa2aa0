"""A scalar head on a language model: one number per state, a critic's value or a reward model's reward.

    v(s) = w·h(s)      h(s) the final hidden state of the last token of s

The head is a submodule called `score`, as in transformers' models for sequence classification, whose folders hold the same weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    M = TypeVar("M", bound=PreTrainedModel)
else:
    M = TypeVar("M")

NAME = "score"


def with_scalar_head(model: M) -> M:
    """The model with a scalar head, in place: w = 0, so that every value starts at 0; one that it has stays as it is."""
    if has_scalar_head(model):
        return model
    width = int(model.config.get_text_config().hidden_size)
    head = torch.nn.Linear(width, 1, bias=False, device=model.device, dtype=model.dtype)
    torch.nn.init.zeros_(head.weight)
    model.add_module(NAME, head)
    return model


def has_scalar_head(model: PreTrainedModel) -> bool:
    """Whether the model ends in a scalar head, too."""
    return NAME in dict(model.named_children())
