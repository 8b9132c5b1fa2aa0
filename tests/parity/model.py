"""A tiny Llama with a byte-level tokenizer, a pad token of its own and a chat template, as a folder that both sides read."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from models import small

TEMPLATE = (
    "{% for m in messages %}<|turn|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|end|>{% endgeneration %}"
    "{% else %}{{ m['content'] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
"""Nothing stands behind the end of a turn; see docs/guides/parity.md#what-follows-the-end-of-a-turn."""


def tokenizer(template: str = TEMPLATE, *, begins: bool = False) -> PreTrainedTokenizerFast:
    """With `begins`, one that puts `<s>` before every text, as Llama's and Gemma's do."""
    made = small.tokenizer(template)
    made.add_special_tokens({"pad_token": "<pad>"})
    if begins:
        made.add_special_tokens({"bos_token": "<s>"})
        made.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", made.bos_token_id)]
        )
    return made


def folder(path: Path, *, template: str = TEMPLATE, seed: int = 0, begins: bool = False) -> Path:
    """Weights large enough that the answers' probabilities differ; another seed is another model."""
    words = tokenizer(template, begins=begins)
    made = small.model(rows=len(words), initializer_range=0.3)
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in made.parameters():
            weight += 0.05 * seed * torch.randn(weight.shape, generator=noise)
    made.save_pretrained(path)
    words.save_pretrained(path)
    return path
