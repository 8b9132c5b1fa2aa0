"""A chat template for a model that has none: one of ours by name, or a file."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from corollary.data.chat import encode_conversation
from corollary.data.control import control
from corollary.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BUILT_IN = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "plain": (),
}
"""name → the strings in it that must be control tokens of the model's own"""

_FIRST = "{{ bos_token }}"


def give(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Give a tokenizer the chat template called `name`. Its end of an answer becomes the end-of-sequence token.

    Args:
        tokenizer: changed in place; saved, it takes the template along.
        name: one of BUILT_IN, or a `.jinja` file. One of ours begins with the beginning-of-sequence token where the tokenizer puts
            that before any text.

    Raises:
        ModelError: there is no such template, the model knows no token that it needs, or no control token ends its answers.
    """
    template = _source(name)
    begins = tokenizer.bos_token_id is not None and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    if name in BUILT_IN:
        _claim(tokenizer, BUILT_IN[name], name)
        template = template if begins else template.removeprefix(_FIRST)
    tokenizer.chat_template = template
    probe = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    last = encode_conversation(tokenizer, probe).token_ids[-1]
    if last not in control(tokenizer).ids:
        raise ModelError(
            "no control token ends an answer in it, so a model could not learn to stop",
            where=f"model.chat_template={name}",
            hint="end an answer with {{ eos_token }}",
            code="E0321",
        )
    tokenizer.eos_token = str(tokenizer.convert_ids_to_tokens(last))


def _source(name: str) -> str:
    if name in BUILT_IN:
        return (files("corollary.models") / "templates" / f"{name}.jinja").read_text("utf-8").rstrip("\n")
    path = Path(name).expanduser()
    if path.suffix != ".jinja" or not path.is_file():
        hint = f"one of {', '.join(BUILT_IN)}, or a .jinja file"
        raise ModelError("there is no such template", where=f"model.chat_template={name}", hint=hint, code="E0320")
    return path.read_text("utf-8")


def _claim(tokenizer: PreTrainedTokenizerBase, tokens: tuple[str, ...], name: str) -> None:
    """Make control tokens of strings that the model has a token for.

    Raises:
        ModelError: it has none for one of them.
    """
    vocabulary = tokenizer.get_vocab()
    if missing := [token for token in tokens if token not in vocabulary]:
        raise ModelError(
            f"the model has no token {missing[0]}", where=f"model.chat_template={name}", hint="take plain", code="E0320"
        )
    known = control(tokenizer).ids
    if ordinary := [token for token in tokens if vocabulary[token] not in known]:
        tokenizer.add_special_tokens({"additional_special_tokens": ordinary}, replace_extra_special_tokens=False)
