"""SFT: one step of `trl.SFTTrainer` and one of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from corollary.algorithms.sft import SFTConfig
from corollary.data.sources import DataConfig
from corollary.engines.trainer import TrainerConfig
from parity import model, ours, theirs
from parity.taken import Taken, agree, residual

pytestmark = pytest.mark.filterwarnings("ignore")
trl = theirs.trl

ROWS = [
    {"question": "What is two and two?", "answer": "4"},
    {"question": "Name an animal.", "answer": "An ant, and another ant."},
    {"question": "Hi", "answer": "Hello, how can I help you today?"},
    {"question": "Spell banana, then pan, then man.", "answer": "banana pan man"},
    {"question": "3 + 4", "answer": "3 + 4 = 7"},
    {"question": "Say nothing much.", "answer": "a"},
]
"""of unequal length on both sides"""


def conversation(row: Mapping[str, str]) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": row["question"]}],
        "completion": [{"role": "assistant", "content": row["answer"]}],
    }


def plain(row: Mapping[str, str]) -> dict[str, Any]:
    return {"prompt": row["question"], "completion": row["answer"]}


STYLES = {"chat": conversation, "text": plain}


def our_step(
    folder: Path,
    *,
    rows: Sequence[Mapping[str, str]] = ROWS,
    style: Any = "chat",
    trainer: TrainerConfig = TrainerConfig(),
    **settings: Any,
) -> Taken:
    config = SFTConfig.model_validate({"examples_per_step": len(rows)} | settings)
    data = DataConfig(path=str(ours.rows_file(folder / "rows.jsonl", rows)), template="{question}", style=style)
    return ours.step(config, ours.engines(folder, data, config, trainer=trainer))


def their_step(folder: Path, rows: Sequence[Mapping[str, Any]], **settings: Any) -> Taken:
    settings = {"per_device_train_batch_size": len(rows), "max_length": None} | settings
    return theirs.step(
        trl.SFTTrainer(
            theirs.model(folder),
            theirs.arguments(trl.SFTConfig, folder, **settings),
            train_dataset=theirs.dataset(rows),
            processing_class=theirs.tokenizer(folder),
        )
    )


Settings = dict[str, Any]
CASES: dict[str, tuple[Settings, Settings]] = {
    "nll": ({"loss_type": "nll"}, {"type": "nll"}),
    "dft": ({"loss_type": "dft"}, {"type": "dft"}),
    "nll, smoothed": (
        {"loss_type": "nll", "label_smoothing_factor": 0.2},
        {"type": "label_smoothing", "smoothing": 0.2},
    ),
}
"""TRL's settings, and our `algorithm.loss`"""


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("style", STYLES)
def test_the_step_is_the_same(name: str, style: str, tmp_path: Path) -> None:
    folder, (settings, loss) = model.folder(tmp_path), CASES[name]
    rows = [STYLES[style](row) for row in ROWS]
    agree(f"SFT {name}, {style}", our_step(folder, style=style, loss=loss), their_step(folder, rows, **settings),
          ours.weights(folder))  # fmt: skip


def said(*turns: str) -> dict[str, Any]:
    roles = ["system", *["user", "assistant"] * len(turns)]
    return {"messages": [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False)]}


def test_of_a_conversation_the_assistant_s_turns_are_trained(tmp_path: Path) -> None:
    """Theirs by the template's `{% generation %}` marks (`assistant_only_loss`), ours by what the template writes around a turn."""
    folder = model.folder(tmp_path)
    rows = [
        said("Be brief.", "Hi", "Hello.", "An animal?", "ant"),
        said("Be kind.", "2 + 2", "4"),
        said("", "a", "an", "b", "banana and pan", "c", "I do not know."),
    ]
    data = DataConfig(path=str(ours.rows_file(folder / "rows.jsonl", rows)), messages="messages")
    config = SFTConfig(examples_per_step=3)
    mine = ours.step(config, ours.engines(folder, data, config))
    assert max(sum(a < b for a, b in pairwise(trained)) for _, trained in mine.rows) == 3
    agree("SFT conversations", mine, their_step(folder, rows, assistant_only_loss=True), ours.weights(folder))


@pytest.mark.parametrize("layout", ["shared_prefix", "packed", "padded"])
def test_it_is_the_same_however_each_splits_it(layout: Any, tmp_path: Path) -> None:
    """Three accumulated batches of two there, microbatches of at most 60 tokens here: both divide by the step's tokens."""
    folder = model.folder(tmp_path)
    mine = our_step(folder, trainer=TrainerConfig(tokens_per_microbatch=60, layout=layout))
    split = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
    agree(f"SFT split, {layout}", mine, their_step(folder, [*map(conversation, ROWS)], **split), ours.weights(folder))


@pytest.mark.parametrize("style", STYLES)
def test_a_text_begins_once_and_an_answer_does_not(style: str, tmp_path: Path) -> None:
    """With a tokenizer that puts a beginning-of-sequence token before every text, and a template that writes it, too."""
    folder = model.folder(tmp_path, template="{{ bos_token }}" + model.TEMPLATE, begins=True)
    mine, other = our_step(folder, style=style), their_step(folder, [STYLES[style](row) for row in ROWS])
    assert {ids.count(theirs.tokenizer(folder).bos_token_id) for ids, _ in mine.rows} == {1}
    agree(f"SFT begins, {style}", mine, other, ours.weights(folder))


def test_a_mean_over_sequences_is_another_step(tmp_path: Path) -> None:
    """The comparison can fail."""
    folder = model.folder(tmp_path)
    mine = our_step(folder, average="sequence_mean")
    apart = residual(mine, their_step(folder, [*map(conversation, ROWS)]), ours.weights(folder))
    assert min(apart.loss, apart.gradient, apart.update) > 1e-2


def test_what_follows_the_end_of_a_turn_is_trained_by_them_alone(tmp_path: Path) -> None:
    """Many templates write a line break behind the end of a turn, which no sampled answer will ever hold."""
    folder = model.folder(tmp_path, template=model.TEMPLATE.replace("<|end|>{% endgen", "<|end|>\n{% endgen"))
    mine, other = our_step(folder), their_step(folder, [*map(conversation, ROWS)])
    (line_break,) = theirs.tokenizer(folder)("\n")["input_ids"]
    assert [((*ids, line_break), (*trained, True)) for ids, trained in mine.rows] == [*other.rows]


def test_a_token_across_the_border_of_prompt_and_answer_is_two_of_ours(tmp_path: Path) -> None:
    """At sampling the prompt ends where it ends; TRL warns, and trains on a prompt that has lost its last letter."""
    folder = model.folder(tmp_path)
    row = {"question": "Say ", "answer": "apt"}
    mine = our_step(folder, rows=[row], style="text")
    other = their_step(folder, [plain(row)])
    words = theirs.tokenizer(folder)
    (ids, _), (their_ids, _) = mine.rows[0], other.rows[0]
    assert words.convert_ids_to_tokens(ids) == ["S", "a", "y", "Ġ", "a", "p", "t", "<|end|>"]
    assert words.convert_ids_to_tokens(their_ids) == ["S", "a", "y", "Ġa", "p", "t", "<|end|>"]


def test_a_control_token_s_string_in_the_data_is_text_to_us(tmp_path: Path) -> None:
    """A row cannot end a turn here; there its `<|end|>` is the end, and none is added."""
    folder = model.folder(tmp_path)
    row = {"question": "How do I end?", "answer": "With <|end|>"}
    mine = our_step(folder, rows=[row], style="text")
    other = their_step(folder, [plain(row)])
    end = theirs.tokenizer(folder).eos_token_id
    assert [row[0].count(end) for row in (mine.rows[0], other.rows[0])] == [1, 1]
    assert len(mine.rows[0][0]) > len(other.rows[0][0])
