"""A tiny recipe of every algorithm, on one tiny model and one data file whose rows have a column for each of them.

To add one, add its YAML to RECIPES, then record its curve: python scripts/record_curves.py
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from corollary.config import load
from corollary.run.recipe import PRESETS, Recipe
from models.small import folder as model_folder

REWARD = """
def vowels(prompts, completions, **columns):
    texts = [c[0]["content"] if isinstance(c, list) else c for c in completions]
    return [sum(ch in "aeiou" for ch in text) / 8 for text in texts]
"""
ENVIRONMENT = """
from corollary.envs.base import Environment, Turn


class Vowels(Environment):
    max_turns: int = 3

    def episode(self, columns):
        return Told()


class Told:
    def reset(self, seed):
        return f"Seed {seed % 10}."

    def step(self, action):
        vowels = sum(letter in "aeiou" for letter in action)
        return Turn(f"{vowels}", reward=vowels / 8, terminated=vowels > 2)
"""
SHARED = """
model: {{path: {folder}/model, dtype: float32, device: cpu}}
data: {{path: {folder}/rows.jsonl, template: "{{question}}"}}
optimizer: {{lr: 1.0e-2, schedule: linear}}
run: {{name: {name}, folder: {folder}/runs, steps: 6, checkpoint_every: 2, threads: 1, export: false}}
"""
VOWELS = 'rewards: [{{type: "{folder}/vowels.py:vowels"}}]\n'

RECIPES = {
    "sft": "algorithm: {{type: sft, examples_per_step: 3}}",
    "sft-conversations": "algorithm: {{type: sft, examples_per_step: 3, loss: dft}}",
    "dpo": "algorithm: {{type: preference, pairs_per_step: 3}}",
    "dpo-several": "algorithm: {{type: preference, pairs_per_step: 3, rejected: '{{wrong}}', sft: {{weight: 0.5, average: token_mean}}}}",
    "dpo-online": VOWELS
    + "algorithm: {{type: online_preference, prompts_per_step: 2, group_size: 4, pairs_per_prompt: 2, max_tokens: 8}}",
    "kto": "algorithm: {{type: unpaired, examples_per_step: 3}}",
    "bco": "algorithm: {{type: unpaired, examples_per_step: 3, loss: bco}}",
    "dpo-lora": "algorithm: {{type: preference, pairs_per_step: 3}}",
    "distill": "algorithm: {{type: distill, teacher: {folder}/teacher, answers: {{type: student, max_tokens: 8}}}}",
    "distill-top-k": "algorithm: {{type: distill, teacher: {folder}/teacher, answers: data, objective: {{type: divergence, loss: jsd_top_k}}}}",
    "grpo-curriculum-and-replay": VOWELS
    + "algorithm: {{type: grpo, prompts_per_step: 2, group_size: 4, max_tokens: 8, curriculum: {{type: pass_rate, high: 0.5}}, replay: informative}}",
    "reward-model": "algorithm: {{type: reward_model, pairs_per_step: 3, loss: {{type: bradley_terry, centring: 0.01}}}}",
    "ppo": VOWELS
    + "algorithm: {{type: ppo, prompts_per_step: 2, group_size: 4, max_tokens: 8, epochs: 2, critic: {{type: own, warmup: 2, optimizer: {{lr: 1.0e-2}}}}}}",
    "ppo-shared": VOWELS
    + "algorithm: {{type: ppo, prompts_per_step: 2, group_size: 4, max_tokens: 8, minibatches: 2, critic: shared, truncated: bootstrap}}",
    "grpo-environment": 'environment: {{type: "{folder}/environment.py:Vowels"}}\n'
    + "algorithm: {{type: grpo, prompts_per_step: 2, group_size: 4, max_tokens: 64, stop: [a, n, i]}}",
    "ppo-environment": 'environment: {{type: "{folder}/environment.py:Vowels"}}\n'
    + "algorithm: {{type: ppo, prompts_per_step: 2, group_size: 4, max_tokens: 64, stop: [a, n, i], critic: shared}}",
    "grpo": VOWELS + "algorithm: {{type: grpo, prompts_per_step: 2, group_size: 4, max_tokens: 8, kl: in_loss}}",
}
"""name → YAML, in braces what `written` fills in; every recipe has 6 steps and is given SHARED"""

OVERRIDES = {
    "dpo-lora": ("model.lora.rank=2",),
    "sft-conversations": ("data.template=null", "data.messages=messages"),
}
"""name → settings other than those of SHARED"""


def written(folder: Path) -> Path:
    """A folder with the model, the rows and the reward that the recipes need."""
    model_folder(folder / "model")
    other = model_folder(folder / "teacher") / "model.safetensors"
    weights = {name: 1.5 * tensor for name, tensor in load_file(other).items()}
    save_file(weights, other, metadata={"format": "pt"})
    (folder / "vowels.py").write_text(REWARD)
    (folder / "environment.py").write_text(ENVIRONMENT)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row(i)) + "\n" for i in range(5)))
    return folder


def row(i: int) -> dict[str, object]:
    """A row for every algorithm: a question with an answer, a worse one, whether the answer is desirable, a conversation."""
    question, answer = f"What is {i} + {i + 1}?", str(2 * i + 1)
    return {
        "id": f"q{i}",
        "question": question,
        "answer": answer,
        "chosen": answer,
        "rejected": f"{answer}0",
        "wrong": [f"{answer}0", f"{answer}{i}", answer][: 1 + i],
        "desirable": i % 2 == 0,
        "messages": [
            {"role": role, "content": content}
            for role, content in (("user", question), ("assistant", answer), ("user", "Sure?"), ("assistant", "Yes."))
        ],
    }


def recipe(name: str, folder: Path, run: str) -> Recipe:
    """The recipe `name` as a run called `run`."""
    path = folder / f"{run}.yaml"
    path.write_text((SHARED + RECIPES[name]).format(folder=folder, name=run))
    return load(Recipe, path, OVERRIDES.get(name, ()), presets=PRESETS).config


def curve(run: Path) -> list[float]:
    """The losses and the gradient's norm of each step, one after the other."""
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [step[name] for step in steps for name in ("loss", "grad_norm", "critic/loss") if name in step]
