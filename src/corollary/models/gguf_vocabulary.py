"""A tokenizer as the lists of a GGUF file: its tokens by id, their types, and what merges first.

Two kinds of byte-pair encoding are written: over bytes (`gpt2` in the file), where the merges stand in the file; and over
characters with single bytes to fall back on (`llama`), where a token's score says how early it is merged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from corollary.errors import ModelError
from corollary.models.load import stop_token_ids

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_NORMAL, _CONTROL, _OWN, _UNUSED, _BYTE = 1, 3, 4, 5, 6  # `tokenizer.ggml.token_type`
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
_SPACE = "\u2581"  # stands for a space in vocabularies over characters
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False}
_SPLITS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_BYTE_LEVEL | {"use_regex": True}],
    "smollm": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL | {"use_regex": True}],
    "llama-bpe": [
        {"type": "Split", "pattern": {"Regex": _LLAMA3}, "behavior": "Isolated", "invert": False},
        _BYTE_LEVEL | {"use_regex": False},
    ],
}
"""`tokenizer.ggml.pre` → how text is cut before any merge"""


def add_vocabulary(
    writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, *, rows: int
) -> None:
    """Write the tokenizer into the file's header.

    Args:
        writer: of a file whose header is not yet written.
        tokenizer: its chat template and the tokens that end an answer go along.
        model: names more of those.
        rows: of the embedding; what the tokenizer leaves of them is written as unused.

    Raises:
        ModelError: a kind of tokenizer that such a file cannot say.
    """
    backend = json.loads(cast("Tokenizer", tokenizer.backend_tokenizer).to_str())
    if backend["model"]["type"] != "BPE":
        raise _unsayable(f"its model is {backend['model']['type']}")
    vocabulary = {index: token for token, index in tokenizer.get_vocab().items()}
    tokens = [vocabulary.get(index, f"[PAD{index}]") for index in range(rows)]
    known = {i: _CONTROL if token.special else _OWN for i, token in tokenizer.added_tokens_decoder.items()}
    types = [known.get(i, _NORMAL if i in vocabulary else _UNUSED) for i in range(rows)]
    if backend["model"]["byte_fallback"]:
        _add_characters(writer, backend, tokens, types)
    else:
        _add_bytes(writer, backend, tokens, types)
    _add_ends(writer, tokenizer, model)


def _add_bytes(writer: GGUFWriter, backend: dict[str, Any], tokens: list[str], types: list[int]) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_split_name(backend))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in backend["model"]["merges"]])


def _split_name(backend: dict[str, Any]) -> str:
    """The file's name for how text is cut before any merge.

    Raises:
        ModelError: there is none.
    """
    if backend["normalizer"] is not None:
        raise _unsayable(f"it normalises text ({backend['normalizer']['type']})")
    whole: dict[str, Any] = backend["pre_tokenizer"] or {"type": "nothing"}
    steps: list[dict[str, Any]] = whole["pretokenizers"] if whole["type"] == "Sequence" else [whole]
    plain = [{key: value for key, value in step.items() if key != "trim_offsets"} for step in steps]
    for name, split in _SPLITS.items():
        if plain == split:
            return name
    raise _unsayable(f"it splits text by {' and '.join(step['type'] for step in steps)} with settings of its own")


def _add_characters(writer: GGUFWriter, backend: dict[str, Any], tokens: list[str], types: list[int]) -> None:
    """Scores fall with the id, so the merge that makes the lowest id is the first, as in the model's own list of merges."""
    if backend["normalizer"] != {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}:
        raise _unsayable("it marks spaces in a way of its own")
    _check_merges(backend["model"])
    spaces = [len(token) > 1 and set(token) == {_SPACE} for token in tokens]
    types = [
        _BYTE if _BYTE_TOKEN.fullmatch(token) else _OWN if run else kind
        for token, run, kind in zip(tokens, spaces, types, strict=True)
    ]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([" " * len(t) if run else t for t, run in zip(tokens, spaces, strict=True)])
    writer.add_token_scores([-float(i) if kind == _NORMAL else -1000.0 for i, kind in enumerate(types)])
    writer.add_token_types(types)
    writer.add_add_space_prefix(False)


def _check_merges(model: dict[str, Any]) -> None:
    """A score per token says the merges only where every pair that makes a token is one, the lowest ids first.

    Raises:
        ModelError: it is otherwise here.
    """
    vocabulary = model["vocab"]
    made = [vocabulary[left + right] for left, right in model["merges"]]
    pairs = sum(t[:cut] in vocabulary and t[cut:] in vocabulary for t in vocabulary for cut in range(1, len(t)))
    if made != sorted(made) or len(made) != pairs:
        raise _unsayable("its merges do not follow from its tokens")


def _add_ends(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Which tokens begin and end, and the chat template."""
    ids: dict[Callable[[int], None], Any] = {
        writer.add_bos_token_id: tokenizer.bos_token_id,
        writer.add_eos_token_id: tokenizer.eos_token_id,
        writer.add_unk_token_id: tokenizer.unk_token_id,
        writer.add_pad_token_id: tokenizer.pad_token_id,
    }
    others = [token for token in stop_token_ids(model, tokenizer) if token != tokenizer.eos_token_id]
    for add, token in (ids | {writer.add_eot_token_id: next(iter(others), None)}).items():
        if token is not None:
            add(token)
    begins = tokenizer.bos_token_id is not None and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    writer.add_add_bos_token(begins)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.get_chat_template())


def _unsayable(what: str) -> ModelError:
    return ModelError(f"a GGUF file cannot say this tokenizer: {what}", hint="export a folder", code="E0322")
