"""PPO on a tiny real transformer: credit by hand, a critic that learns, a policy that learns, and the classic mistakes caught."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import tiny
from algorithms.test_grpo import Constantly, Fives, asked
from corollary.algorithms import ppo
from corollary.algorithms.ppo import GAE, LambdaReturns, PPOConfig, SeparateCritic, SharedCritic
from corollary.config import variant
from corollary.data.collate import as_kind, policy_batch
from corollary.engines.sampler import EmbeddedSampler
from corollary.engines.trainer import EmbeddedScorer, EmbeddedTrainer, OptimizerConfig, TrainerConfig
from corollary.errors import ConfigError, Preempted
from corollary.losses.policy import KLInLoss, KLInReward, NoKL, PPOClip
from corollary.losses.value import squared
from corollary.models.heads import with_scalar_head
from corollary.ops.kl import k1
from corollary.ops.reduce import TokenMean
from corollary.ops.returns import length_adaptive_gae
from corollary.rollout import SingleTurn, group_rewards
from corollary.run.loop import train
from corollary.run.recipe import Recipe
from corollary.types import ActorCriticBatch, Completion, Group, Prompt, Rollout, Sampling, Step, TokenBatch
from run import recipes

SMALL = PPOConfig(prompts_per_step=4, group_size=8, max_tokens=5, kl=NoKL())
CRITICS = [SharedCritic(), SeparateCritic()]


class Setup:
    """The engines of a small run, at hand."""

    def __init__(
        self, config: PPOConfig, *, lr: float = 5e-3, reward: Fives | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        policy = tiny.model(dtype)
        if config.has_scalar_head:
            with_scalar_head(policy)
        learning = OptimizerConfig(lr=lr)
        self.config = config
        self.trainer = EmbeddedTrainer(policy, TrainerConfig(), learning, total_steps=999)
        self.critic = self.trainer
        if config.own_critic:
            self.critic = EmbeddedTrainer(
                with_scalar_head(tiny.model(dtype)), TrainerConfig(), learning, total_steps=999
            )
        self.reference = EmbeddedScorer(tiny.model(dtype), TrainerConfig())
        self.sampler = EmbeddedSampler(policy, decode=tiny.decode, eos_token_ids=(tiny.EOS,), seed=0)
        self.reward = reward or Fives()

    def steps(self, first: int = 0) -> Iterator[Step]:
        return ppo.steps(
            self.config, trainer=self.trainer, critic=self.critic, sampler=self.sampler, first=first,
            player=SingleTurn(self.sampler, self.reward), prompts=asked(), reference=self.reference,
        )  # fmt: skip


def weights(of: EmbeddedTrainer) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for p in of.scorer.model.parameters()])


def answer(*tokens: int, logprob: float = -1.0, sampled: tuple[bool, ...] = (), truncated: bool = False) -> Completion:
    return Completion(
        token_ids=tokens, logprobs=tuple(logprob if s else 0.0 for s in sampled or (True,) * len(tokens)), text="",
        truncated=truncated, version=0, sampling=Sampling(max_tokens=9), sampled=sampled,
    )  # fmt: skip


def groups(*completions: Completion, rewards: tuple[float | None, ...]) -> list[Group]:
    return [
        [Rollout(prompt=prompt, completion=completion, reward=reward)]
        for prompt, completion, reward in zip(tiny.prompts(3, 5, 2, 4), completions, rewards, strict=False)
    ]


class High(Fives):
    """1 if the first token is one of the upper half: all is known from there on."""

    def score(self, groups: Sequence[tuple[Prompt, Sequence[Completion]]], *, step: int = 0) -> list[list[Fives.Score]]:
        return [[Fives.Score(float(c.token_ids[0] >= 12)) for c in completions] for _, completions in groups]


class Judge:
    """A critic that says 1, 2, 3, … before the tokens of each answer and behind its end."""

    version = 0

    def values(self, batch: TokenBatch) -> Tensor:
        return torch.arange(1.0, batch.targets.shape[1] + 1).expand(batch.targets.shape)


# ------------------------------------------------------------------------------------------------------------------ it learns


@pytest.mark.parametrize("critic", CRITICS, ids=lambda c: c.type)
def test_it_learns_and_so_does_its_critic(critic: SharedCritic | SeparateCritic) -> None:
    run = Setup(SMALL.model_copy(update={"critic": critic, "epochs": 2}))
    metrics = [step.metrics for step in islice(run.steps(), 25)]
    early, late = (sum(m["reward"] for m in part) / 5 for part in (metrics[:5], metrics[-5:]))
    assert late > early + 0.3
    assert abs(metrics[-1]["value"] - metrics[-1]["return"]) < 0.2
    assert metrics[0]["value"] == 0


def test_a_critic_learns_to_foresee_what_a_policy_that_stays_will_earn() -> None:
    run = Setup(SMALL.model_copy(update={"critic": SeparateCritic(warmup=99)}), lr=2e-2, reward=High())
    explained = [step.metrics["explained_variance"] for step in islice(run.steps(), 40)]
    assert explained[0] == 0
    assert sum(explained[-6:]) / 6 > 0.3


# -------------------------------------------------------------------------------------------------------------------- credit


def by_hand(rewards: list[float], values: list[float], lam: float, gamma: float, after: float) -> list[float]:
    """A_t = Σ_k (γλ)^k δ_{t+k}, term by term."""
    ahead = [*values[1:], after]
    deltas = [r + gamma * v1 - v for r, v, v1 in zip(rewards, values, ahead, strict=True)]
    return [sum((gamma * lam) ** k * d for k, d in enumerate(deltas[t:])) for t in range(len(deltas))]


@pytest.mark.parametrize("truncated", ["zero", "bootstrap"])
def test_advantages_and_returns_are_those_of_the_formula_token_by_token(truncated: str) -> None:
    """λ = 0.9 for the policy and 0.5 for the critic; an answer that ended, one that was cut, and one with an observation."""
    config = SMALL.model_copy(
        update={
            "advantage": GAE(lam=0.9, gamma=0.8), "returns": LambdaReturns(lam=0.5, gamma=0.8), "scale": "none",
            "truncated": truncated,
        }
    )  # fmt: skip
    played = groups(
        answer(5, 6, 2), answer(5, 6, 7, 8, truncated=True), answer(5, 9, 9, 6, 2, sampled=(True, False, False, True, True)),
        rewards=(1.0, 0.25, -1.0),
    )  # fmt: skip
    batch = ppo.experience(config, played, Judge(), None)
    after = 5.0 if truncated == "bootstrap" else 0.0
    cases = [
        ([0, 1, 2], [0.0, 0.0, 1.0], [1.0, 2.0, 3.0], 0.0),
        ([0, 1, 2, 3], [0.0, 0.0, 0.0, 0.25], [1.0, 2.0, 3.0, 4.0], after),
        ([0, 3, 4], [0.0, 0.0, -1.0], [1.0, 4.0, 5.0], 0.0),  # over the observation as if it were not there
    ]
    for row, (at, rewards, values, behind) in enumerate(cases):
        advantages = by_hand(rewards, values, 0.9, 0.8, behind)
        returns = [v + a for v, a in zip(values, by_hand(rewards, values, 0.5, 0.8, behind), strict=True)]
        assert batch.advantages[row, at].tolist() == pytest.approx(advantages, rel=1e-5)
        assert batch.returns[row, at].tolist() == pytest.approx(returns, rel=1e-5)
    assert not batch.advantages[~batch.trained].any()
    assert batch.trained[2].tolist() == [True, False, False, True, True]


def test_the_critic_of_the_defaults_learns_what_was_earned_whatever_it_said() -> None:
    batch = ppo.experience(SMALL, groups(answer(5, 6, 2), answer(5, 2), rewards=(1.0, 0.5)), Judge(), None)
    assert batch.returns.tolist() == [[1.0, 1.0, 1.0], [0.5, 0.5, 0.0]]


def test_length_adaptive_lambda_is_0_for_answers_shorter_than_1_over_alpha() -> None:
    config = SMALL.model_copy(update={"advantage": variant(length_adaptive_gae)(alpha=0.2), "scale": "none"})
    batch = ppo.experience(config, groups(answer(5, 6, 2), rewards=(1.0,)), Judge(), None)
    assert batch.advantages[0].tolist() == [1.0, 1.0, -2.0]  # one-step differences of 1, 2, 3, and 1 at the end


def test_the_kl_penalty_in_the_reward_adds_up_to_the_kl_of_the_sequence() -> None:
    played = groups(answer(5, 6, 2), answer(5, 9, 2, sampled=(True, False, True)), rewards=(1.0, 0.0))
    plain = policy_batch(played, torch.zeros(2, 1), TokenMean())
    plain = replace(plain, ref_logprobs=torch.tensor([[-1.5, -0.5, -3.0], [-2.0, -7.0, -1.0]]))
    found = ppo.token_rewards(plain, group_rewards(played), KLInReward(coef=0.1))
    penalties = 0.1 * k1(plain.sampler_logprobs, plain.ref_logprobs).where(plain.trained, 0.0).sum(1)
    assert found.sum(1).tolist() == pytest.approx((torch.tensor([1.0, 0.0]) - penalties).tolist())
    assert found[0].tolist() == pytest.approx([-0.05, 0.05, 1 - 0.2])
    assert found[1, 1] == 0


def test_an_answer_that_nobody_could_judge_trains_neither_policy_nor_critic() -> None:
    batch = ppo.experience(SMALL, groups(answer(5, 6, 2), answer(5, 2), rewards=(1.0, None)), Judge(), None)
    assert batch.trained.any(1).tolist() == [True, False]
    assert batch.advantages.isfinite().all()
    assert batch.returns.isfinite().all()


def test_whitened_advantages_have_mean_0_and_variance_1_over_the_tokens_of_the_step() -> None:
    step = next(Setup(SMALL).steps())
    run = Setup(SMALL)
    batch = ppo.experience(SMALL, list(step.groups), run.critic, None)
    kept = batch.advantages[batch.trained]
    assert kept.mean().item() == pytest.approx(0, abs=1e-5)
    assert kept.var().item() == pytest.approx(1, abs=1e-3)


# ------------------------------------------------------------------------------------------------------------- the two models


@pytest.mark.parametrize("critic", CRITICS, ids=lambda c: c.type)
def test_on_policy_the_first_ratio_is_1_and_that_of_a_second_epoch_is_not(
    critic: SharedCritic | SeparateCritic,
) -> None:
    for epochs in (1, 2):
        run = Setup(SMALL.model_copy(update={"critic": critic, "epochs": epochs}), lr=5e-2)
        metrics = next(run.steps()).metrics
        assert (metrics["approx_kl"] > 1e-4) == (epochs == 2)
        assert (metrics["ratio"] == pytest.approx(1, abs=1e-6)) == (epochs == 1)


def test_while_the_critic_warms_up_the_policy_keeps_every_bit() -> None:
    run = Setup(SMALL.model_copy(update={"critic": SeparateCritic(warmup=2)}))
    policy, critic = weights(run.trainer), weights(run.critic)
    steps = run.steps()
    for _ in range(2):
        metrics = next(steps).metrics
        assert "ratio" not in metrics
        assert "critic/error" in metrics
    assert torch.equal(weights(run.trainer), policy)
    assert not torch.equal(weights(run.critic), critic)
    next(steps)
    assert not torch.equal(weights(run.trainer), policy)


def test_a_resumed_run_knows_that_the_warm_up_is_over() -> None:
    run = Setup(SMALL.model_copy(update={"critic": SeparateCritic(warmup=2)}))
    assert "ratio" in next(run.steps(first=2)).metrics


def test_a_policy_of_its_own_is_not_moved_by_equal_rewards_that_its_critic_foresees() -> None:
    """No KL, every answer earns ½, and a critic that says ½ everywhere: there is nothing to learn."""

    class Knows(Judge):
        def values(self, batch: TokenBatch) -> Tensor:
            return torch.full(batch.targets.shape, 0.5)

    step = next(Setup(SMALL, reward=Constantly()).steps())
    config = SMALL.model_copy(update={"advantage": GAE(lam=0.95), "scale": "whiten"})
    batch = ppo.experience(config, list(step.groups), Knows(), None)
    assert not batch.advantages.any()


def test_explained_variance_is_1_of_a_perfect_critic_and_0_of_a_constant() -> None:
    returns = torch.tensor([0.0, 1.0, 3.0])
    assert ppo.explained_variance(returns, returns) == 1
    assert ppo.explained_variance(torch.full((3,), 7.0), returns) == pytest.approx(0, abs=1e-6)
    assert ppo.explained_variance(returns, torch.ones(3)) == 0


def test_a_shared_critic_s_gradient_is_that_of_both_formulas() -> None:
    """Against autograd on the model as transformers runs it, with a clipped surrogate and a squared error."""
    base = tiny.batch()
    returns = torch.randn(base.targets.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    batch = as_kind(ActorCriticBatch, base, returns=returns, old_values=torch.zeros_like(returns))
    config = PPOConfig(critic=SharedCritic(coef=0.3), value_loss=variant(squared)(), kl=NoKL())
    run = Setup(config, dtype=torch.float64)
    loss = ppo.ActorCritic(config.objective, ppo.Bound(config.value_loss), 0.3)
    run.trainer._split(batch, loss)
    model = with_scalar_head(tiny.model())
    total = torch.zeros((), dtype=torch.float64)
    for b, n in enumerate(batch.lengths.tolist()):
        prompt = batch.prompts[int(batch.prompt_of[b])]
        out = model(torch.tensor([[*prompt, *batch.targets[b, :n].tolist()]]), output_hidden_states=True)
        logprobs = out.logits[0, len(prompt) - 1 : -1].log_softmax(-1).gather(1, batch.targets[b, :n, None])[:, 0]
        values = model.score(out.hidden_states[-1][0, len(prompt) - 1 : -1])[:, 0]
        policy = -(logprobs - logprobs.detach()).exp() * batch.advantages[b, :n]
        total = total + (batch.weights[b, :n] * (policy + 0.3 * (values - returns[b, :n]).square() / 2)).sum()
    total.backward()
    for name, parameter in model.named_parameters():
        found = dict(run.trainer.scorer.model.named_parameters())[name].grad
        torch.testing.assert_close(found, parameter.grad, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("critic", CRITICS, ids=lambda c: c.type)
@pytest.mark.parametrize(
    "settings", [{"minibatches": 3}, {"epochs": 2}, {"kl": KLInLoss()}, {"kl": KLInReward()}], ids=str
)
def test_every_setting_gives_metrics_of_both(
    critic: SharedCritic | SeparateCritic, settings: dict[str, object]
) -> None:
    run = Setup(SMALL.model_copy(update={"critic": critic, **settings}))
    metrics = next(run.steps()).metrics
    assert {
        "ratio",
        "clipped",
        "critic/error",
        "critic/loss",
        "value",
        "return",
        "explained_variance",
    } <= metrics.keys()
    assert ("kl" in metrics) == ("kl" in settings)
    updates = run.config.updates_per_step
    assert run.trainer.version == updates
    assert run.critic.version == updates


def test_the_settings_name_what_an_engine_must_give() -> None:
    assert PPOConfig(critic="shared").has_scalar_head
    assert PPOConfig(critic="shared").own_critic is None
    assert PPOConfig(critic={"type": "own", "optimizer": {"lr": 0.5}}).own_critic.optimizer.lr == 0.5
    assert PPOConfig().needs_reference
    assert not PPOConfig(kl="none").needs_reference


# ------------------------------------------------------------------------------------------------------------------ whole runs


class StopAfter2(recipes.Quiet):
    def step(self, number: int, *rest: object) -> None:
        if number == 2:
            signal.raise_signal(signal.SIGTERM)


def recipe(folder: Path, name: str, *overrides: str) -> Recipe:
    made = folder / "ppo.yaml"
    made.write_text(
        "defaults: run.yaml\nevaluation: null\n"
        "algorithm: {type: ppo, prompts_per_step: 3, group_size: 2, max_tokens: 8, kl: {type: in_reward, coef: 0.01}, epochs: 2}\n"
    )
    return recipes.recipe(made, f"run.name={name}", "run.steps=4", "run.export=false", *overrides)


@pytest.mark.parametrize("critic", ["own", "shared"])
def test_a_stopped_run_goes_on_to_the_same_bits_of_policy_and_critic(tmp_path: Path, critic: str) -> None:
    recipes.write(tmp_path)
    setting = f"algorithm.critic={critic}"
    whole = train(recipe(tmp_path, "whole", setting, "run.export=true"), recipes.Quiet())
    with pytest.raises(Preempted):
        train(recipe(tmp_path, "stopped", setting), StopAfter2())
    again = train(recipe(tmp_path, "stopped", setting), recipes.Quiet(), resume=True)
    assert "score.weight" not in load_file(whole / "model" / "model.safetensors"), (
        "a policy is exported without its critic"
    )
    files = sorted((whole / "checkpoints" / "step-000004").glob("*.safetensors"))
    assert any(file.name.startswith("critic-") for file in files) == (critic == "own")
    for file in files:
        assert file.read_bytes() == (again / "checkpoints" / "step-000004" / file.name).read_bytes(), file.name
    assert (whole / "metrics.jsonl").read_bytes() == (again / "metrics.jsonl").read_bytes()


def test_the_learning_rate_falls_over_all_updates_of_the_run(tmp_path: Path) -> None:
    recipes.write(tmp_path)
    folder = train(recipe(tmp_path, "slope", "optimizer.schedule=linear", "optimizer.warmup_steps=0"), recipes.Quiet())
    rates = [json.loads(line)["lr"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rates == pytest.approx([1e-2 * (1 - (2 * step + 0.5) / 8) for step in range(4)])


def test_a_mistaken_setting_is_told_by_its_name(tmp_path: Path) -> None:
    recipes.write(tmp_path)
    with pytest.raises(ConfigError, match="warmup"):
        recipe(tmp_path, "wrong", "algorithm.critic={type: shared, warmup: 3}")
    assert isinstance(recipe(tmp_path, "right").algorithm.loss, PPOClip)
