"""Finite differences that know where a formula stops its gradient: what was detached at the base point stays as it was there.

And float64 throughout: a formula that casts up to float32, as it should, is measured as if it cast to float64.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_STOPS = (torch.Tensor.detach, torch.detach)


class Recorder(TorchFunctionMode):
    """Remembers what was detached, or computed under no_grad, and from which line; or gives it back.

    Args:
        tape: what an earlier pass remembered, to be given back in order; None: remember.
    """

    def __init__(self, tape: list[Tensor] | None = None) -> None:
        super().__init__()
        self.tape: list[Tensor] = [] if tape is None else tape
        self.lines: list[tuple[str, int]] = []
        self._replay, self._next = tape is not None, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        stopped = func in _STOPS or (not torch.is_grad_enabled() and isinstance(result, Tensor))
        if not stopped or not isinstance(result, Tensor) or not result.is_floating_point():
            return result
        if not self._replay:
            self.tape.append(result.clone())
            self.lines.append(_caller(sys._getframe(1)))
            return result
        self._next += 1
        kept = self.tape[self._next - 1] if self._next <= len(self.tape) else result
        return kept.clone() if kept.shape == result.shape else result


class Wide(TorchFunctionMode):
    """Keeps float64 where a formula asks for float32; notes where it asks for less."""

    def __init__(self) -> None:
        super().__init__()
        self.narrowed = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not args or not isinstance(args[0], Tensor) or args[0].dtype != torch.double:
            return func(*args, **kwargs)
        if func is torch.Tensor.float:
            return args[0]
        args = tuple(torch.double if a is torch.float32 else a for a in args)
        kwargs = {n: torch.double if v is torch.float32 else v for n, v in kwargs.items()}
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and result.dtype in (torch.bfloat16, torch.half):
            self.narrowed = True
        return result


@contextmanager
def wide(double: bool) -> Iterator[None]:
    """Within it, a formula on float64 inputs stays there: its casts to float32, and the numbers that it makes of Python's."""
    if not double:
        yield
        return
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.double)
    try:
        with Wide():
            yield
    finally:
        torch.set_default_dtype(before)


def _caller(frame: FrameType | None) -> tuple[str, int]:
    """The first line outside torch and this file."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file != __file__ and f"{'torch'}/" not in file:
            return file, frame.f_lineno
        frame = frame.f_back
    return "", 0


def differences(
    function: Callable[[Tensor], Tensor], point: Tensor, where: list[int], *, step: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """(central differences, True where the function is smooth enough to trust them), at the flat indices `where`."""
    base = function(point)
    central, smooth = [], []
    for index in where:
        moved = [point.flatten().clone() for _ in range(2)]
        moved[0][index] += step
        moved[1][index] -= step
        up, down = (function(m.view_as(point)) for m in moved)
        forward, backward = (up - base) / step, (base - down) / step
        central.append((up - down) / (2 * step))
        smooth.append((forward - backward).abs() <= 1e-3 * max(1.0, central[-1].abs().item()))
    return torch.stack(central), torch.stack(smooth)
