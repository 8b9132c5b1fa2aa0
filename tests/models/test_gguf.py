"""A model written as GGUF and read again: the same logits, the same tokens, the same ends; and what such a file cannot say."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers import models as token_models
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from corollary.errors import ModelError
from corollary.models.gguf_writer import GGUFDtype, write_gguf
from corollary.models.heads import with_scalar_head
from corollary.models.load import LoadedModel, load_model
from models import small

TEXT = "What is 312 + 4? <|turn|> I'll  say:\n\n\tna, an; 😀 żółć <unk>"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COROLLARY_CACHE", str(tmp_path / "cache"))


def gemma_tokenizer() -> PreTrainedTokenizerFast:
    """Characters, bytes to fall back on, runs of spaces, a merge of merges, and every merge that its tokens allow."""
    control = ["<pad>", "<eos>", "<bos>", "<unk>", "<turn>", "<end>", "<mask>"]
    runs = ["▁" * n for n in (2, 3, 4)]
    letters = [chr(c) for c in range(33, 127)] + ["▁", "\n"]
    words = ["an", "na", "▁a", "ana", "▁an"]
    vocabulary = [*control, *runs, *(f"<0x{b:02X}>" for b in range(256)), *words, *letters]
    ids = {token: i for i, token in enumerate(vocabulary)}
    merges = [
        (token[:cut], token[cut:])
        for token in vocabulary
        for cut in sorted(range(1, len(token)), key=lambda c: (c, len(token) - c))
        if token[:cut] in ids and token[cut:] in ids
    ]
    backend = Tokenizer(
        token_models.BPE(vocab=ids, merges=merges, fuse_unk=True, unk_token="<unk>", byte_fallback=True)
    )
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>",
        mask_token="<mask>", additional_special_tokens=["<turn>", "<end>"], add_bos_token=True, clean_up_tokenization_spaces=False,
    )  # fmt: skip
    made.chat_template = "{{ bos_token }}{% for m in messages %}<turn>{{ m['content'] }}<end>{% endfor %}"
    return made


def gemma(rows: int, **settings: object) -> Gemma3ForCausalLM:
    """Seven layers, so that one of them sees everything and the others a window of four."""
    config = Gemma3TextConfig(
        vocab_size=rows, hidden_size=16, intermediate_size=24, num_hidden_layers=7, num_attention_heads=2, head_dim=256,
        num_key_value_heads=1, max_position_embeddings=64, sliding_window=4, eos_token_id=1,
        **({"query_pre_attn_scalar": 256} | settings),
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Gemma3ForCausalLM(config).eval()
    assert model.generation_config
    model.generation_config.eos_token_id = [1, 5]
    return model


def shaken(model: PreTrainedModel) -> PreTrainedModel:
    """Every weight other than its neighbours, as training leaves them."""
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=noise))
    return model


def rounded(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The model with its matrices rounded, in float32."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(parameter.to(dtype))
    return model


def specimen(kind: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if kind == "gemma3":
        words = gemma_tokenizer()
        return shaken(gemma(len(words))), words
    return shaken(small.model(tie_word_embeddings=kind == "llama, tied")), small.tokenizer()


def written(
    model: PreTrainedModel, words: PreTrainedTokenizerBase, path: Path, dtype: GGUFDtype = "f32"
) -> LoadedModel:
    write_gguf(model, words, path, dtype=dtype, title="tiny", licence="Apache-2.0")
    return load_model(str(path))


@pytest.mark.parametrize("kind", ["llama, tied", "llama, untied", "gemma3"])
@pytest.mark.parametrize(("name", "dtype"), [("f32", torch.float32), ("f16", torch.float16), ("bf16", torch.bfloat16)])
def test_a_file_reloads_to_the_logits_of_the_model_rounded_to_its_type(
    tmp_path: Path, kind: str, name: GGUFDtype, dtype: torch.dtype
) -> None:
    model, words = specimen(kind)
    again = written(model, words, tmp_path / "m.gguf", name)
    ids = torch.tensor([words(TEXT)["input_ids"]])
    expected = rounded(model, dtype)(ids).logits
    assert torch.equal(again.model(ids).logits, expected)
    assert torch.equal(model(ids).logits, expected) == (name == "f32")  # or the rounding was none


@pytest.mark.parametrize("kind", ["llama, tied", "gemma3"])
def test_a_file_reloads_to_the_same_tokenizer_template_and_ends(tmp_path: Path, kind: str) -> None:
    model, words = specimen(kind)
    again = written(model, words, tmp_path / "m.gguf")
    for text in (TEXT, "", "    an  ana   na", "<end> <|end|>"):
        assert again.tokenizer(text)["input_ids"] == words(text)["input_ids"]
    assert again.tokenizer.chat_template == words.chat_template
    assert again.eos_token_ids == ((1, 5) if kind == "gemma3" else (261,))
    assert len(again.tokenizer) == len(words)


@pytest.mark.parametrize(
    "split",
    [
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        ),
    ],
    ids=["gpt-2", "smollm"],
)
def test_digits_stay_apart_where_they_did(tmp_path: Path, split: pre_tokenizers.PreTokenizer) -> None:
    words = small.tokenizer()
    vocabulary = words.get_vocab()
    merged = {token: i for token, i in vocabulary.items() if i < 261} | {"12": 261}
    merges = [("a", "n"), ("<", "|"), ("|", ">"), ("Ċ", "Ċ"), ("Ġ", "a"), ("1", "2")]
    backend = Tokenizer(token_models.BPE(vocab=merged, merges=merges))
    backend.pre_tokenizer, backend.decoder = split, decoders.ByteLevel()
    words = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")
    again = written(small.model(rows=len(words)), words, tmp_path / "m.gguf")
    assert again.tokenizer("12 an")["input_ids"] == words("12 an")["input_ids"]


def test_rows_of_the_embedding_that_no_token_has_stay(tmp_path: Path) -> None:
    words = small.tokenizer()
    model = shaken(small.model(rows=len(words) + 3))
    again = written(model, words, tmp_path / "m.gguf")
    ids = torch.tensor([[1, 2, len(words) + 1]])
    assert torch.equal(again.model(ids).logits, model(ids).logits)
    assert again.tokenizer(TEXT)["input_ids"] == words(TEXT)["input_ids"]


def test_a_scalar_head_stays_behind(tmp_path: Path) -> None:
    model = shaken(with_scalar_head(small.model()))
    again = written(model, small.tokenizer(), tmp_path / "m.gguf")
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(again.model(ids).logits, model(ids).logits)


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=264, n_embd=16, n_layer=1, n_head=2))


ROPE = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (gpt2, "a model of type gpt2 is not written as GGUF; llama and gemma3_text are"),
        (lambda: small.model(rope_parameters=ROPE), "its rope_parameters is .*linear.* means .*default"),
        (
            lambda: small.model(attention_bias=True),
            "its attention_bias is True, and a GGUF file of a llama means False",
        ),
        (lambda: gemma(264, query_pre_attn_scalar=168), "its query_pre_attn_scalar is 168, .* means 256"),
        (lambda: gemma(264, layer_types=["full_attention"] * 7), "its layer_types is "),
    ],
    ids=["another architecture", "rope scaling", "biases", "attention scale", "layers"],
)
def test_a_model_that_the_file_could_not_say_is_refused(tmp_path: Path, model: object, said: str) -> None:
    assert callable(model)
    with pytest.raises(ModelError, match=said):
        write_gguf(model(), small.tokenizer(), tmp_path / "m.gguf")


def unigram() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(token_models.Unigram([("a", -1.0)])), eos_token="a")


def own_split() -> PreTrainedTokenizerFast:
    words = small.tokenizer()
    words.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex("x"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return words


def lowercased() -> PreTrainedTokenizerFast:
    words = small.tokenizer()
    words.backend_tokenizer.normalizer = normalizers.Lowercase()
    return words


def fewer_merges() -> PreTrainedTokenizerFast:
    words = gemma_tokenizer()
    model = words.backend_tokenizer.model
    assert isinstance(model, token_models.BPE)
    words.backend_tokenizer.model = token_models.BPE(
        vocab={"a": 0, "n": 1, "an": 2, "<unk>": 3}, merges=[], unk_token="<unk>", byte_fallback=True
    )
    return words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (unigram, "its model is Unigram"),
        (own_split, "it splits text by Split and ByteLevel with settings of its own"),
        (lowercased, r"it normalises text \(Lowercase\)"),
        (fewer_merges, "its merges do not follow from its tokens"),
    ],
)
def test_a_tokenizer_that_the_file_could_not_say_is_refused(tmp_path: Path, words: object, said: str) -> None:
    assert callable(words)
    with pytest.raises(ModelError, match=f"a GGUF file cannot say this tokenizer: {said}"):
        write_gguf(small.model(), words(), tmp_path / "m.gguf")


def test_a_weight_beyond_the_range_of_the_type_is_refused(tmp_path: Path) -> None:
    model = small.model()
    with torch.no_grad():
        model.model.embed_tokens.weight[3, 4] = 1e5
    with pytest.raises(ModelError, match=r"token_embd.weight holds a number that is not finite in f16; write f32"):
        write_gguf(model, small.tokenizer(), tmp_path / "m.gguf", dtype="f16")
    assert written(model, small.tokenizer(), tmp_path / "wide.gguf").model.model.embed_tokens.weight[3, 4] == 1e5


@pytest.mark.slow
def test_smollm2_reloads_to_the_same_logits(tmp_path: Path) -> None:
    loaded = small.smollm2()
    model = rounded(loaded.model, torch.bfloat16)
    again = written(model, loaded.tokenizer, tmp_path / "m.gguf", "bf16")
    ids = loaded.tokenizer(TEXT)["input_ids"]
    assert again.tokenizer(TEXT)["input_ids"] == ids
    with torch.no_grad():
        assert torch.equal(again.model(torch.tensor([ids])).logits, model(torch.tensor([ids])).logits)
