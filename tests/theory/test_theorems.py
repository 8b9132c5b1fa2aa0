from __future__ import annotations

import pytest

from corollary.theory.lab import Lab
from corollary.theory.theorem import Theorem, prove_one
from corollary.theory.theorems import theorems

LABS = {
    "shipped": Lab(),
    "other seed": Lab(seed=11),
    "wide": Lab(seed=1, vocabulary=4, depth=2, arms=4, states=5, actions=2, discount=0.8),
    "small": Lab(seed=2, vocabulary=2, depth=3, arms=2, states=2, actions=2, discount=0.5),
}


@pytest.mark.parametrize("lab", LABS.values(), ids=LABS.keys())
@pytest.mark.parametrize("found", theorems(), ids=[t.label for t in theorems()])
def test_a_theorem_holds_and_its_broken_twins_do_not(found: Theorem, lab: Lab) -> None:
    proof = prove_one(found, lab)
    assert proof.verdict.holds, proof.verdict
    assert not proof.alive, proof.twins


def test_no_two_theorems_share_a_name_or_a_label() -> None:
    for names in ([t.name for t in theorems()], [t.label for t in theorems()]):
        assert len(names) == len(set(names))
