"""A model that is served: what a request becomes before anything is decoded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from corollary.data.chat import encode_chat, encode_text
from corollary.errors import DataError, ModelError
from corollary.models.load import LoadedModel
from corollary.serving.decoding import Decoder, Failure, Job, Piece
from corollary.serving.requests import APIError, ChatAsked, TextAsked
from corollary.types import Sampling

Tell = Callable[[int, Piece | Failure], None]
"""(choice of the reply, what it gains)"""


@dataclass(slots=True, kw_only=True)
class Service:
    """A model, the thread that decodes, and what one request may take."""

    model: LoadedModel
    decoder: Decoder
    name: str  # clients know the model by it
    max_tokens: int = 1024  # of an answer, and of one that names no limit
    seed: int = 0  # of requests that give none
    started: int = field(default_factory=lambda: int(time.time()))  # seconds since 1970
    numbers: Iterator[int] = field(default_factory=count)  # of the requests

    def prompts(self, what: ChatAsked | TextAsked) -> list[tuple[int, ...]]:
        """The tokens that the model reads.

        Raises:
            APIError: another model is asked for, or its chat template refuses the conversation.
        """
        if what.model != self.name:
            message = f"there is no model {what.model!r} here, only {self.name!r}"
            raise APIError(404, message, code="model_not_found", param="model")
        if isinstance(what, TextAsked):
            return [encode_text(self.model.tokenizer, text).token_ids for text in what.prompt]
        messages = [{"role": message.role, "content": message.content} for message in what.messages]
        try:
            return [encode_chat(self.model.tokenizer, messages).token_ids]
        except (DataError, ModelError) as error:
            raise APIError(400, error.what, param="messages") from error

    def jobs(self, what: ChatAsked | TextAsked, prompts: Sequence[tuple[int, ...]], tell: Tell) -> list[Job]:
        """A job for each prompt. A request's choice is answer g to prompt i, as number i·n + g.

        Raises:
            APIError: the model has no room for a prompt and its answer.
        """
        seeded = what.seed is not None
        seed, names = (what.seed, ("seeded",)) if seeded else (self.seed, ("request", next(self.numbers)))
        jobs = [
            Job(
                prompt=prompt,
                sampling=self._sampling(what, len(prompt)),
                n=what.n,
                seed=seed or 0,
                names=(*names, i),
                tell=lambda said, first=i * what.n: tell(first, said),
            )
            for i, prompt in enumerate(prompts)
        ]
        if (size := max(job.size for job in jobs)) > self.decoder.room:
            message = f"prompt and answers have {size} tokens together, and there is room for {self.decoder.room}"
            raise APIError(
                400, f"{message}; ask for fewer or shorter answers", code="context_length_exceeded", param="n"
            )
        return jobs

    def _sampling(self, what: ChatAsked | TextAsked, prompt: int) -> Sampling:
        """The settings of a request, and how long its answer may be after so many tokens."""
        if not prompt:
            raise APIError(400, "the prompt has no tokens; give it some text", param="prompt")
        whole = self.model.max_positions or prompt + self.max_tokens
        limit = what.limit or min(self.max_tokens, whole - prompt)
        if prompt + limit > whole or limit < 1:
            what_came = f"{prompt} tokens of prompt and {max(limit, 1)} of answer"
            message = f"the model has {whole} positions, and {what_came} were asked for; shorten one of them"
            raise APIError(400, message, code="context_length_exceeded", param="max_tokens")
        if limit > self.max_tokens:
            raise APIError(400, f"an answer has at most {self.max_tokens} tokens here, not {limit}", param="max_tokens")
        return Sampling(
            temperature=what.temperature, top_p=what.top_p, top_k=what.top_k, max_tokens=limit, stop=what.stop
        )
