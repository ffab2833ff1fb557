"""`histopretrain bench`: the parts of a step timed apart, in the terms of a run, and no traces."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from click.testing import CliRunner  # noqa: E402

from pretrain.cli import main  # noqa: E402
from pretrain.running.bench import bench  # noqa: E402
from tests.pretrain.make import two_by_two  # noqa: E402
from tests.pretrain.running.test_train import TINY  # noqa: E402


def test_a_bench_measures_each_part_of_each_round_and_writes_nothing(tmp_path: Path) -> None:
    manifest = two_by_two(tmp_path / "tiles")
    before = sorted(tmp_path.rglob("*"))
    lines: list[str] = []
    found = bench(TINY, manifest, rounds=3, steps=2, tell=lines.append)
    assert sorted(tmp_path.rglob("*")) == before
    assert len(lines) == 3
    assert (found.arch, found.device, found.batch_size, found.image_size) == (
        "test_resnet",
        "cpu",
        8,
        32,
    )
    for median, least, most in (found.fixed, found.whole, found.reading, found.viewing):
        assert 0 < least <= median <= most
    slowest, fastest = found.whole[1] / found.fixed[2], found.whole[2] / found.fixed[1]
    assert slowest <= found.share <= fastest


def test_a_bench_has_the_kernels_of_a_run(tmp_path: Path) -> None:
    seen: list[bool] = []

    def note(_: str) -> None:
        seen.append(torch.backends.cudnn.benchmark)

    manifest = two_by_two(tmp_path / "tiles")
    bench(TINY, manifest, rounds=1, steps=1, tell=note)
    bench(replace(TINY, deterministic=True), manifest, rounds=1, steps=1, tell=note)
    assert seen == [True, False]


def test_the_command_prints_a_table_or_json(tmp_path: Path) -> None:
    manifest = two_by_two(tmp_path / "tiles")
    options = ["bench", str(manifest), "--arch", "test_resnet", "--batch-size", "8"]
    options += ["--device", "cpu", "--rounds", "1", "--steps", "1"]
    shown = CliRunner().invoke(main, options)
    assert shown.exit_code == 0, shown.output
    assert "step on a fixed batch" in shown.stdout
    assert "whole / fixed: " in shown.stdout
    told = CliRunner().invoke(main, [*options, "--json"])
    assert json.loads(told.stdout)["steps"] == 1
