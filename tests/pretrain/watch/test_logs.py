"""What a run writes down: lines that can be read at any time, and events as TensorBoard reads."""

from __future__ import annotations

import getpass
import json
import math
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorboard")

from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pretrain.errors import ConfigError, DiskFull, TrainingError
from pretrain.watch.logs import METRICS_FILE, RunLog
from pretrain.watch.scores import Scores

SCORES = Scores(knn=0.5, classes=4, tiles=100, alignment=0.25, uniformity=-2.0)


def metrics(step: int, **more: float) -> dict[str, float | int | None]:
    """The metrics of a step; its loss says which one it is."""
    return {"step": step, "epoch": 1 + step // 10, "loss": step / 8, "lr": 0.001, **more}


def lines(folder: Path) -> list[Any]:
    """All lines of `metrics.jsonl`, parsed; each must end."""
    text = (folder / METRICS_FILE).read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def write(folder: Path, steps: range, resume_step: int | None = None) -> None:
    """Log some steps, in one go."""
    with RunLog(folder, resume_step, tensorboard=True) as log:
        for step in steps:
            log.step(metrics(step))


def events(folder: Path) -> EventAccumulator:
    """What TensorBoard itself reads."""
    return EventAccumulator(str(folder), purge_orphaned_data=True).Reload()


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    """Step and value of all events of a tag."""
    return [(event.step, event.value) for event in events(folder).Scalars(tag)]


def test_a_line_can_be_read_as_soon_as_it_is_written(tmp_path: Path) -> None:
    with RunLog(tmp_path, tensorboard=True) as log:
        for step in (1, 2):
            log.step(metrics(step))
            assert lines(tmp_path)[-1] == metrics(step)
            assert scalars(tmp_path, "train/loss")[-1] == (step, step / 8)


def test_scores_join_the_line_of_their_step(tmp_path: Path) -> None:
    with RunLog(tmp_path, tensorboard=False) as log:
        log.step(metrics(1))
        log.step(metrics(2))
        log.scores(2, SCORES)
        log.step(metrics(3))
    scored = {"knn": 0.5, "alignment": 0.25, "uniformity": -2.0}
    assert lines(tmp_path) == [metrics(1), {**metrics(2), **scored}, metrics(3)]


def test_scores_of_a_step_that_is_not_logged_are_a_line_of_their_own(tmp_path: Path) -> None:
    with RunLog(tmp_path, tensorboard=True) as log:
        log.scores(0, SCORES)
        log.step(metrics(1))
        log.scores(5, Scores(None, 0, 10, 0.25, -2.0))
    assert [line["step"] for line in lines(tmp_path)] == [0, 1, 5]
    assert lines(tmp_path)[2] == {"step": 5, "alignment": 0.25, "uniformity": -2.0}
    assert scalars(tmp_path, "monitor/knn") == [(0, 0.5)]
    assert scalars(tmp_path, "monitor/uniformity") == [(0, -2.0), (5, -2.0)]


def test_scores_after_a_resume_join_the_line_that_was_there(tmp_path: Path) -> None:
    write(tmp_path, range(1, 4))
    with RunLog(tmp_path, 2, tensorboard=False) as log:
        log.scores(2, SCORES)
    assert lines(tmp_path)[1]["knn"] == 0.5
    assert [line["loss"] for line in lines(tmp_path)] == [1 / 8, 2 / 8]


def test_a_resumed_run_reads_as_one_that_was_never_stopped(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    write(whole, range(1, 10))
    write(parts, range(1, 8))
    write(parts, range(5, 10), resume_step=4)
    assert (parts / METRICS_FILE).read_bytes() == (whole / METRICS_FILE).read_bytes()
    assert scalars(parts, "train/loss") == scalars(whole, "train/loss")


def test_events_of_a_resumed_run_are_forgotten_even_if_fewer_follow(tmp_path: Path) -> None:
    write(tmp_path, range(1, 8))
    write(tmp_path, range(5, 6), resume_step=4)
    assert [step for step, _ in scalars(tmp_path, "train/loss")] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("torn", [b'{"step": 3, "lo', b'{"step": 3}', b"\x00\xff", b'["step"]\n'])
def test_a_torn_line_is_dropped(tmp_path: Path, torn: bytes) -> None:
    write(tmp_path, range(1, 3))
    with (tmp_path / METRICS_FILE).open("ab") as file:
        file.write(torn)
    write(tmp_path, range(3, 4), resume_step=2)
    assert lines(tmp_path) == [metrics(1), metrics(2), metrics(3)]


def test_a_run_that_begins_anew_keeps_nothing(tmp_path: Path) -> None:
    write(tmp_path, range(1, 5))
    write(tmp_path, range(1, 2))
    assert lines(tmp_path) == [metrics(1)]
    assert [step for step, _ in scalars(tmp_path, "train/loss")] == [1]


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    with RunLog(tmp_path, tensorboard=True) as log:
        log.step({"step": 1, "loss": math.nan, "lr": math.inf})
    assert lines(tmp_path) == [{"step": 1, "loss": None, "lr": None}]


def test_a_picture_is_shown_at_its_step(tmp_path: Path) -> None:
    Image.new("RGB", (24, 16), (200, 30, 30)).save(tmp_path / "neighbours.png")
    with RunLog(tmp_path, tensorboard=True) as log:
        log.picture(7, tmp_path / "neighbours.png")
    (shown,) = events(tmp_path).Images("monitor/neighbours")
    assert (shown.step, shown.width, shown.height) == (7, 24, 16)
    assert shown.encoded_image_string.startswith(b"\xff\xd8\xff")


def test_nothing_tells_the_machine_or_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "ward-17-scanner")
    monkeypatch.setenv("LOGNAME", "doctor-who")
    monkeypatch.setenv("USER", "doctor-who")
    assert getpass.getuser() == "doctor-who"
    Image.new("RGB", (8, 8)).save(tmp_path / "neighbours.png")
    with RunLog(tmp_path, tensorboard=True) as log:
        log.step(metrics(1))
        log.picture(1, tmp_path / "neighbours.png")
    files = [path for path in tmp_path.iterdir() if path.suffix != ".png"]
    assert sorted(path.name for path in files) == ["events.out.tfevents.0000000001", METRICS_FILE]
    said = b"".join(path.read_bytes() for path in files)
    for secret in ("ward-17-scanner", "doctor-who", str(tmp_path)):
        assert secret.encode() not in said


def test_no_events_are_written_unless_asked_for(tmp_path: Path) -> None:
    with RunLog(tmp_path, tensorboard=False) as log:
        log.step(metrics(1))
        log.picture(1, tmp_path / "not-there.png")
    assert [path.name for path in tmp_path.iterdir()] == [METRICS_FILE]


def test_a_missing_tensorboard_is_said_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    with pytest.raises(ConfigError, match=r"not installed .* --no-tensorboard"):
        RunLog(tmp_path, tensorboard=True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).symlink_to("/dev/full")
    with RunLog(tmp_path, tensorboard=False) as log:
        message = r"metrics\.jsonl cannot be written \(No space left on device\); free some"
        with pytest.raises(DiskFull, match=message):
            log.step(metrics(1))


def test_a_folder_that_is_not_there_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="cannot be written"):
        RunLog(tmp_path / "gone", tensorboard=False)
