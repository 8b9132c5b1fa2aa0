"""A real transformer, small enough for a test: two layers, grouped heads, tied or untied head, any dtype."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from corollary.types import PolicyBatch, Prompt

VOCABULARY, EOS = 24, 2


def model(dtype: torch.dtype = torch.float64, seed: int = 0) -> LlamaForCausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, max_position_embeddings=64, eos_token_id=EOS, tie_word_embeddings=True,
                initializer_range=0.3,
            )
        )  # fmt: skip
    made = made.to(dtype)
    if dtype == torch.float64:  # transformers' own norm rounds to float32, which would hide what is compared at 1e-12
        for layer in (*made.model.layers, made.model):
            for name in ("input_layernorm", "post_attention_layernorm", "norm"):
                if name in dict(layer.named_children()):
                    setattr(layer, name, torch.nn.RMSNorm(16, eps=1e-6, dtype=dtype))
    return made


def decode(ids: object) -> str:
    return " ".join(str(i) for i in ids if i != EOS)  # type: ignore[attr-defined]


def prompts(*lengths: int) -> list[Prompt]:
    generator = torch.Generator().manual_seed(1)
    return [
        Prompt(
            id=f"p{i}", token_ids=tuple(torch.randint(3, VOCABULARY, (n,), generator=generator).tolist()), text=f"p{i}"
        )
        for i, n in enumerate(lengths)
    ]


def batch(dtype: torch.dtype = torch.float64, group_size: int = 3) -> PolicyBatch:
    """Three prompts of unequal length, three answers each of unequal length, weights of a token mean."""
    generator = torch.Generator().manual_seed(2)
    asked = prompts(5, 1, 9)
    size = len(asked) * group_size
    lengths = torch.tensor([4, 1, 7, 2, 6, 3, 1, 5, 8])[:size]
    targets = torch.randint(3, VOCABULARY, (size, int(lengths.max())), generator=generator)
    real = torch.arange(targets.shape[1]) < lengths[:, None]
    return PolicyBatch(
        prompts=tuple(p.token_ids for p in asked),
        prompt_of=torch.arange(len(asked)).repeat_interleave(group_size),
        targets=targets,
        lengths=lengths,
        weights=(real / real.sum()).to(dtype),
        advantages=torch.randn(size, 1, generator=generator, dtype=dtype).expand(-1, targets.shape[1]),
        sampler_logprobs=torch.full(targets.shape, -1.0, dtype=dtype),
    )
