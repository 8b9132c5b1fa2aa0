"""Prompts in an endless, shuffled stream whose whole state is one number."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from corollary.errors import DataError, ResumeError
from corollary.seeding import stream
from corollary.types import Prompt


def fingerprint(prompts: Sequence[Prompt]) -> str:
    """sha256 of the prompts in their order: ids, token ids, columns, and what follows them."""
    digest = hashlib.sha256()
    for p in prompts:
        row = [p.id, list(p.token_ids), dict(p.columns), *([p.target_ids, p.target_trained] if p.target_ids else [])]
        digest.update(json.dumps(row, sort_keys=True, default=repr).encode() + b"\n")
    return digest.hexdigest()


class PromptLoader(Iterator[list[Prompt]]):
    """Batches of prompts without end; every prompt exactly once per epoch.

    Epoch e is the permutation that `stream(seed, "data", e)` gives; batches run on across the border of two epochs, so that nothing
    is left out and nothing comes twice. `position` says where it stands: the next prompt is number `position mod N` of epoch
    `position div N`. Nothing is replayed to resume, and the size of a batch may change.

    Args:
        prompts: the data set, N prompts.
        batch_size: prompts of a batch, at least 1; may exceed N.
        seed: of the shuffles.
        position: prompts consumed so far.

    Raises:
        DataError: no prompts.
        ValueError: the batch size is below 1 or the position negative.

    >>> loader = PromptLoader([Prompt(id=str(i), token_ids=(i,)) for i in range(3)], batch_size=2, seed=0)
    >>> sorted(p.id for p in next(loader) + next(loader)[:1]), loader.position
    (['0', '1', '2'], 4)
    """

    def __init__(self, prompts: Sequence[Prompt], *, batch_size: int, seed: int, position: int = 0) -> None:
        if not prompts:
            raise DataError("no prompts to load", code="E0203")
        if batch_size < 1 or position < 0:
            raise ValueError(f"batch_size is at least 1 and position at least 0, not {batch_size} and {position}")
        self.prompts, self.batch_size, self.seed, self.position = tuple(prompts), batch_size, seed, position
        self.fingerprint = fingerprint(self.prompts)
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    @property
    def epoch(self) -> int:
        """The epoch of the next prompt, from 0."""
        return self.position // len(self.prompts)

    def __next__(self) -> list[Prompt]:
        batch = []
        for _ in range(self.batch_size):
            if self._epoch != self.epoch:
                self._epoch, self._order = (
                    self.epoch,
                    stream(self.seed, "data", self.epoch).permutation(len(self.prompts)),
                )
            batch.append(self.prompts[self._order[self.position % len(self.prompts)]])
            self.position += 1
        return batch

    def state_dict(self) -> dict[str, int | str]:
        """The position, and what it is a position in; JSON."""
        return {"position": self.position, "fingerprint": self.fingerprint}

    def load_state_dict(self, state: Mapping[str, int | str]) -> None:
        """Goes on where `state` was taken.

        Raises:
            ResumeError: it was taken of other data.
        """
        if state["fingerprint"] != self.fingerprint:
            what = f"the data is not that of the checkpoint (sha256 {self.fingerprint[:12]} now, {str(state['fingerprint'])[:12]} then)"
            raise ResumeError(
                what, hint="restore the data set, its settings and the tokenizer, or start a new run", code="E0402"
            )
        self.position = int(state["position"])
