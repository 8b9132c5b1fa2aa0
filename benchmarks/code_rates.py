"""What a model solves of a set of programming problems before any RL: pass@1, pass@k and the groups that GRPO could learn from.

    python benchmarks/code_rates.py [--data mbpp/test] [--problems 30] [--samples 8] [--max-tokens 128] [--sandbox monty]

One line per temperature. A group is mixed if its answers earn different rewards; by `share`, the share of the tests that hold.
"""

from __future__ import annotations

import argparse

import torch

from corollary.data.datasets import DataConfig, load_prompts
from corollary.engines.sampler import EmbeddedSampler
from corollary.models.load import LoadedModel, load_model
from corollary.ops.estimate import pass_at_k
from corollary.ops.means import mean_interval
from corollary.rewards.base import Reward
from corollary.rewards.parts import RewardSpec
from corollary.run.memory import keep_large_blocks
from corollary.run.recipe import ModelConfig
from corollary.types import Sampling

STOP = ("\n```\n",)  # the fence that ends the program
SYSTEM = "Write the Python function, and nothing else, in one fenced block."


def line(model: LoadedModel, options: argparse.Namespace, temperature: float) -> str:
    data = DataConfig(path=options.data, template="{question}", system=SYSTEM, shuffle=0, limit=options.problems)
    prompts, _ = load_prompts(data, model.tokenizer)
    sampler = EmbeddedSampler(model.model, decode=model.decode, eos_token_ids=model.eos_token_ids)
    sampling = Sampling(max_tokens=options.max_tokens, temperature=temperature, stop=STOP)
    groups = sampler.generate(prompts, options.samples, sampling, names=("code rates",))
    params = {"sandbox": options.sandbox}
    specs = [
        RewardSpec(type="code", name="all", params=params),
        RewardSpec(type="code", name="share", weight=0.0, params={**params, "credit": "share"}),
    ]
    with Reward(specs) as reward:
        scores = reward.score(list(zip(prompts, groups, strict=True)))
    solved = [sum(score.parts["all"] == 1.0 for score in group) for group in scores]
    mixed = {
        name: sum(len({score.parts[name] for score in group}) > 1 for group in scores) for name in ("all", "share")
    }
    n = options.samples
    one = mean_interval([pass_at_k(n, right, 1) for right in solved])
    many = sum(pass_at_k(n, right, n) for right in solved) / len(solved)
    tokens = sum(len(answer.token_ids) for group in groups for answer in group) / (n * len(groups))
    cut = sum(answer.truncated for group in groups for answer in group) / (n * len(groups))
    return (
        f"{temperature:4.1f}   pass@1 {one.estimate:.1%} [{one.low:.1%}, {one.high:.1%}]   pass@{n} {many:.1%}   "
        f"mixed {mixed['all']} of {len(groups)}, by share {mixed['share']}   tokens {tokens:.0f}, cut off {cut:.0%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mbpp/test")
    parser.add_argument("--model", default=ModelConfig().path)
    parser.add_argument("--problems", type=int, default=30)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--sandbox", default="monty")
    parser.add_argument("--temperature", type=float, action="append")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    keep_large_blocks()
    if options.threads:
        torch.set_num_threads(options.threads)
    model = load_model(options.model, dtype=ModelConfig().resolved_dtype())
    for temperature in options.temperature or [0.6]:
        print(line(model, options, temperature), flush=True)


if __name__ == "__main__":
    main()
