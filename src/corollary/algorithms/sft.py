"""Supervised fine-tuning: make worked answers likelier, token by token.

L = -Σ w·logπ(answer token)      trained on the answer's tokens only, end-of-sequence included
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from pydantic import Field

from corollary.config import Config
from corollary.data.collate import token_batch
from corollary.engines.base import Trainer
from corollary.errors import DataError
from corollary.losses.likelihood import NLL
from corollary.ops.reduce import Average, TokenMean
from corollary.types import Prompt, Step


class SFTConfig(Config):
    """All that an SFT run may vary."""

    type: Literal["sft"] = "sft"
    examples_per_step: int = Field(default=16, ge=1)
    """worked examples of one optimizer step"""
    answer: str = "{answer}"
    """the answer to learn, made of columns of the data set"""
    loss: NLL = NLL()
    """the likelihood loss"""
    average: Average = TokenMean()
    """of the step's loss over tokens and sequences"""


def steps(
    config: SFTConfig,
    *,
    trainer: Trainer,
    encode: Callable[[str], Sequence[int]],
    examples: Iterator[list[Prompt]],
) -> Iterator[Step]:
    """One optimizer step per item. `encode` turns an answer's text into tokens that end with end-of-sequence."""
    for asked in examples:
        batch = token_batch(asked, [encode(_answer(prompt, config.answer)) for prompt in asked], config.average)
        yield Step(trainer.step(batch, config.loss))


def _answer(prompt: Prompt, template: str) -> str:
    try:
        text = template.format_map(prompt.columns)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise DataError(
            f"example {prompt.id} cannot fill the answer {template!r}: {error}",
            where="algorithm.answer",
            hint=f"its columns are {', '.join(prompt.columns)}",
        ) from error
    if not text:
        raise DataError(f"example {prompt.id} has an empty answer", where="algorithm.answer", hint="drop such rows")
    return text
