"""The sandbox `bubblewrap`: namespaces of the kernel, an empty read-only world, and a short list of system calls.

Inside there are the interpreter, its standard library and the shared libraries that they load. There is no /proc, /dev, /etc,
/tmp, home or project, no file that can be written, no network, no other process, no environment.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from corollary.errors import ConfigError
from corollary.rewards.sandbox import seccomp
from corollary.rewards.sandbox.base import OTHERS, Exam, Limits, Verdict
from corollary.rewards.sandbox.processes import INTERPRETER, Launch, judged

_LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache")
_PYTHON = "/python"
_OPTIONS = (
    *("--unshare-all", "--unshare-user", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL"),
    *("--hostname", "sandbox", "--chdir", "/", "--new-session", "--die-with-parent"),
)


class Bubblewrap:
    """Judges with CPython inside bubblewrap.

    Raises:
        ConfigError: bubblewrap is not installed, or the kernel will not let it make namespaces.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        _tried()

    def judge(self, program: str, exam: Exam) -> Verdict:
        return judged(program, exam, self._limits, wrapped)


def wrapped(command: Sequence[str]) -> Launch:
    """The command inside the sandbox, with the interpreter that stands there."""
    filter_ = seccomp.descriptor()
    bwrap = shutil.which("bwrap") or "bwrap"
    inside = (f"{_PYTHON}/bin/python", *command[1:])
    return Launch([bwrap, *_OPTIONS, *_world(), "--seccomp", str(filter_), "--", *inside], [filter_])


@cache
def _world() -> tuple[str, ...]:
    """What the program sees, all of it read-only: the machine's shared libraries, and an interpreter with its own.

    The interpreter stands in a place of its own, so that nothing shows where it stands outside, which may be a home.
    """
    base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    stdlib = {Path(sysconfig.get_path(name, vars=base)) for name in ("stdlib", "platstdlib")}
    own = [*sorted(stdlib), *sorted(Path(sys.base_prefix).glob("lib/libpython*.so*"))]
    moved = {str(path): f"{_PYTHON}/{path.relative_to(sys.base_prefix)}" for path in own}
    moved[str(Path(sys.executable).resolve())] = f"{_PYTHON}/bin/python"
    mounts = [word for path, place in moved.items() for word in ("--ro-bind", path, place)]
    packages = [
        f"{moved[str(folder)]}/{found.name}" for folder in sorted(stdlib) for found in folder.glob("*-packages")
    ]
    covers = [word for place in packages for word in ("--tmpfs", place, "--remount-ro", place)]
    shared = [word for path in _LIBRARIES for word in _shown(Path(path))]
    return (*shared, *mounts, *covers, "--setenv", "LD_LIBRARY_PATH", f"{_PYTHON}/lib", "--remount-ro", "/")


def _shown(path: Path) -> Iterator[str]:
    if path.is_symlink():
        yield from ("--symlink", str(path.readlink()), str(path))
    elif path.exists():
        yield from ("--ro-bind", str(path), str(path))


@cache
def _tried() -> None:
    """Start the real thing once, since many a kernel, container or security module forbids it."""
    what = "the sandbox bubblewrap cannot be used: "
    if shutil.which("bwrap") is None:
        raise ConfigError(
            what + "there is no bwrap", hint=f"apt-get install bubblewrap, or {OTHERS['bubblewrap']}", code="E0120"
        )
    process = wrapped([*INTERPRETER, "-c", "pass"]).start(stderr=subprocess.PIPE)
    said = process.communicate(timeout=30)[1].decode(errors="replace").strip().rpartition("\n")[2]
    if process.returncode:
        why = said or f"exit status {process.returncode}"
        raise ConfigError(
            what + why, hint=f"it needs user namespaces; allow them, or {OTHERS['bubblewrap']}", code="E0120"
        )
