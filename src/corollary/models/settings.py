"""Which model, and how it is held: what every command that loads one can be told."""

from __future__ import annotations

from typing import Literal

import torch

from corollary.config import Config
from corollary.errors import ConfigError
from corollary.models.lora import LoRA


class ModelConfig(Config):
    """The model that the run starts from."""

    path: str = "smollm2-135m-instruct"
    """name in `corollary models`, local folder, .gguf file, or hub id"""
    chat_template: str = ""
    """for a model that has none, or in place of its own: chatml, gemma, plain, or a .jinja file; exported with the model"""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """of the computation; the optimizer keeps float32 weights. auto: bfloat16 where the processor multiplies it natively"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU where there is one"""
    lora: LoRA | None = None
    """train adapters in place of the weights"""

    def torch_device(self) -> torch.device:
        """The device.

        Raises:
            ConfigError: cuda is asked for and there is none.
        """
        found = torch.cuda.is_available()
        if self.device == "cuda" and not found:
            raise ConfigError("cuda is asked for and no GPU is here", where="model.device", hint="set model.device=cpu")
        return torch.device("cuda" if found and self.device != "cpu" else "cpu")

    def resolved_dtype(self) -> Literal["float32", "bfloat16"]:
        """The dtype of the computation."""
        if self.dtype != "auto":
            return self.dtype
        fast = self.torch_device().type == "cuda" or torch.cpu._is_avx512_bf16_supported()
        return "bfloat16" if fast else "float32"
