"""Whoever pulls: log, evaluate, checkpoint, stop. The algorithm yields steps and knows nothing of this."""

from __future__ import annotations

import copy
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch

from corollary.algorithms import grpo, sft
from corollary.algorithms.grpo import GRPOConfig
from corollary.algorithms.sft import SFTConfig
from corollary.config import diff, load
from corollary.data.chat import encode_text
from corollary.data.datasets import DataReport, load_prompts
from corollary.data.loader import PromptLoader
from corollary.engines.clock import Clock, TimedSampler, TimedScorer, TimedTrainer
from corollary.engines.sampler import EmbeddedSampler
from corollary.engines.trainer import EmbeddedScorer, EmbeddedTrainer
from corollary.errors import ConfigError, CorollaryError, Interrupted, Preempted, ResumeError
from corollary.evaluate import compared, evaluate, summary
from corollary.models.catalogue import Entry
from corollary.models.export import export
from corollary.models.load import LoadedModel, load_model, load_tokenizer
from corollary.rewards.arithmetic import judge
from corollary.rewards.base import Reward
from corollary.rollout import Score
from corollary.run import checkpoint
from corollary.run.exporting import card
from corollary.run.files import write_json
from corollary.run.loggers import Loggers
from corollary.run.memory import give_back_free_blocks, keep_large_blocks
from corollary.run.recipe import EvaluationConfig, Recipe
from corollary.run.record import Record, peak_memory_gib
from corollary.run.report import write_report
from corollary.types import Completion, Metrics, Prompt, Step

MAY_CHANGE = ("run.steps", "run.checkpoint_every", "run.keep_checkpoints", "run.export", "run.threads", "run.loggers")
"""Settings that a resumed run may have other values of."""


class Console(Protocol):
    """What a run tells while it goes; the command line draws it, a test may listen."""

    def note(self, text: str) -> None: ...
    def data(self, name: str, report: DataReport) -> None: ...
    def step(self, number: int, total: int, metrics: Metrics, timing: Metrics) -> None: ...


@dataclass(slots=True)
class Run:
    """A recipe with its engines built: what the loop needs, and what a checkpoint holds."""

    recipe: Recipe
    record: Record
    model: LoadedModel
    trainer: EmbeddedTrainer
    sampler: EmbeddedSampler
    loader: PromptLoader
    held_out: list[Prompt]
    steps: Iterator[Step]
    clock: Clock
    loggers: Loggers
    close: Callable[[], object]
    done: int = 0  # steps taken


def train(recipe: Recipe, console: Console, *, resume: bool = False) -> Path:
    """Carry out a recipe; the run directory.

    Args:
        recipe: see there.
        console: is told what happens.
        resume: continue the run of that name from its newest checkpoint.

    Raises:
        CorollaryError: anything a user can mend. What was committed before stays.
    """
    keep_large_blocks()
    torch.set_num_threads(recipe.run.threads or torch.get_num_threads())
    record = Record(recipe.folder)
    try:
        saved = _saved(recipe, record, console, resume)
        run = build(recipe, record, console, saved)
        try:
            _measure(run, console, 0)
            _pull(run, console)
            _measure(run, console, run.done)
            _finish(run, console)
        finally:
            run.close()
    finally:
        record.close()
    return recipe.folder


def _saved(recipe: Recipe, record: Record, console: Console, resume: bool) -> checkpoint.Checkpoint | None:
    """The checkpoint to continue from; None for a new run."""
    folder = record.folder
    if record.started and not resume:
        raise ResumeError(
            "there is a run here already",
            where=str(folder),
            hint="add --resume to continue it, or choose another run.name",
        )
    if not resume:
        return None
    if not record.started:
        raise ResumeError("there is no run to continue", where=str(folder), hint="leave --resume away to start one")
    before = load(Recipe, folder / "config.yaml").config
    changed = [key for key in flat(diff(recipe, before)) if key not in MAY_CHANGE]
    if changed:
        raise ResumeError(
            f"the run was started with other values of {', '.join(changed)}",
            where=str(folder),
            hint="give the same configuration, or choose another run.name",
        )
    checkpoint.sweep(record.checkpoints)
    saved, damaged = checkpoint.newest(record.checkpoints)
    for line in damaged:
        console.note(f"{line}; using the one before")
    record.set_back(saved.state["offsets"] if saved else {"metrics": 0, "timing": 0, "rollouts": 0})
    console.note(f"continuing {folder} after step {saved.step if saved else 0}")
    return saved


def flat(tree: dict[str, Any], above: str = "") -> Iterator[str]:
    """Dotted keys of a nested mapping's leaves.

    >>> list(flat({"a": {"b": 1, "c": 2}}))
    ['a.b', 'a.c']
    """
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}"


def build(recipe: Recipe, record: Record, console: Console, saved: checkpoint.Checkpoint | None) -> Run:
    """Load the model and the data and put the engines together; from a checkpoint where there is one."""
    device = recipe.model.torch_device()
    announce = _announce(console)
    model = load_model(recipe.model.path, dtype=recipe.model.resolved_dtype(), announce=announce)
    model.place(device)
    prompts, report = load_prompts(recipe.data, model.tokenizer, announce=announce)
    console.data("training", report)
    reports = {"training": report}
    held_out: list[Prompt] = []
    if recipe.evaluation:
        held_out, reports["evaluation"] = load_prompts(recipe.evaluation.data, model.tokenizer, announce=announce)
        console.data("evaluation", reports["evaluation"])
    _fits(recipe, model, prompts, held_out)
    loader = PromptLoader(prompts, batch_size=recipe.batch_size, seed=recipe.run.seed)
    reference = _reference(recipe, model)
    trainer = EmbeddedTrainer(model.model, recipe.trainer, recipe.optimizer, total_steps=recipe.run.steps)
    sampler = embedded_sampler(recipe, model)
    if saved:
        trainer.load_state_dict(saved.tensors)
        loader.load_state_dict(saved.state["loader"])
    sampler.sync(trainer)
    clock = Clock()
    settings = recipe.run
    loggers = Loggers(settings.loggers, settings.name, record.folder, recipe.model_dump(mode="json"), console.note)
    run = Run(
        recipe, record, model, trainer, sampler, loader, held_out, iter(()), clock, loggers, loggers.close,
        done=saved.step if saved else 0,
    )  # fmt: skip
    if recipe.rewards:
        reward = Reward(recipe.rewards)
        run.close = lambda: (reward.close(), loggers.close())
        try:
            reward.check(prompts)
        except CorollaryError:
            run.close()
            raise
        run.steps = _grpo(run, TimedReward(reward, clock, console), reference)
    else:
        run.steps = _sft(run)
    if saved is None:  # nothing that the user gave can fail any more
        record.begin(recipe, recipe.run.seed, reports)
    return run


def _fits(recipe: Recipe, model: LoadedModel, prompts: Sequence[Prompt], held_out: Sequence[Prompt]) -> None:
    """Refuse a prompt that with its answer would leave the positions that the model knows.

    Raises:
        ConfigError: one does.
    """
    limits = [("data", prompts, recipe.algorithm.max_tokens if isinstance(recipe.algorithm, GRPOConfig) else 0)]
    if recipe.evaluation:
        limits.append(("evaluation.data", held_out, recipe.evaluation.max_tokens))
    for key, asked, answer in limits:
        longest = max(asked, key=lambda prompt: len(prompt.token_ids))
        room = (model.max_positions or len(longest.token_ids) + answer) - answer
        if len(longest.token_ids) > room:
            raise ConfigError(
                f"prompt {longest.id} has {len(longest.token_ids)} tokens and its answer up to {answer}; the model knows "
                f"{model.max_positions} positions",
                where=key,
                hint=f"set {key}.max_prompt_tokens={max(room, 1)} and {key}.over_long=drop, or lower max_tokens",
            )


def _announce(console: Console) -> Callable[[Entry], None]:
    return lambda entry: console.note(f"fetching {entry.notice()}")


def check(recipe: Recipe, model: str, console: Console) -> None:
    """Read a recipe's data with the tokenizer of `model` and load its rewards: what is wrong is told before anything expensive.

    Raises:
        CorollaryError: data or rewards cannot be used.
    """
    announce = _announce(console)
    tokenizer = load_tokenizer(model, announce=announce)
    prompts, _ = load_prompts(recipe.data, tokenizer, announce=announce)
    if recipe.evaluation:
        load_prompts(recipe.evaluation.data, tokenizer, announce=announce)
    if recipe.rewards:
        with Reward(recipe.rewards) as reward:
            reward.check(prompts)


def embedded_sampler(recipe: Recipe, model: LoadedModel) -> EmbeddedSampler:
    """A sampler that shares the model's weights."""
    model.place(recipe.model.torch_device())
    return EmbeddedSampler(
        model.model,
        decode=model.decode,
        eos_token_ids=model.eos_token_ids,
        seed=recipe.run.seed,
        max_sequences=recipe.sampler.max_sequences,
    )


def _reference(recipe: Recipe, model: LoadedModel) -> EmbeddedScorer | None:
    """A frozen copy of the starting weights, where the algorithm wants one."""
    if not (isinstance(recipe.algorithm, GRPOConfig) and recipe.algorithm.needs_reference):
        return None
    return EmbeddedScorer(copy.deepcopy(model.model).eval().requires_grad_(False), recipe.trainer)


def _grpo(run: Run, reward: TimedReward, reference: EmbeddedScorer | None) -> Iterator[Step]:
    config, clock = run.recipe.algorithm, run.clock
    assert isinstance(config, GRPOConfig), "the recipe has checked it"
    return grpo.steps(
        config,
        trainer=TimedTrainer(run.trainer, clock),
        sampler=TimedSampler(run.sampler, clock),
        reward=reward,
        prompts=iter(run.loader),
        reference=TimedScorer(reference, clock) if reference else None,
        first=run.loader.position // run.recipe.batch_size,
    )


def _sft(run: Run) -> Iterator[Step]:
    config, tokenizer = run.recipe.algorithm, run.model.tokenizer
    assert isinstance(config, SFTConfig), "the recipe has checked it"

    def encode(text: str) -> list[int]:
        return [*encode_text(tokenizer, text).token_ids, run.model.eos_token_ids[0]]

    return sft.steps(config, trainer=TimedTrainer(run.trainer, run.clock), encode=encode, examples=iter(run.loader))


class TimedReward:
    """A reward whose time counts as `reward`, and whose masked faults are told once each."""

    def __init__(self, inner: Reward, clock: Clock, console: Console) -> None:
        self.inner, self.clock, self.console, self.told = inner, clock, console, set[str]()

    @property
    def full_mark(self) -> float:
        return self.inner.full_mark

    def score(
        self, groups: Sequence[tuple[Prompt, Sequence[Completion]]], *, step: int = 0
    ) -> Sequence[Sequence[Score]]:
        with self.clock.phase("reward"):
            scores = self.inner.score(groups, step=step)
        for fault in sorted({fault for group in scores for score in group for fault in score.faults} - self.told):
            self.console.note(f"masked: {fault}")
            self.told.add(fault)
        return scores


def _pull(run: Run, console: Console) -> None:
    """Take the steps that are left; save as configured, at the end, and when asked to stop."""
    settings = run.recipe.run
    with asked_to_stop() as asked:
        give_back_free_blocks()
        run.clock.read()
        for step in islice(run.steps, settings.steps - run.done):
            run.done += 1
            give_back_free_blocks()  # blocks of every step's own sizes would pile up beside each other
            timing = _timing(run, step)
            run.record.step(run.done, step, timing, run.model.token_text)
            run.loggers.log(run.done, step.metrics)
            console.step(run.done, settings.steps, step.metrics, timing)
            last = run.done == settings.steps
            if asked or last or run.done % settings.checkpoint_every == 0:
                _save(run)
            run.clock.read()
            if asked and not last:
                raise asked[0](
                    f"stopped after step {run.done} of {settings.steps}; it is saved",
                    where=str(run.record.folder),
                    hint="run the same command with --resume to go on",
                )


def _timing(run: Run, step: Step) -> Metrics:
    lap = run.clock.read()
    rate = {}
    if lap.get("generate"):
        rate["tokens_per_second"] = step.metrics.get("tokens", 0.0) / lap["generate"]
    if lap.get("train"):
        rate["trained_tokens_per_second"] = step.metrics.get("trained_tokens", 0.0) / lap["train"]
    return {k: round(v, 4) for k, v in (lap | rate | {"peak_memory_gib": peak_memory_gib()}).items()}


def _save(run: Run) -> None:
    state = {"offsets": run.record.offsets(), "loader": run.loader.state_dict(), "seed": run.recipe.run.seed}
    checkpoint.save(
        run.record.checkpoints, run.done, run.trainer.state_dict(), state, keep=run.recipe.run.keep_checkpoints
    )


@contextmanager
def asked_to_stop() -> Iterator[list[type[CorollaryError]]]:
    """A list that SIGTERM or Ctrl-C puts the error to stop with into; a second signal stops at once.

    consumes: signals · waits for: nothing · unblocked by: nothing · produces: one entry in the list
    """
    asked: list[type[CorollaryError]] = []
    before = {}

    def handler(number: int, error: type[CorollaryError]) -> Callable[[int, FrameType | None], None]:
        def handle(_number: int, _frame: FrameType | None) -> None:
            asked.append(error)
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

        return handle

    if threading.current_thread() is threading.main_thread():  # elsewhere, whoever started the thread stops it
        for number, error in ((signal.SIGTERM, Preempted), (signal.SIGINT, Interrupted)):
            before[number] = signal.signal(number, handler(number, error))
    try:
        yield asked
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _measure(run: Run, console: Console, step: int) -> None:
    """Evaluate the weights as they are, unless it was done before; before training only at its start."""
    settings = run.recipe.evaluation
    if settings is None or run.record.evaluation(step) is not None or (step == 0 and run.done > 0):
        return
    console.note(f"measuring {len(run.held_out)} held-out prompts after step {step}")
    rows = held_out_rows(settings, run.sampler, run.held_out)
    run.record.keep_evaluation(step, rows)
    before = run.record.evaluation(0)
    result: dict[str, Any] = {"dataset": settings.data.path, "prompts": len(rows)}
    if before is not None:
        result["before"] = summary(before, 0)
    if step:
        result["after"] = summary(rows, step)
        if before is not None:
            result["difference"] = compared(before, rows)
    write_json(run.record.folder / "evaluation.json", result)


def held_out_rows(settings: EvaluationConfig, sampler: EmbeddedSampler, prompts: list[Prompt]) -> list[dict[str, Any]]:
    """One judged row per held-out prompt."""
    return evaluate(
        sampler,
        prompts,
        lambda text, gold: judge(text, gold, settings.judge),
        gold=settings.answer,
        samples=settings.samples,
        temperature=settings.temperature,
        max_tokens=settings.max_tokens,
        stop=settings.stop,
    )


def _finish(run: Run, console: Console) -> None:
    if run.recipe.run.export:
        folder = run.record.folder
        shutil.rmtree(folder / "model", ignore_errors=True)
        model = run.model
        export(model.model, model.tokenizer, folder / "model", card=card(folder, run.recipe, model, run.done))
    console.note(f"report: {write_report(run.record.folder)}")


def measure_only(recipe: Recipe, console: Console) -> dict[str, Any]:
    """Measure a recipe's model on its held-out prompts, without a run directory.

    Raises:
        ConfigError: the recipe has no evaluation.
    """
    if recipe.evaluation is None:
        raise ConfigError("the recipe has no evaluation", where="evaluation", hint="set evaluation.data.path")
    keep_large_blocks()
    model = load_model(recipe.model.path, dtype=recipe.model.resolved_dtype())
    prompts, report = load_prompts(recipe.evaluation.data, model.tokenizer)
    console.data("evaluation", report)
    rows = held_out_rows(recipe.evaluation, embedded_sampler(recipe, model), prompts)
    return {"dataset": recipe.evaluation.data.path, "prompts": len(rows), "before": summary(rows, 0)}
