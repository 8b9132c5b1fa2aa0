"""SFT on a tiny real transformer: it learns what the assistant says and nothing else, and the classic mistakes are caught."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tiny
from corollary.algorithms import sft
from corollary.algorithms.base import Engines
from corollary.algorithms.sft import SFTConfig, worked
from corollary.config import variant
from corollary.engines.trainer import EmbeddedTrainer, OptimizerConfig, TrainerConfig
from corollary.errors import ConfigError, DataError
from corollary.losses.likelihood import dft, label_smoothing, nll
from corollary.ops.reduce import SequenceMean, TokenMean
from corollary.run.loop import train
from corollary.types import Prompt, Step, TokenBatch
from run import recipes

SMALL = SFTConfig(examples_per_step=4)
TURNS = [  # of four conversations, from the first trained token: what is said (True), what is read, what is said again
    ((5, 5, tiny.EOS), (7, 8, 9), (6, 5, tiny.EOS)),
    ((6, tiny.EOS), (), ()),
    ((5, tiny.EOS), (9,), (6, 6, 6, 6, tiny.EOS)),
    ((6, 5, 6, 5, tiny.EOS), (), ()),
]


def talks() -> list[Prompt]:
    """Four conversations of unequal lengths, two of them with two turns of the assistant's."""
    made = []
    for prompt, (one, read, two) in zip(tiny.prompts(3, 5, 2, 4), TURNS, strict=True):
        trained = (True,) * len(one) + (False,) * len(read) + (True,) * len(two)
        made.append(replace(prompt, target_ids=(*one, *read, *two), target_trained=trained))
    return made


def asked() -> Iterator[list[Prompt]]:
    return iter(lambda: talks(), None)


def encode(text: str) -> list[int]:
    return [*map(int, text.split()), tiny.EOS]


def trainer(lr: float = 0.0, dtype: torch.dtype = torch.float64, **settings: object) -> EmbeddedTrainer:
    optimizer = OptimizerConfig(lr=lr, max_grad_norm=1e9)
    return EmbeddedTrainer(tiny.model(dtype), TrainerConfig(**settings), optimizer, total_steps=99)


def start(config: SFTConfig = SMALL, lr: float = 3e-3) -> Iterator[Step]:
    learner = trainer(lr, torch.float32)
    return sft.steps(config, trainer=learner, encode=encode, examples=asked())


def gradient(batch: TokenBatch, loss: Callable[..., object] = nll, **settings: object) -> Tensor:
    """The flat gradient of one step, as the optimizer gets it."""
    learner = trainer(**settings)
    model, kept, update = learner.scorer.model, [], learner._update

    def keep(predict: bool) -> dict[str, float]:
        kept.append(torch.cat([p.grad.flatten() for p in model.parameters()]).clone())
        return update(predict)

    learner._update = keep
    learner.step(batch, loss)
    return kept[0]


def by_hand(prompts: Sequence[Prompt], term: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The gradient of Σ term / N over the trained tokens, each conversation by itself as transformers runs it."""
    model = tiny.model().eval()
    total, count = torch.zeros((), dtype=torch.float64), 0
    for prompt in prompts:
        ids = torch.tensor([*prompt.token_ids, *prompt.target_ids])
        logprobs = model(ids[None]).logits[0].log_softmax(-1)
        for t, trained in enumerate(prompt.target_trained):
            if trained:
                at = len(prompt.token_ids) + t
                total = total + term(logprobs[at - 1, ids[at]], logprobs[at - 1])
                count += 1
    (total / count).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


FORMULAS = {
    "nll": (nll, lambda y, _: -y),
    "label_smoothing": (variant(label_smoothing)(smoothing=0.2), lambda y, all_: -0.8 * y - 0.2 * all_.mean()),
    "dft": (dft, lambda y, _: -y.detach().exp() * y),
}


@pytest.mark.parametrize("layout", ["shared_prefix", "packed", "padded"])
@pytest.mark.parametrize("name", FORMULAS)
def test_the_gradient_of_a_packed_step_is_the_formula_s_one_conversation_at_a_time(name: str, layout: str) -> None:
    loss, term = FORMULAS[name]
    expected = by_hand(talks(), term)
    assert expected.abs().max() > 1e-3, "the gradient is zero, so this test shows nothing"
    for budget in (1, 30, 1000):
        found = gradient(worked(talks(), "", encode), loss, layout=layout, tokens_per_microbatch=budget)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_what_is_read_is_not_learnt_and_what_is_said_is_from_its_first_token_to_its_end() -> None:
    batch = worked(talks(), "", encode)
    assert batch.trained[0].tolist() == [True] * 3 + [False] * 3 + [True] * 3
    assert int(batch.trained.sum()) == 3 + 3 + 2 + 2 + 5 + 5
    honest = gradient(batch)
    for b, t in batch.trained.nonzero().tolist():  # each of them pulls, also the first, the last and each end of a turn
        less = batch.weights.clone()
        less[b, t] = 0
        assert (gradient(replace(batch, weights=less)) - honest).abs().max() > 1e-5, (b, t)


MISTAKES = {
    "everything that is read is learnt": lambda b: replace(
        b, weights=(torch.arange(b.targets.shape[1]) < b.lengths[:, None]) / b.lengths.sum()
    ),
    "the mask is one off": lambda b: replace(b, weights=torch.cat([b.weights[:, 1:], b.weights[:, :1] * 0], 1)),
    "ends of turns are not learnt": lambda b: replace(b, weights=b.weights * (b.targets != tiny.EOS)),
    "a mean of means": lambda b: replace(b, weights=b.weights / b.weights.sum(1, keepdim=True) / len(b.weights)),
    "the first token is not learnt": lambda b: replace(b, weights=torch.cat([b.weights[:, :1] * 0, b.weights[:, 1:]], 1)),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_classic_mistake_gives_another_gradient(mistake: str) -> None:
    expected = by_hand(talks(), lambda y, _: -y)
    found = gradient(MISTAKES[mistake](worked(talks(), "", encode)))
    assert (found - expected).abs().max() > 1e-3


@pytest.mark.parametrize("loss", ["nll", "label_smoothing", "dft"])
def test_it_learns_to_say_what_the_conversations_say(loss: str) -> None:
    config = SFTConfig(examples_per_step=4, loss=loss)
    metrics = [step.metrics for step in islice(start(config, lr=1e-2), 40)]
    nats = [m.get("nll", m["loss"]) for m in metrics]
    assert nats[-1] < 0.5 * nats[0]
    assert all(m["trained_tokens"] == 20 for m in metrics)


def test_the_loss_of_a_step_is_a_mean_over_its_trained_tokens_or_over_its_conversations() -> None:
    def first(average: object) -> float:
        return next(start(SMALL.model_copy(update={"average": average}))).metrics["loss"]

    batch = worked(talks(), "", encode)
    nats = -trainer().logprobs(batch) * batch.trained
    assert first(TokenMean()) == pytest.approx((nats.sum() / 20).item(), abs=1e-5)
    assert first(SequenceMean()) == pytest.approx((nats.sum(1) / batch.trained.sum(1)).mean().item(), abs=1e-5)


def test_a_worked_answer_follows_a_prompt_and_all_of_it_is_learnt() -> None:
    prompt = replace(tiny.prompts(3)[0], columns={"a": "5", "b": "6"})
    batch = worked([prompt], "{a} {b}", encode)
    assert batch.targets.tolist() == [[5, 6, tiny.EOS]]
    assert bool(batch.trained.all())
    with pytest.raises(DataError, match=r"algorithm.answer: example p0 cannot fill the answer '\{c\}'"):
        worked([prompt], "{c}", encode)


def measured(config: SFTConfig, prompts: list[Prompt]) -> list[dict[str, float]]:
    engines = Engines(trainer=trainer(), sampler=None, prompts=iter(()), encode=encode)  # type: ignore[arg-type]
    return list(config.measured(engines, prompts))


def test_held_out_conversations_are_measured_each_by_the_mean_of_its_own_tokens() -> None:
    found = [m["nll"] for m in measured(SMALL, talks())]
    one_by_one = [measured(SMALL, [talk])[0]["nll"] for talk in talks()]
    assert found == pytest.approx(one_by_one, abs=1e-12)
    ids = torch.tensor([*talks()[1].token_ids, *talks()[1].target_ids])
    logprobs = tiny.model().eval()(ids[None]).logits[0].log_softmax(-1)
    assert found[1] == pytest.approx(-(logprobs[4, 6] + logprobs[5, tiny.EOS]).item() / 2, abs=1e-12)


def test_held_out_answers_are_measured_where_the_recipe_names_them() -> None:
    prompts = [replace(p, columns={"answer": "5 6"}) for p in tiny.prompts(3, 5)]
    assert measured(SMALL, prompts) == []
    config = SMALL.model_copy(update={"held_out_answer": "{answer}"})
    assert [set(m) for m in measured(config, prompts)] == [{"nll"}] * 2


TALK = """
defaults: run.yaml
rewards: []
data: {path: FOLDER/talks.jsonl, template: null, messages: talk}
algorithm: {type: sft, examples_per_step: 3}
evaluation: {data: {path: FOLDER/talks.jsonl, template: null, messages: talk}, judge: none}
run: {name: talks}
"""


def talk(i: int) -> dict[str, object]:
    turns = [
        ("user", f"What is {i} + 1?"),
        ("assistant", str(i + 1)),
        ("user", "Thanks!"),
        ("assistant", "You are welcome."),
    ]
    return {"id": f"t{i}", "talk": [{"role": role, "content": content} for role, content in turns]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    recipes.write(tmp_path)
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(talk(i)) + "\n" for i in range(6)))
    (tmp_path / "talks.yaml").write_text(TALK.replace("FOLDER", str(tmp_path)))
    return tmp_path


def test_a_run_on_conversations_lowers_their_held_out_likelihood_and_says_so_in_numbers(folder: Path) -> None:
    run = train(recipes.recipe(folder / "talks.yaml"), recipes.Quiet())
    result = json.loads((run / "evaluation.json").read_text())
    change = result["difference"]["nll"]
    assert result["before"]["metrics"]["nll"]["unit"] == "number"
    assert change["high"] < 0
    assert (run / "report.html").exists()


def test_worked_answers_are_measured_by_their_likelihood_and_by_what_is_answered(folder: Path) -> None:
    (folder / "worked.yaml").write_text(
        "defaults: run.yaml\nrewards: []\nrun: {name: worked}\nevaluation: {judge: hash, samples: 0}\n"
        'algorithm: {type: sft, examples_per_step: 3, answer: "So\\n#### {answer}", held_out_answer: "${algorithm.answer}"}\n'
    )
    run = train(recipes.recipe(folder / "worked.yaml"), recipes.Quiet())
    change = json.loads((run / "evaluation.json").read_text())["difference"]
    assert set(change) == {"nll", "greedy/strict", "greedy/lenient"}
    assert change["nll"]["high"] < 0


def test_a_conversation_longer_than_the_model_knows_is_one_line(folder: Path) -> None:
    long = talk(1)
    long["talk"][1]["content"] = "x" * 200  # type: ignore[index]
    with (folder / "talks.jsonl").open("a") as file:
        file.write(json.dumps(long | {"id": "long"}) + "\n")
    with pytest.raises(ConfigError, match=r"data: conversation long has \d+ tokens; the model knows 128 positions"):
        train(recipes.recipe(folder / "talks.yaml"), recipes.Quiet())
