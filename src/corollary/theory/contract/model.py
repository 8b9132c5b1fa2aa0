"""The clause that needs a model: through the trainer's own layouts, chunks and microbatches a loss is what it is answer by answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import product

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from corollary.engines.trainer import EmbeddedScorer, TrainerConfig, microbatches
from corollary.ops.reduce import weighted_sum
from corollary.theory.contract.evaluate import Measured, gap, worst
from corollary.theory.contract.frozen import wide
from corollary.theory.contract.samples import Sample, pair_weights, sample
from corollary.theory.contract.subject import Subject
from corollary.theory.contract.table import Clause, only
from corollary.types import TokenBatch

_VOCABULARY = 24
_PROMPTS = ((3, 4, 5), (6,), (7, 8, 9, 10, 11))


@cache
def tiny_model(purpose: str) -> LlamaForCausalLM:
    """A real transformer of two layers in float64, from a fixed seed; one of its own for each purpose, with equal weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=_VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True, initializer_range=0.3,
        )  # fmt: skip
        made = LlamaForCausalLM(config).double()
    for layer in (*made.model.layers, made.model):  # transformers' own norm rounds to float32
        for name in ("input_layernorm", "post_attention_layernorm", "norm"):
            if name in dict(layer.named_children()):
                setattr(layer, name, torch.nn.RMSNorm(16, eps=1e-6, dtype=torch.double))
    return made


def _on_the_model(subject: Subject, at: Sample) -> TokenBatch:
    """The sample's batch with prompts that answers share and targets of the model's vocabulary."""
    unit, rows = at.batch.unit, len(at.batch.lengths)
    owner = torch.arange(rows) // unit % 2 if unit > 1 else torch.arange(rows) // 2 % 3
    generator = torch.Generator().manual_seed(5)
    targets = torch.randint(3, _VOCABULARY, tuple(at.batch.targets.shape), generator=generator)
    used = int(owner.max()) + 1
    batch = replace(
        at.batch, prompts=_PROMPTS[:used], prompt_of=owner, targets=targets, entropy=None, mean_logprobs=None
    )
    if subject.family == "preference":
        batch = replace(batch, weights=pair_weights(batch.trained))
    return batch


def answer_by_answer(batch: TokenBatch) -> tuple[Tensor, Tensor, Tensor]:
    """(logprobs, entropy, mean over the vocabulary of log p) `[B, T]`, every answer in a forward pass of its own, all logits at once."""
    out = [torch.zeros(batch.targets.shape, dtype=torch.double) for _ in range(3)]
    for row, length in enumerate(batch.lengths.tolist()):
        prompt, answer = batch.prompts[int(batch.prompt_of[row])], batch.targets[row, :length]
        ids = torch.cat([torch.tensor(prompt), answer])[None]
        logits = tiny_model("alone")(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        said = logits.log_softmax(-1)
        columns = (said.gather(-1, answer[:, None])[:, 0], -(said.exp() * said).sum(-1), said.mean(-1))
        out = [torch.cat([o[:row], torch.nn.functional.pad(c, (0, o.shape[1] - length))[None], o[row + 1 :]]) for o, c in zip(out, columns, strict=True)]  # fmt: skip
    return out[0], out[1], out[2]


def on_the_model(subject: Subject, at: Sample) -> Measured:
    """Layouts × microbatches × chunks of the head against every answer alone with all its logits: value and gradient."""
    batch, model = _on_the_model(subject, at), tiny_model("alone")
    logprobs, entropy, mean = answer_by_answer(batch)
    if subject.family in ("policy", "penalty"):
        old = (
            logprobs.detach() + 0.1 * torch.sin(torch.arange(logprobs.numel()).double()).view_as(logprobs)
        ).contiguous()
        batch = replace(batch, old_logprobs=old, sampler_logprobs=old, ref_logprobs=old + 0.1)  # type: ignore[call-arg]
    elif subject.family in ("preference", "unpaired"):
        batch = replace(batch, ref_logprobs=logprobs.detach() * 0.95 - 0.01)  # type: ignore[call-arg]
    given = replace(
        batch,
        entropy=entropy if subject.takes("entropy") else None,
        mean_logprobs=mean if subject.takes("mean_logprobs") else None,
    )
    with wide(True):
        value = weighted_sum(subject.loss(logprobs, given).loss, batch.weights)
    expected = _flat(torch.autograd.grad(value, list(model.parameters()), allow_unused=True))
    found = []
    for layout, budget, chunk in (*product(("shared_prefix", "packed"), (9, 500), (2, 512)), ("padded", 40, 3)):
        config = TrainerConfig.model_validate({"layout": layout, "tokens_per_microbatch": budget, "head_chunk": chunk})
        got, gradient = _trained(subject, batch, config)
        how = f"in layout {layout}, {budget} tokens per microbatch, {chunk} rows per chunk of the head"
        found.append(
            Measured(max(gap(got, value.detach()), gap(gradient, expected)), f"the loss on a model differs {how}", at)
        )
    return worst(*found)


def _trained(subject: Subject, batch: TokenBatch, config: TrainerConfig) -> tuple[Tensor, Tensor]:
    """Σ w·terms and its gradient to all parameters, as the trainer computes them."""
    model = tiny_model("trained")
    scorer = EmbeddedScorer(model, config)
    total = torch.zeros((), dtype=torch.double)
    gradient = torch.zeros(sum(p.numel() for p in model.parameters()), dtype=torch.double)
    for rows in microbatches(batch, config.tokens_per_microbatch, config.layout):
        part = batch.take(rows)
        out = scorer.forward(part, part.trained, subject.loss.needs)
        with wide(True):
            value = weighted_sum(subject.loss(out.first, out.given(part, subject.loss.needs)).loss, part.weights)
        gradient += _flat(torch.autograd.grad(value, list(model.parameters()), allow_unused=True))
        total = total + value.detach()
    return total, gradient


def _flat(gradients: tuple[Tensor | None, ...]) -> Tensor:
    pairs = zip(gradients, tiny_model("alone").parameters(), strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])


def _one(subject: Subject) -> Iterator[Sample]:
    yield sample(subject, (4, 3, 5, 1), 3)


CLAUSES = (
    Clause(name="model", row="9, 28", bound=1e-10, check=on_the_model, families=("likelihood", "preference", "unpaired", "policy", "penalty"),
           samples=_one, skip=only(lambda s: s.declaration.cross_sample is None and not (s.takes("logits") and not s.takes("logprobs")), "declared cross_sample, or takes logits"),
           means="on a transformer: packed, padded, shared, chunked and split give the same loss and gradient",
           cause="depends on how sequences lie in memory",
           catches="NeMo RL #4167, transformers #46634, axolotl #1375, ms-swift #5965, Liger #1082, trl #5890, #7062"),
)  # fmt: skip
