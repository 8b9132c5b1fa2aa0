"""The page shows every setting that is compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from parity import test_dpo, test_grpo, test_kto, test_reward_model, test_sft

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "parity.md"
FAMILIES = {
    "SFT": test_sft.CASES,
    "DPO": test_dpo.CASES,
    "KTO": test_kto.CASES,
    "reward model": test_reward_model.CASES,
    "GRPO": test_grpo.CASES,
}
CASES = {f"{family}: {name}": pair for family, cases in FAMILIES.items() for name, pair in cases.items()}


def code(settings: Mapping[str, Any]) -> str:
    """Settings as a recipe would write them on one line."""
    return f"`{yaml.safe_dump(dict(settings), default_flow_style=True, sort_keys=False, width=1000).strip()[1:-1]}`"


def row(name: str) -> str:
    """A case's line in the page's table, up to what was measured."""
    theirs, ours = CASES[name]
    return f"| {name.partition(': ')[2]} | {code(theirs) if theirs else ''} | {code(ours) if ours else ''} |"


@pytest.mark.parametrize("name", CASES)
def test_the_page_says_how_to_set_both(name: str) -> None:
    assert row(name) in PAGE.read_text()
