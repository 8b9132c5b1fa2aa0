"""A model card: what was trained on what, by which settings, with which numbers, and how to use it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import yaml

from corollary.errors import printable

Form = Literal["folder", "adapter"]
Kind = Literal["chat model", "text model", "reward model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataUse:
    """A data set as the card names it."""

    name: str
    use: str  # "training", "evaluation", …
    rows: int
    licence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A number before and after training; either may be missing."""

    name: str
    before: float | None = None
    after: float | None = None
    low: float | None = None  # interval of the difference
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a model card says."""

    title: str
    base_model: str  # catalogue name, hub id or folder's name of what was trained
    base_id: str = ""  # hub id that it comes from, where one is known
    licence: str  # of the base model; what was trained inherits it
    method: str  # "GRPO, 40 steps", …
    kind: Kind = "chat model"
    data: Sequence[DataUse] = ()
    config_diff: str = ""  # YAML: what differs from the defaults
    metrics: Sequence[Metric] = ()
    confidence: float = 0.95  # of the metrics' intervals
    measured_on: str = ""  # "217 prompts of small-problems/test"
    versions: Mapping[str, str] = field(default_factory=dict)  # package → version

    def summary(self) -> str:
        """One line."""
        return f"{self.base_model} trained further with Corollary: {self.method}"


def readme(card: Card, form: Form = "folder") -> str:
    """The model card: front matter that model hubs read, and Markdown."""
    front = {
        "library_name": "peft" if form == "adapter" else "transformers",
        "pipeline_tag": "text-classification" if card.kind == "reward model" else "text-generation",
        "license": card.licence.lower() if re.fullmatch(r"[\w.+-]+", card.licence) else "other",
        "base_model": card.base_id,
        "base_model_relation": ("adapter" if form == "adapter" else "finetune") if card.base_id else "",
        "datasets": [used.name for used in card.data],
        "tags": ["corollary"],
    }
    matter = yaml.safe_dump({k: v for k, v in front.items() if v}, sort_keys=False, allow_unicode=True)
    origin = f" ({_inline(card.base_id)})" if card.base_id and card.base_id != card.base_model else ""
    parts = [
        f"---\n{matter}---\n\n# {_inline(card.title)}\n",
        f"{_inline(card.base_model)}{origin} trained further with Corollary: {_inline(card.method)}.\n",
        f"Licence of the base model: {_inline(card.licence)}.\n",
        _use(card, form),
        _data_table(card.data),
        _metric_table(card),
        _limits(card),
        f"## Configuration\n\nWhat differs from the defaults:\n\n{_block(card.config_diff, 'yaml')}\n"
        if card.config_diff
        else "",
        _versions(card.versions),
    ]
    return "\n".join(part for part in parts if part)


_GENERATE = """from transformers import pipeline

answer = pipeline("text-generation", "FOLDER")
print(answer({prompt}, max_new_tokens=256, return_full_text=False)[0]["generated_text"])"""
_SCORE = """from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
judged = [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]
print(model(**tokenizer.apply_chat_template(judged, return_tensors="pt", return_dict=True)).logits)"""
_ADAPT = """from corollary.models.load import load_model
from peft import PeftModel

base = load_model({base!r})
model = PeftModel.from_pretrained(base.model, "FOLDER")"""


def _use(card: Card, form: Form) -> str:
    """How to load what lies beside the card."""
    chat = card.kind == "chat model"
    prompt = '[{"role": "user", "content": "…"}]' if chat else '"…"'
    if form == "adapter":
        code = _ADAPT.format(base=card.base_model)
    else:
        code = _SCORE if card.kind == "reward model" else _GENERATE.format(prompt=prompt)
    shell = f"\nor\n\n{_block('corollary chat FOLDER', 'shell')}\n" if chat and form == "folder" else ""
    return f"## Use\n\n{_block(code, 'python')}\n{shell}"


def _data_table(data: Sequence[DataUse]) -> str:
    if not data:
        return ""
    rows = [f"| {_cell(d.name)} | {_cell(d.use)} | {d.rows:,} | {_cell(d.licence)} |" for d in data]
    return "\n".join(["## Data", "", "| data set | use | rows | licence |", "|---|---|---:|---|", *rows, ""])


def _metric_table(card: Card) -> str:
    if not card.metrics:
        return ""
    rows = []
    for m in card.metrics:
        change = f"{m.after - m.before:+.3f}" if m.before is not None and m.after is not None else ""
        interval = f" ({m.low:+.3f} to {m.high:+.3f})" if change and m.low is not None and m.high is not None else ""
        rows.append(f"| {_cell(m.name)} | {_number(m.before)} | {_number(m.after)} | {change}{interval} |")
    head = f"| metric | before | after | difference ({card.confidence:.0%} interval) |"
    where = [f"On {_inline(card.measured_on)}.", ""] if card.measured_on else []
    return "\n".join(["## Evaluation", "", *where, head, "|---|---:|---:|---:|", *rows, ""])


def _limits(card: Card) -> str:
    measured = (
        "The numbers speak of prompts like those that they were measured on, from one training run. What else it can do was not measured, and may have got worse."
        if card.metrics
        else "It was not evaluated."
    )
    lines = [
        measured,
        "Nothing was done or measured here for truth, safety or fairness; the limits that the base model's own card states hold.",
        "Whoever uses it is bound by the licences of the base model and of the data.",
    ]
    return "## Limits\n\n" + "".join(f"- {line}\n" for line in lines)


def _versions(versions: Mapping[str, str]) -> str:
    listed = ", ".join(f"{_inline(name)} {_inline(version)}" for name, version in versions.items())
    return f"## Made with\n\n{listed}\n" if listed else ""


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _inline(text: str) -> str:
    """Text that opens no markup of its own."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", printable(" ".join(text.split())))


def _cell(text: str) -> str:
    return _inline(text) or "–"


def _block(text: str, language: str) -> str:
    """A fenced block whose fence is longer than any inside it."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}{language}\n{printable(text.rstrip())}\n{fence}"
