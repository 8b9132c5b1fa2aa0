"""A model in memory as one GGUF file, which llama.cpp and what is built on it run.

    matrices   in the type asked for, rounded to nearest, ties to even
    vectors    in float32, as llama.cpp wants them
    llama      the rows of q and k reordered: rotary pairs lie side by side there, half a head apart in transformers
    gemma3     the norms' weights plus one, which is what they multiply by

Source: the GGUF specification, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from corollary.errors import ModelError
from corollary.models.gguf_vocabulary import add_vocabulary
from corollary.models.heads import NAME as SCALAR_HEAD

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

GGUFDtype = Literal["f32", "f16", "bf16"]

_STORED = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
_ARCHITECTURES = {
    "llama": "llama",
    "gemma3_text": "gemma3",
}  # model_type of transformers → general.architecture of GGUF


def write_gguf(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    *,
    dtype: GGUFDtype = "f16",
    title: str = "",
    licence: str = "",
    description: str = "",
) -> None:
    """Write the model into the file `path`. A scalar head stays behind.

    Args:
        model: a Llama or a Gemma 3 that reads text, without adapters.
        tokenizer: with its chat template, where it has one.
        path: written anew.
        dtype: of the matrices.
        title: what programs call the model.
        licence: of the weights.
        description: where they come from.

    Raises:
        ModelError: an architecture, a setting or a tokenizer that such a file cannot say, or a weight beyond the range of `dtype`.
    """
    import gguf

    config = _sayable(model)
    with closing(gguf.GGUFWriter(path, _ARCHITECTURES[config["model_type"]])) as writer:
        writer.add_type(gguf.GGUFType.MODEL)
        for add, text in (
            (writer.add_name, title),
            (writer.add_license, licence),
            (writer.add_description, description),
        ):
            if text:
                add(text)
        _add_shape(writer, config)
        add_vocabulary(writer, tokenizer, model, rows=config["vocab_size"])
        _write_tensors(writer, model, config, dtype)


def _sayable(model: PreTrainedModel) -> dict[str, Any]:
    """The model's configuration, where a GGUF file can say it.

    Raises:
        ModelError: it cannot.
    """
    config = model.config.to_dict()
    kind = config["model_type"]
    if kind not in _ARCHITECTURES:
        raise ModelError(
            f"a model of type {kind} is not written as GGUF",
            hint=f"{' and '.join(_ARCHITECTURES)} are; export a folder, and convert that with llama.cpp's own script",
            code="E0322",
        )
    config["head_dim"] = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    for name, implied in _implied(config).items():
        if config.get(name) != implied:
            what = f"its {name} is {config.get(name)!r}, and a GGUF file of a {kind} means {implied!r}"
            raise ModelError(what, hint="export a folder", code="E0322")
    return config


def _implied(config: dict[str, Any]) -> dict[str, Any]:
    """Settings that have no place in the file: what its readers take them to be."""
    if config["model_type"] == "llama":
        plain = {"rope_theta": config["rope_parameters"]["rope_theta"], "rope_type": "default"}
        return {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "rope_parameters": plain}
    full = {"rope_theta": config["rope_parameters"]["full_attention"]["rope_theta"], "rope_type": "default"}
    sliding = {"rope_theta": 10000.0, "rope_type": "default"}
    layers = range(1, config["num_hidden_layers"] + 1)
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "use_bidirectional_attention": False,
        "head_dim": 256,  # llama.cpp divides by its root, transformers by that of the scalar below
        "query_pre_attn_scalar": 256,
        "layer_types": ["full_attention" if n % 6 == 0 else "sliding_attention" for n in layers],
        "rope_parameters": {"full_attention": full, "sliding_attention": sliding},
    }


def _add_shape(writer: GGUFWriter, config: dict[str, Any]) -> None:
    rope = config["rope_parameters"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    if config["model_type"] == "llama":
        writer.add_rope_dimension_count(config["head_dim"])
    else:
        writer.add_sliding_window(config["sliding_window"])


def _write_tensors(writer: GGUFWriter, model: PreTrainedModel, config: dict[str, Any], dtype: GGUFDtype) -> None:
    """The header, then one tensor after the other, so that the model stands in memory once."""
    import gguf

    types = {"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16}
    writer.add_file_type(types.get(dtype, gguf.LlamaFileType.MOSTLY_BF16))
    for name, tensor in _tensors(model, config):
        stored = _stored_type(tensor, dtype)
        kind, size = gguf.GGMLQuantizationType[stored.upper()], tensor.numel() * _STORED[stored].itemsize
        writer.add_tensor_info(name, tuple(tensor.shape), np.dtype("float32"), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, tensor in _tensors(model, config):
        writer.write_tensor_data(_bytes(name, tensor, _stored_type(tensor, dtype)))


def _tensors(model: PreTrainedModel, config: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The weights by their names in the file, as its readers take them; a head tied to the embedding is the embedding."""
    import gguf

    architecture = gguf.MODEL_ARCH[_ARCHITECTURES[config["model_type"]].upper()]
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    for name, parameter in model.named_parameters():
        if name.startswith(f"{SCALAR_HEAD}."):
            continue
        found = names.get_name(name, try_suffixes=(".weight",))
        if found is None:
            raise ModelError(f"a GGUF file has no place for {name}", hint="export a folder", code="E0322")
        yield found, _converted(name, parameter.detach().cpu(), config)


def _converted(name: str, tensor: Tensor, config: dict[str, Any]) -> Tensor:
    part = name.removesuffix(".weight").rpartition(".")[2]
    if config["model_type"] == "gemma3_text":
        return tensor.float() + 1 if part.endswith("norm") else tensor
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}.get(part)
    return side_by_side(tensor, heads) if heads else tensor


def side_by_side(weight: Tensor, heads: int) -> Tensor:
    """Rows reordered within each head so that row i of its first half is followed by row i of its second.

    >>> side_by_side(torch.tensor([[0], [1], [2], [3]]), heads=1)[:, 0]
    tensor([0, 2, 1, 3])
    """
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _stored_type(tensor: Tensor, dtype: GGUFDtype) -> GGUFDtype:
    return dtype if tensor.dim() > 1 else "f32"


def _bytes(name: str, tensor: Tensor, dtype: GGUFDtype) -> np.ndarray:
    rounded = tensor.to(_STORED[dtype]).contiguous()
    if not bool(torch.isfinite(rounded).all()):
        raise ModelError(f"{name} holds a number that is not finite in {dtype}", hint="write f32", code="E0323")
    return rounded.view(torch.uint8).numpy()
