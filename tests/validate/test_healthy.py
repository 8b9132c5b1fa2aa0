"""Healthy runs of every algorithm have nothing red; so have interrupted, resumed and old ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from corollary.cli import app
from corollary.config import load
from corollary.errors import CorollaryError, DataError, Preempted
from corollary.run.files import sha256
from corollary.run.loop import train
from corollary.run.recipe import PRESETS, Recipe
from corollary.validate.findings import Report
from corollary.validate.run import validate
from golden import recipes as golden
from golden.test_golden import StopAfter3
from run import recipes as evaluated
from run.recipes import Quiet


def reds(report: Report) -> dict[str, str]:
    return {f.name: f"{f.measured}: {f.fault}" for f in report.findings if f.level == "red"}


def levels(report: Report) -> dict[str, str]:
    return {f.name: f.level for f in report.findings}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return golden.written(tmp_path_factory.mktemp("healthy"))


@pytest.fixture(scope="module")
def grpo(folder: Path) -> Path:
    """A finished run of GRPO with a reference."""
    return train(golden.recipe("grpo", folder, "grpo-whole"), Quiet())


@pytest.mark.parametrize("name", golden.RECIPES)
def test_a_healthy_run_of_each_algorithm_has_nothing_red(name: str, folder: Path) -> None:
    report = validate(train(golden.recipe(name, folder, name), Quiet()))
    assert not reds(report)
    assert report.count("green") >= 3
    assert all(f.fault for f in report.findings if f.level == "skipped"), "what is skipped says why"


VARIANTS = {
    "dr-grpo": "{type: grpo, advantage: group_mean, average: {type: constant, length: 8}}",
    "rloo": "{type: grpo, advantage: leave_one_out, loss: reinforce, average: sequence_sum}",
    "dapo": "{type: grpo, filter: dynamic, average: token_mean, overlong: {penalty_from: 4, train_truncated: false}, "
    "loss: {type: ppo_clip, clip_high: 0.28}}",
    "in-reward": "{type: grpo, advantage: leave_one_out, kl: {type: in_reward, coef: 0.5}}",
    "minibatches": "{type: grpo, minibatches: 2, kl: {type: in_loss, coef: 0.1}}",
    "gspo": "{type: grpo, loss: gspo, advantage: leave_one_out_std}",
    "cispo-opo": "{type: grpo, loss: cispo, advantage: opo}",
    "per-token": "{type: grpo, advantage: reinforce_plus_plus}",
    "tis-k2": "{type: grpo, correction: tis, kl: {type: in_loss, estimator: k2}, advantage: batch_std}",
    "measured": "{type: grpo, kl: {type: none, measure: 4}, temperature: 0.7, advantage: {type: pass_at_k_advantage, k: 2}}",
    "ppo-lambda": "{type: ppo, scale: none, returns: {type: lambda_returns, lam: 0.9}, kl: none}",
    "ppo-adaptive": "{type: ppo, advantage: length_adaptive_gae, minibatches: 2, epochs: 2}",
}


def variant(name: str, algorithm: str, folder: Path, *more: str) -> Recipe:
    """A recipe of rollouts with another algorithm."""
    path = folder / f"{name}.yaml"
    sizes = algorithm.replace("type: ", "prompts_per_step: 2, group_size: 4, max_tokens: 8, type: ", 1)
    path.write_text((golden.SHARED + golden.VOWELS).format(folder=folder, name=name) + f"algorithm: {sizes}\n")
    return load(Recipe, path, more, presets=PRESETS).config


@pytest.mark.parametrize("name", VARIANTS)
def test_no_setting_of_a_healthy_run_makes_it_red(name: str, folder: Path) -> None:
    assert not reds(validate(train(variant(name, VARIANTS[name], folder), Quiet())))


OWN = """
from dataclasses import replace

import torch

from corollary.algorithms.grpo import GRPOConfig, shaped
from corollary.losses.policy import Reinforce
from corollary.rollout import rollouts
from corollary.types import Step


class Odd(GRPOConfig):
    def steps(self, engines):
        for groups in rollouts(
            engines.player, engines.prompts, group_size=self.group_size, sampling=self.sampling, first=engines.first
        ):
            batch, advantages = shaped(self, groups, None)
            batch = replace(batch, sampler_logprobs=0 * batch.sampler_logprobs)
            for _ in range(2):
                told = engines.trainer.step(batch, Reinforce())
            engines.sampler.sync(engines.trainer)
            yield Step({"loss": -1.0, "reward": 100.0, "entropy": told["entropy"]}, groups, advantages + 1)
"""


def test_an_algorithm_of_the_users_own_may_log_and_train_on_what_it_likes(folder: Path) -> None:
    (folder / "odd.py").write_text(OWN)
    run = train(variant("odd", f"{{type: '{folder}/odd.py:Odd'}}", folder), Quiet())
    report = validate(run)
    assert not reds(report)
    assert any("the user's own" in f.fault for f in report.findings if f.level == "skipped")
    assert levels(report)["sampler and trainer are one policy"] == "green"


def test_a_gain_is_not_read_off_groups_that_were_chosen_by_their_rewards(folder: Path) -> None:
    recipe = variant("chosen", "{type: grpo, filter: dynamic, kl: {type: none, measure: 1}}", folder)
    found = {f.name: f for f in validate(train(recipe, Quiet())).findings}["gain within what its KL allows"]
    assert found.level == "skipped"
    assert "selection" in found.fault


@pytest.mark.parametrize("more", [("model.dtype=bfloat16",), ("model.lora.rank=2",), ("optimizer.weight_decay=0.1",)])
def test_neither_rounding_nor_adapters_make_a_healthy_run_red(more: tuple[str, ...], folder: Path) -> None:
    name = more[0].split("=")[0].replace(".", "-").replace("_", "-")
    report = validate(train(variant(name, "{type: grpo, kl: in_loss}", folder, *more), Quiet()))
    assert not reds(report)
    assert levels(report)["sampler and trainer are one policy"] == "green"


def test_checks_are_there_by_name_and_not_silently_left_out(grpo: Path) -> None:
    found = levels(validate(grpo))
    assert set(found.values()) == {"green"}
    assert {
        "metrics.jsonl is what the run wrote",
        "sampler and trainer are one policy",
        "answers are as surprising as the entropy says",
        "effective sample size of the answers' weights",
        "reference and teacher do not change",
        "KL to the reference is 0 before the first update",
        "KL estimators k1, k2 and k3 on the same answers",
        "gain within what its KL allows",
        "advantages (group_std) of the recorded rewards",
        "advantages sum to 0 over each group",
        "loss computed again from the sequences",
        "loss decrease against the first-order prediction",
    } <= set(found)


def test_intervals_are_computed_again_from_the_kept_answers(tmp_path: Path) -> None:
    run = train(evaluated.recipe(evaluated.write(tmp_path), "run.steps=2"), Quiet())
    name = "evaluation.json computed again from its answers"
    assert levels(validate(run))[name] == "green"
    result = json.loads((run / "evaluation.json").read_text())
    result["after"]["metrics"]["greedy/lenient"]["high"] += 1e-4
    (run / "evaluation.json").write_text(json.dumps(result))
    assert [*reds(validate(run))] == [name]
    assert "after.metrics.greedy/lenient.high" in reds(validate(run))[name]


def test_an_interrupted_and_a_resumed_run_have_nothing_red(folder: Path, grpo: Path) -> None:
    recipe = golden.recipe("grpo", folder, "halted")
    with pytest.raises(Preempted):
        train(recipe, StopAfter3())
    run = folder / "runs" / "halted"
    assert validate(run).steps == 3
    assert not reds(validate(run))
    with (run / "metrics.jsonl").open("a") as file:  # as a kill in the middle of a line leaves it
        file.write('{"step": 4, "los')
    assert not reds(validate(run))
    train(recipe, Quiet(), resume=True)
    assert (run / "ledger.jsonl").read_bytes() == (grpo / "ledger.jsonl").read_bytes()
    assert not reds(validate(run))


def test_a_run_that_was_killed_between_two_journals_is_not_red(grpo: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(grpo, tmp_path / "killed", ignore=shutil.ignore_patterns("checkpoints")))
    lines = (run / "ledger.jsonl").read_text().splitlines(keepends=True)
    (run / "ledger.jsonl").write_text("".join(lines[:-1]))
    assert levels(validate(run))["metrics.jsonl is what the run wrote"] == "green"
    assert not reds(validate(run))
    (run / "ledger.jsonl").write_text("".join(lines[:-2]))
    assert levels(validate(run))["metrics.jsonl is what the run wrote"] == "amber"


def test_a_run_without_a_ledger_says_what_it_cannot_be_asked(grpo: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(grpo, tmp_path / "old", ignore=shutil.ignore_patterns("checkpoints", "ledger.jsonl")))
    report = validate(run)
    assert not reds(report)
    assert report.count("skipped") >= 5
    assert all("ledger.jsonl" in f.fault for f in report.findings if f.level == "skipped" and "wrote" in f.name)
    assert levels(report)["advantages (group_std) of the recorded rewards"] == "green", (
        "rewards and advantages are old records"
    )


def test_an_old_run_that_goes_on_has_a_ledger_from_there_and_says_so(folder: Path) -> None:
    recipe = golden.recipe("grpo", folder, "older")
    with pytest.raises(Preempted):
        train(recipe, StopAfter3())
    run = folder / "runs" / "older"
    (run / "ledger.jsonl").unlink()
    for state in run.glob("checkpoints/*/state.json"):
        kept = json.loads(state.read_text())
        del kept["sealed"], kept["offsets"]["ledger"]
        state.write_text(json.dumps(kept))
        manifest = json.loads(state.with_name("manifest.json").read_text())
        manifest["files"]["state.json"] = {"size": state.stat().st_size, "sha256": sha256(state)}
        state.with_name("manifest.json").write_text(json.dumps(manifest))
    train(recipe, Quiet(), resume=True)
    report = validate(run)
    assert not reds(report)
    found = {f.name: f for f in report.findings}
    assert "the first 3 are older" in found["metrics.jsonl is what the run wrote"].measured
    assert found["KL to the reference is 0 before the first update"].level == "skipped"


def test_a_folder_that_is_no_run_and_a_run_without_a_step_are_one_clear_line(tmp_path: Path, grpo: Path) -> None:
    with pytest.raises(DataError, match=r"no run's folder.*config\.yaml"):
        validate(tmp_path)
    shutil.copy(grpo / "config.yaml", tmp_path)
    with pytest.raises(DataError, match="no records yet"):
        validate(tmp_path)


@pytest.mark.parametrize("journal", ["metrics.jsonl", "rollouts.jsonl", "ledger.jsonl"])
@pytest.mark.parametrize(
    "broken", ['{"step": 1, "loss": \n', "[1]\n", '{"loss": 1.0}\n', '{"step": 1, "updates": 3}\n']
)
def test_a_broken_line_is_named_with_its_number(journal: str, broken: str, grpo: Path, tmp_path: Path) -> None:
    if broken.startswith('{"step": 1, "updates"') and journal != "ledger.jsonl":
        return
    run = Path(shutil.copytree(grpo, tmp_path / "broken", ignore=shutil.ignore_patterns("checkpoints")))
    lines = (run / journal).read_text().splitlines(keepends=True)
    (run / journal).write_text("".join([lines[0], broken, *lines[2:]]))
    with pytest.raises(CorollaryError) as caught:
        validate(run)
    assert f"{journal}:2" in caught.value.line()
    assert "\n" not in caught.value.line()


def test_the_command_prints_a_line_for_each_check_and_ends_by_what_it_found(grpo: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    done = runner.invoke(app, ["validate", str(grpo)])
    assert done.exit_code == 0
    assert done.stdout.count("\ngreen") == validate(grpo).count("green")
    assert "[B13.a docs/" in done.stdout
    run = Path(shutil.copytree(grpo, tmp_path / "edited", ignore=shutil.ignore_patterns("checkpoints")))
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text.replace('"entropy": 5', '"entropy": 4', 1))
    done = runner.invoke(app, ["validate", str(run), "--json"])
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert found["failed"] is True
    assert {f["level"] for f in found["findings"]} == {"green", "red"}
