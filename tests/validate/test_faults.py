"""Faults that are really put into a run: validate is red, and names the fault and no other."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from corollary import rollout
from corollary.algorithms import grpo, ppo
from corollary.engines import sampler as sampling_engine
from corollary.engines.audit import audited
from corollary.engines.sampler import EmbeddedSampler, sample
from corollary.engines.trainer import EmbeddedScorer, EmbeddedTrainer, TrainerConfig, frozen
from corollary.losses.policy import PolicyObjective
from corollary.ops import advantage
from corollary.rollout import group_rewards
from corollary.run import assembly
from corollary.run.loop import train
from corollary.types import Group, Sampling, Terms
from corollary.validate import sampling
from corollary.validate.records import Audit
from corollary.validate.run import validate
from golden import recipes as golden
from run.recipes import Quiet
from tiny import EOS, decode, prompts
from tiny import model as tiny_model
from validate.test_healthy import reds, variant


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return golden.written(tmp_path_factory.mktemp("faults"))


def ran(name: str, folder: Path, request: pytest.FixtureRequest) -> dict[str, str]:
    """What is red in a run of a golden recipe, with whatever was put into it; the fault itself is taken out before it is looked at."""
    run = train(golden.recipe(name, folder, f"{name}-{abs(hash(request.node.name)) % 10**9}"), Quiet())
    request.getfixturevalue("monkeypatch").undo()
    return reds(validate(run))


# The sampler's temperature is 0.9, the trainer's 1.0.


def cooled(reported: float) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Draws at 0.9 times the temperature; says the log-probabilities at `reported` times it."""

    def wrong(logits: torch.Tensor, uniform: torch.Tensor, how: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, own = sample(logits, uniform, replace(how, temperature=0.9 * how.temperature))
        said = (logits.float() / (reported * how.temperature)).log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
        return tokens, own if reported == 0.9 else said.to(own.dtype)

    return wrong


@pytest.mark.parametrize("name", ["grpo", "ppo", "ppo-shared", "grpo-environment", "distill", "dpo-online"])
def test_a_sampler_at_temperature_0_9_is_named_with_its_temperature(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(sampling_engine, "sample", cooled(0.9))
    found = ran(name, folder, request)
    assert [*found] == ["sampler and trainer are one policy"]
    said = re.search(
        r"temperature is not the trainer's: about ([\d.]+) against 1,", found["sampler and trainer are one policy"]
    )
    assert said, found
    assert float(said[1]) == pytest.approx(0.9, abs=0.02)


def test_a_trainer_that_forgets_the_temperature_is_named_with_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers are what their log-probabilities say, and the trainer computes at another temperature."""
    made = grpo.policy_batch

    def forgetful(*args: object, **more: object) -> object:
        return replace(made(*args, **more), temperature=1.0)

    monkeypatch.setattr(grpo, "policy_batch", forgetful)
    run = train(variant("forgetful", "{type: grpo, temperature: 0.9}", folder), Quiet())
    found = reds(validate(run))
    assert [*found] == ["sampler and trainer are one policy"]
    assert "about 0.90 against 1," in found["sampler and trainer are one policy"]


def test_a_temperature_that_is_not_the_recipes_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate = EmbeddedSampler.generate

    def cooler(self: EmbeddedSampler, asked: object, size: int, how: Sampling, **more: object) -> object:
        return generate(self, asked, size, replace(how, temperature=0.9), **more)  # type: ignore[arg-type]

    monkeypatch.setattr(EmbeddedSampler, "generate", cooler)
    run = train(variant("cooler", "{type: grpo}", folder), Quiet())
    found = reds(validate(run))
    assert [*found] == ["sampler and trainer are one policy"]
    assert "the temperature is not the recipe's: 0.9 against 1" in found["sampler and trainer are one policy"]


def drawn(wrong: Callable[..., object] | None, monkeypatch: pytest.MonkeyPatch, seed: int) -> Audit:
    """64 answers of a tiny model with wide logits, audited."""
    if wrong is not None:
        monkeypatch.setattr(sampling_engine, "sample", wrong)
    policy = tiny_model(torch.float32)
    with torch.no_grad():
        policy.lm_head.weight.mul_(2)
    asked = prompts(5, 1, 9, 3)
    sampler = EmbeddedSampler(policy, decode=decode, eos_token_ids=[EOS], seed=seed)
    groups = sampler.generate(asked, 16, Sampling(max_tokens=48), names=("rollout", 0))
    columns = audited(asked, groups, EmbeddedScorer(policy, TrainerConfig()))
    told = {name: column.tolist() for name, column in columns.items()}
    return Audit(batch=0, temperature=1.0, answers=[], **told)


def test_a_sampler_that_hides_its_temperature_is_found_by_how_surprising_its_answers_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its log-probabilities are those of temperature 1, so every ratio is 1; only what it says is too likely."""
    honest = [drawn(None, monkeypatch, seed) for seed in range(12)]
    assert sampling.surprise(honest).level == "green"
    hidden = [drawn(cooled(1.0), monkeypatch, seed) for seed in range(12)]
    assert sum(map(sum, (a.gap for a in hidden))) / sum(map(sum, (a.tokens for a in hidden))) < 1e-4
    found = sampling.surprise(hidden)
    assert found.level == "red", found.measured
    assert "temperature of about 0.9" in found.fault or "temperature of about 0.8" in found.fault


def test_a_sampler_that_cuts_the_vocabulary_has_a_mean_ratio_below_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(logits: torch.Tensor, uniform: torch.Tensor, how: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
        return sample(logits, uniform, replace(how, top_k=3))

    assert sampling.mean_ratio([drawn(None, monkeypatch, seed) for seed in range(4)]).level == "green"
    found = sampling.mean_ratio([drawn(cut, monkeypatch, seed) for seed in range(4)])
    assert found.level == "red"
    assert "top-k" in found.fault


# Advantages are not centred.


@pytest.mark.parametrize("how", ["group_mean", "group_std", "leave_one_out", "batch_std"])
def test_advantages_that_are_not_centred_are_named(how: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advantage, "_centred", lambda rewards: rewards.double().nan_to_num(0.0))
    run = train(variant(f"uncentred-{how}", f"{{type: grpo, advantage: {how}}}", folder), Quiet())
    monkeypatch.undo()
    found = reds(validate(run))
    assert {*found} == {f"advantages ({how}) of the recorded rewards", "advantages sum to 0 over each group"}
    assert all("not centred" in fault for fault in found.values())


@pytest.mark.parametrize("name", ["ppo", "ppo-environment"])
def test_ppo_advantages_that_are_not_centred_are_named(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    white = ppo.whiten
    monkeypatch.setattr(ppo, "whiten", lambda a, trained: (white(a, trained) + 0.5).where(trained, 0.0))
    found = ran(name, folder, request)
    assert [*found] == ["advantages are white over each step"]
    assert "not centred" in found["advantages are white over each step"]


# The reference drifts.


def shared(recipe: object, model: object) -> EmbeddedScorer:
    """The reference is the model that is trained."""
    return EmbeddedScorer(model.model, recipe.trainer)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["grpo", "ppo", "dpo", "dpo-online", "kto", "bco"])
def test_a_reference_that_is_trained_along_is_named(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(assembly, "starting_policy", shared)
    found = ran(name, folder, request)
    assert [*found] == ["reference and teacher do not change"]
    assert "the reference model drifts" in found["reference and teacher do not change"]


def test_a_reference_that_follows_slowly_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """An average of the policy's weights, a hundredth of the way at each step."""
    step, pairs = EmbeddedTrainer.step, []

    def lent(recipe: object, model: object) -> EmbeddedScorer:
        scorer = frozen(copy.deepcopy(model.model), recipe.trainer)  # type: ignore[attr-defined]
        pairs.append((scorer.model, model.model))  # type: ignore[attr-defined]
        return scorer

    def following(self: EmbeddedTrainer, *args: object, **more: object) -> object:
        told = step(self, *args, **more)  # type: ignore[arg-type]
        with torch.no_grad():
            for ours, theirs in zip(pairs[0][0].parameters(), pairs[0][1].parameters(), strict=True):
                ours.lerp_(theirs, 0.01)
        return told

    monkeypatch.setattr(assembly, "starting_policy", lent)
    monkeypatch.setattr(EmbeddedTrainer, "step", following)
    found = ran("grpo", folder, request)
    assert [*found] == ["reference and teacher do not change"]


def test_a_teacher_that_is_trained_along_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(assembly, "_teacher", lambda recipe, model, _: shared(recipe, model))
    found = ran("distill", folder, request)
    assert [*found] == ["reference and teacher do not change"]
    assert "the teacher model drifts" in found["reference and teacher do not change"]


# A reward is clipped after it was logged.


def clipped(groups: Sequence[Group]) -> torch.Tensor:
    return group_rewards(groups).clamp(max=0.2)


@pytest.mark.parametrize("how", ["group_mean", "group_std", "leave_one_out"])
def test_a_reward_that_is_clipped_after_it_was_logged_is_named_with_its_bound(
    how: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpo, "group_rewards", clipped)
    run = train(variant(f"clipped-{how}", f"{{type: grpo, advantage: {how}}}", folder), Quiet())
    monkeypatch.undo()
    found = reds(validate(run))
    assert [*found] == [f"advantages ({how}) of the recorded rewards"]
    fault = next(iter(found.values()))
    said = re.search(r"the reward was changed after it was recorded: clipping it to at most ([\d.]+) explains", fault)
    assert said, fault
    assert float(said[1]) == pytest.approx(0.2, abs=0.01 if how == "group_std" else 1e-3), "its ε alone tells a scale"


@pytest.mark.parametrize("name", ["ppo", "ppo-environment"])
def test_a_clipped_reward_is_named_in_ppo(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(ppo, "group_rewards", clipped)
    found = ran(name, folder, request)
    assert [*found] == ["returns are the recorded rewards"]
    assert "the reward was changed after it was recorded" in found["returns are the recorded rewards"]


# metrics.jsonl is edited by hand.


def edited(run: Path, line: int, key: str) -> str:
    """Change the last digit of one number; what it says now."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    row = json.loads(lines[line - 1])
    old = json.dumps(row[key])
    new = old[:-1] + str((int(old[-1]) + 1) % 10)
    lines[line - 1] = lines[line - 1].replace(f'"{key}": {old}', f'"{key}": {new}')
    (run / "metrics.jsonl").write_text("".join(text + "\n" for text in lines))
    return new


@pytest.mark.parametrize("name", ["sft", "dpo", "kto", "reward-model", "grpo", "ppo", "distill"])
def test_one_digit_of_metrics_is_named_with_its_line_and_key(
    name: str, folder: Path, request: pytest.FixtureRequest
) -> None:
    run = train(golden.recipe(name, folder, f"{name}-edited"), Quiet())
    new = edited(run, 4, "loss")
    found = reds(validate(run))
    assert [*found] == ["metrics.jsonl is what the run wrote"], "the last digit is below every other tolerance"
    assert f"line 4: loss is {new}, the run wrote" in found["metrics.jsonl is what the run wrote"]


def test_a_larger_change_is_also_caught_by_the_answers_and_without_a_ledger(folder: Path) -> None:
    run = train(golden.recipe("grpo", folder, "larger"), Quiet())
    text = (run / "metrics.jsonl").read_text().splitlines()
    row = json.loads(text[2])
    text[2] = json.dumps(row | {"reward": row["reward"] + 0.25})
    (run / "metrics.jsonl").write_text("".join(line + "\n" for line in text))
    again = "metrics computed again from the answers"
    assert [*reds(validate(run))] == ["metrics.jsonl is what the run wrote", again]
    assert "line 3: reward" in reds(validate(run))[again]
    (run / "ledger.jsonl").unlink()
    assert [*reds(validate(run))] == [again]


def test_a_line_that_was_taken_out_and_rewards_that_were_rewritten_are_named(folder: Path) -> None:
    run = train(golden.recipe("grpo", folder, "taken"), Quiet())
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:2] + lines[3:]))
    assert "step 3 is missing" in reds(validate(run))["metrics.jsonl is what the run wrote"]
    (run / "metrics.jsonl").write_text("".join(lines))
    rows = (run / "rollouts.jsonl").read_text()
    (run / "rollouts.jsonl").write_text(rows.replace('"truncated": true', '"truncated": false', 1))
    found = reds(validate(run))
    assert "step" in found["rollouts.jsonl and ledger.jsonl are sealed"]


def test_seals_that_were_made_anew_do_not_fit_the_checkpoints(folder: Path) -> None:
    from corollary.run.ledger import digest, seal

    run = train(golden.recipe("sft", folder, "forged"), Quiet())
    before, lines = "", []
    for text in (run / "ledger.jsonl").read_text().splitlines():
        row = {key: value for key, value in json.loads(text).items() if key != "seal"}
        row["metrics"]["loss"] += 1.0
        said = json.dumps({"step": row["step"], **row["metrics"]}) + "\n"
        before = seal(before, json.dumps(row, ensure_ascii=False), (digest(said), digest("")))
        lines.append((said, json.dumps(row | {"seal": before}, ensure_ascii=False) + "\n"))
    for name, column in zip(("metrics.jsonl", "ledger.jsonl"), zip(*lines, strict=True), strict=True):
        (run / name).write_text("".join(column))
    assert "rollouts.jsonl and ledger.jsonl are sealed" in reds(validate(run))


# Other faults that the theory knows.


def test_a_reward_that_changes_on_the_way_is_named_by_a_gain_that_its_kl_does_not_allow(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the third batch on everything earns 1 more, and the policy hardly moves."""
    scored = rollout.scored

    def generous(reward: object, asked: object, answers: object, number: int) -> list[Group]:
        groups = scored(reward, asked, answers, number)  # type: ignore[arg-type]
        more = 1.0 if number > 1 else 0.0
        return [[replace(r, reward=None if r.reward is None else r.reward + more) for r in group] for group in groups]

    monkeypatch.setattr(rollout, "scored", generous)
    rows = [golden.row(i) | {"id": f"many-{i}"} for i in range(80)]
    (folder / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = (f"data.path={folder / 'many.jsonl'}", "algorithm.prompts_per_step=80", "algorithm.group_size=2")
    more = ("algorithm.max_tokens=2", "optimizer.lr=1e-6", "run.steps=8")
    recipe = variant("generous", "{type: grpo, kl: {type: none, measure: 1}}", folder, *settings, *more)
    found = reds(validate(train(recipe, Quiet())))
    assert [*found] == ["gain within what its KL allows"]
    assert "the reward or the prompts changed on the way" in found["gain within what its KL allows"]


def test_a_gradient_of_the_wrong_sign_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    update = EmbeddedTrainer._update

    def ascending(self: EmbeddedTrainer, predict: bool) -> dict[str, float]:
        self._optimizer.param_groups[0]["peak"] = -abs(self._optimizer.param_groups[0]["peak"])
        return update(self, predict)

    monkeypatch.setattr(EmbeddedTrainer, "_update", ascending)
    found = ran("sft", folder, request)
    assert [*found] == ["loss decrease against the first-order prediction"]
    assert "went up its own gradient" in found["loss decrease against the first-order prediction"]


def test_a_policy_that_does_not_start_at_its_reference_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    def other(recipe: object, model: object) -> EmbeddedScorer:
        moved = copy.deepcopy(model.model)  # type: ignore[attr-defined]
        with torch.no_grad():
            for weight in moved.parameters():
                weight.add_(torch.linspace(-0.3, 0.3, weight.numel()).view_as(weight))
        return frozen(moved, recipe.trainer)  # type: ignore[attr-defined]

    monkeypatch.setattr(assembly, "starting_policy", other)
    found = ran("dpo", folder, request)
    assert {*found} == {"KL to the reference is 0 before the first update", "first loss of dpo"}


def test_a_loss_that_is_averaged_otherwise_than_it_says_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    inner = PolicyObjective.__call__

    def doubled(self: PolicyObjective, logprobs: torch.Tensor, batch: object) -> Terms:
        terms = inner(self, logprobs, batch)  # type: ignore[arg-type]
        return Terms(2 * terms.loss + 0.01, terms.metrics)

    monkeypatch.setattr(PolicyObjective, "__call__", doubled)
    assert [*ran("grpo", folder, request)] == ["loss computed again from the sequences"]
