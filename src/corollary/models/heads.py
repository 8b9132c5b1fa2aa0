"""A scalar head on a language model: one number per state, a critic's value or a reward model's reward.

    v(s) = w·h(s)      h(s) the final hidden state of the last token of s

The head is a submodule called `score`, as in transformers' models for sequence classification, whose folders hold the same weights:
`as_reward_model` makes one of them, and `load_model` reads it.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from corollary.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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


def without_scalar_head(model: M) -> M:
    """The same weights without the head; the model itself if it has none."""
    if not has_scalar_head(model):
        return model
    plain = copy.copy(model)
    plain._modules = {name: module for name, module in model.named_children() if name != NAME}
    return plain


def as_reward_model(model: PreTrainedModel, padding: int | None) -> PreTrainedModel:
    """The same weights as a model of transformers for sequence classification with one label, the reward.

    transformers reads the head at the last token that is not padding, so the padding token must not be the one that ends an answer:
    the reward would be that of an answer without its end.

    Args:
        model: with a scalar head.
        padding: see `padding_token`; None: its users can score one answer at a time.

    Raises:
        ModelError: transformers has no such model for this architecture.
    """
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    config = copy.deepcopy(model.config)
    kind: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    if kind is None:
        raise ModelError(f"transformers has no reward model of the architecture {config.model_type}")
    config.num_labels, config.problem_type = 1, "regression"
    config.get_text_config().pad_token_id = config.pad_token_id = padding
    with torch.device("meta"):
        made = kind(config)
    own, weights = set(made.state_dict()), model.state_dict()
    if lacking := sorted(own - set(weights)):
        raise ModelError(f"its weights do not make a reward model of transformers: {lacking[0]} is missing")
    made.load_state_dict({name: weights[name] for name in own}, assign=True)
    return made.to(model.dtype).eval()


def padding_token(tokenizer: PreTrainedTokenizerBase, ends: Collection[int]) -> int | None:
    """A control token that ends no answer, to fill rows with; None where there is none.

    Args:
        tokenizer: its own padding token is taken where it is of use, else its unknown token, else its first control token.
        ends: every token that ends an answer.
    """
    known = [tokenizer.pad_token_id, tokenizer.unk_token_id, *sorted(tokenizer.all_special_ids)]
    return next((token for token in known if isinstance(token, int) and token not in ends), None)
