from __future__ import annotations

from pathlib import Path

from tokenizers.processors import TemplateProcessing

from corollary.models.load import load_model
from corollary.run.assembly import encoder
from models import small


def test_an_answer_ends_and_does_not_begin(tmp_path: Path) -> None:
    """It follows a prompt, so a tokenizer that begins every text with a token must not begin this one; nor can its text end it."""
    small.folder(tmp_path)
    words = small.tokenizer()
    begin = words.convert_tokens_to_ids("<s>")
    words.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", begin)])
    words.save_pretrained(tmp_path)
    model = load_model(str(tmp_path))
    assert model.tokenizer("an <|end|>")["input_ids"][0] == begin
    ids = encoder(model)("an <|end|>")
    assert begin not in ids
    assert [place for place, token in enumerate(ids) if token == words.eos_token_id] == [len(ids) - 1]
    assert model.tokenizer.decode(ids[:-1]) == "an <|end|>"
