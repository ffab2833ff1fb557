"""How a run is shown on stderr: a bar on a terminal, a line every few seconds anywhere else."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from pretrain.train import Plan, StepMetrics

_SECONDS_PER_LINE = 5.0


class Display(Protocol):
    """A view of one run, to be closed when the run ends in whatever way."""

    def started(self, plan: Plan) -> None:
        """Show what will be done."""

    def stepped(self, metrics: StepMetrics) -> None:
        """Show how far it is."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


def display_on(stream: TextIO) -> Display:
    """The display that suits a stream."""
    return Bar(stream) if stream.isatty() else Lines(stream)


class Lines:
    """Plain lines, for log files and pipes."""

    def __init__(self, stream: TextIO, seconds_per_line: float = _SECONDS_PER_LINE) -> None:
        self._stream = stream
        self._seconds_per_line = seconds_per_line
        self._steps = 0
        self._next_at = 0.0

    def started(self, plan: Plan) -> None:
        """Say what will be done."""
        self._steps = plan.steps
        self._write(describe(plan))

    def stepped(self, metrics: StepMetrics) -> None:
        """Say how far it is: at the first and last step, and every few seconds."""
        now = time.monotonic()
        if now >= self._next_at or metrics.step == self._steps:
            self._next_at = now + self._seconds_per_line
            self._write(f"step {metrics.step}/{self._steps}  {_state(metrics)}")

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass


class Bar:
    """A progress bar, for people at a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream)
        self._progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=self._console,
        )
        self._task = self._progress.add_task("reading tiles", total=None)

    def started(self, plan: Plan) -> None:
        """Say what will be done and show an empty bar."""
        self._console.print(describe(plan), markup=False, highlight=False)
        self._progress.update(self._task, total=plan.steps)
        self._progress.start()

    def stepped(self, metrics: StepMetrics) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=metrics.step, description=_state(metrics))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()


def describe(plan: Plan) -> str:
    """A run in one line."""
    mix, config = plan.mix, plan.config
    strata = ", ".join(f"{stratum.stain} {stratum.organ}" for stratum in mix.strata)
    return (
        f"{config.arch} on {config.device}: {mix.tiles} tiles of {len(mix.slides)} slides "
        f"({strata}), views of {plan.image_size} px, batches of {plan.batch_size}, "
        f"{plan.steps} steps"
    )


def _state(metrics: StepMetrics) -> str:
    return (
        f"epoch {metrics.epoch}  loss {metrics.loss:.3f}  lr {metrics.lr:.1e}  "
        f"{metrics.images_per_s:.0f} tiles/s  waited {metrics.data_wait:.0%}"
    )
