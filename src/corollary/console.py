"""What a terminal shows while a run goes: a live table, or plain lines where there is no terminal; and its outcome."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live as RichLive
from rich.table import Table

from corollary.data.datasets import DataReport
from corollary.errors import printable
from corollary.run.files import read_json
from corollary.types import Metrics

_COLUMNS = (("reward", "reward"), ("pass_rate", "pass rate"), ("loss", "loss"), ("accuracy", "accuracy"), ("margin", "margin"), ("kl", "KL"), ("entropy", "entropy"),
            ("signal", "signal"), ("length", "length"))  # fmt: skip
_SHOWN = 12  # steps in the live table


class Live:
    """Draws a run. Everything goes to standard error, so that standard output keeps to results.

    Args:
        name: of the run.
        quiet: draw nothing.
    """

    def __init__(self, name: str, *, quiet: bool = False) -> None:
        self.name, self.quiet = name, quiet
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self._rows: deque[tuple[int, Metrics, Metrics]] = deque(maxlen=_SHOWN)
        self._seconds: deque[float] = deque(maxlen=10)  # of the latest steps
        self._live: RichLive | None = None
        self._total = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._settle()

    def note(self, text: str) -> None:
        """One line."""
        self._settle()
        self.console.print(f"[{time.strftime('%H:%M:%S')}] {printable(text)}", markup=False, soft_wrap=True)

    def data(self, name: str, report: DataReport) -> None:
        """What came of a data set."""
        self.note(f"{name}: {report.line()}")

    def step(self, number: int, total: int, metrics: Metrics, timing: Metrics) -> None:
        """One step is done."""
        self._total = total
        self._rows.append((number, metrics, timing))
        self._seconds.append(timing["seconds"])
        if not self.console.is_terminal:
            self.console.print(self._line(number, metrics, timing), markup=False, soft_wrap=True)
            return
        if self._live is None:
            self._live = RichLive(console=self.console, transient=False, auto_refresh=False)
            self._live.start()
        self._live.update(self._table(), refresh=True)

    def _settle(self) -> None:
        """Leave the table as it stands and go on below it."""
        if self._live is not None:
            self._live.stop()
            self._live = None
            self._rows.clear()

    def _left(self, number: int) -> str:
        seconds = sum(self._seconds) / len(self._seconds) * (self._total - number)
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"

    def _line(self, number: int, metrics: Metrics, timing: Metrics) -> str:
        parts = [f"{title} {metrics[key]:.3f}" for key, title in _COLUMNS if key in metrics]
        return f"step {number}/{self._total}  " + "  ".join(
            [*parts, f"{_rate(timing)} tok/s", f"left {self._left(number)}"]
        )

    def _table(self) -> Table:
        metrics = self._rows[-1][1]
        columns = [(key, title) for key, title in _COLUMNS if key in metrics]
        table = Table(
            title=f"{self.name}: step {self._rows[-1][0]}/{self._total}, {self._left(self._rows[-1][0])} left"
        )
        for title in ("step", *(title for _, title in columns), "tok/s", "s"):
            table.add_column(title, justify="right")
        for number, row, timing in self._rows:
            values = [f"{row[key]:.3f}" if key in row else "" for key, _ in columns]
            table.add_row(str(number), *values, _rate(timing), f"{timing['seconds']:.1f}")
        return table


def _rate(timing: Metrics) -> str:
    """Tokens per second of the whole step's generation, or of its training where nothing is generated."""
    return f"{timing.get('tokens_per_second', timing.get('trained_tokens_per_second', 0.0)):.0f}"


def table(result: Mapping[str, Any]) -> str:
    """An evaluation as text: before, after and the paired difference of every metric."""
    before, after = result.get("before", {}).get("metrics", {}), result.get("after", {}).get("metrics", {})
    lines = [f"{'':24}{'before':>24}{'after':>24}{'difference, 95 % interval':>32}"]
    for name in before or after:
        change = _difference(result.get("difference", {}).get(name), after.get(name, {}))
        cells = [_cell(before.get(name)), _cell(after.get(name)), change]
        lines.append(f"{name:24}{cells[0]:>24}{cells[1]:>24}{cells[2]:>32}")
    return "\n".join(lines)


def _cell(metric: Mapping[str, Any] | None) -> str:
    if metric is None:
        return "–"
    how = ".4f" if metric.get("unit") == "number" else ".1%"
    return "{} [{}, {}]".format(*(format(metric[part], how) for part in ("value", "low", "high")))


def _difference(change: Mapping[str, Any] | None, metric: Mapping[str, Any]) -> str:
    if change is None:
        return "–"
    how = "+.4f" if metric.get("unit") == "number" else "+.1%"
    return "{} [{}, {}]".format(*(format(change[part], how) for part in ("estimate", "low", "high")))


def outcome(folder: Path) -> str:
    """What a finished run leaves to say."""
    lines = []
    if (folder / "evaluation.json").exists():
        result = read_json(folder / "evaluation.json")
        lines += [f"{result['prompts']} held-out problems of {result['dataset']}", table(result), ""]
    lines += [f"run     {folder}", f"report  {folder / 'report.html'}"]
    if (folder / "model").exists():
        lines.append(f"model   {folder / 'model'}   (corollary chat {folder / 'model'})")
    return "\n".join(lines)
