"""What is measured: the settings of one held-out set."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import Field, field_validator

from corollary.config import Config
from corollary.custom import is_reference
from corollary.data.datasets import DataConfig
from corollary.rewards.verdicts import JUDGES


class EvaluationConfig(Config):
    """What is measured on held-out prompts before and after."""

    data: DataConfig
    """held-out prompts"""
    judge: str = "number"
    """how an answer is read, strictly and leniently. Numbers: an `equation` alone, a `number` alone, a last line `#### 7` (`hash`), a
    last `\\boxed{7}` (`boxed`); `math`: LaTeX as mathematics; `code`: tests in a sandbox; `instructions`: rules; or your own reward,
    path/to/file.py:function; `environment`: episodes are played, strict is full mark and lenient any reward above 0; `none`: no
    answers, only what the algorithm says of held-out examples"""
    params: dict[str, Any] = Field(default_factory=dict)
    """parameters of the judge, such as {sandbox: bubblewrap} of code"""
    answer: str = "answer"
    """column of the gold answer"""
    samples: int = Field(default=4, ge=0)
    """sampled answers per prompt, for pass@k"""
    temperature: float = Field(default=1.0, gt=0)
    """of the sampled answers"""
    max_tokens: int = Field(default=256, ge=1)
    """of one answer"""
    stop: tuple[str, ...] = ()
    """strings that end an answer"""

    @field_validator("judge")
    @classmethod
    def _known(cls, value: str) -> str:
        if value in (*JUDGES, "environment", "none") or is_reference(value):
            return value
        close = difflib.get_close_matches(value, JUDGES, n=1)
        hint = f"did you mean {close[0]}?" if close else f"give one of {', '.join(JUDGES)}, environment, none"
        raise ValueError(f"unknown judge {value!r}; {hint} (your own is path/to/file.py:function)")
