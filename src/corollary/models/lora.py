"""Low-rank adapters: the model's own weights stay as they are, and each chosen linear layer learns a small product beside its own.

    y = W·x + (α/r)·B·A·x      A [r, in], B [out, r];   B = 0 at the start, so the first model is the one that was loaded

The adapters sit inside the model (peft puts them there), so trainer, sampler and layouts know nothing of them: only what
requires a gradient is trained and saved. With the adapters off the model is the reference policy, at no memory.

Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685; on 4-bit weights Dettmers et al. 2023, https://arxiv.org/abs/2305.14314.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor

from corollary.config import Config
from corollary.errors import ConfigError
from corollary.seeding import stream

if TYPE_CHECKING:
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer
    from transformers import PreTrainedModel

NAME = "default"  # peft's own name for the only adapter


class LoRA(Config):
    """Adapters in place of a training of all weights."""

    rank: int = Field(default=16, ge=1)
    """r, of every adapter"""
    alpha: float = Field(default=32.0, gt=0)
    """α: an adapter's product counts α/r"""
    layers: tuple[str, ...] | Literal["all_linear"] = "all_linear"
    """names of the linear layers that get one, such as [q_proj, v_proj]; all_linear: all but the output head"""
    base: Literal["as_loaded", "nf4"] = "as_loaded"
    """the frozen weights below them; nf4: 4-bit NormalFloat (QLoRA), an eighth of float32's memory; needs the extra qlora"""


def with_lora(model: PreTrainedModel, settings: LoRA, *, seed: int) -> PreTrainedModel:
    """The model with adapters, in place; nothing else of it requires a gradient.

        A ~ U(-1/√in, 1/√in)      B = 0

    Args:
        model: a causal language model.
        settings: see there.
        seed: of A, each layer's own stream.

    Raises:
        ConfigError: no layer has one of the names; 4-bit weights are asked for and the package that makes them is not installed.
    """
    from peft import inject_adapter_in_model

    if settings.base == "nf4":
        _quantise(model)
    try:
        inject_adapter_in_model(_peft_config(settings), model)
    except ValueError as error:  # peft found nothing of these names
        names = sorted({n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)})
        raise ConfigError(
            f"no linear layer is called {settings.layers}", where="model.lora.layers", hint=f"it has {', '.join(names)}"
        ) from error
    with torch.no_grad():
        for name, layer in _layers(model):
            a, _ = _factors(layer)
            bound = a.shape[1] ** -0.5
            a.copy_(torch.from_numpy(stream(seed, "lora", name).uniform(-bound, bound, tuple(a.shape))))
    return model


def has_lora(model: PreTrainedModel) -> bool:
    """Whether the model has adapters."""
    return next(_layers(model), None) is not None


@contextmanager
def without_adapters(model: PreTrainedModel) -> Iterator[None]:
    """The model as it was loaded, inside the block; with its adapters again afterwards."""
    layers = [layer for _, layer in _layers(model)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """A copy without adapters whose weights are W + (α/r)·B·A, added up in float32 at least; the model itself without any.

    W are the weights that the adapters were trained on: of 4-bit ones the numbers that they stand for.
    """
    if not has_lora(model):
        return model
    plain = copy.deepcopy(model)
    with torch.no_grad():
        for name, layer in list(_layers(plain)):
            base = layer.get_base_layer()
            assert isinstance(base, torch.nn.Linear)
            weight = _weight(base)
            wide = torch.promote_types(weight.dtype, torch.float32)
            a, b = (factor.to(wide) for factor in _factors(layer))
            whole = torch.nn.Linear(*reversed(weight.shape), bias=base.bias is not None, device="meta")
            whole.weight = torch.nn.Parameter((weight.to(wide) + layer.scaling[NAME] * (b @ a)).to(weight.dtype))
            whole.bias = base.bias
            plain.set_submodule(name, whole)
    return plain.requires_grad_(True)


def save_adapter(model: PreTrainedModel, settings: LoRA, folder: Path, *, base: str) -> Path:
    """Write the adapters, and a scalar head where there is one, as a folder that `peft.PeftModel.from_pretrained` loads.

    Args:
        model: with adapters.
        settings: that they were made with.
        folder: made where it is not there.
        base: name of the model below them.
    """
    from safetensors.torch import save_file

    state = {
        f"base_model.model.{name.replace(f'.{NAME}.', '.')}": parameter.detach().contiguous().cpu()
        for name, parameter in model.named_parameters()
        if "lora_" in name or name.startswith("score.")
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = _peft_config(settings)
    config.target_modules = sorted({name.rpartition(".")[2] for name, _ in _layers(model)})
    config.base_model_name_or_path, config.inference_mode = base, True
    config.modules_to_save = ["score"] if any(".score." in name for name in state) else None
    config.task_type = "SEQ_CLS" if config.modules_to_save else "CAUSAL_LM"
    config.save_pretrained(str(folder))
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return folder


def _peft_config(settings: LoRA) -> LoraConfig:
    from peft import LoraConfig

    layers = "all-linear" if settings.layers == "all_linear" else list(settings.layers)
    return LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=layers)  # type: ignore[arg-type]


def _layers(model: PreTrainedModel) -> Iterator[tuple[str, LoraLayer]]:
    """Every layer with an adapter, by its name."""
    from peft.tuners.lora import LoraLayer

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def _quantise(model: PreTrainedModel) -> None:
    """Replace every linear layer but the output head by one with 4-bit weights, frozen; in place."""
    try:
        from bitsandbytes.nn import Linear4bit, Params4bit
    except ImportError as error:
        raise ConfigError(
            "4-bit weights need the package bitsandbytes",
            where="model.lora.base",
            hint="pip install 'corollary[qlora]', or set model.lora.base=as_loaded",
        ) from error
    device, dtype, head = model.device, model.dtype, model.get_output_embeddings()
    for name, layer in list(model.named_modules()):
        if isinstance(layer, torch.nn.Linear) and layer is not head:
            small = Linear4bit(
                layer.in_features, layer.out_features, layer.bias is not None, compute_dtype=dtype, quant_type="nf4", device="meta"
            )  # fmt: skip
            small.weight = Params4bit(layer.weight.detach().cpu(), requires_grad=False, quant_type="nf4")  # type: ignore[call-arg]
            small.bias = layer.bias
            small.to(device)  # moving it makes the 4 bits
            model.set_submodule(name, small)


def _weight(layer: torch.nn.Linear) -> Tensor:
    """`[out, in]` the layer's weights as numbers, of 4-bit ones too."""
    if layer.weight.is_floating_point():
        return layer.weight
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Params4bit

    assert isinstance(layer.weight, Params4bit)
    return dequantize_4bit(layer.weight.data, layer.weight.quant_state)


def _factors(layer: LoraLayer) -> tuple[Tensor, Tensor]:
    """(A `[r, in]`, B `[out, r]`)."""
    a, b = layer.lora_A[NAME], layer.lora_B[NAME]
    assert isinstance(a, torch.nn.Linear)
    assert isinstance(b, torch.nn.Linear)
    return a.weight, b.weight
