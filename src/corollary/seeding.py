"""One seed, independent streams: no global random state is read or written anywhere.

A stream is named by what it is for: `stream(seed, "sample", step, prompt_id, g)`. Equal names give equal numbers whatever
else was drawn before, so neither batch order, nor resuming, nor an evaluation in between can shift another stream.
"""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """A counter-based generator (Philox) keyed by the seed and the names.

    Args:
        seed: the run's seed.
        names: purpose, step, prompt, sample, …; order matters.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".

    >>> a, b = stream(0, "sample", 3, "p7", 1), stream(0, "sample", 3, "p7", 1)
    >>> bool((a.random(4) == b.random(4)).all())
    True
    >>> stream(0, "sample", 3).random() == stream(0, "sample", 4).random()
    False
    """
    digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], dtype=np.uint64)))
