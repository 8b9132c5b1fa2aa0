"""A tiny model that knows a few answers by heart, and the real command that serves it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from corollary.data.chat import encode_chat
from models import small

ANSWERS = {
    "greet": "Grüße 😀👍🏽, 日本語!",
    "count": "one\nQ: two\nQ: three",
    "go on": "na " * 24,
}
ENDLESS = ("sing", "la" * 150)
"""what is asked, and how an answer begins that never ends"""


def taught(path: Path) -> Path:
    """A model folder whose model gives ANSWERS, greedily, token by token."""
    words = small.tokenizer()
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=4096, bos_token_id=None, eos_token_id=words.eos_token_id,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    lessons = [*ANSWERS.items(), ENDLESS]
    prompts = [encode_chat(words, [{"role": "user", "content": asked}]).token_ids for asked, _ in lessons]
    answers = [(*words(said)["input_ids"], words.eos_token_id) for said in ANSWERS.values()]
    answers.append(tuple(words(ENDLESS[1])["input_ids"]))
    width = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    ids, labels = torch.zeros(len(prompts), width, dtype=torch.long), torch.full((len(prompts), width), -100)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        whole = torch.tensor([*prompt, *answer])
        ids[row, : len(whole)] = whole
        labels[row, len(prompt) : len(whole)] = whole[len(prompt) :]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loss = torch.tensor(1.0)
    for _ in range(400):
        loss = model(ids, labels=labels).loss
        if loss < 0.002:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.002
    model.save_pretrained(path)
    words.save_pretrained(path)
    return path


@contextmanager
def serving(*arguments: str | Path, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """(address, process) of `corollary serve`, on a free port; terminated afterwards if it runs still."""
    process = subprocess.Popen(
        [sys.executable, "-m", "corollary", "serve", *map(str, arguments), "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )  # fmt: skip
    try:
        assert process.stdout
        line = process.stdout.readline()
        address = re.search(r"http://\S+/v1", line)
        assert address, (line, process.stderr and process.stderr.read())
        yield address[0], process
    finally:
        process.terminate()
        process.communicate(timeout=30)
