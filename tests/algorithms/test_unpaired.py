from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tiny
from corollary.algorithms import unpaired
from corollary.algorithms.base import Engines
from corollary.algorithms.unpaired import UnpairedConfig, baseline, remember, shift
from corollary.config import variant
from corollary.data.collate import token_batch
from corollary.engines.trainer import EmbeddedScorer, EmbeddedTrainer, OptimizerConfig, TrainerConfig
from corollary.errors import DataError
from corollary.losses.bind import Bound
from corollary.losses.unpaired import bco, kto
from corollary.run.loop import train
from corollary.types import Prompt, Step
from run import recipes

KTO, BCO = variant(kto)(beta=0.5), variant(bco)(beta=0.5)
both = pytest.mark.parametrize("loss", [KTO, BCO], ids=["kto", "bco"])


def rows(*, kinds: tuple[bool, ...] = (True, False, True, False)) -> list[Prompt]:
    """Prompts whose answer is fives where it is desirable and sixes where it is not, of unequal lengths."""
    prompts = tiny.prompts(3, 5, 2, 4)[: len(kinds)]
    return [
        replace(p, columns={"answer": ("5 " if kind else "6 ") * (1 + i % 3), "desirable": kind})
        for i, (p, kind) in enumerate(zip(prompts, kinds, strict=True))
    ]


def encode(text: str) -> list[int]:
    return [*map(int, text.split()), tiny.EOS]


def trainer(dtype: torch.dtype = torch.float32, lr: float = 3e-3, **settings: Any) -> EmbeddedTrainer:
    return EmbeddedTrainer(tiny.model(dtype), TrainerConfig(**settings), OptimizerConfig(lr=lr), total_steps=99)


def scorer(dtype: torch.dtype = torch.float32, seed: int = 0) -> EmbeddedScorer:
    return EmbeddedScorer(tiny.model(dtype, seed), TrainerConfig())


def run(config: UnpairedConfig, asked: list[Prompt] | None = None, **lent: Any) -> Iterator[Step]:
    given = {"trainer": trainer(), "reference": scorer()} | lent
    return unpaired.steps(config, encode=encode, examples=iter(lambda: asked or rows(), None), **given)


@both
def test_what_is_desirable_becomes_likelier_and_the_rest_less_so(loss: Any) -> None:
    metrics = [step.metrics for step in islice(run(UnpairedConfig(loss=loss), trainer=trainer(lr=1e-2)), 30)]
    assert metrics[-1]["reward_desirable"] > 0.5
    assert metrics[-1]["reward_undesirable"] < -0.5
    assert metrics[-1]["logprob_desirable"] > metrics[0]["logprob_desirable"]
    assert metrics[-1]["loss"] < metrics[0]["loss"]


@pytest.mark.parametrize(("loss", "value"), [(KTO, 0.5), (BCO, 0.693147)], ids=["kto", "bco"])
def test_at_the_reference_the_loss_is_a_known_number(loss: Any, value: float) -> None:
    first = next(run(UnpairedConfig(loss=loss))).metrics
    assert first["loss"] == pytest.approx(value, abs=1e-5)
    assert first["reward"] == pytest.approx(0, abs=1e-5)


@both
@pytest.mark.parametrize("kind", [True, False])
def test_a_step_may_have_one_kind_only(loss: Any, kind: bool) -> None:
    asked = rows(kinds=(kind, kind, kind))
    metrics = [step.metrics for step in islice(run(UnpairedConfig(loss=loss), asked), 4)]
    there, absent = ("desirable", "undesirable") if kind else ("undesirable", "desirable")
    assert f"reward_{there}" in metrics[-1]
    assert f"reward_{absent}" not in metrics[-1]
    assert (metrics[-1][f"reward_{there}"] > 0) == kind


@both
@pytest.mark.parametrize("settings", [{"tokens_per_microbatch": 9}, {"layout": "packed"}], ids=str)
def test_how_a_step_is_computed_changes_no_metric(loss: Any, settings: dict[str, Any]) -> None:
    """z0 and δ are made before the split."""
    double = torch.float64
    made = [
        [
            s.metrics
            for s in islice(
                run(UnpairedConfig(loss=loss), trainer=trainer(double, **kw), reference=scorer(double, 3)), 3
            )
        ]
        for kw in ({}, settings)
    ]
    for a, b in zip(*made, strict=True):
        assert a == pytest.approx(b, rel=1e-6, abs=1e-9)


def gain(model: EmbeddedTrainer, reference: EmbeddedScorer, prompt: Prompt, text: str) -> float:
    batch = token_batch([prompt], [encode(text)])
    return (model.logprobs(batch).sum() - reference.logprobs(batch).sum()).item()


def test_z0_is_the_gain_of_each_prompt_with_the_next_one_s_answer() -> None:
    model, reference = trainer(torch.float64), scorer(torch.float64, seed=3)
    asked = rows()
    mean = sum(gain(model, reference, p, asked[(i + 1) % 4].columns["answer"]) for i, p in enumerate(asked)) / 4
    batch = UnpairedConfig().batch(asked, encode)
    assert baseline(batch, model, reference).item() == pytest.approx(max(0.0, mean), rel=1e-9)
    assert baseline(batch, reference, model).item() == pytest.approx(max(0.0, -mean), rel=1e-9)
    assert mean != 0, "one of the two is above 0"


def test_an_answer_to_the_same_prompt_is_never_the_mismatched_one() -> None:
    model, reference = trainer(torch.float64), scorer(torch.float64, seed=3)
    two = rows(kinds=(True, False))
    twice = [replace(two[0], id="again", columns={"answer": "7", "desirable": False}), *two]
    batch = UnpairedConfig().batch([twice[1], twice[0], twice[2]], encode)
    assert len(batch.prompts) == 2
    each = [gain(model, reference, two[i], two[1 - i].columns["answer"]) for i in (0, 1)]
    for one, other in ((model, reference), (reference, model)):
        sign = 1 if one is model else -1
        assert baseline(batch, one, other).item() == pytest.approx(max(0.0, sign * sum(each) / 2), abs=1e-12)


def test_answers_to_a_single_prompt_have_no_z0() -> None:
    one = rows()[0]
    asked = [one, replace(one, id="again")]
    with pytest.raises(DataError, match=r"algorithm.examples_per_step: all 2 answers of this step are to one prompt"):
        next(run(UnpairedConfig(loss=KTO), asked))
    next(run(UnpairedConfig(loss=BCO), asked))


def test_the_shift_is_half_way_between_the_running_means_of_the_steps_before() -> None:
    memory: dict[str, Any] = {}
    config = UnpairedConfig(loss=BCO, shift_decay=0.5)
    found = [step.metrics for step in islice(run(config, trainer=trainer(lr=1e-2), memory=memory), 4)]
    means = {"desirable": 0.0, "undesirable": 0.0}
    for metrics in found:
        assert metrics["shift"] == pytest.approx(sum(means.values()) / 2, abs=1e-6)
        means = {kind: 0.5 * mean + 0.5 * metrics[f"reward_{kind}"] for kind, mean in means.items()}
    assert abs(found[-1]["shift"]) > 1e-3
    assert memory == {"rewards": pytest.approx(means, abs=1e-6)}


def test_a_kind_that_was_never_seen_does_not_pull_the_shift() -> None:
    memory: dict[str, Any] = {}
    assert shift(memory) == 0
    remember({"reward_desirable": 4.0, "reward": 4.0}, memory, 0.75)
    assert shift(memory) == 1.0


def test_the_weights_of_the_kinds_are_the_loss_s() -> None:
    plain, heavy = (
        next(run(UnpairedConfig(loss=variant(kto)(desirable_weight=w)))).metrics["loss"] for w in (1.0, 3.0)
    )
    assert (plain, heavy) == (pytest.approx(0.5, abs=1e-5), pytest.approx(1.0, abs=1e-5))


def test_the_gradient_is_that_of_the_formula() -> None:
    """KTO by hand, prompt tokens untrained: the loss and the norm of its gradient."""
    asked = rows()
    learner, old = trainer(torch.float64, lr=0.0, tokens_per_microbatch=9), tiny.model(seed=3)
    told = next(run(UnpairedConfig(loss=KTO), asked, trainer=learner, reference=scorer(torch.float64, 3))).metrics
    exact = tiny.model()

    def nats(network: torch.nn.Module, row: Prompt) -> Tensor:
        ids = torch.tensor([[*row.token_ids, *encode(row.columns["answer"])]])
        logprobs = network(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        return logprobs[len(row.token_ids) - 1 :].sum()

    z0 = told["baseline"]
    over = torch.stack([nats(exact, row) - nats(old, row).detach() - z0 for row in asked])
    signs = torch.tensor([1.0 if row.columns["desirable"] else -1.0 for row in asked])
    loss = (1 - F.sigmoid(0.5 * signs * over)).mean()
    loss.backward()
    norm = torch.stack([p.grad.square().sum() for p in exact.parameters() if p.grad is not None]).sum().sqrt()
    assert told["loss"] == pytest.approx(loss.item(), rel=1e-8)
    assert told["grad_norm"] == pytest.approx(norm.item(), rel=1e-8)


@both
def test_held_out_answers_are_told_apart_better_after_training(loss: Any) -> None:
    config, kept = UnpairedConfig(loss=loss), dict[str, Tensor]()
    lent = Engines(
        trainer=trainer(lr=1e-2), sampler=None, prompts=iter(lambda: rows(), None), reference=scorer(), encode=encode,  # type: ignore[arg-type]
        kept=kept,
    )  # fmt: skip
    before = config.measured(lent, rows())
    assert before == [{"accuracy": 0.5, "margin": 0.0}] * 4
    for _ in islice(config.steps(lent), 20):
        pass
    after = config.measured(lent, rows())
    assert [m["accuracy"] for m in after] == [1] * 4
    assert all(m["margin"] > 0 for m in after)
    assert {"held-out/p0", "p0"} <= set(kept)


def test_of_held_out_rows_that_say_nothing_nothing_is_said() -> None:
    assert UnpairedConfig().measured(None, tiny.prompts(3)) == ()  # type: ignore[arg-type]


@pytest.mark.parametrize("said", [None, "yes", 2, -1])
def test_a_row_says_true_or_false(said: object) -> None:
    row = replace(rows()[0], columns={"answer": "5", "desirable": said})
    with pytest.raises(DataError, match=r"algorithm.desirable: example p0 has .* it says true or false"):
        UnpairedConfig().refusal(row, encode)


def test_a_long_answer_is_left_out_with_a_reason() -> None:
    config = UnpairedConfig(max_answer_tokens=3)
    assert [config.refusal(row, encode) for row in rows()] == ["", "", "over max_answer_tokens=3", ""]


def test_a_run_of_the_command_measures_held_out_answers_and_counts_what_it_leaves_out(tmp_path: Path) -> None:
    recipes.write(tmp_path)
    data = [
        {"id": f"q{i}", "question": f"What is {i}?", "answer": str(i) * (1 + i), "desirable": i % 2 == 0}
        for i in range(6)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    made = tmp_path / "bco.yaml"
    made.write_text(
        f"defaults: run.yaml\nrewards: []\nrun: {{name: bco}}\ndata: {{path: {tmp_path}/rows.jsonl}}\n"
        f"evaluation: {{data: {{path: {tmp_path}/rows.jsonl}}, judge: none}}\n"
        "algorithm: {type: unpaired, examples_per_step: 3, max_answer_tokens: 4, loss: bco}\n"
    )
    console = recipes.Quiet()
    folder = train(recipes.recipe(made), console)
    assert any("3 usable rows (6 read: 3 over max_answer_tokens=4)" in note for note in console.notes)
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["shift"] != 0
    measured = json.loads((folder / "evaluation.json").read_text())
    assert measured["prompts"] == 3
    assert measured["before"]["metrics"]["accuracy"]["value"] == 0.5


def test_a_decay_of_a_running_mean_that_nothing_reads_is_refused() -> None:
    with pytest.raises(ValueError, match="shift_decay: kto takes no running mean"):
        UnpairedConfig(shift_decay=0.5)


def test_a_held_out_margin_is_the_distance_from_z0_on_the_side_that_the_answer_is_called() -> None:
    asked, policy, reference = rows(), trainer(torch.float64), scorer(torch.float64, seed=3)
    config = UnpairedConfig(loss=KTO)
    batch = config.batch(asked, encode)
    batch = replace(batch, ref_logprobs=reference.logprobs(batch))
    z0 = torch.tensor(0.7, dtype=torch.double)
    assert batch.ref_logprobs is not None
    gained = ((policy.logprobs(batch) - batch.ref_logprobs) * batch.trained).sum(1)
    found = unpaired.margin(Bound(KTO), policy.logprobs(batch), replace(batch, baseline=z0))
    torch.testing.assert_close(found, (gained - z0) * torch.tensor([1.0, -1.0, 1.0, -1.0]))
