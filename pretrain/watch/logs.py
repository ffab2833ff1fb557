"""What a run writes down as it goes: `metrics.jsonl`, and events for TensorBoard.

One JSON object a line and a logged step, in UTF-8; a number that is not finite is null. Event files
hold records of TensorFlow's `Event` and are numbered: unlike TensorBoard's own writer, neither
their names nor what is in them tell the machine or who ran it. Each record reaches the operating
system at once. A run that resumes at a step forgets what was written after it.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests.files import crc32c, write_atomic
from pretrain.errors import ConfigError, DiskFull, TrainingError

if TYPE_CHECKING:
    from pretrain.watch.scores import Scores

METRICS_FILE = "metrics.jsonl"
EVENTS_PREFIX = "events.out.tfevents."
"""What TensorBoard looks for; a number of ten digits follows."""

Metrics = Mapping[str, float | int | None]
Line = dict[str, float | int | None]

_JPEG_QUALITY = 90
_CRC_MASK = 0xA282_EAD8


class RunLog:
    """The records of a run, open for writing."""

    def __init__(self, folder: Path, resume_step: int | None = None, *, tensorboard: bool) -> None:
        """Begin, or go on after a step; what is there of later steps is dropped.

        Args:
            folder: of the run; it exists.
            resume_step: the last step that is done, from 1; None for a run that begins anew.

        Raises:
            ConfigError: TensorBoard is not installed.
            TrainingError: a file cannot be written.
        """
        self._metrics = _MetricsFile(folder / METRICS_FILE, resume_step)
        try:
            self._events = _EventFile(folder, resume_step) if tensorboard else None
        except BaseException:
            self._metrics.close()
            raise

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def step(self, metrics: Metrics) -> None:
        """Write the metrics of a step; its number is `step`, from 1.

        Raises:
            TrainingError: the disk is full, or the file cannot be written.
        """
        self._metrics.add(metrics)
        if self._events is not None:
            shown = {key: value for key, value in metrics.items() if key != "step"}
            self._events.scalars(int(metrics["step"] or 0), "train", shown)

    def scores(self, step: int, scores: Scores) -> None:
        """Write what a look at the features found after a step; 0 is before the first.

        The scores join the line of the step if that was the last one that was written, else they
        are a line of their own.

        Raises:
            TrainingError: as `step`.
        """
        found = {
            "knn": scores.knn,
            "alignment": scores.alignment,
            "uniformity": scores.uniformity,
        }
        known: Line = {key: value for key, value in found.items() if value is not None}
        self._metrics.add({"step": step, **known})
        if self._events is not None:
            self._events.scalars(step, "monitor", known)

    def picture(self, step: int, path: Path) -> None:
        """Show a picture (any that Pillow reads) in TensorBoard, named after its file.

        Raises:
            TrainingError: as `step`.
            OSError: the picture cannot be read.
        """
        if self._events is not None:
            self._events.picture(step, f"monitor/{path.stem}", path)

    def close(self) -> None:
        """Close all files; nothing more can be written."""
        self._metrics.close()
        if self._events is not None:
            self._events.close()


class _File:
    """A file whose records each go to the operating system whole, or raise."""

    def __init__(self, path: Path, mode: str) -> None:
        self._path = path
        try:
            self._file = path.open(mode, buffering=0)
        except OSError as error:
            raise self._failed(error) from error

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> DiskFull | TrainingError:
        what = f"{self._path} cannot be written ({error.strerror})"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return DiskFull(f"{what}; free some space and run the same command again to go on")
        return TrainingError(f"{what}; give another --out")

    def close(self) -> None:
        """Close the file; again does nothing."""
        self._file.close()


class _MetricsFile(_File):
    """`metrics.jsonl`; the last line can still be added to."""

    def __init__(self, path: Path, resume_step: int | None) -> None:
        self._path = path
        lines: list[Line] = []
        try:
            # Not so if it is a pipe or a device, which have nothing to go back to.
            if path.is_file():
                lines = [] if resume_step is None else _kept(path.read_bytes(), resume_step)
                write_atomic(path, b"".join(map(_json_line, lines)))
        except OSError as error:
            raise self._failed(error) from error
        super().__init__(path, "ab")
        self._last = lines[-1] if lines else None
        self._size = os.fstat(self._file.fileno()).st_size

    def add(self, values: Metrics) -> None:
        """Write a line; one of the same step as the last line becomes part of that."""
        finite = {k: v if v is None or math.isfinite(v) else None for k, v in values.items()}
        line: Line = finite
        if self._last is not None and self._last["step"] == finite["step"]:
            line = {**self._last, **finite}
            self._size -= len(_json_line(self._last))
            # A kill in between loses this one line; a run that resumes drops it or writes it again.
            os.ftruncate(self._file.fileno(), self._size)
        data = _json_line(line)
        self._write(data)
        self._size += len(data)
        self._last = line


def _kept(data: bytes, resume_step: int) -> list[Line]:
    """The lines of steps up to one; lines that were torn are left out."""
    found = []
    for text in data.split(b"\n"):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        step = line.get("step") if isinstance(line, dict) else None
        if isinstance(step, int) and step <= resume_step:
            found.append(line)
    return found


def _json_line(line: Line) -> bytes:
    return json.dumps(line, allow_nan=False).encode() + b"\n"


class _EventFile(_File):
    """A file of events as TensorBoard reads them (TFRecord, `Event` of version 2)."""

    def __init__(self, folder: Path, resume_step: int | None) -> None:
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
        except ImportError as error:
            raise ConfigError(
                f"TensorBoard is not installed ({error}): install histotile[pretrain], or turn it "
                "off with --no-tensorboard"
            ) from error
        self._event: Any = event_pb2.Event
        self._summary: Any = summary_pb2.Summary
        # TensorBoard reads the files of a run in the order of their names.
        numbers = [_number(path) for path in folder.glob(f"{EVENTS_PREFIX}*")]
        super().__init__(folder / f"{EVENTS_PREFIX}{max(numbers, default=0) + 1:010d}", "xb")
        self._add(file_version="brain.Event:2")
        if numbers:
            # What earlier files say from this step on is to be forgotten.
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            first = 0 if resume_step is None else resume_step + 1
            self._add(step=first, session_log=start)

    def scalars(self, step: int, part: str, values: Metrics) -> None:
        """Write numbers of a step, as `part/name`."""
        value = self._summary.Value
        shown = [
            value(tag=f"{part}/{name}", simple_value=number)
            for name, number in values.items()
            if number is not None
        ]
        self._add(step=step, summary=self._summary(value=shown))

    def picture(self, step: int, tag: str, path: Path) -> None:
        """Write a picture of a step, as a JPEG: events are never deleted."""
        from PIL import Image

        buffer = io.BytesIO()
        with Image.open(path) as picture:
            width, height = picture.size
            picture.convert("RGB").save(buffer, "JPEG", quality=_JPEG_QUALITY)
        image = self._summary.Image(
            width=width, height=height, colorspace=3, encoded_image_string=buffer.getvalue()
        )
        self._add(
            step=step, summary=self._summary(value=[self._summary.Value(tag=tag, image=image)])
        )

    def _add(self, **fields: Any) -> None:
        data: bytes = self._event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(data))
        self._write(length + _masked_crc(length) + data + _masked_crc(data))


def _number(path: Path) -> int:
    text = path.name.removeprefix(EVENTS_PREFIX).partition(".")[0]
    return int(text) if text.isdecimal() else 0


def _masked_crc(data: bytes) -> bytes:
    """The checksum of a TFRecord: CRC-32C, turned by 15 bits, plus a constant."""
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _CRC_MASK) & 0xFFFF_FFFF)
