"""Imports point one way: down this list, or to a neighbour on the same layer; and what is heavy has one or two permitted importers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

LAYERS = [
    {"errors", "types", "seeding", "custom", "deadline"},
    {"config"},
    {"declare"},
    {"ops"},
    {"losses", "data", "rewards", "models"},
    {"engines"},
    {"theory"},
    {"rollout", "evaluate"},
    {"selection", "envs"},
    {"algorithms"},
    {"run"},
    {"validate"},
    {"console", "chat", "serving", "catalogue"},
    {"demo"},
    {"cli"},
]
ONLY_HERE = {
    "transformers": (
        "models/",
        "data/",
        "envs/",
        "engines/layout.py",
        "engines/trainer.py",
        "engines/sampler.py",
        "run/playing.py",
        "theory/contract/model.py",
    ),
    "omegaconf": ("config/",),
    "gguf": ("models/",),
    "peft": ("models/lora.py",),
    "bitsandbytes": ("models/lora.py",),
    "datasets": ("data/",),
    "math_verify": ("rewards/",),
    "pydantic_monty": ("rewards/sandbox/monty.py",),
    "rich": ("console.py", "chat.py"),
    "typer": ("cli.py",),
    "starlette": ("serving/",),
    "uvicorn": ("serving/",),
    "ray": ("runtime/ray.py",),
    "vllm": ("engines/vllm.py",),
    "optuna": ("tune/",),
}
PACKAGE = Path(__file__).parents[1] / "src" / "corollary"
FILES = sorted(PACKAGE.rglob("*.py"))
RANK = {name: i for i, layer in enumerate(LAYERS) for name in layer}


def imports(file: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_point_down(file: Path) -> None:
    here = file.relative_to(PACKAGE)
    part = here.parts[0].removesuffix(".py")
    if part in ("__init__", "__main__"):
        return
    assert part in RANK, f"{part} has no place among the layers"
    for line, module in imports(file):
        top, _, rest = module.partition(".")
        allowed = ONLY_HERE.get(top)
        assert allowed is None or str(here).startswith(allowed), f"{here}:{line} imports {top}; only {allowed} may"
        if top == "corollary" and rest:
            target = rest.split(".")[0]
            assert target == part or RANK[target] <= RANK[part], (
                f"{here}:{line} imports {module}, which stands above it"
            )


def test_every_layer_is_there() -> None:
    there = {f.relative_to(PACKAGE).parts[0].removesuffix(".py") for f in FILES} - {"__init__", "__main__"}
    assert there == set(RANK)
