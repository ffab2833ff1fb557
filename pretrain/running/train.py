"""One training run, from a manifest to an encoder file.

B is the batch of tiles over all ranks. A run folder holds `config.json` and `mix.json` (written
before the first step), `metrics.jsonl`, `checkpoints/`, pictures of neighbours, and in the end
`encoder.safetensors`. What a step does depends on the checkpoint before it and on its number alone,
so that a run that was stopped anywhere goes on as if it had not been; on a CPU to the bit.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import torch

from pretrain.config import TrainConfig
from pretrain.device import pick_device
from pretrain.errors import ConfigError, DiskFull, Interrupted, TrainingError
from pretrain.loading.feed import Fed, feed
from pretrain.locking import locked
from pretrain.network.encoder import ENCODER_FILE
from pretrain.running.checkpoint import newest_checkpoint, write_checkpoint
from pretrain.running.export import export_run
from pretrain.running.learner import Learner, NotFinite
from pretrain.running.plan import Plan, make_plan
from pretrain.running.progress import Clock, Observer, Progress, StepMetrics, TrainResult
from pretrain.running.runfolder import begin_folder, check_folder, is_finished
from pretrain.simclr.ranks import Ranks, join_ranks
from pretrain.stopping import Stopper
from pretrain.watch.logs import RunLog
from pretrain.watch.monitor import Monitor

_TILES_NAMED = 5


def train(
    config: TrainConfig,
    manifest: str | Path,
    out: str | Path,
    observer: Observer | None = None,
    *,
    resume: str = "auto",
    stopper: Stopper | None = None,
) -> TrainResult:
    """Train an encoder on a manifest's tiles, or go on with the run in `out`.

    Under torchrun every process calls this; they share each batch, and the first one writes.

    Args:
        resume: `auto` goes on with a run of the same settings; `never` refuses to.
        stopper: asked after each step whether to stop.

    Raises:
        ConfigError: a setting does not fit the data or the machine, or `out` is in use.
        ManifestError, StoreError: the tiles cannot be had.
        TrainingError: the loss became infinite or not a number.
        Interrupted: the stopper asked to stop, and a checkpoint was written.
        DiskFull: a checkpoint found no room.
    """
    ranks = join_ranks(pick_device(config.device))
    with closing(ranks), torch_as_asked(config, ranks.device):
        plan = make_plan(config, manifest, out, ranks.world)
        if not ranks.agree(int(plan.digest()[:15], 16)):
            raise ConfigError("the processes were started with different settings or manifests")
        goes_on = check_folder(plan, resume)
        run = _Run(plan, ranks, observer, stopper or Stopper())
        ranks.barrier()
        with locked(plan.out) if ranks.is_first else contextlib.nullcontext():
            return run.resumed() if goes_on else run.begun()


@contextlib.contextmanager
def torch_as_asked(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """Switches of torch that hold for the whole process, put back afterwards."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not config.deterministic
    try:
        # Without a list it asks every GPU of the machine for its generator.
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


class _Run:
    """A run at work on one rank."""

    def __init__(
        self, plan: Plan, ranks: Ranks, observer: Observer | None, stopper: Stopper
    ) -> None:
        config = plan.config
        self._plan, self._ranks, self._stopper = plan, ranks, stopper
        self._observer = observer if ranks.is_first else None
        self._loader = plan.open_loader(ranks.rank, ranks.world)
        self._learner = Learner(plan, ranks)
        self._monitor: Monitor | None = None
        if ranks.is_first and config.monitor_every > 0:
            self._monitor = Monitor(plan.manifest, plan.mix, config)
        self._progress = Progress()

    def begun(self) -> TrainResult:
        """The run from its first step."""
        if self._ranks.is_first:
            begin_folder(self._plan)
        return self._go()

    def resumed(self) -> TrainResult:
        """The run from its last checkpoint, or from the start if there is none yet."""
        found = newest_checkpoint(self._plan.out)
        if found is None:
            if (self._plan.out / ENCODER_FILE).exists():
                raise ConfigError(
                    f"{self._plan.out} holds an encoder but no checkpoint to go on from; "
                    "give another --out to train again"
                )
            return self.begun()
        _, tensors, state = found
        self._progress = Progress.from_json(state["progress"])
        if is_finished(self._plan.out, self._plan.steps):
            return self._result(was_done=True)
        if self._plan.config.deterministic:
            torch.set_num_threads(state["threads"])
        self._learner.load(tensors, state["learner"])
        return self._go()

    @property
    def _encoder(self) -> Path:
        return self._plan.out / ENCODER_FILE

    def _go(self) -> TrainResult:
        plan, progress = self._plan, self._progress
        if not self._ranks.agree(progress.step):
            raise ConfigError(
                f"the processes do not see the same checkpoints in {plan.out}; give --out a folder "
                "that all of them share"
            )
        if self._observer is not None:
            self._observer.started(plan, progress.step)
            self._observer.noted(f"the encoder starts from {self._learner.model.origin}")
            if self._monitor is not None:
                self._observer.noted(self._monitor.note)
        with contextlib.ExitStack() as stack:
            log = None
            if self._ranks.is_first:
                after = progress.step or None
                log = RunLog(plan.out, after, tensorboard=plan.config.tensorboard)
                stack.callback(log.close)
            self._steps(log)
        if self._ranks.is_first:
            export_run(plan.out, self._encoder)
        return self._result()

    def _steps(self, log: RunLog | None) -> None:
        plan, progress, config = self._plan, self._progress, self._plan.config
        if progress.step == 0:
            self._look(log)
        todo = range(progress.step, plan.steps)
        saved_at = time.monotonic()
        clock = Clock(plan.batch_size)
        with closing(feed(self._loader, todo, plan.threads, self._ranks.device)) as batches:
            for fed in batches:
                self._step(fed, log, clock)
                if self._is_time_to_look():
                    self._look(log)
                    clock.restart()
                stop = self._ranks.any(self._stopper.asked)
                due = time.monotonic() - saved_at >= 60 * config.checkpoint_minutes
                if stop or due or progress.step == plan.steps:
                    self._save_checkpoint()
                    saved_at = time.monotonic()
                if stop and progress.step < plan.steps:
                    # When one process ends, torchrun ends all: the first may still be writing.
                    self._ranks.barrier()
                    raise Interrupted(
                        f"stopped after step {progress.step} of {plan.steps}; run the same command "
                        "again to go on",
                        self._stopper.exit_code,
                    )

    def _step(self, fed: Fed, log: RunLog | None, clock: Clock) -> None:
        plan, progress = self._plan, self._progress
        step = fed.step + 1
        self._note_damage(fed)
        try:
            views = self._learner.views(fed.tiles, fed.numbers)
            loss, lr = self._learner.update(views, fed.ids, step)
        except NotFinite as error:
            raise TrainingError(self._what_is_not_finite(error, fed, step)) from error
        clock.step(fed.waited_s)
        progress.step, progress.final_loss = step, loss
        if step == 1:
            progress.first_loss = loss
        if step % plan.config.log_every and step not in (1, plan.steps):
            return
        images_per_s, data_wait = clock.read()
        memory = None
        if self._ranks.device.type == "cuda":
            memory = torch.cuda.max_memory_allocated(self._ranks.device) / 2**30
        metrics = StepMetrics(step, plan.epoch_of(step), loss, lr, images_per_s, data_wait, memory)
        if log is not None:
            log.step({k: v for k, v in asdict(metrics).items() if v is not None})
        if self._observer is not None:
            self._observer.stepped(metrics)

    def _note_damage(self, fed: Fed) -> None:
        # Each rank reads a part of the batch, and only the first one tells and counts.
        met = {self._loader.name_of(tile) for tile in self._ranks.union(fed.damaged)}
        for tile in sorted(met - self._progress.damaged):
            self._progress.damaged.add(tile)
            if self._observer is not None:
                self._observer.damaged(tile)

    def _what_is_not_finite(self, error: NotFinite, fed: Fed, step: int) -> str:
        config = self._plan.config
        retried = " at full precision, too" if self._learner.settings.bf16 else ""
        text = f"the loss became {error.loss} at step {step}{retried}"
        ids = fed.ids.tolist()
        names = [self._loader.name_of(ids[place]) for place in error.places]
        if 0 < len(names) < len(ids):
            more = f" and {len(names) - _TILES_NAMED} more" if len(names) > _TILES_NAMED else ""
            text += f", from the tiles {', '.join(names[:_TILES_NAMED])}{more}"
        else:
            first = self._loader.name_of(ids[0])
            text += f", from the whole batch (its first tile is {first})"
        return (
            f"{text}: try an lr below {config.base_lr:g}, or a temperature above "
            f"{config.temperature:g}; checkpoints before it are kept"
        )

    def _is_time_to_look(self) -> bool:
        plan, step = self._plan, self._progress.step
        if plan.config.monitor_every <= 0:
            return False
        every = max(1, round(plan.config.monitor_every * plan.steps_per_epoch))
        return step % every == 0 or step == plan.steps

    def _look(self, log: RunLog | None) -> None:
        """Measure the features, and draw what they find alike."""
        if self._monitor is None or log is None:
            return
        step, network = self._progress.step, self._learner.exported
        scores = self._monitor.measure(network.encoder, network.head, self._ranks.device)
        self._progress.scores = scores
        log.scores(step, scores)
        picture = self._plan.out / "neighbours.png"
        self._monitor.picture(picture)
        log.picture(step, picture)
        if self._observer is not None:
            self._observer.looked(step, scores)

    def _save_checkpoint(self) -> None:
        if not self._ranks.is_first:
            return
        tensors, learner = self._learner.state()
        state = {
            "progress": self._progress.to_json(),
            "learner": learner,
            "threads": torch.get_num_threads(),
        }
        try:
            write_checkpoint(self._plan.out, self._progress.step, tensors, state)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise DiskFull(
                f"the disk of {self._plan.out} is full, so step {self._progress.step} could not be "
                "kept; free some space and run the same command again: it goes on from the last "
                "checkpoint"
            ) from error

    def _result(self, *, was_done: bool = False) -> TrainResult:
        progress = self._progress
        return TrainResult(
            self._encoder,
            progress.step,
            progress.first_loss,
            progress.final_loss,
            tuple(sorted(progress.damaged)),
            progress.scores,
            was_done,
        )


__all__ = ["Observer", "StepMetrics", "TrainResult", "torch_as_asked", "train"]
