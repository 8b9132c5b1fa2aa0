"""What a model's name stands for, and what it is called in front of others."""

from __future__ import annotations

from pathlib import Path


def exported(name: str) -> str:
    """The model that a name stands for: of a run's folder, the `model/` in it."""
    inner = Path(name) / "model"
    return str(inner) if inner.is_dir() else name


def title(model: str) -> str:
    """What others are told as a model's name: no path of this machine.

    >>> title("smollm2-135m-instruct"), title("HuggingFaceTB/SmolLM2-135M")
    ('smollm2-135m-instruct', 'HuggingFaceTB/SmolLM2-135M')
    """
    path = Path(model).expanduser()
    if not path.exists():
        return model
    path = path.resolve()
    return path.stem if path.is_file() else path.parent.name if path.name == "model" else path.name
