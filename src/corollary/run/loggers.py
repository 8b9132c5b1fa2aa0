"""Adapters to metric trackers, each an extra. The run directory is the truth; a tracker that fails is told once and left out."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from corollary.errors import ConfigError
from corollary.types import Metrics

LoggerName = Literal["tensorboard", "trackio", "wandb", "mlflow"]


class Logger(Protocol):
    """Takes a step's numbers."""

    def log(self, step: int, metrics: Metrics) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files in the run's `tensorboard/`."""

    def __init__(self, module: Any, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        self._writer = module.SummaryWriter(folder / "tensorboard")

    def log(self, step: int, metrics: Metrics) -> None:
        for key, value in metrics.items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Tracked:
    """trackio and wandb, which share an interface: init, log, finish."""

    def __init__(self, module: Any, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        self._module = module
        module.init(project="corollary", name=name, config=dict(config))

    def log(self, step: int, metrics: Metrics) -> None:
        self._module.log(metrics, step=step)

    def close(self) -> None:
        self._module.finish()


class MLflow:
    """A run in MLflow's tracking store."""

    def __init__(self, module: Any, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        self._module = module
        module.set_experiment("corollary")
        module.start_run(run_name=name)

    def log(self, step: int, metrics: Metrics) -> None:
        self._module.log_metrics({key.replace("@", "_at_"): value for key, value in metrics.items()}, step=step)

    def close(self) -> None:
        self._module.end_run()


_MODULES: dict[str, tuple[str, type[TensorBoard] | type[Tracked] | type[MLflow]]] = {
    "tensorboard": ("torch.utils.tensorboard", TensorBoard),
    "trackio": ("trackio", Tracked),
    "wandb": ("wandb", Tracked),
    "mlflow": ("mlflow", MLflow),
}


class Loggers:
    """Several trackers as one.

    Args:
        names: which.
        run, folder, config: of the run.
        note: told in one line when a tracker fails; it is left out from then on.

    Raises:
        ConfigError: a tracker's package is not installed.
    """

    def __init__(
        self,
        names: tuple[LoggerName, ...],
        run: str,
        folder: Path,
        config: Mapping[str, Any],
        note: Callable[[str], None],
    ) -> None:
        self._note = note
        self._open: dict[str, Logger] = {}
        for name in names:
            module, adapter = _MODULES[name]
            try:
                loaded = importlib.import_module(module)
            except ImportError as error:
                raise ConfigError(
                    f"{name} is not installed", where="run.loggers", hint=f"pip install 'corollary[{name}]'"
                ) from error
            self._guarded(name, lambda a=adapter, m=loaded, n=name: self._open.update({n: a(m, run, folder, config)}))

    def log(self, step: int, metrics: Metrics) -> None:
        """Hand a step to every tracker that still works."""
        for name, logger in list(self._open.items()):
            self._guarded(name, lambda logger=logger: logger.log(step, metrics))

    def close(self) -> None:
        """Let every tracker finish."""
        for name, logger in list(self._open.items()):
            self._guarded(name, logger.close)
        self._open.clear()

    def _guarded(self, name: str, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - whatever a tracker does wrong, the training goes on
            self._open.pop(name, None)
            self._note(f"{name} failed and is left out: {type(error).__name__}: {error}")
