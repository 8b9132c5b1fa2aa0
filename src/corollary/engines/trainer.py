"""The embedded trainer: microbatches, forward, loss, backward, clip, step."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel

from corollary.config import Config
from corollary.engines.layout import Layout, LayoutName, adopt, hidden_states, lay_out, output_head, scalar_head
from corollary.engines.microbatches import microbatches
from corollary.errors import ModelError, NumericsError
from corollary.losses.bind import bind
from corollary.ops.logprob import logprobs_of, over_logits, token_logprobs
from corollary.ops.reduce import weighted_sum
from corollary.types import Formula, Loss, Metrics, Terms, TokenBatch

SCALAR = frozenset({"values", "chosen_rewards", "rejected_rewards"})
"""inputs that the scalar head gives"""


class OptimizerConfig(Config):
    """AdamW and its schedule."""

    lr: float = Field(default=1e-6, ge=0)
    """peak learning rate"""
    head_lr: float | None = Field(default=None, ge=0)
    """that of a scalar head, which starts from nothing; null: the same"""
    weight_decay: float = Field(default=0.0, ge=0)
    """decoupled, per unit of learning rate"""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """decay of the gradient's running mean"""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """decay of the squared gradient's running mean"""
    eps: float = Field(default=1e-8, gt=0)
    """added to the root of the second moment"""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """the global gradient norm is clipped to this"""
    warmup_steps: int = Field(default=0, ge=0)
    """optimizer steps over which the learning rate rises linearly from 0"""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """after the warm-up, down to 0 at the last step"""

    def scale(self, step: int, total: int) -> float:
        """Share of the peak learning rate at 0-based `step` of `total`.

        >>> [round(OptimizerConfig(schedule="linear", warmup_steps=2).scale(s, 6), 2) for s in range(6)]
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
        """
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, total - self.warmup_steps)
        match self.schedule:
            case "constant":
                return 1.0
            case "linear":
                return max(0.0, 1 - done)
            case "cosine":
                return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class TrainerConfig(Config):
    """How a step is computed. None of it changes the result beyond rounding."""

    tokens_per_microbatch: int = Field(default=1024, ge=1)
    """input tokens that are forwarded at one time; a longer sequence goes alone"""
    layout: LayoutName = "shared_prefix"
    """how sequences lie in memory"""
    head_chunk: int = Field(default=512, ge=1)
    """response tokens whose logits exist at one time"""
    gradient_checkpointing: bool = False
    """recompute layers in the backward pass: about a third more time, much less memory"""


class Outputs(NamedTuple):
    """What a model says of the wanted response tokens, each `[B, T]`, 0 elsewhere; None where nobody asked."""

    logprobs: Tensor | None = None  # nats, with gradient
    entropy: Tensor | None = None  # nats, with gradient where a loss takes it
    mean_logprobs: Tensor | None = None  # nats, with gradient
    values: Tensor | None = None  # of the scalar head, with gradient

    @property
    def first(self) -> Tensor:
        """What a loss is given first: log-probabilities, or values where the model is asked for nothing else."""
        said = self.values if self.logprobs is None else self.logprobs
        assert said is not None, "a model is asked for one of the two"
        return said

    def given(self, batch: TokenBatch, needs: Collection[str]) -> TokenBatch:
        """The batch with those of them that a loss takes besides the first."""
        entropy = self.entropy if "entropy" in needs else None
        values = None if self.logprobs is None else self.values
        return replace(batch, entropy=entropy, mean_logprobs=self.mean_logprobs, values=values)


class EmbeddedScorer:
    """Log-probabilities under a transformers model in this process.

    Args:
        model: a causal language model.
        config: how the forward pass is computed.
        within: entered around what it is asked, such as the model's adapters being off.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        config: TrainerConfig,
        *,
        within: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.model, self.config, self.within = adopt(model), config, within

    def forward(self, batch: TokenBatch, wanted: Tensor, needs: Collection[str] = ()) -> Outputs:
        """What the model says of the wanted response tokens.

        Args:
            batch: sequences on the model's device.
            wanted: `[B, T]` bool.
            needs: a loss's inputs. `values` or a reward model's `chosen_rewards` ask for the scalar head, and for the language
                model's head as well where there is another input that speaks of tokens; `entropy` (with gradient) and
                `mean_logprobs` for more of the latter.
        """
        layout = lay_out(batch, wanted, self.config.layout)
        hidden = self.states_of(layout)
        shape = (batch.targets.shape[0], batch.targets.shape[1])
        values = None
        if not SCALAR.isdisjoint(needs):
            values = layout.scatter(self._scalars(hidden), shape)
            if "logprobs" not in needs:
                return Outputs(values=values)
        said = token_logprobs(
            hidden,
            output_head(self.model),
            layout.targets,
            temperature=batch.temperature,
            chunk=self.config.head_chunk,
            entropy_gradient="entropy" in needs,
            mean_logprobs="mean_logprobs" in needs,
        )
        return Outputs(*(None if column is None else layout.scatter(column, shape) for column in said), values=values)

    def states_of(self, layout: Layout) -> Tensor:
        """`[R, D]` the hidden state before each wanted token."""
        return hidden_states(self.model, layout.tokens, layout.positions, layout.attention)[layout.predicts]

    def _scalars(self, hidden: Tensor) -> Tensor:
        """`[R]` what the scalar head says of each state, in float32 at least."""
        wide = _at_least_float32(hidden.dtype)
        return F.linear(hidden.to(wide), scalar_head(self.model).to(wide))[:, 0]

    def logprobs(self, batch: TokenBatch) -> Tensor:
        """`[B, T]` nats of every response token under the current weights; 0 behind the end."""
        return self._all(batch, lambda part, real: self.forward(part, real).first)

    def values(self, batch: TokenBatch) -> Tensor:
        """`[B, T]` what the scalar head says of the state before every response token; 0 behind the end."""
        return self._all(batch, lambda part, real: self.forward(part, real, {"values"}).first)

    def states(self, batch: TokenBatch) -> Tensor:
        """`[B, T, D]` the final hidden state before every response token: `head()` turns it into logits."""

        def scattered(part: TokenBatch, real: Tensor) -> Tensor:
            layout = lay_out(part, real, self.config.layout)
            states = self.states_of(layout)
            rows = states.new_zeros(real.numel(), states.shape[1]).index_copy(0, layout.wanted, states)
            return rows.view(*real.shape, -1)

        return self._all(batch, scattered)

    def head(self) -> Tensor:
        """`[V, D]` the output embedding."""
        return output_head(self.model).detach()

    @torch.no_grad()
    def _all(self, batch: TokenBatch, said: Callable[[TokenBatch, Tensor], Tensor]) -> Tensor:
        """What `said` gives of every response token, a microbatch at a time, on the CPU."""
        out: Tensor | None = None
        with self.within():
            for rows in microbatches(batch, self.config.tokens_per_microbatch, self.config.layout):
                part = batch.take(rows)
                real = torch.arange(part.targets.shape[1]) < part.lengths[:, None]
                found = said(part.to(self.model.device), real).cpu()
                out = found.new_zeros(*batch.targets.shape, *found.shape[2:]) if out is None else out
                out[rows, : part.targets.shape[1]] = found
        return torch.zeros(batch.targets.shape) if out is None else out


def frozen(model: PreTrainedModel, config: TrainerConfig) -> EmbeddedScorer:
    """A scorer whose weights nobody trains: a reference policy or a teacher."""
    return EmbeddedScorer(model.eval().requires_grad_(False), config)


class EmbeddedTrainer:
    """Trains a transformers model in this process, with float32 master weights where the model computes in less.

    Args:
        model: a causal language model; its weights are trained in place.
        config, optimizer: see there.
        total_steps: of the whole run; the schedule's length.
    """

    def __init__(
        self, model: PreTrainedModel, config: TrainerConfig, optimizer: OptimizerConfig, *, total_steps: int
    ) -> None:
        self.scorer = EmbeddedScorer(model, config)
        self.config, self.settings, self.total_steps = config, optimizer, total_steps
        self.version = 0
        self.said = Outputs()  # [B, T] on the CPU: what the model said of the newest step's batch before its update
        self.predicted: float | None = None  # loss units, of the newest step that was asked for it: see `step`
        model.train()
        if config.gradient_checkpointing:
            with warnings.catch_warnings():  # newer versions of transformers prefer another name that older ones lack
                warnings.simplefilter("ignore", FutureWarning)
                model.gradient_checkpointing_enable({"use_reentrant": False})
        self._named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._masters = {n: _master(p) for n, p in self._named.items()}
        self._optimizer = torch.optim.AdamW(
            [group for group in self._groups() if group["params"]],
            lr=optimizer.lr,
            betas=(optimizer.beta1, optimizer.beta2),
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
            fused=True,
        )

    def _groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups: the weights, and the scalar head with a learning rate of its own."""
        peak, head = self.settings.lr, self.settings.head_lr
        apart = {n for n in self._named if n.startswith("score.") and head is not None}
        return [
            {"params": [m for n, m in self._masters.items() if n not in apart], "peak": peak},
            {"params": [m for n, m in self._masters.items() if n in apart], "peak": head},
        ]

    def logprobs(self, batch: TokenBatch) -> Tensor:
        """`[B, T]` nats of every response token under the current weights; 0 behind the end."""
        return self.scorer.logprobs(batch)

    def values(self, batch: TokenBatch) -> Tensor:
        """`[B, T]` what the scalar head says of the state before every response token; 0 behind the end."""
        return self.scorer.values(batch)

    def step(self, batch: TokenBatch, loss: Formula, *, predict: bool = False) -> Metrics:
        """One optimizer step; returns loss, metrics, grad_norm, lr, entropy, trained_tokens.

        The loss is Σ w·terms; a metric is its mean by the same weights, Σ w·m / Σ w. How the step is split into microbatches
        changes neither: a loss whose terms depend on other samples sees the whole step.

        Args:
            batch: one optimizer step.
            loss: a `Loss`, or a function that is bound here.
            predict: leave in `predicted` by how much the step changes the loss to first order, ∇L·Δ.

        Raises:
            NumericsError: the loss or the gradient is not finite; the weights are as they were.
            UserCodeError: a user's loss broke the contract; the weights are as they were.
        """
        bound = bind(loss)
        self.said, self.predicted = Outputs(), None
        try:
            totals = (self._across if bound.cross_sample else self._split)(batch, bound)
        except BaseException:
            self._forget_gradients()
            raise
        if not math.isfinite(totals["loss"]):
            self._forget_gradients()
            raise NumericsError(f"the loss of step {self.version} is {totals['loss']}; the weights are as before it")
        mass = batch.weights.double().sum().item()
        totals = {name: total if name == "loss" else total / mass for name, total in totals.items()}
        totals |= self._update(predict)
        totals["trained_tokens"] = float((batch.weights != 0).sum())
        return totals

    def _parts(self, batch: TokenBatch) -> list[list[int]]:
        return list(microbatches(batch, self.config.tokens_per_microbatch, self.config.layout))

    def _split(self, batch: TokenBatch, loss: Loss) -> Metrics:
        """The gradient and the weighted sums of a loss that is a sum over samples: a microbatch at a time."""
        totals: Metrics = {}
        for rows in self._parts(batch):
            part = batch.take(rows).to(self.scorer.model.device)
            terms, out = self._terms(part, loss)
            weighted_sum(terms.loss, part.weights).backward()
            _add(totals, terms, out.entropy, part.weights)
            self._keep(out, rows, batch)
        return totals

    def _terms(self, part: TokenBatch, loss: Loss) -> tuple[Terms, Outputs]:
        """The loss of one microbatch, and what the model said."""
        if "logits" in loss.needs:
            terms, entropy = self._on_logits(part, loss)
            return terms, Outputs(entropy=entropy)
        out = self.scorer.forward(part, part.trained, loss.needs)
        return loss(out.first, out.given(part, loss.needs)), out

    def _keep(self, out: Outputs, rows: Sequence[int], batch: TokenBatch) -> None:
        """Put what the model said of these rows into `said`."""
        found, index = self.said._asdict(), torch.as_tensor(rows)
        for name, output in out._asdict().items():
            if output is not None:
                output = output.detach().cpu()
                whole = output.new_zeros(batch.targets.shape) if found[name] is None else found[name]
                whole[index, : output.shape[1]] = output
                found[name] = whole
        self.said = Outputs(**found)

    @torch.no_grad()
    def loss(self, batch: TokenBatch, loss: Formula) -> float:
        """Σ w·terms under the current weights, without a step."""
        bound, parts = bind(loss), self._parts(batch)
        if bound.cross_sample:
            whole = batch.to(self.scorer.model.device)
            leaves = self._leaves(whole, parts, bound.needs)
            terms = bound(leaves.first, leaves.given(whole, bound.needs))
            return weighted_sum(terms.loss.double(), whole.weights).item()
        total = 0.0
        for rows in parts:
            part = batch.take(rows).to(self.scorer.model.device)
            total += weighted_sum(self._terms(part, bound)[0].loss.double(), part.weights).item()
        return total

    def _on_logits(self, part: TokenBatch, loss: Loss) -> tuple[Terms, Tensor]:
        """Terms and entropy `[B, T]` of a loss on whole distributions, whose logits exist for `head_chunk` tokens at a time."""
        layout = lay_out(part, part.trained, self.config.layout)
        names: list[str] = []

        def described(logits: Tensor, index: Tensor) -> tuple[Tensor, ...]:
            terms = loss(logits[:, None], part.tokens(index))
            names[:] = terms.metrics
            with torch.no_grad():
                entropy = logprobs_of(logits, index * 0).entropy
            return tuple(x.flatten() for x in (terms.loss, entropy, *terms.metrics.values()))

        said = over_logits(
            self.scorer.states_of(layout), output_head(self.scorer.model), described, layout.wanted,
            temperature=part.temperature, chunk=self.config.head_chunk,
        )  # fmt: skip
        shape = (part.targets.shape[0], part.targets.shape[1])
        losses, entropy, *metrics = (layout.scatter(column, shape) for column in said)
        return Terms(losses, dict(zip(names, metrics, strict=True))), entropy

    def _across(self, batch: TokenBatch, loss: Loss) -> Metrics:
        """The same of a loss whose terms depend on other samples, exactly, in two passes.

        The first computes every microbatch without gradient and takes the loss of the whole step with the model's outputs as
        leaves, which gives g = ∂L/∂outputs. The second computes each microbatch again and backpropagates Σ g·outputs.
        """
        whole, parts = batch.to(self.scorer.model.device), self._parts(batch)
        leaves = self._leaves(whole, parts, loss.needs)
        terms = loss(leaves.first, leaves.given(whole, loss.needs))
        weighted_sum(terms.loss, whole.weights).backward()
        for rows in parts:
            part = whole.take(rows)
            width = part.targets.shape[1]
            out = self.scorer.forward(part, part.trained, loss.needs)
            taught = [(o, leaf.grad[rows, :width]) for o, leaf in _paired(out, leaves) if leaf.grad is not None]
            sum(weighted_sum(output, grad) for output, grad in taught).backward()  # type: ignore[union-attr]
        self._keep(leaves, range(len(whole.lengths)), batch)
        totals: Metrics = {}
        _add(totals, terms, leaves.entropy, whole.weights)
        return totals

    @torch.no_grad()
    def _leaves(self, whole: TokenBatch, parts: list[list[int]], needs: Collection[str]) -> Outputs:
        """The model's outputs on the whole step, as leaves of a graph of their own."""
        found: dict[str, Tensor] = {}
        for rows in parts:
            part = whole.take(rows)
            outputs = self.scorer.forward(part, part.trained, needs)._asdict()
            for name, output in ((n, o) for n, o in outputs.items() if o is not None):
                leaf = found.setdefault(name, output.new_zeros(whole.targets.shape))
                leaf[rows, : output.shape[1]] = output
        return Outputs(**{name: leaf.requires_grad_() for name, leaf in found.items()})

    def _update(self, predict: bool) -> Metrics:
        for name, parameter in self._named.items():
            grad = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            parameter.grad = None
            self._masters[name].grad = grad.to(self._masters[name].dtype)
        norm = torch.nn.utils.clip_grad_norm_(list(self._masters.values()), self.settings.max_grad_norm)
        if not torch.isfinite(norm):
            self._forget_gradients()
            raise NumericsError(
                f"the gradient norm of step {self.version} is {norm.item()}; the weights are as before it"
            )
        scale = self.settings.scale(self.version, self.total_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * scale
        self._optimizer.step()
        if predict:
            self.predicted = self._slope(norm)
        self._forget_gradients()
        self._publish()
        self.version += 1
        return {"grad_norm": norm.item(), "lr": self.settings.lr * scale}

    @torch.no_grad()
    def _slope(self, norm: Tensor) -> float:
        """∇L·Δ of the step that was just taken; Δ is told from AdamW's moments, so that no weight is copied for it.

        Δ = -lr·(m̂/(√v̂ + ε) + wd·θ)      θ before the step, ∇L before clipping
        """
        total, settings = 0.0, self.settings
        clipped = min(1.0, settings.max_grad_norm / (norm.item() + 1e-6))  # as `clip_grad_norm_` has it
        for group in self._optimizer.param_groups:
            lr, decay = group["lr"], group["lr"] * settings.weight_decay
            for master in group["params"]:
                state = self._optimizer.state[master]
                steps = float(state["step"])
                root = (state["exp_avg_sq"] / (1 - settings.beta2**steps)).sqrt_().add_(settings.eps)
                moved = (state["exp_avg"] / root).mul_(lr / (1 - settings.beta1**steps))
                if decay:
                    moved += decay * (master + moved) / (1 - decay)
                total -= (master.grad * moved).sum(dtype=torch.double).item() / clipped
        return total

    def _forget_gradients(self) -> None:
        for name, parameter in self._named.items():
            parameter.grad = self._masters[name].grad = None

    @torch.no_grad()
    def _publish(self) -> None:
        """Round the master weights into the model's."""
        for name, parameter in self._named.items():
            if self._masters[name] is not parameter:
                parameter.copy_(self._masters[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Master weights, moments and version, by name; what `load_state_dict` needs to go on to the same bits."""
        state = {f"weight/{n}": m.detach() for n, m in self._masters.items()}
        for name, master in self._masters.items():
            for key, value in self._optimizer.state.get(master, {}).items():
                state[f"{key}/{name}"] = value
        return state | {"version": torch.tensor(self.version)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from `state`.

        Raises:
            ModelError: a weight is missing or of another shape.
        """
        for name, master in self._masters.items():
            saved = state.get(f"weight/{name}")
            if saved is None or saved.shape != master.shape:
                came = "nothing" if saved is None else f"shape {tuple(saved.shape)}"
                raise ModelError(f"the checkpoint has {came} for {name}, the model has shape {tuple(master.shape)}")
            master.copy_(saved)
            keys = [k for k in ("step", "exp_avg", "exp_avg_sq") if f"{k}/{name}" in state]
            self._optimizer.state[master] = {k: state[f"{k}/{name}"].to(master.device, copy=True) for k in keys}
        self.version = int(state["version"])
        self._publish()


def _master(parameter: torch.nn.Parameter) -> Tensor:
    if parameter.dtype in (torch.float32, torch.float64):
        return parameter
    return parameter.detach().float().requires_grad_()


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32


def _add(totals: Metrics, terms: Terms, entropy: Tensor | None, weights: Tensor) -> None:
    """Add a microbatch's weighted sums to the step's."""
    told = {} if entropy is None else {"entropy": entropy}
    for name, tensor in {"loss": terms.loss, **told, **terms.metrics}.items():
        totals[name] = totals.get(name, 0.0) + weighted_sum(tensor.detach().double(), weights).item()


def _paired(out: Outputs, leaves: Outputs) -> list[tuple[Tensor, Tensor]]:
    """Each output with its leaf."""
    return [(o, leaf) for o, leaf in zip(out, leaves, strict=True) if o is not None and leaf is not None]
