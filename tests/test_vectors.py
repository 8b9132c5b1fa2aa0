"""Every test vector of the catalogue, by the public functions: computed in 50-digit arithmetic, reproduced in float64 to 1e-10.

`vectors.json` holds them by name; `vectors/` says which functions give each.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vectors import advantage, policy, preference

VECTORS = json.loads((Path(__file__).parent / "vectors" / "vectors.json").read_text())
CASES = preference.CASES | policy.CASES | advantage.CASES


@pytest.mark.parametrize("name", VECTORS)
def test_the_vector_is_reproduced(name: str) -> None:
    expected = torch.tensor(VECTORS[name], dtype=torch.double)
    got = torch.as_tensor(CASES[name](), dtype=torch.double)
    torch.testing.assert_close(got.detach(), expected, rtol=1e-10, atol=1e-12)


def test_there_are_no_cases_of_vectors_that_do_not_exist() -> None:
    assert not set(CASES) - set(VECTORS)
    assert len(VECTORS) > 200
