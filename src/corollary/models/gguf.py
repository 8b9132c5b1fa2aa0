"""A GGUF file read into ordinary float32 weights: a folder of safetensors, config and tokenizer, as `transformers` writes them.

Quantised weights are turned into the float32 numbers that they stand for, exactly; what the quantisation lost stays lost.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from functools import cache
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, cast
from unittest.mock import patch

from corollary.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SINGLE_DIGITS = frozenset({"smollm", "starcoder", "refact", "command-r"})
"""Values of `tokenizer.ggml.pre` whose tokenizers take every digit alone before anything else, which `transformers` does not read."""


def read_gguf(path: Path, folder: Path) -> None:
    """Writes the model in the GGUF file `path` into `folder`.

    Raises:
        ModelError: the file is not a GGUF of a language model that `transformers` knows, or holds no tokenizer.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"gguf_file": path.name, "local_files_only": True, "trust_remote_code": False}
    try:
        with _once(), redirect_stderr(StringIO()):  # a progress bar that nothing else switches off
            tokenizer = AutoTokenizer.from_pretrained(path.parent, **where)
            model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **where)
            end_of_turn = _number(path, "tokenizer.ggml.eot_token_id")
        splits_digits = _pre_tokenizer(path) in _SINGLE_DIGITS
    except ImportError as error:
        hint = "pip install gguf accelerate"
        raise ModelError(
            f"reading GGUF needs a package ({_first_line(error)})", where=str(path), hint=hint, code="E0305"
        ) from error
    except Exception as error:  # whatever a damaged or unknown file makes its readers raise
        raise ModelError(f"not a readable GGUF model ({_first_line(error)})", where=str(path), code="E0306") from error
    if splits_digits:
        _split_digits(tokenizer)
    _write(model, tokenizer, folder, end_of_turn)


@contextmanager
def _once() -> Iterator[None]:
    """`transformers` reads the file's header and makes the table of names once, instead of four and four hundred times."""
    import gguf
    import numpy as np

    class Reader(gguf.GGUFReader):
        @property
        def data(self) -> np.ndarray:
            return self._plain

        @data.setter
        def data(self, mapped: np.ndarray) -> None:
            self._plain = np.asarray(mapped)  # the same bytes; slicing a memmap costs ten times as much

    names = cache(gguf.get_tensor_name_map)
    with patch.object(gguf, "GGUFReader", cache(Reader)), patch.object(gguf, "get_tensor_name_map", names):
        yield


def _number(path: Path, key: str) -> int | None:
    """The number under `key`, where there is one."""
    import gguf

    field = gguf.GGUFReader(str(path)).get_field(key)
    return None if field is None else int(field.contents())


def _pre_tokenizer(path: Path) -> str:
    """The string under `tokenizer.ggml.pre`: key, uint32 8 (a string), uint64 length, UTF-8; "" where there is none.

    Found by its bytes, because `gguf.GGUFReader` takes seconds for the vocabulary before it.
    """
    key = b"tokenizer.ggml.pre" + struct.pack("<I", 8)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = content.find(key) + len(key)
        if start < len(key):
            return ""
        (length,) = struct.unpack_from("<Q", content, start)
        return content[start + 8 : start + 8 + min(length, 100)].decode(errors="replace")


def _split_digits(tokenizer: PreTrainedTokenizerBase) -> None:
    from tokenizers import pre_tokenizers

    backend = cast("Tokenizer", tokenizer.backend_tokenizer)
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])


def _write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, end_of_turn: int | None) -> None:
    from safetensors.torch import save_file
    from transformers import GenerationConfig

    config = model.config
    vars(config).pop("quantization_config", None)  # the weights are no longer quantised
    config.architectures = [type(model).__name__]
    vars(config).pop("_model_name_or_path", None)  # a title, not a place
    config.save_pretrained(folder)
    ends = sorted({token for token in (config.eos_token_id, end_of_turn) if token is not None})
    ids = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": ends if len(ends) > 1 else config.eos_token_id,
        "pad_token_id": config.pad_token_id,
    }
    GenerationConfig(**ids).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _drop_strangers(folder / "tokenizer.json", config.get_text_config().vocab_size)
    weights = {tensor.data_ptr(): (name, tensor.contiguous()) for name, tensor in reversed(model.state_dict().items())}
    save_file(
        dict(reversed(weights.values())), folder / "model.safetensors", metadata={"format": "pt"}
    )  # a head tied to the embedding stands once


def _drop_strangers(path: Path, rows: int) -> None:
    """Takes out the added tokens that the file does not hold: `transformers` gives every tokenizer of a kind those of its first."""
    content = json.loads(path.read_bytes())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < rows]
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
