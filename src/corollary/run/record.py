"""The run directory: everything a run leaves behind, as JSON, YAML and safetensors."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import corollary
from corollary.config import Config, diff, to_yaml
from corollary.data.datasets import DataReport
from corollary.errors import StorageError
from corollary.run.files import Journal, lock, write_json, write_text
from corollary.run.ledger import digest, seal
from corollary.types import Metrics, Rollout, Step, transcript

_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pydantic", "omegaconf", "math-verify")


class Record:
    """A run's folder, held by this process until it is closed.

    Args:
        folder: `runs/NAME`.

    Raises:
        StorageError: it cannot be made, or another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            (folder / "evaluations").mkdir(exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot be made: {error.strerror}", where=str(folder)) from error
        self._lock = lock(folder)
        self.metrics, self.timing, self.rollouts, self.ledger = (
            Journal(folder / name) for name in ("metrics.jsonl", "timing.jsonl", "rollouts.jsonl", "ledger.jsonl")
        )
        self._seal: str | None = None  # the last of the ledger; None: not read yet

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def started(self) -> bool:
        """Whether a run was begun here."""
        return (self.folder / "config.yaml").exists()

    def begin(
        self, config: Config, seed: int, data: Mapping[str, DataReport], own_files: Mapping[str, str] | None = None
    ) -> None:
        """Write what the run is before it does anything.

        Args:
            config: of the run.
            seed: of data order and sampling.
            data: by its use.
            own_files: the user's own files → sha256.
        """
        write_text(self.folder / "config.diff.yaml", to_yaml(diff(config)))
        own = {"own_files": dict(own_files)} if own_files else {}
        write_json(self.folder / "environment.json", environment(seed) | own)
        write_json(self.folder / "data.json", {use: asdict(report) for use, report in data.items()})
        write_text(self.folder / "config.yaml", to_yaml(config))  # last: with it, the run has begun

    def offsets(self) -> dict[str, int]:
        """Where the journals end; a checkpoint keeps it."""
        return {
            "metrics": self.metrics.size,
            "timing": self.timing.size,
            "rollouts": self.rollouts.size,
            "ledger": self.ledger.size,
        }

    def set_back(self, offsets: Mapping[str, int]) -> None:
        """Forget the lines after a checkpoint, so that each step stands once."""
        self.metrics.set_back(offsets["metrics"])
        self.timing.set_back(offsets["timing"])
        self.rollouts.set_back(offsets["rollouts"])
        self.ledger.set_back(offsets.get("ledger", 0))  # an older run has none
        self._seal = None

    @property
    def sealed(self) -> str:
        """The ledger's last seal; empty before the first step."""
        if self._seal is None:
            self._seal = str(self.ledger.last().get("seal", ""))
        return self._seal

    def step(
        self,
        number: int,
        step: Step,
        timing: Metrics,
        decode: Callable[[int], str],
        entry: Mapping[str, Any] | None = None,
    ) -> None:
        """Append a step's line to each journal; `entry` to the ledger, with a copy of the metrics, sealed."""
        said = self.metrics.append({"step": number, **step.metrics})
        self.timing.append({"step": number, **timing})
        rollouts = self.rollouts.append(*_groups(number, step, decode))
        line = {"step": number, "metrics": dict(step.metrics), **(entry or {})}
        self._seal = seal(self.sealed, json.dumps(line, ensure_ascii=False), map(digest, (said, rollouts)))
        self.ledger.append(line | {"seal": self._seal})

    def evaluation_path(self, step: int) -> Path:
        return self.folder / "evaluations" / f"step-{step:06d}.jsonl"

    def keep_evaluation(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Every prompt and answer of one evaluation."""
        write_text(self.evaluation_path(step), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def evaluation(self, step: int) -> list[dict[str, Any]] | None:
        """What `keep_evaluation` kept; None where there is none."""
        path = self.evaluation_path(step)
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else None

    def close(self) -> None:
        """Let go of the folder."""
        self._lock.close()


def _groups(number: int, step: Step, decode: Callable[[int], str]) -> Iterable[dict[str, Any]]:
    for g, group in enumerate(step.groups):
        advantages: Sequence[float | None] = (
            [None] * len(group) if step.advantages is None else step.advantages[g].tolist()
        )
        prompt = group[0].prompt
        yield {
            "step": number,
            "prompt_id": prompt.id,
            "prompt": prompt.text,
            "messages": [dict(m) for m in prompt.messages],
            "columns": dict(prompt.columns),
            "answers": [
                {
                    "text": transcript(r.completion),
                    "tokens": [decode(t) for t in r.completion.token_ids],
                    "logprobs": [round(x, 4) for x in r.completion.logprobs],
                    "reward": r.reward,
                    "rewards": dict(r.parts),
                    "advantage": advantage,
                    "truncated": r.completion.truncated,
                    **_turns(r),
                }
                for r, advantage in zip(group, advantages, strict=True)
            ],
        }


def _turns(rollout: Rollout) -> dict[str, Any]:
    """What an answer of several turns holds besides: which tokens were sampled, its turns and what each earned."""
    if not rollout.completion.messages:
        return {}
    return {
        "sampled": [int(mine) for mine in rollout.completion.sampled],
        "turns": [dict(message) for message in rollout.completion.messages],
        "turn_rewards": list(rollout.turn_rewards),
        "counts": dict(rollout.counts),
    }


def peak_memory_gib() -> float:
    """The most memory that this process has held, GiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def environment(seed: int) -> dict[str, Any]:
    """What the numbers of a run depend on besides its configuration."""
    return {
        "corollary": corollary.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "commit": _commit(),
        "seed": seed,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit that the installed source is at; None where it is no checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
