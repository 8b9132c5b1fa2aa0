"""The contract's own mutation test: every broken formula is caught by the clause that is meant to, and no sound one is blamed.

`pytest -s` prints which clause caught what.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from corollary.theory.contract import CLAUSES, Report, check
from theory.correct import pairs, rest, targets
from theory.correct import policy as sound_policy
from theory.mutants import (
    advantage,
    distillation,
    likelihood,
    metric,
    penalty,
    policy,
    preference,
    reward,
    reward_model,
    unpaired,
    value,
    weighing,
)
from theory.specimens import Mutant

BROKEN: tuple[Mutant, ...] = (
    *likelihood.MUTANTS, *preference.MUTANTS, *unpaired.MUTANTS, *reward_model.MUTANTS, *policy.MUTANTS, *value.MUTANTS,
    *distillation.MUTANTS, *penalty.MUTANTS, *advantage.MUTANTS, *weighing.MUTANTS, *metric.MUTANTS, *reward.MUTANTS,
)  # fmt: skip
SOUND: tuple[Callable[..., Any], ...] = (*sound_policy.CORRECT, *pairs.CORRECT, *targets.CORRECT, *rest.CORRECT)

_MODEL = ("likelihood", "preference", "unpaired", "policy", "penalty")  # families whose contract runs on a transformer


@pytest.fixture(scope="module")
def caught() -> Iterator[dict[tuple[str, str], list[str]]]:
    """(family, clause) → the mutants that it caught, printed at the end."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    yield found
    for (family, clause), names in sorted(found.items()):
        print(f"{family:14}{clause:18}{len(names):4}  {', '.join(names)}")


@pytest.mark.parametrize("mutant", BROKEN, ids=[m.name for m in BROKEN])
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True")
def test_a_broken_formula_is_caught_by_the_clause_that_is_meant_to(
    mutant: Mutant, caught: dict[tuple[str, str], list[str]]
) -> None:
    report = check(mutant.target, model=False, **mutant.settings)
    failing = [f.clause for f in report.failures]
    assert mutant.clause in failing, f"{mutant.bug}\n{report.text()}"
    assert not accidents(report), report.text()
    if mutant.passes:
        assert mutant.passes in [f.clause for f in report.findings if f.status == "holds"]
    for clause in dict.fromkeys(failing):
        caught[report.family, clause].append(mutant.name)


def accidents(report: Report) -> list[str]:
    """Failures that only say that a mutant is malformed."""
    return [f.cause for f in report.failures if "raised" in f.cause or "takes '" in f.cause]


@pytest.mark.parametrize("formula", SOUND, ids=[f.__name__ for f in SOUND])
def test_a_sound_formula_is_not_blamed(formula: Callable[..., Any]) -> None:
    report = check(formula)
    assert not report.failed, report.text()
    assert any(f.status == "holds" for f in report.findings)


def test_there_are_mutants_of_every_family_and_many_whose_errors_cancel_in_one_clause() -> None:
    families = {family for clause in CLAUSES for family in clause.families}
    tried = {check(m.target, model=False, **m.settings).family for m in BROKEN if m.name in _ONE_OF_EACH}
    assert tried == families
    assert len(BROKEN) >= 200
    assert len({m.name for m in BROKEN}) == len(BROKEN)
    assert sum(bool(m.passes) for m in BROKEN) >= 40
    assert len(SOUND) >= 80


_ONE_OF_EACH = (
    "nll_sign", "dpo_sign", "kto_one_way", "bt_swapped", "pg_sign", "value_without_half", "forward_kl_sign", "k1_sign", "raw",
    "token_sum", "tis_turned", "wald", "one_for_all",
)  # fmt: skip
