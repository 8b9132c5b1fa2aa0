"""What a model earns before any RL: the figures by which a task is chosen. GRPO learns from groups whose rewards differ.

    python benchmarks/base_rates.py [--problems 200] [--model smollm2-135m-instruct] [--model runs/demo-sft-0/model] [--task zero-shot]

For each model and way of asking, at temperature 1 with 8 answers per problem: share right by the strict and by the lenient
extraction, share of groups with both right and wrong answers (strict), tokens per answer.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from corollary.data.datasets import DataConfig, Example, load_prompts
from corollary.engines.sampler import EmbeddedSampler
from corollary.models.load import LoadedModel, load_model
from corollary.rewards.arithmetic import judge
from corollary.run.memory import keep_large_blocks
from corollary.run.recipe import ModelConfig
from corollary.types import Sampling

SYSTEM = "Write one equation that solves the problem."
SHOTS = [
    Example(user="Tom has 3 apples. He buys 4 more apples. How many apples does Tom have now?", assistant="3 + 4 = 7"),
    Example(user="There are 15 birds on a tree. 6 of them fly away. How many birds are left?", assistant="15 - 6 = 9"),
    Example(user="Each box holds 8 pens. How many pens are in 5 boxes?", assistant="8 * 5 = 40"),
    Example(user="Mia shares 24 cookies among 6 friends. How many does each friend get?", assistant="24 / 6 = 4"),
]
GROUP = 8


def ways(problems: int) -> Iterator[tuple[str, DataConfig]]:
    for path in ("word-problems/train", "small-problems/train"):
        plain = DataConfig(path=path, template="{question}", system=SYSTEM, shuffle=0, limit=problems)
        yield f"{path}, zero-shot", plain
        yield f"{path}, four examples", plain.model_copy(update={"examples": SHOTS})


def row(model: LoadedModel, data: DataConfig) -> tuple[float, float, float, float]:
    sampler = EmbeddedSampler(
        model.model,
        decode=model.decode,
        eos_token_ids=model.eos_token_ids,
    )
    prompts, _ = load_prompts(data, model.tokenizer)
    groups = sampler.generate(prompts, GROUP, Sampling(max_tokens=24), names=("base rates",))
    verdicts = [
        [judge(answer.text, prompt.columns["answer"]) for answer in group]
        for prompt, group in zip(prompts, groups, strict=True)
    ]
    total = len(prompts) * GROUP
    return (
        sum(v.strict for group in verdicts for v in group) / total,
        sum(v.lenient for group in verdicts for v in group) / total,
        sum(0 < sum(v.strict for v in group) < GROUP for group in verdicts) / len(prompts),
        sum(len(answer.token_ids) for group in groups for answer in group) / total,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--model", action="append")
    parser.add_argument("--task", default="", help="only tasks whose name holds this")
    options = parser.parse_args()
    keep_large_blocks()
    print(f"{'model':28}{'task':40}{'strict':>8}{'lenient':>9}{'mixed':>8}{'tokens':>8}", flush=True)
    for name in options.model or [ModelConfig().path]:
        model = load_model(name, dtype=ModelConfig().resolved_dtype())
        for title, data in ways(options.problems):
            if options.task not in title:
                continue
            strict, lenient, mixed, tokens = row(model, data)
            print(f"{name:28}{title:40}{strict:8.1%}{lenient:9.1%}{mixed:8.1%}{tokens:8.1f}", flush=True)


if __name__ == "__main__":
    main()
