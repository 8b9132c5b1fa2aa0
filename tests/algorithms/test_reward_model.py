"""Reward models on a tiny real transformer: what is trained, what is measured, and the way to transformers, back, and into RL."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import tiny
from corollary.algorithms import reward_model
from corollary.algorithms.base import Engines
from corollary.algorithms.reward_model import RewardModelConfig, ranked
from corollary.config import variant
from corollary.data.pairs import Pair
from corollary.engines.reward_model import RewardModel
from corollary.engines.sampler import EmbeddedSampler
from corollary.engines.trainer import EmbeddedScorer, EmbeddedTrainer, OptimizerConfig, TrainerConfig
from corollary.errors import ConfigError, ModelError
from corollary.losses.reward_model import bradley_terry
from corollary.models.heads import has_scalar_head, padding_token, with_scalar_head, without_scalar_head
from corollary.models.load import load_model
from corollary.run.loop import check, train
from corollary.types import Prompt, Step
from run import recipes

SMALL = RewardModelConfig(pairs_per_step=4)


def asked(**more: object) -> list[Prompt]:
    """Four prompts whose chosen answer is fives and whose rejected one is sixes, of unequal lengths."""
    rows = [{"chosen": "5 " * (1 + i % 3), "rejected": "6 " * (1 + (i + 1) % 4), **more} for i in range(4)]
    return [replace(p, columns=row) for p, row in zip(tiny.prompts(3, 5, 2, 4), rows, strict=True)]


def encode(text: str) -> list[int]:
    return [*map(int, text.split()), tiny.EOS]


def trainer(lr: float = 1e-2, seed: int = 3, **settings: object) -> EmbeddedTrainer:
    model = with_scalar_head(tiny.model())
    with torch.no_grad():
        model.score.weight.copy_(torch.randn(1, 16, generator=torch.Generator().manual_seed(seed)) * (seed > 0))
    return EmbeddedTrainer(model, TrainerConfig(**settings), OptimizerConfig(lr=lr), total_steps=99)


def start(config: RewardModelConfig, of: EmbeddedTrainer, rows: list[Prompt] | None = None) -> Iterator[Step]:
    examples = iter(lambda: rows or asked(), None)
    return reward_model.steps(config, trainer=of, encode=encode, examples=examples)


def reward_of(model: torch.nn.Module, prompt: Prompt, answer: list[int]) -> Tensor:
    """The head on the last state, as transformers runs the model."""
    states = model.model(torch.tensor([[*prompt.token_ids, *answer]])).last_hidden_state
    return F.linear(states[0, -1], model.score.weight)[0]


def loss_by_hand(model: torch.nn.Module, rows: list[Prompt], centring: float = 0.0, margin: float = 0.0) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for prompt in rows:
        better, worse = (reward_of(model, prompt, encode(prompt.columns[side])) for side in ("chosen", "rejected"))
        total = total - F.logsigmoid(better - worse - margin) + centring * (better + worse).square()
    return total / len(rows)


# -------------------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("head", [0, 3], ids=["fresh head", "trained head"])
def test_it_learns_to_prefer_fives(head: int) -> None:
    metrics = [step.metrics for step in islice(start(SMALL, trainer(seed=head)), 20)]
    assert metrics[-1]["accuracy"] == 1
    assert metrics[-1]["margin"] > metrics[0]["margin"] + 1
    if head == 0:
        assert metrics[0]["loss"] == pytest.approx(math.log(2))


@pytest.mark.parametrize(("settings", "column"), [({}, None), ({"centring": 0.1}, None), ({}, 0.5)], ids=str)
def test_the_gradient_is_that_of_the_formula_on_the_states_after_whole_answers(
    settings: dict[str, float], column: float | None
) -> None:
    rows = asked() if column is None else asked(better=column)
    config = SMALL.model_copy(
        update={"loss": variant(bradley_terry)(**settings), "margin": "" if column is None else "better"}
    )
    ours = trainer(tokens_per_microbatch=12)
    batch = ranked([pair for prompt in rows for pair in config.usable(prompt, encode)])
    ours._split(batch, reward_model.Ranking(reward_model.Bound(config.loss)))
    model = trainer().scorer.model
    model.config._attn_implementation = "sdpa"
    loss_by_hand(model, rows, settings.get("centring", 0.0), column or 0.0).backward()
    for name, parameter in ours.scorer.model.named_parameters():
        theirs = dict(model.named_parameters())[name].grad
        torch.testing.assert_close(parameter.grad, theirs, rtol=1e-7, atol=1e-10)


def test_the_reward_is_read_behind_end_of_sequence_and_not_before_it() -> None:
    """The classic mistake: padding equals end-of-sequence, and the last token that counts is the one before."""
    of, rows = trainer(), asked()
    batch = ranked([pair for prompt in rows for pair in SMALL.pairs(prompt, encode)])
    found = (of.values(batch) * batch.trained).sum(1)
    model = of.scorer.model
    model.config._attn_implementation = "sdpa"
    whole = [reward_of(model, p, encode(p.columns[s])).item() for p in rows for s in ("chosen", "rejected")]
    early = [reward_of(model, p, encode(p.columns[s])[:-1]).item() for p in rows for s in ("chosen", "rejected")]
    assert found.tolist() == pytest.approx(whole, rel=1e-9)
    assert min(abs(a - b) for a, b in zip(found.tolist(), early, strict=True)) > 1e-3


def test_several_rejected_answers_count_as_one_prompt() -> None:
    rows = [
        replace(p, columns={"chosen": "5", "rejected": ["6", "7 7", "8"]} if i == 0 else p.columns)
        for i, p in enumerate(asked())
    ]
    batch = ranked([pair for prompt in rows for pair in SMALL.usable(prompt, encode)])
    assert len(batch.lengths) == 2 * 6
    assert batch.weights.sum().item() == pytest.approx(1)
    assert batch.weights[:6].sum().item() == pytest.approx(1 / 4)


def test_swapped_rows_teach_the_opposite() -> None:
    of = trainer()
    swapped = SMALL.model_copy(update={"chosen": "{rejected}", "rejected": "{chosen}"})
    list(islice(start(swapped, of), 20))
    assert next(start(SMALL, of)).metrics["accuracy"] == 0


def test_a_user_s_loss_on_rewards_is_told_of_in_the_same_metrics() -> None:
    def hinge(chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
        return (1 - chosen_rewards + rejected_rewards).clamp(min=0)

    config = SMALL.model_copy(update={"loss": variant(hinge)()})
    metrics = [step.metrics for step in islice(start(config, trainer()), 12)]
    assert {"accuracy", "margin", "reward_chosen", "reward_rejected"} <= metrics[0].keys()
    assert metrics[-1]["margin"] > metrics[0]["margin"]


# ------------------------------------------------------------------------------------------------------------------- measuring


def engines(of: EmbeddedTrainer) -> Engines:
    sampler = EmbeddedSampler(of.scorer.model, decode=tiny.decode, eos_token_ids=(tiny.EOS,), seed=0)
    return Engines(trainer=of, sampler=sampler, prompts=iter(()), encode=encode)


def test_held_out_pairs_are_measured_one_by_one_beside_what_length_alone_would_say() -> None:
    of, rows = trainer(), asked()
    said = SMALL.measured(engines(of), rows)
    model = of.scorer.model
    model.config._attn_implementation = "sdpa"
    for prompt, measures in zip(rows, said, strict=True):
        better, worse = (reward_of(model, prompt, encode(prompt.columns[s])).item() for s in ("chosen", "rejected"))
        longer = len(prompt.columns["chosen"]) - len(prompt.columns["rejected"])
        assert measures["margin"] == pytest.approx(better - worse)
        assert measures["accuracy"] == (better > worse)
        assert measures["nll"] == pytest.approx(math.log1p(math.exp(worse - better)))
        assert measures["longer_is_chosen"] == (0.5 if longer == 0 else longer > 0)
    assert {m["prefers_longer"] for m in said} <= {0.0, 0.5, 1.0}
    told = SMALL.overall(said)["calibration"]
    assert sum(b["pairs"] for b in told["bins"]) == 4


def test_before_training_nothing_is_known_and_that_is_calibrated() -> None:
    said = SMALL.measured(engines(trainer(seed=0)), asked())
    assert {m["accuracy"] for m in said} == {0.5}
    assert SMALL.overall(said)["calibration"]["error"] == pytest.approx(0)


def test_data_without_pairs_are_not_measured() -> None:
    assert SMALL.measured(engines(trainer()), tiny.prompts(3, 5)) == ()


# ------------------------------------------------------------------------------------------- to transformers, back, and into RL


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run; its parent has the recipe `run.yaml` of GRPO."""
    path = tmp_path_factory.mktemp("ranked")
    recipes.write(path)
    made = path / "ranked.yaml"
    made.write_text(
        "defaults: run.yaml\nrewards: []\nrun: {name: ranked}\noptimizer: {lr: 3.0e-3, head_lr: 3.0e-2}\nevaluation: {judge: none}\n"
        'algorithm: {type: reward_model, pairs_per_step: 3, chosen: "{answer}", rejected: "no, no {answer}"}\n'
    )
    return train(recipes.recipe(made), recipes.Quiet())


def test_a_run_writes_accuracy_with_an_interval_and_its_calibration(trained: Path) -> None:
    told = json.loads((trained / "evaluation.json").read_text())
    assert told["before"]["metrics"]["accuracy"]["value"] == 0.5
    assert told["after"]["metrics"]["accuracy"].keys() >= {"value", "low", "high"}
    assert told["after"]["metrics"]["longer_is_chosen"]["value"] == 0
    assert sum(b["pairs"] for b in told["after"]["calibration"]["bins"]) == 3
    assert "accuracy" in told["difference"]
    assert (trained / "report.html").exists()


TEXTS = [
    ("What is 5 + 6?", "11"),
    ("What is 5 + 6?", "no, no 11"),
    ("Who?", "nobody at all, and that is a longer answer"),
]


def test_transformers_gives_the_same_rewards_alone_and_in_a_padded_batch(trained: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained / "model")
    theirs = AutoModelForSequenceClassification.from_pretrained(trained / "model")
    assert theirs.config.num_labels == 1
    assert tokenizer.pad_token_id == theirs.config.pad_token_id != tokenizer.eos_token_id
    texts = [
        tokenizer.apply_chat_template([{"role": "user", "content": q}], tokenize=False, add_generation_prompt=True) + a + tokenizer.eos_token
        for q, a in TEXTS
    ]  # fmt: skip
    rows = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        batched = theirs(**rows).logits[:, 0]
        alone = [theirs(**tokenizer(text, return_tensors="pt")).logits.item() for text in texts]
    again = load_model(str(trained / "model"))
    assert has_scalar_head(again.model)
    ids = [tokenizer(text)["input_ids"] for text in texts]
    ours = RewardModel(EmbeddedScorer(again.model, TrainerConfig()))([row[:9] for row in ids], [row[9:] for row in ids])
    assert batched.tolist() == pytest.approx(ours, abs=1e-5)
    assert alone == pytest.approx(ours, abs=1e-5)
    assert max(ours) - min(ours) > 1e-3
    weights = load_file(trained / "model" / "model.safetensors")
    assert weights["score.weight"].shape == (1, 16)


def test_a_policy_learns_from_a_reward_model(trained: Path) -> None:
    source = trained.parents[1] / "run.yaml"
    reward = f"rewards=[{{type: reward_model, name: judge, params: {{model: {trained / 'model'}}}}}]"
    run = train(recipes.recipe(source, reward, "run.name=taught", "run.steps=4"), recipes.Quiet())
    rollouts = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(m["reward/judge"]) for m in metrics)
    assert all(m["signal"] == 1 for m in metrics)
    assert rollouts
    check(recipes.recipe(source, reward), str(source.with_name("model")), recipes.Quiet())


def test_the_rewards_of_a_step_are_those_of_each_answer_by_itself() -> None:
    model = trainer().scorer.model
    judge = RewardModel(EmbeddedScorer(model, TrainerConfig(tokens_per_microbatch=10)))
    prompts, answers = [[3, 4], [3, 4], [7]], [[5, 2], [5, 6, 7, 8], [9]]
    together = judge(prompts, answers)
    model.config._attn_implementation = "sdpa"
    ids = [Prompt(id="p", token_ids=tuple(p)) for p in prompts]
    assert together == pytest.approx([reward_of(model, p, a).item() for p, a in zip(ids, answers, strict=True)])


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ("{type: reward_model}", "takes one parameter"),
        ("{type: reward_model, params: {model: x, top: 1}}", "takes one parameter"),
        ("{type: reward_model, params: {model: x}, timeout: 3}", "without a deadline"),
    ],
)
def test_what_cannot_be_meant_is_refused(trained: Path, spec: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        recipes.recipe(trained.parents[1] / "run.yaml", f"rewards=[{spec}]")


def test_a_language_model_gives_no_rewards_and_a_reward_model_no_text(trained: Path) -> None:
    source = trained.parents[1] / "run.yaml"
    plain, judge = source.with_name("model"), trained / "model"
    with pytest.raises(ModelError, match="gives text and no rewards"):
        train(
            recipes.recipe(source, f"rewards=[{{type: reward_model, params: {{model: {plain}}}}}]", "run.name=a"),
            recipes.Quiet(),
        )
    with pytest.raises(ModelError, match="no head for language"):
        train(recipes.recipe(source, f"model.path={judge}", "run.name=b"), recipes.Quiet())


def test_a_classifier_is_no_reward_model(trained: Path, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(
        trained / "model", num_labels=3, ignore_mismatched_sizes=True
    )
    model.save_pretrained(tmp_path / "three")
    AutoTokenizer.from_pretrained(trained / "model").save_pretrained(tmp_path / "three")
    with pytest.raises(ModelError, match="3 classes"):
        load_model(str(tmp_path / "three"))


def test_a_policy_is_exported_without_its_critic_s_head() -> None:
    model = with_scalar_head(tiny.model())
    plain = without_scalar_head(model)
    assert not has_scalar_head(plain)
    assert has_scalar_head(model)
    assert set(model.state_dict()) - set(plain.state_dict()) == {"score.weight"}


def test_rows_are_filled_with_a_token_that_ends_nothing(trained: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained.parents[1] / "model")
    assert tokenizer.decode([padding_token(tokenizer, [tokenizer.eos_token_id])]) in ("<|turn|>", "<s>")
    assert padding_token(tokenizer, tokenizer.all_special_ids) is None


def test_pairs_that_cannot_be_ranked_are_left_out() -> None:
    pair = SMALL.pairs(replace(asked()[0], columns={"chosen": "5", "rejected": "5"}), encode)[0]
    assert isinstance(pair, Pair)
    assert pair.refusal
