"""Every error a user can meet: a code, one line that says what is wrong and what to do, and the exit status of the command.

    error[E0101] run.yaml:14: learning_rte: unknown key; did you mean learning_rate?

The first two digits of a code name the family, and the family decides the exit status.
"""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""`text` with terminal control and bidi characters made visible, so that data cannot drive a terminal.

    >>> printable("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    return _CONTROL.sub(lambda m: m[0].encode("unicode_escape").decode("ascii"), text)


class CorollaryError(ValueError):
    """A fault that the user can mend. Subclasses fix the family's exit status and default code.

    Args:
        what: what is wrong and what came, one line.
        where: `file:line`, a key, a sample id: where to look; may be empty.
        hint: what to do; may be empty.
        code: `E` and four digits; the family's own when left out.
    """

    code = "E0000"
    exit_status = 1

    def __init__(self, what: str, *, where: str = "", hint: str = "", code: str = "") -> None:
        self.what, self.where, self.hint = what, where, hint
        self.code = code or type(self).code
        super().__init__(self.line())

    def line(self) -> str:
        """The one line that a user sees last on standard error."""
        parts = [self.where, "; ".join(part for part in (self.what, self.hint) if part)]
        message = printable(": ".join(part for part in parts if part).replace("\n", " "))
        return f"error[{self.code}] {message}"


class ConfigError(CorollaryError):
    """The configuration or the command line is wrong."""

    code, exit_status = "E0100", 2


class DataError(CorollaryError):
    """A data set is missing, empty or malformed."""

    code, exit_status = "E0200", 2


class ModelError(CorollaryError):
    """A model, tokenizer or asset cannot be had or does not fit."""

    code, exit_status = "E0300", 2


class ResumeError(CorollaryError):
    """A run cannot be continued as asked."""

    code, exit_status = "E0400", 3


class StorageError(CorollaryError):
    """The run directory cannot be read or written."""

    code, exit_status = "E0500", 4


class NumericsError(CorollaryError):
    """A number that must be finite is not."""

    code, exit_status = "E0600", 5


class UserCodeError(CorollaryError):
    """A reward, environment or loss of the user's raised, hung or returned what it may not."""

    code, exit_status = "E0700", 6


class Preempted(CorollaryError):
    """The run was asked to stop (SIGTERM); what it had was saved."""

    code, exit_status = "E7500", 75


class Interrupted(CorollaryError):
    """The run was interrupted (Ctrl-C); what it had was saved."""

    code, exit_status = "E1300", 130
