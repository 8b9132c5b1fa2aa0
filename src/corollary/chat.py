"""Talking with one model, or with two side by side, as their words come."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from rich.columns import Columns
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from corollary.data.chat import encode_chat
from corollary.engines.sampler import EmbeddedSampler
from corollary.errors import printable
from corollary.models.load import load_model
from corollary.models.names import exported
from corollary.models.settings import ModelConfig
from corollary.run.memory import keep_large_blocks
from corollary.types import Message, Prompt, Sampling


class Talk:
    """A conversation with each of one or two models.

    Args:
        names: models; a run's folder stands for the `model/` in it.
        system: the system message, or "".
        temperature, max_tokens, seed: of the answers.
    """

    def __init__(self, names: Sequence[str], system: str, temperature: float, max_tokens: int, seed: int) -> None:
        keep_large_blocks()
        settings = ModelConfig()
        self.names = list(names)
        self.models = [load_model(exported(name), dtype=settings.resolved_dtype()) for name in names]
        for model in self.models:
            model.place(settings.torch_device())
        self.samplers = [
            EmbeddedSampler(m.model, decode=m.decode, eos_token_ids=m.eos_token_ids, seed=seed) for m in self.models
        ]
        start: list[Message] = [{"role": "system", "content": system}] if system else []
        self.histories: list[list[Message]] = [list(start) for _ in names]
        self.sampling = Sampling(temperature=temperature, max_tokens=max_tokens)
        self.turn = 0
        self.console = Console(highlight=False)

    def say(self, words: str) -> list[str]:
        """Say something; the answers, shown while they come."""
        streams = []
        for model, sampler, history in zip(self.models, self.samplers, self.histories, strict=True):
            history.append({"role": "user", "content": words})
            ids = encode_chat(model.tokenizer, history).token_ids
            prompt = Prompt(id=str(self.turn), token_ids=ids, messages=tuple(history))
            streams.append(sampler.stream_text(prompt, self.sampling, names=("chat", self.turn)))
        answers = self._aloud(streams[0]) if len(streams) == 1 else self._side_by_side(streams)
        for history, answer in zip(self.histories, answers, strict=True):
            history.append({"role": "assistant", "content": answer})
        self.turn += 1
        return answers

    def converse(self) -> None:
        """Until an empty line or the end of input."""
        while words := self._ask():
            self.say(words)

    def _ask(self) -> str:
        try:
            return self.console.input("> ").strip()
        except EOFError:
            return ""

    def _aloud(self, stream: Iterator[str]) -> list[str]:
        said = []
        for piece in stream:
            said.append(piece)
            sys.stdout.write("\n".join(printable(line) for line in piece.split("\n")))
            sys.stdout.flush()
        sys.stdout.write("\n")
        return ["".join(said)]

    def _side_by_side(self, streams: list[Iterator[str]]) -> list[str]:
        said = ["" for _ in streams]

        def panels() -> Columns:
            width = max(20, self.console.width // len(said) - 2)
            shown = [Text("\n".join(printable(line) for line in text.split("\n"))) for text in said]
            return Columns([Panel(t, title=n, width=width) for t, n in zip(shown, self.names, strict=True)])

        with Live(panels(), console=self.console, auto_refresh=False) as live:
            open_ = set(range(len(streams)))
            while open_:
                for i in sorted(open_):
                    piece = next(streams[i], None)
                    if piece is None:
                        open_.discard(i)
                    else:
                        said[i] += piece
                live.update(panels(), refresh=True)
        return said
