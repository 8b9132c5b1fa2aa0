"""Whether the model hub answers, asked once and briefly: its own client tries for half a minute before it says no."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

SECONDS = 5  # until a hub that does not answer is given up

_log = logging.getLogger(__name__)


def refusal() -> str:
    """Why the hub cannot be asked, in a few words; empty where it answers."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        status = get_session().head(constants.ENDPOINT, timeout=SECONDS).status_code
    except Exception as error:  # noqa: BLE001 -- the client's library changes its error classes; each means no answer
        return (
            f"{constants.ENDPOINT} does not answer ({next(iter(str(error).splitlines()), '') or type(error).__name__})"
        )
    return f"{constants.ENDPOINT} answers with status {status}" if status == 429 or status >= 500 else ""


@contextmanager
def reached(name: str) -> Iterator[str]:
    """The hub as it is: where it does not answer, what is asked of it in the block comes from what was fetched before.

    Args:
        name: what is asked for; a log line says when an old copy may be used.

    Yields:
        Why the hub cannot be asked; empty where it answers.
    """
    from huggingface_hub import constants

    if not (reason := refusal()):
        yield ""
        return
    _log.warning("%s: %s; using what was fetched before, if anything", name, reason)
    with ExitStack() as switched:
        switched.enter_context(patch.object(constants, "HF_HUB_OFFLINE", True))
        if "datasets" in sys.modules:  # it reads the switch once, when it is imported
            switched.enter_context(patch.object(sys.modules["datasets"].config, "HF_HUB_OFFLINE", True))
        yield reason
