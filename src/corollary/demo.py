"""`make demo`: a real model learns real word problems, and what GRPO added is measured."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from corollary.config import load, to_yaml
from corollary.console import Live, outcome
from corollary.run.files import read_json
from corollary.run.loop import check
from corollary.run.recipe import PRESETS, Recipe

_HEADLINES = {
    "accuracy, sampled at temperature 1": "sampled/strict/pass@1",
    "the same, lenient extraction": "sampled/lenient/pass@1",
    "accuracy, greedy": "greedy/strict",
    "the same, lenient extraction ": "greedy/lenient",
}

_NEXT = """what next
  .venv/bin/corollary generate {folder} "Tom has 5 pens and buys 7 more. How many pens does he have?" --against {first}
  .venv/bin/corollary train word-problems run.name=longer run.steps=200 model.path={first}      a longer run
  .venv/bin/corollary config show word-problems                              every setting that it used
  .venv/bin/corollary models                                                 what else can be had without a model hub"""


def run(overrides: Sequence[str], seed: int) -> None:
    """Warm-up on worked examples, then GRPO from there; each a run of its own, measured on the same held-out problems.

    Args:
        overrides: dotted settings, for the GRPO stage.
        seed: of both stages.
    """
    shared = [f"run.seed={seed}"]
    warm = load(Recipe, "word-problems-sft", [*shared, f"run.name=demo-sft-{seed}"], presets=PRESETS).config
    first = warm.folder / "model"
    settings = [*shared, f"run.name=demo-grpo-{seed}", f"model.path={first}", *overrides]
    recipe = load(Recipe, "word-problems", settings, presets=PRESETS).config
    with Live("check") as console:
        check(recipe, warm.model.path, console)
    _stage("1 of 2: supervised warm-up on worked examples", warm)
    folder = _stage("2 of 2: GRPO", recipe)
    result = read_json(folder / "evaluation.json")
    print("\nWhat GRPO added on the held-out problems (paired 95 % interval):")
    for title, metric in _HEADLINES.items():
        before, after, change = (result[part] for part in ("before", "after", "difference"))
        print(
            f"  {title:42}{before['metrics'][metric]['value']:6.1%} → {after['metrics'][metric]['value']:6.1%}   "
            f"{change[metric]['estimate']:+.1%}  [{change[metric]['low']:+.1%}, {change[metric]['high']:+.1%}]"
        )
    print()
    print(_NEXT.format(folder=folder, first=first))


def _stage(title: str, recipe: Recipe) -> Path:
    """Train in a process of its own, so that each stage starts with the machine's memory free."""
    print(f"\n== {title} ==", flush=True)
    folder = recipe.folder
    if (folder / "report.html").exists():
        print(f"already done: {folder} (remove the folder to run it again)")
        print(outcome(folder), flush=True)
        return folder
    with TemporaryDirectory() as scratch:
        settings = Path(scratch) / f"{recipe.run.name}.yaml"
        settings.write_text(to_yaml(recipe), encoding="utf-8")
        resume = ["--resume"] if (folder / "config.yaml").exists() else []
        before = signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C reaches the stage, which saves; wait for it
        done = subprocess.run([sys.executable, "-m", "corollary", "train", str(settings), *resume], check=False)
        signal.signal(signal.SIGINT, before)
    if done.returncode:
        sys.exit(done.returncode)  # the stage has said why
    return folder
