"""A recipe's engines, built and put together: the same for every algorithm."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from torch import Tensor

from corollary.algorithms.base import Engines
from corollary.data.chat import encode_answer
from corollary.data.datasets import DataReport, load_prompts
from corollary.data.loader import PromptLoader
from corollary.engines.clock import Clock, TimedSampler, TimedScorer, TimedTeacher, TimedTrainer
from corollary.engines.reward_model import RewardModel
from corollary.engines.sampler import EmbeddedSampler
from corollary.engines.trainer import EmbeddedScorer, EmbeddedTrainer, frozen
from corollary.errors import ConfigError, CorollaryError, DataError, ModelError, UserCodeError
from corollary.evaluate import drawn
from corollary.models.catalogue import Announce
from corollary.models.heads import has_scalar_head, with_scalar_head
from corollary.models.load import LoadedModel, load_model, load_tokenizer
from corollary.models.lora import has_lora, with_lora, without_adapters
from corollary.rewards.base import Reward
from corollary.rewards.parts import Part, RewardSpec
from corollary.rollout import Score
from corollary.run.checkpoint import Checkpoint
from corollary.run.ledger import Ledger, WitnessedSampler, WitnessedTrainer, probe_of
from corollary.run.loggers import Loggers
from corollary.run.own_code import blamed, files, source_of
from corollary.run.playing import ToldPlayer, begun, player
from corollary.run.recipe import Recipe
from corollary.run.record import Record
from corollary.types import Completion, Metrics, Prompt, Step


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
    clock: Clock
    loggers: Loggers
    steps: Iterator[Step] = field(default_factory=lambda: iter(()))
    memory: dict[str, Any] = field(default_factory=dict)  # the algorithm's own
    kept: dict[str, Tensor] = field(default_factory=dict)  # likewise
    reward: Reward | None = None
    reference: EmbeddedScorer | None = None
    critic: EmbeddedTrainer | None = None
    teacher: EmbeddedScorer | None = None
    ledger: Ledger = field(default_factory=Ledger)
    done: int = 0  # steps taken

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds: the policy's under their own names, a critic's and the algorithm's behind a prefix."""
        critic = self.critic.state_dict() if self.critic else {}
        return (
            self.trainer.state_dict()
            | {f"critic-{name}": tensor for name, tensor in critic.items()}
            | {f"kept/{name}": tensor for name, tensor in self.kept.items()}
        )

    def close(self) -> None:
        """End the reward's processes and the trackers."""
        if self.reward is not None:
            self.reward.close()
        self.loggers.close()


def build(recipe: Recipe, record: Record, console: Console, saved: Checkpoint | None) -> Run:
    """Load the model and the data and put the engines together; from a checkpoint where there is one."""
    probe(recipe)
    device = recipe.model.torch_device()
    announce = _announce(console)
    model = starting_model(recipe, announce=announce)
    model.place(device)
    outfit(recipe, model)
    prompts, report = usable(recipe, model, *load_prompts(recipe.data, model.tokenizer, announce=announce))
    console.data("training", report)
    if recipe.algorithm.uses_rewards:
        prompts = begun(recipe, prompts, model.tokenizer)
    reports = {"training": report}
    held_out: list[Prompt] = []
    if recipe.evaluation:
        held_out, reports["evaluation"] = held_out_prompts(recipe, model, console)
    _fits(recipe, model, prompts, held_out)
    reference = starting_policy(recipe, model)  # before a checkpoint's weights come into the model
    critic = _critic(recipe, model, announce)
    trainer = EmbeddedTrainer(model.model, recipe.trainer, recipe.optimizer, total_steps=recipe.updates)
    loader = PromptLoader(prompts, batch_size=recipe.algorithm.batch_size, seed=recipe.run.seed)
    if saved:
        trainer.load_state_dict(saved.tensors)
        loader.load_state_dict(saved.state["loader"])
        if critic:
            critic.load_state_dict(_behind("critic-", saved.tensors))
    sampler = embedded_sampler(recipe, model)
    sampler.sync(trainer)
    settings = recipe.run
    loggers = Loggers(settings.loggers, settings.name, record.folder, recipe.model_dump(mode="json"), console.note)
    run = Run(
        recipe, record, model, trainer, sampler, loader, held_out, Clock(), loggers,
        memory=saved.state.get("memory", {}) if saved else {}, kept=_behind("kept/", saved.tensors) if saved else {},
        reference=reference, critic=critic, teacher=_teacher(recipe, model, announce), done=saved.step if saved else 0,
    )  # fmt: skip
    frozen_ = {"reference": run.reference, "teacher": run.teacher}
    run.ledger = Ledger({name: scorer for name, scorer in frozen_.items() if scorer is not None}, probe_of(prompts))
    if recipe.rewards:
        run.reward = rewards(recipe, model, announce)
        try:
            run.reward.check(judged(recipe, prompts, held_out))
        except CorollaryError:
            run.close()
            raise
    with blamed(recipe, "before its first step"):
        run.steps = recipe.algorithm.steps(engines(run, console))
    if saved is None:  # nothing that the user gave can fail any more
        record.begin(recipe, settings.seed, reports, files(recipe))
    return run


def starting_model(recipe: Recipe, *, announce: Announce | None = None) -> LoadedModel:
    """The model that a recipe names, as it was published: without adapters and heads of the recipe's."""
    settings = recipe.model
    return load_model(
        settings.path, dtype=settings.resolved_dtype(), chat_template=settings.chat_template, announce=announce
    )


def held_out_prompts(recipe: Recipe, model: LoadedModel, console: Console) -> tuple[list[Prompt], DataReport]:
    """The prompts that a recipe with an evaluation is measured on, and the account of them, which the console is told.

    Raises:
        DataError: they are of one prompt, from which no interval can be had; or what `load_prompts` raises.
    """
    assert recipe.evaluation is not None, "whoever measures has an evaluation"
    prompts, report = load_prompts(recipe.evaluation.data, model.tokenizer, announce=_announce(console))
    examples = (
        recipe.evaluation.judge == "none"
    )  # for the algorithm only, like those to train on; several may be of one prompt
    if examples:
        prompts, report = usable(recipe, model, prompts, report)
    if recipe.measured_by_playing:
        prompts = begun(recipe, prompts, model.tokenizer)
    console.data("evaluation", report)
    if len({drawn(prompt.id, prompt.text) for prompt in prompts} if examples else prompts) < 2:
        raise DataError(
            "has a single prompt, and an interval needs two",
            where="evaluation.data",
            hint="give it more, or raise its limit",
        )
    return prompts, report


def engines(run: Run, console: Console) -> Engines:
    """What the algorithm is lent: each engine with its time counted."""
    optional: dict[str, Any] = {}
    if run.reward is not None:
        optional["reward"] = TimedReward(run.reward, run.clock, console)
    witnessed = WitnessedSampler(run.sampler, run.ledger, run.trainer.scorer, run.reference)
    sampler = TimedSampler(witnessed, run.clock)
    if run.recipe.environment is not None:
        optional["environment"] = ToldPlayer(
            player(run.recipe, run.model, sampler, optional.get("reward")), console.note
        )
    if run.reference is not None:
        optional["reference"] = TimedScorer(run.reference, run.clock)
    if run.critic is not None:
        optional["critic"] = TimedTrainer(WitnessedTrainer(run.critic, run.ledger, "critic"), run.clock)
    if run.teacher is not None:
        optional["teacher"] = TimedTeacher(run.teacher, run.clock)
    return Engines(
        trainer=TimedTrainer(WitnessedTrainer(run.trainer, run.ledger, "policy"), run.clock),
        sampler=sampler,
        prompts=iter(run.loader),
        first=run.loader.position // run.recipe.algorithm.batch_size,
        encode=encoder(run.model),
        memory=run.memory,
        kept=run.kept,
        **optional,
    )


def outfit(recipe: Recipe, model: LoadedModel) -> None:
    """Give the model the adapters and the head that the recipe trains; the head last, so that it gets no adapter."""
    if recipe.model.lora:
        with_lora(model.model, recipe.model.lora, seed=recipe.run.seed)
    if recipe.algorithm.has_scalar_head:
        with_scalar_head(model.model)


def encoder(model: LoadedModel) -> Callable[[str], list[int]]:
    """An answer's text → its tokens, end-of-sequence last; nothing begins here, whatever the tokenizer puts before a text."""
    own = model.tokenizer.eos_token_id
    end = own if isinstance(own, int) else model.eos_token_ids[0]
    return lambda text: [*encode_answer(model.tokenizer, text), end]


def usable(
    recipe: Recipe, model: LoadedModel, prompts: Sequence[Prompt], report: DataReport
) -> tuple[list[Prompt], DataReport]:
    """The examples that the algorithm learns from, and the account with why it leaves others out.

    Raises:
        DataError: none is left, or one lacks what the algorithm learns from.
    """
    encode = encoder(model)
    with blamed(recipe, "reading an example"):
        reasons = [recipe.algorithm.refusal(prompt, encode) for prompt in prompts]
    kept = [prompt for prompt, reason in zip(prompts, reasons, strict=True) if not reason]
    dropped = Counter(report.dropped) + Counter(reason for reason in reasons if reason)
    report = replace(report, kept=len(kept), dropped=dict(dropped))
    if not kept:
        raise DataError(report.line(), hint=f"check algorithm {recipe.algorithm.type}'s settings", code="E0203")
    return kept, report


def _behind(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def probe(recipe: Recipe) -> None:
    """Try the user's own functions on made-up data: a broken one is told before anything expensive.

    Raises:
        UserCodeError: one breaks the contract.
    """
    if lack := recipe.algorithm.lack():
        file, line = source_of(type(recipe.algorithm))
        raise UserCodeError(f"{recipe.algorithm.type} {lack}", where=f"{file}:{line}", hint="contract clause: inputs")
    with blamed(recipe, "on made-up data"):
        recipe.algorithm.probe()


def _fits(recipe: Recipe, model: LoadedModel, prompts: Sequence[Prompt], held_out: Sequence[Prompt]) -> None:
    """Refuse a prompt that with its answer would leave the positions that the model knows.

    Raises:
        ConfigError: one does.
    """
    limits = [("data", prompts, recipe.algorithm.longest_answer)]
    if recipe.evaluation:
        sampled = recipe.evaluation.max_tokens if recipe.evaluation.judge != "none" else 0
        limits.append(("evaluation.data", held_out, sampled))
    for key, asked, answer in limits:
        told = max(asked, key=lambda prompt: len(prompt.token_ids) + len(prompt.target_ids))
        whole = len(told.token_ids) + len(told.target_ids)
        if told.target_ids and whole > (model.max_positions or whole):
            raise ConfigError(
                f"conversation {told.id} has {whole} tokens; the model knows {model.max_positions} positions",
                where=key,
                hint=f"set {key}.max_tokens={model.max_positions} and {key}.over_long=drop",
            )
        longest = max(asked, key=lambda prompt: len(prompt.token_ids))
        room = (model.max_positions or len(longest.token_ids) + answer) - answer
        if len(longest.token_ids) > room:
            raise ConfigError(
                f"prompt {longest.id} has {len(longest.token_ids)} tokens and its answer up to {answer}; the model knows "
                f"{model.max_positions} positions",
                where=key,
                hint=f"set {key}.max_prompt_tokens={max(room, 1)} and {key}.over_long=drop, or lower max_tokens",
            )


def _announce(console: Console) -> Announce:
    return lambda entry: console.note(f"fetching {entry.notice()}")


def check(recipe: Recipe, model: str, console: Console) -> None:
    """Read a recipe's data with the tokenizer of `model`, load its rewards and try the user's own functions.

    What is wrong is told before anything expensive.

    Raises:
        CorollaryError: something cannot be used.
    """
    probe(recipe)
    announce = _announce(console)
    tokenizer = load_tokenizer(model, chat_template=recipe.model.chat_template, announce=announce)
    prompts, _ = load_prompts(recipe.data, tokenizer, announce=announce)
    held_out: list[Prompt] = []
    if recipe.algorithm.uses_rewards:
        begun(recipe, prompts, tokenizer)
    if recipe.evaluation:
        held_out, _ = load_prompts(recipe.evaluation.data, tokenizer, announce=announce)
        if recipe.measured_by_playing:
            begun(recipe, held_out, tokenizer)
    if recipe.rewards:
        for spec in recipe.rewards:
            if spec.lent:
                other = load_tokenizer(path := spec.params["model"], announce=announce)
                _same_tokens(other.get_vocab(), tokenizer.get_vocab(), path, model)
        if called := [spec for spec in recipe.rewards if not spec.lent]:
            with Reward(called) as reward:
                reward.check(judged(recipe, prompts, held_out))


def judged(recipe: Recipe, prompts: list[Prompt], held_out: list[Prompt]) -> list[Prompt]:
    """The prompts whose answers the recipe's rewards judge: those to train on, and held-out ones where they are played."""
    return (prompts if recipe.algorithm.uses_rewards else []) + (held_out if recipe.measured_by_playing else [])


def rewards(recipe: Recipe, model: LoadedModel, announce: Announce | None = None) -> Reward:
    """The recipe's rewards; their processes end with `close`."""
    return Reward([_part(recipe, spec, model, announce) for spec in recipe.rewards])


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


def starting_policy(recipe: Recipe, model: LoadedModel) -> EmbeddedScorer | None:
    """The starting weights, where the algorithm wants them: a frozen copy, or the model itself with its adapters off."""
    if not recipe.algorithm.needs_reference:
        return None
    if recipe.model.lora:
        return EmbeddedScorer(model.model, recipe.trainer, within=lambda: without_adapters(model.model))
    return frozen(copy.deepcopy(model.model), recipe.trainer)


def _critic(recipe: Recipe, model: LoadedModel, announce: Announce) -> EmbeddedTrainer | None:
    """A critic that is a model of its own, where the algorithm wants one; it starts from the policy unless a model is named."""
    settings = recipe.algorithm.own_critic
    if settings is None:
        return None
    started = _other(recipe, settings.model, model, announce).model if settings.model else copy.deepcopy(model.model)
    if recipe.model.lora and not has_lora(started):
        with_lora(started, recipe.model.lora, seed=recipe.run.seed)
    return EmbeddedTrainer(with_scalar_head(started), recipe.trainer, settings.optimizer, total_steps=recipe.updates)


def _teacher(recipe: Recipe, model: LoadedModel, announce: Announce) -> EmbeddedScorer | None:
    """The model that is learnt from, frozen, where the algorithm names one."""
    path = recipe.algorithm.teacher_path
    return frozen(_other(recipe, path, model, announce).model, recipe.trainer) if path else None


def _other(recipe: Recipe, path: str, model: LoadedModel, announce: Announce | None) -> LoadedModel:
    """A second model, which must read the same tokens as the first.

    Raises:
        ModelError: it cannot be had, or its tokenizer is another.
    """
    other = load_model(path, dtype=recipe.model.resolved_dtype(), announce=announce)
    _same_tokens(other.tokenizer.get_vocab(), model.tokenizer.get_vocab(), path, model.name)
    other.place(recipe.model.torch_device())
    return other


def _same_tokens(other: Mapping[str, int], own: Mapping[str, int], path: str, name: str) -> None:
    if other != own:
        raise ModelError(
            f"its tokenizer is not that of {name}, so its numbers would be about other tokens",
            where=path,
            hint="name a model with the same tokenizer",
        )


def _part(recipe: Recipe, spec: RewardSpec, model: LoadedModel, announce: Announce | None) -> RewardSpec | Part:
    """A reward as it is called: one that is a model is loaded here and judges in this process.

    Raises:
        ModelError: it cannot be had, reads other tokens, or gives no rewards.
    """
    if not spec.lent:
        return spec
    path = spec.params["model"]
    judge = _other(recipe, path, model, announce).model
    if not has_scalar_head(judge):
        raise ModelError("gives text and no rewards", where=path, hint="train one: algorithm={type: reward_model}")
    return Part.of(spec, RewardModel(frozen(judge, recipe.trainer)))


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
