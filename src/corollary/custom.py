"""A user's own function or class, named by its file: found, loaded, and blamed by its own line.

Standard library only, so that a worker process starts in a few hundredths of a second and holds no copy of torch.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import operator
import re
import sys
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

_IN_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_reference(value: object) -> bool:
    """Whether this names something in a user's file, or in an installed package.

    >>> is_reference("my_losses.py:FocalDPO"), is_reference("my_package.losses:FocalDPO"), is_reference("dpo")
    (True, True, False)
    """
    return isinstance(value, str) and (".py:" in value or _IN_MODULE.fullmatch(value) is not None)


def file_of(reference: str) -> Path | None:
    """The file that a reference names; None where there is none.

    >>> file_of("json.decoder:JSONDecoder").name
    'decoder.py'
    """
    place = reference.rpartition(":")[0]
    if place.endswith(".py"):
        file = Path(place).expanduser().absolute()
        return file if file.is_file() else None
    try:
        spec = importlib.util.find_spec(place)
    except ImportError:
        return None
    return Path(spec.origin) if spec and spec.origin and Path(spec.origin).is_file() else None


def load(reference: str) -> Any:
    """What a reference names. A file's folder is searched last by its imports, so it can shadow nothing.

    Args:
        reference: `package.module:name`, or `folder/file.py:name` seen from the working directory.

    >>> load("math:sqrt")(4.0)
    2.0
    """
    place, _, name = reference.rpartition(":")
    module = _module_of_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    try:
        return operator.attrgetter(name)(module)
    except AttributeError:
        near = difflib.get_close_matches(name, [n for n in vars(module) if not n.startswith("_")], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise AttributeError(f"there is no function {name!r} in it{hint}") from None


def _module_of_file(path: Path) -> ModuleType:
    path = path.expanduser().absolute()
    name = f"corollary_custom_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def said(error: BaseException) -> str:
    """The exception in one line: its class and message.

    >>> said(ValueError("no\\nsuch"))
    'ValueError: no such'
    """
    try:
        message = " ".join(str(error).split())[:300]
    except BaseException:  # noqa: BLE001 - an exception whose text raises must not hide which exception it was
        message = "(its message cannot be shown)"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def line_of(error: BaseException, file: str) -> str:
    """`file:line` where the error was raised: the innermost line of the user's own file, else of any."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    places: list[tuple[str, int]] = []
    traceback: TracebackType | None = error.__traceback__
    while traceback is not None:
        places.append((traceback.tb_frame.f_code.co_filename, traceback.tb_lineno))
        traceback = traceback.tb_next
    return at(places[::-1], file)


def at(places: list[tuple[str, int]], file: str) -> str:
    """`file:line` of the innermost place in the user's file, which may be unknown; `places` go from the innermost out.

    >>> at([("/lib/re.py", 9), ("/me/rewards.py", 12), ("/lib/run.py", 1)], "/me/rewards.py")
    '/me/rewards.py:12'
    """
    in_file = [place for place in places if place[0] == file]
    if not in_file and file.endswith(".py"):
        return file
    return "{}:{}".format(*(in_file or places)[0]) if places else ""
