"""Tokens per second of generation and training, and the time of a whole GRPO step by phase, on this machine.

    python benchmarks/step.py [--repeats 5] [--prompts 8] [--group-size 8] [--tokens 64] [--allocator default] [--json]

Work: SmolLM2-135M-Instruct, prompts of word problems, every answer forced to exactly `--tokens` tokens, so that two runs do the
same. Each figure is the median of the repeats, with the least and the largest; the first, untimed round warms up.
`--allocator default` leaves the C allocator as it is, to see what the setting in run/memory.py gives.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence

import torch

from corollary.data.collate import policy_batch
from corollary.data.datasets import DataConfig, load_prompts
from corollary.engines.sampler import EmbeddedSampler
from corollary.engines.trainer import EmbeddedTrainer, OptimizerConfig, TrainerConfig
from corollary.losses.policy import PolicyObjective
from corollary.models.load import load_model
from corollary.ops.reduce import TokenMean
from corollary.run.memory import keep_large_blocks
from corollary.run.recipe import ModelConfig
from corollary.run.record import peak_memory_gib
from corollary.types import Group, Prompt, Rollout, Sampling


def one_step(
    sampler: EmbeddedSampler,
    trainer: EmbeddedTrainer,
    prompts: Sequence[Prompt],
    options: argparse.Namespace,
    number: int,
) -> dict[str, float]:
    """Seconds and tokens of generating, scoring (a forward alone) and training one batch."""
    sampling = Sampling(max_tokens=options.tokens)
    start = time.perf_counter()
    answers = sampler.generate(prompts, options.group_size, sampling, names=("benchmark", number))
    generated = time.perf_counter()
    groups: list[Group] = [
        [Rollout(prompt=p, completion=c, reward=float(i)) for i, c in enumerate(group)]
        for p, group in zip(prompts, answers, strict=True)
    ]
    advantages = torch.linspace(-1, 1, options.group_size).expand(len(prompts), -1)
    batch = policy_batch(groups, advantages, TokenMean())
    collated = time.perf_counter()
    trainer.logprobs(batch)
    scored = time.perf_counter()
    trainer.step(batch, PolicyObjective())
    trained = time.perf_counter()
    tokens = int(batch.lengths.sum())
    return {
        "generated tokens/s": tokens / (generated - start),
        "scored tokens/s": tokens / (scored - collated),
        "trained tokens/s": tokens / (trained - scored),
        "generate s": generated - start,
        "score s": scored - collated,
        "train s": trained - scored,
        "step s (generate + train)": generated - start + trained - scored,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("repeats", 5), ("prompts", 8), ("group-size", 8), ("tokens", 64)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--layout", default="shared_prefix", choices=["shared_prefix", "packed", "padded"])
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--allocator", default="kept", choices=["kept", "default"])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.allocator == "kept":
        keep_large_blocks()
    settings = ModelConfig(dtype=options.dtype)
    model = load_model(settings.path, dtype=settings.resolved_dtype())
    prompts, _ = load_prompts(
        DataConfig(path="small-problems/train", template="{question}", limit=options.prompts), model.tokenizer
    )
    trainer = EmbeddedTrainer(
        model.model, TrainerConfig(layout=options.layout), OptimizerConfig(lr=0.0), total_steps=options.repeats + 1
    )
    sampler = EmbeddedSampler(model.model, decode=lambda ids: "", eos_token_ids=[-1])  # nothing ends an answer
    rows = [one_step(sampler, trainer, prompts, options, number) for number in range(options.repeats + 1)][1:]
    result = {
        "machine": {"threads": torch.get_num_threads(), "capability": torch.backends.cpu.get_cpu_capability()},
        "dtype": settings.resolved_dtype(),
        "work": {k: getattr(options, k) for k in ("prompts", "group_size", "tokens", "layout", "allocator", "repeats")},
        "prompt tokens": [len(p.token_ids) for p in prompts],
        "peak memory GiB": round(peak_memory_gib(), 2),
        "figures": {
            name: {"median": statistics.median(values), "least": min(values), "largest": max(values)}
            for name in rows[0]
            if (values := [row[name] for row in rows])
        },
    }
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(
        f"{result['dtype']}, {torch.get_num_threads()} threads, {result['work']}, peak {result['peak memory GiB']} GiB"
    )
    for name, figure in result["figures"].items():
        print(f"{name:28}{figure['median']:10.1f}   [{figure['least']:.1f}, {figure['largest']:.1f}]")


if __name__ == "__main__":
    main()
