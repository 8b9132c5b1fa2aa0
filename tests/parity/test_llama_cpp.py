"""llama.cpp reads our GGUF files: the same tokens, the same probabilities. `make parity` installs it (xllamacpp, its server as a wheel)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from corollary.models.gguf_writer import write_gguf
from corollary.models.load import LoadedModel, load_model

llama_cpp = pytest.importorskip(
    "xllamacpp", reason="xllamacpp is not installed; `make parity` makes an environment that has it"
)

PROMPTS = (
    "The capital of France is",
    "Tom had 12 apples and gave 5 of them to Ann. 12 - 5 =",
    "def add(a, b):\n    return",
    "Ça coûte 3,50 €: ",
)


def answered(path: Path, prompt: str, tokens: int = 12) -> tuple[list[int], list[dict[int, float]]]:
    """What llama.cpp says: the greedy answer's token ids, and at each the log-probabilities of the five likeliest tokens, in nats."""
    settings = llama_cpp.CommonParams()
    settings.model.path = str(path)
    settings.n_ctx, settings.cpuparams.n_threads, settings.warmup, settings.verbosity = 512, 1, False, 0
    server = llama_cpp.Server(settings)
    told: Any = server.handle_completions({"prompt": prompt, "temperature": 0, "max_tokens": tokens, "n_probs": 5})
    told = json.loads(told) if isinstance(told, str) else told
    steps = told["choices"][0]["logprobs"]["content"]
    return [step["id"] for step in steps], [
        {top["id"]: top["logprob"] for top in step["top_logprobs"]} for step in steps
    ]


@torch.no_grad()
def logprobs(model: LoadedModel, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Ours, of every token at every position of the answer, in nats, (answer, vocabulary)."""
    ids = torch.tensor([prompt + answer])
    return model.model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)


@pytest.mark.parametrize(("name", "bos"), [("smollm2-135m-instruct", False), ("gemma3-270m", True)])
def test_llama_cpp_reads_the_same_model(tmp_path: Path, name: str, bos: bool) -> None:
    model = load_model(name)
    model.model.float()
    write_gguf(model.model, model.tokenizer, tmp_path / "model.gguf", title=name)
    for prompt in PROMPTS:
        answer, tops = answered(tmp_path / "model.gguf", prompt)
        read = model.tokenizer(prompt)["input_ids"]
        assert (read[0] == model.tokenizer.bos_token_id) == bos
        ours = logprobs(model, read, answer)
        for at, top in enumerate(tops):
            for token, theirs in top.items():  # llama.cpp keeps keys and values in 16 bits
                assert abs(float(ours[at, token]) - theirs) < 0.05, (prompt, at, token)
