from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tiny
from corollary.algorithms import preference
from corollary.algorithms.preference import PreferenceConfig
from corollary.config import variant
from corollary.data.collate import preference_batch
from corollary.declare import entries
from corollary.engines.trainer import EmbeddedScorer, EmbeddedTrainer, OptimizerConfig, TrainerConfig
from corollary.errors import DataError
from corollary.losses.preference import dpo
from corollary.run.loop import train
from corollary.types import Prompt, Step
from run import recipes

SMALL = PreferenceConfig(pairs_per_step=4)
LOSSES = [entry.variant for entry in entries("preference")]


def asked() -> Iterator[list[Prompt]]:
    """Four prompts whose chosen answer is fives and whose rejected one is sixes, of unequal lengths, for ever."""
    rows = [{"chosen": "5 " * (1 + i % 3), "rejected": "6 " * (1 + (i + 1) % 4)} for i in range(4)]
    made = [replace(p, columns=row) for p, row in zip(tiny.prompts(3, 5, 2, 4), rows, strict=True)]
    return iter(lambda: made, None)


def encode(text: str) -> list[int]:
    return [*map(int, text.split()), tiny.EOS]


def start(config: PreferenceConfig, lr: float = 3e-3, **settings: object) -> Iterator[Step]:
    trainer = EmbeddedTrainer(
        tiny.model(torch.float32), TrainerConfig(**settings), OptimizerConfig(lr=lr), total_steps=99
    )
    reference = EmbeddedScorer(tiny.model(torch.float32), TrainerConfig()) if config.needs_reference else None
    return preference.steps(config, trainer=trainer, encode=encode, examples=asked(), reference=reference)


RISING = {"discopop"}  # its slope at a margin of 0 is positive, as published: from there it learns the wrong way


@pytest.mark.parametrize(
    "loss", [v for v in LOSSES if v.target.__name__ not in RISING], ids=lambda v: v.target.__name__
)
def test_every_loss_of_the_catalogue_learns_to_prefer_fives(loss: type) -> None:
    config = SMALL.model_copy(update={"loss": loss()})
    metrics = [step.metrics for step in islice(start(config), 30)]
    assert metrics[-1]["accuracy"] == 1
    apart = [m["chosen_logprob"] - m["rejected_logprob"] for m in metrics]
    assert apart[-1] > apart[0] + 1


def test_at_the_first_step_dpo_is_log_2_and_the_margin_is_0() -> None:
    first = next(start(SMALL)).metrics
    assert first["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert first["margin"] == pytest.approx(0, abs=1e-5)


def test_every_pair_counts_alike_whatever_its_lengths() -> None:
    """The loss and the metrics of a step are means over pairs, by hand."""
    config = SMALL.model_copy(update={"loss": variant(dpo)(beta=0.5)})
    steps = start(config, lr=0.05)
    next(steps)
    metrics = next(steps).metrics
    model = tiny.model(torch.float32)
    learner = EmbeddedTrainer(model, TrainerConfig(), OptimizerConfig(lr=0.05), total_steps=99)
    reference = EmbeddedScorer(tiny.model(torch.float32), TrainerConfig())
    prompts = next(asked())
    pairs = [(encode(p.columns["chosen"]), encode(p.columns["rejected"])) for p in prompts]
    batch = preference_batch(prompts, *zip(*pairs, strict=True))
    batch = replace(batch, ref_logprobs=reference.logprobs(batch))
    learner.step(batch, config.loss)
    gains = (learner.logprobs(batch) - batch.ref_logprobs).sum(1)
    z = 0.5 * (gains[0::2] - gains[1::2])
    assert metrics["loss"] == pytest.approx(-F.logsigmoid(z).mean().item(), abs=1e-5)
    assert metrics["margin"] == pytest.approx(z.mean().item(), abs=1e-4)


def test_a_loss_without_a_reference_keeps_none_in_memory() -> None:
    needs = {v.target.__name__: PreferenceConfig(loss=v()).needs_reference for v in LOSSES}
    assert needs["dpo"]
    assert not needs["simpo"]
    assert not needs["orpo"]


@pytest.mark.parametrize("settings", [{"tokens_per_microbatch": 9}, {"layout": "packed"}], ids=str)
@pytest.mark.parametrize("loss", ["dpo", "aot", "dpo_nll"])
def test_how_a_step_is_computed_changes_no_metric(loss: str, settings: dict[str, object]) -> None:
    config = SMALL.model_copy(update={"loss": next(v for v in LOSSES if v.target.__name__ == loss)()})
    ours, others = ([s.metrics for s in islice(start(config, **kw), 3)] for kw in ({}, settings))
    for a, b in zip(ours, others, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name] == pytest.approx(b[name], abs=2e-4, rel=1e-4), name


def test_a_user_s_loss_of_token_logprobs_gets_the_same_metrics() -> None:
    def last_token(chosen_logprobs: Tensor, rejected_logprobs: Tensor, chosen_trained: Tensor) -> Tensor:
        assert chosen_trained.dtype == torch.bool
        return -F.logsigmoid(chosen_logprobs[:, 0] - rejected_logprobs[:, 0])

    config = SMALL.model_copy(update={"loss": variant(last_token)()})
    assert not config.needs_reference
    assert {"accuracy", "margin", "chosen_logprob", "rejected_logprob"} <= next(start(config)).metrics.keys()


def test_a_column_that_is_missing_is_told_by_prompt_and_setting() -> None:
    config = SMALL.model_copy(update={"rejected": "{worse}"})
    with pytest.raises(DataError, match=r"algorithm.rejected: example p0 .*'worse'.* its columns are chosen, rejected"):
        next(start(config))


def test_a_run_of_the_command_trains_and_is_reported(tmp_path: Path) -> None:
    recipes.write(tmp_path)
    made = tmp_path / "pairs.yaml"
    made.write_text(
        "defaults: run.yaml\nrewards: []\nrun: {name: pairs}\n"
        'algorithm: {type: preference, pairs_per_step: 3, chosen: "{answer}", rejected: "no {answer}", loss: ipo}\n'
    )
    folder = train(recipes.recipe(made), recipes.Quiet())
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics] == list(range(1, 8))
    assert metrics[-1]["margin"] > metrics[0]["margin"]
    assert (folder / "report.html").exists()
    assert "greedy/strict" in (folder / "evaluation.json").read_text()
