from __future__ import annotations

import pytest

import tiny
from corollary.engines.sampler import EmbeddedSampler
from corollary.errors import DataError
from corollary.evaluate import compared, evaluate, summary
from corollary.rewards.verdicts import judging
from corollary.types import Completion, Prompt


def rows(verdicts: list[bool], samples: list[int]) -> list[dict[str, object]]:
    def answer(right: bool) -> dict[str, object]:
        return {"text": "", "strict": right, "lenient": True, "truncated": False}

    return [
        {"prompt_id": f"p{i}", "greedy": answer(v), "sampled": [answer(k < c) for k in range(4)]}
        for i, (v, c) in enumerate(zip(verdicts, samples, strict=True))
    ]


def test_pass_at_k_is_unbiased_and_greedy_is_clopper_pearson() -> None:
    metrics = summary(rows([True, False, True, False], [1, 0, 4, 2]), 3)["metrics"]
    assert metrics["sampled/strict/pass@1"]["value"] == pytest.approx(7 / 16)
    assert metrics["sampled/strict/pass@2"]["value"] == pytest.approx((0.5 + 0 + 1 + 5 / 6) / 4)
    assert metrics["greedy/strict"]["correct"] == 2
    assert (metrics["greedy/strict"]["low"], metrics["greedy/strict"]["high"]) == pytest.approx(
        (0.0676, 0.9324), abs=1e-4
    )
    assert metrics["greedy/lenient"]["value"] == 1
    assert "sampled/strict/pass@8" not in metrics


def test_the_difference_is_prompt_by_prompt() -> None:
    before, after = rows([False] * 30 + [True] * 10, [0] * 40), rows([True] * 20 + [False] * 10 + [True] * 10, [2] * 40)
    change = compared(before, after)["greedy/strict"]
    assert (change["gained"], change["lost"], change["estimate"]) == (20, 0, 0.5)
    assert 0.3 < change["low"] < 0.5 < change["high"] < 0.7
    assert compared(before, after)["sampled/strict/pass@1"]["estimate"] == pytest.approx(0.5)


def test_other_prompts_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="same prompts"):
        compared(rows([True], [1]), rows([True, False], [1, 1]))


def test_a_real_sampler_gives_the_same_answers_before_and_after_nothing() -> None:
    sampler = EmbeddedSampler(tiny.model(), decode=tiny.decode, eos_token_ids=[tiny.EOS])
    prompts = [Prompt(id=p.id, token_ids=p.token_ids, columns={"answer": "7"}) for p in tiny.prompts(3, 4)]

    def once() -> list[dict[str, object]]:
        with judging("number") as numbers:
            return evaluate(
                sampler,
                prompts,
                numbers,
                samples=3,
                temperature=1.0,
                max_tokens=6,
            )

    assert once() == once()
    assert all(change["estimate"] == 0 for change in compared(once(), once()).values())


def test_what_cannot_be_judged_is_told_before_anything_is_sampled() -> None:
    class Untouched(EmbeddedSampler):
        def generate(self, *_: object, **__: object) -> list[list[Completion]]:
            raise AssertionError("sampled")

    sampler = Untouched(tiny.model(), decode=tiny.decode, eos_token_ids=[tiny.EOS])
    prompts = [Prompt(id="p9", token_ids=(1,), columns={"answer": "seven"})]
    with judging("number") as numbers, pytest.raises(DataError, match="p9"):
        evaluate(sampler, prompts, numbers, samples=0, temperature=1.0, max_tokens=2)


def test_what_a_metric_is_does_not_hang_on_the_values_that_it_happens_to_have() -> None:
    rows = [
        [{"prompt_id": str(i), "measures": {"accuracy": a, "margin": m}} for i in range(8)]
        for a, m in ((0.5, 0.0), (1.0, 2.0))
    ]
    before, after = (summary(each, step)["metrics"] for step, each in enumerate(rows))
    assert (before["margin"]["unit"], before["margin"]["method"]) == ("number", "Student t")
    assert [each["accuracy"]["method"] for each in (before, after)] == ["Korn-Graubard", "Clopper-Pearson"]
    assert "unit" not in before["accuracy"]
    assert compared(*rows)["accuracy"]["estimate"] == 0.5


def test_several_examples_of_one_prompt_are_one_draw() -> None:
    said = [("a", 1.0), ("a", 0.0), ("b", 1.0), ("c", 1.0)]
    rows = [
        {"prompt_id": str(i), "prompt": p, "measures": {"accuracy": v, "margin": v}} for i, (p, v) in enumerate(said)
    ]
    found = summary(rows, 0)["metrics"]
    assert [(m["value"], m["prompts"]) for m in found.values()] == [(pytest.approx(2.5 / 3), 3)] * 2
    assert compared(rows, rows)["margin"]["prompts"] == 3


def test_an_accuracy_in_per_cent_is_a_number() -> None:
    rows = [{"prompt_id": str(i), "measures": {"accuracy": 10.0 * i}} for i in range(4)]
    assert summary(rows, 0)["metrics"]["accuracy"]["unit"] == "number"
    assert compared(rows, rows)["accuracy"]["estimate"] == 0
