"""A run that was stopped and goes on is, to the bit, the run that was not."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from manifests.files import write_atomic  # noqa: E402
from pretrain.config import TrainConfig  # noqa: E402
from pretrain.errors import ConfigError, DiskFull, Interrupted, RunBusy  # noqa: E402
from pretrain.locking import locked  # noqa: E402
from pretrain.network.encoder import ENCODER_FILE, load_encoder  # noqa: E402
from pretrain.running.checkpoint import checkpoints, read_checkpoint  # noqa: E402
from pretrain.running.export import export_run  # noqa: E402
from pretrain.running.runfolder import can_go_on  # noqa: E402
from pretrain.running.train import StepMetrics, train  # noqa: E402
from pretrain.simclr.ranks import Ranks  # noqa: E402
from pretrain.stopping import Stopper  # noqa: E402
from pretrain.views.viewconfig import make_view_config  # noqa: E402
from tests.pretrain.make import two_by_two  # noqa: E402
from tests.pretrain.running.test_train import TINY, Recorder  # noqa: E402

LONG = replace(TINY, epochs=2, deterministic=True)
"""Eight steps, four an epoch."""

VARIANTS = {
    "adamw": LONG,
    "lars with an average": replace(LONG, optimizer="lars", ema=0.9),
    "dropout, cached": replace(LONG, arch="test_vit", grad_cache=4, head="simclr"),
}


class StopAfter(Recorder):
    """Asks a run to stop after a step."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        super().__init__()
        self.stopper = Stopper()
        self._step, self._number = step, number

    def stepped(self, metrics: StepMetrics) -> None:
        super().stepped(metrics)
        if metrics.step == self._step:
            self.stopper.ask(self._number)


def stop_after(step: int, config: TrainConfig, manifest: Path, out: Path) -> StopAfter:
    observer = StopAfter(step)
    with pytest.raises(Interrupted, match=f"stopped after step {step} of 8") as caught:
        train(config, manifest, out, observer, stopper=observer.stopper)
    assert caught.value.exit_code == 143
    return observer


def without_times(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k not in ("images_per_s", "data_wait")} for line in lines
    ]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_by_two(tmp_path_factory.mktemp("tiles"))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_stopped_within_an_epoch_goes_on_as_if_it_had_not_been(
    name: str, manifest: Path, tmp_path: Path
) -> None:
    config = VARIANTS[name]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = train(config, manifest, whole)
    stop_after(3, config, manifest, parts)
    stop_after(6, config, manifest, parts)
    result = train(config, manifest, parts)
    assert without_times(parts) == without_times(whole)
    assert (result.first_loss, result.final_loss) == (expected.first_loss, expected.final_loss)
    assert (parts / "encoder.safetensors").read_bytes() == expected.encoder.read_bytes()
    ends = [read_checkpoint(checkpoints(out)[-1])[0] for out in (whole, parts)]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_ctrl_c_has_its_own_code_and_a_second_one_ends_at_once(
    manifest: Path, tmp_path: Path
) -> None:
    observer = StopAfter(2, signal.SIGINT)
    with pytest.raises(Interrupted) as caught:
        train(LONG, manifest, tmp_path / "run", observer, stopper=observer.stopper)
    assert caught.value.exit_code == 130
    with pytest.raises(KeyboardInterrupt):
        observer.stopper.ask(signal.SIGINT)


def test_signals_are_caught_only_while_a_run_is_on() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with Stopper() as stopper:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopper.asked
        assert stopper.exit_code == 143
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stopper() as stopper:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
        assert not stopper.asked
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_finished_run_is_left_as_it_is(manifest: Path, tmp_path: Path) -> None:
    first = train(TINY, manifest, tmp_path / "run")
    again = train(TINY, manifest, tmp_path / "run")
    assert again.was_done
    assert not first.was_done
    assert (again.first_loss, again.final_loss) == (first.first_loss, first.final_loss)
    assert len(without_times(tmp_path / "run")) == 4


def test_an_encoder_taken_out_before_the_end_does_not_finish_a_run(
    manifest: Path, tmp_path: Path
) -> None:
    whole = train(LONG, manifest, tmp_path / "whole")
    out = tmp_path / "run"
    stop_after(3, LONG, manifest, out)
    export_run(out, out / ENCODER_FILE)
    early = (out / ENCODER_FILE).read_bytes()
    assert can_go_on(out, LONG)
    train(LONG, manifest, out)
    assert not can_go_on(out, LONG)
    # As if the run had been killed after its last checkpoint, before it wrote its encoder.
    (out / ENCODER_FILE).write_bytes(early)
    assert can_go_on(out, LONG)
    assert not train(LONG, manifest, out).was_done
    assert (out / ENCODER_FILE).read_bytes() == whole.encoder.read_bytes()


def test_a_run_without_a_checkpoint_begins_again(manifest: Path, tmp_path: Path) -> None:
    class Crash(Recorder):
        def stepped(self, metrics: StepMetrics) -> None:
            if metrics.step == 3:
                raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        train(LONG, manifest, tmp_path / "run", Crash())
    train(LONG, manifest, tmp_path / "run")
    assert [line["step"] for line in without_times(tmp_path / "run")] == list(range(1, 9))


@pytest.mark.parametrize("name", ["mix.json", "config.json"])
def test_a_run_that_was_killed_while_it_began_begins_again(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def killed(path: Path, data: bytes) -> None:
        if path.name == name:
            path.with_name(f".{name}.0123456789ab.tmp").write_bytes(data[:9])
            raise SystemExit(9)
        write_atomic(path, data)

    with monkeypatch.context() as patched:
        patched.setattr("pretrain.running.runfolder.write_atomic", killed)
        with pytest.raises(SystemExit):
            train(LONG, manifest, tmp_path / "run")
    train(replace(LONG, max_steps=1), manifest, tmp_path / "run")
    assert [line["step"] for line in without_times(tmp_path / "run")] == [1]


def test_every_process_waits_for_the_checkpoint_of_a_stopped_run(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []
    barrier = Ranks.barrier

    def met(ranks: Ranks) -> None:
        done.append(len(checkpoints(tmp_path / "run")))
        barrier(ranks)

    monkeypatch.setattr(Ranks, "barrier", met)
    stop_after(2, LONG, manifest, tmp_path / "run")
    assert done == [0, 1]


def test_a_run_of_other_settings_is_not_gone_on_with(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    stop_after(3, LONG, manifest, out)
    before = (out / "metrics.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=r"temperature was 0\.2, is 0\.3"):
        train(replace(LONG, temperature=0.3), manifest, out)
    with pytest.raises(ConfigError, match=r"hue was .*, is 0\.5"):
        train(replace(LONG, views=replace(LONG.views, hue=0.5)), manifest, out)
    with pytest.raises(
        ConfigError, match=r"views was histology, is simclr; crop-area was 0\.2,1\.0"
    ):
        train(replace(LONG, views=make_view_config("simclr")), manifest, out)
    with pytest.raises(ConfigError, match="give another --out, or --resume auto"):
        train(LONG, manifest, out, resume="never")
    text = manifest.read_text()
    manifest.write_text(text + " ")
    try:
        with pytest.raises(ConfigError, match="the manifest has changed since"):
            train(LONG, manifest, out)
    finally:
        manifest.write_text(text)
    assert (out / "metrics.jsonl").read_bytes() == before
    assert train(replace(LONG, threads=1, log_every=2), manifest, out).steps == 8


def test_a_run_that_ended_before_its_first_checkpoint_may_begin_anew_with_other_settings(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    class Crash(Recorder):
        def stepped(self, metrics: StepMetrics) -> None:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        train(LONG, manifest, out, Crash())
    train(replace(LONG, temperature=0.3), manifest, out)
    assert json.loads((out / "config.json").read_text())["train"]["temperature"] == 0.3
    assert [line["step"] for line in without_times(out)] == list(range(1, 9))


def test_an_encoder_whose_checkpoints_were_deleted_is_never_trained_over(
    manifest: Path, tmp_path: Path
) -> None:
    encoder = train(TINY, manifest, tmp_path / "run").encoder
    before = encoder.read_bytes()
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(ConfigError, match="holds an encoder but no checkpoint"):
        train(TINY, manifest, tmp_path / "run")
    with pytest.raises(ConfigError, match="holds a run of other settings"):
        train(replace(TINY, seed=1), manifest, tmp_path / "run")
    assert encoder.read_bytes() == before


def test_two_runs_do_not_write_to_one_folder(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    stop_after(1, LONG, manifest, out)
    with locked(out), pytest.raises(RunBusy, match="another run is writing") as caught:
        train(LONG, manifest, out)
    assert caught.value.exit_code == 75


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_a_full_disk_ends_a_run_that_goes_on_from_the_checkpoint_before(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    out = tmp_path / "run"
    stop_after(2, LONG, manifest, out)

    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr("pretrain.running.train.write_checkpoint", full)
        with pytest.raises(DiskFull, match="is full, so step 8 could not be kept") as caught:
            train(LONG, manifest, out)
    assert caught.value.exit_code == 75
    observer = Recorder()
    train(LONG, manifest, out, observer)
    assert observer.steps[0].step == 3


KILLED = """
import os, random, signal, sys, time
import torch
torch.set_num_threads(1)
from tests.pretrain.running.test_resume import LONG, replace
from pretrain.running.train import train
manifest, out, kills = sys.argv[1], sys.argv[2], int(sys.argv[3])
config = replace(LONG, epochs=150, checkpoint_minutes=1e-6)
random.seed(0)
done = 0
while True:
    child = os.fork()
    if child == 0:
        train(config, manifest, out)
        os._exit(0)
    if done < kills:
        time.sleep(random.uniform(0.2, 1.2))
        os.kill(child, signal.SIGKILL)
        done += 1
    _, status = os.waitpid(child, 0)
    if status == 0:
        break
print(done)
"""


@pytest.mark.slow
def test_fifty_kills_at_any_moment_tear_no_file_and_change_no_weight(
    manifest: Path, tmp_path: Path
) -> None:
    whole = train(replace(LONG, epochs=150), manifest, tmp_path / "whole")
    out = tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(manifest), str(out), "50"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) == 50
    for path in checkpoints(out):
        read_checkpoint(path)
    weights = [load_encoder(at)[0].state_dict() for at in (whole.encoder, out / ENCODER_FILE)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert without_times(out) == without_times(tmp_path / "whole")
    assert list(out.rglob("*.tmp")) == []


@pytest.mark.slow
def test_slurm_s_sigterm_saves_and_the_same_command_goes_on(manifest: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pretrain", "run", str(manifest), "--device", "cpu"]
    command += ["--batch-size", "8", "--image-size", "32", "--epochs", "60", "--out", "run"]
    command += ["--max-steps", "200", "--monitor-every", "0"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not metrics.exists() or metrics.stat().st_size < 500:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, talk = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "run the same command again to go on" in talk.splitlines()[-1]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Going on after step" in done.stderr
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, 201))
