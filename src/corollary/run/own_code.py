"""The files of a user's own that a recipe names: what they were at the start, and whose fault an exception is."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from corollary.config import Config
from corollary.custom import file_of, is_reference, line_of, said
from corollary.errors import CorollaryError, ResumeError, UserCodeError
from corollary.run.files import sha256


def references(config: Config) -> list[str]:
    """Every `file.py:name` that a configuration names, once each.

    >>> from corollary.rewards.parts import RewardSpec
    >>> references(RewardSpec(type="mine.py:f"))
    ['mine.py:f']
    """
    return list(dict.fromkeys(_references(config.model_dump(mode="json"))))


def _references(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        yield from (tree[key] for key in ("type", "path") if is_reference(tree.get(key)))
        tree = list(tree.values())
    if isinstance(tree, list):
        for part in tree:
            yield from _references(part)


def source_of(cls: type) -> tuple[str, int]:
    """File and line of a user's class, of which `cls` may be the one with settings read into it."""
    own = next(base for base in cls.__mro__ if base.__module__ in sys.modules and "<locals>" not in base.__qualname__)
    try:
        return inspect.getsourcefile(own) or "", inspect.getsourcelines(own)[1]
    except OSError:
        return own.__module__, 0


def files(config: Config) -> dict[str, str]:
    """The user's own files, as the configuration names them → sha256."""
    named = {reference.rpartition(":")[0]: file_of(reference) for reference in references(config)}
    return {place: sha256(path) for place, path in named.items() if path is not None}


def refuse_other_files(config: Config, recorded: Mapping[str, str], folder: Path) -> None:
    """Refuse to go on with code that is not what the run was started with.

    Args:
        config: of the run that is to go on.
        recorded: what `files` gave when it started.
        folder: of the run.

    Raises:
        ResumeError: a file has changed.
    """
    changed = [name for name, digest in files(config).items() if recorded.get(name, digest) != digest]
    if changed:
        raise ResumeError(
            f"{', '.join(changed)} is not what the run was started with (its sha256 is another)",
            where=str(folder),
            hint=f"restore it, or go on from the weights in a new run: corollary export {folder} FOLDER, model.path=FOLDER",
        )


@contextmanager
def blamed(config: Config, doing: str) -> Iterator[None]:
    """An exception out of a user's own file becomes one line that names the file's line; any other goes on as it is.

    Args:
        config: whose user's files these are.
        doing: what was going on.

    Raises:
        UserCodeError: a user's file raised.
    """
    try:
        yield
    except CorollaryError:
        raise
    except (Exception, SystemExit) as cause:
        for reference in references(config):
            file = str(file_of(reference) or "")
            if _passes(cause.__traceback__, file):
                raise UserCodeError(
                    f"{reference.rpartition(':')[2]} raised {said(cause)} ({doing})",
                    where=line_of(cause, file),
                    hint="contract clause: runs",
                ) from cause
        raise


def _passes(traceback: TracebackType | None, file: str) -> bool:
    """Whether a traceback goes through a file."""
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == file:
            return True
        traceback = traceback.tb_next
    return False
