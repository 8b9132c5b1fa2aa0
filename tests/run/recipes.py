"""A tiny run on a real model folder: a byte-level tokenizer, two layers, questions of addition."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from corollary.config import load
from corollary.data.datasets import DataReport
from corollary.run.recipe import PRESETS, Recipe
from corollary.types import Metrics
from models.small import folder as model_folder

REWARD = """
def vowels(prompts, completions, **columns):
    texts = [c[0]["content"] if isinstance(c, list) else c for c in completions]
    return [sum(ch in "aeiou" for ch in text) / 8 for text in texts]
"""
RECIPE = """
model: {{path: {model}, dtype: float32, device: cpu}}
data: {{path: {train}, template: "{{question}}"}}
algorithm: {{type: grpo, prompts_per_step: 3, group_size: 4, max_tokens: 8, kl: {{type: in_loss, coef: 0.01}}}}
rewards: [{{type: "{reward}:vowels"}}]
optimizer: {{lr: 1.0e-2, schedule: cosine, warmup_steps: 2}}
evaluation: {{data: {{path: {test}, template: "{{question}}"}}, samples: 2, max_tokens: 8}}
run: {{name: tiny, folder: {runs}, steps: 7, checkpoint_every: 2, threads: 1}}
"""


def write(path: Path) -> Path:
    """A folder with everything that a run needs; the recipe's path."""
    model_folder(path / "model")
    rows = [{"id": f"q{i}", "question": f"What is {i} + {i + 1}?", "answer": str(2 * i + 1)} for i in range(8)]
    (path / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[:5]))
    (path / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[5:]))
    (path / "vowels.py").write_text(REWARD)
    names = {"model": "model", "train": "train.jsonl", "test": "test.jsonl", "reward": "vowels.py", "runs": "runs"}
    text = RECIPE.format(**{key: path / name for key, name in names.items()})
    (path / "run.yaml").write_text(text)
    return path / "run.yaml"


def recipe(source: Path, *overrides: str) -> Recipe:
    return load(Recipe, source, overrides, presets=PRESETS).config


class Quiet:
    """A console that remembers what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[int] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def data(self, name: str, report: DataReport) -> None:
        self.notes.append(f"{name}: {report.line()}")

    def step(self, number: int, total: int, metrics: Metrics, timing: Metrics) -> None:
        self.steps.append(number)


def command(*arguments: str | Path, **settings: object) -> subprocess.Popen[str]:
    """The command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "corollary", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}, **settings,
    )  # fmt: skip
