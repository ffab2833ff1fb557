"""The benchmark of manifests runs, so that its figures can be had again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import manifests


@pytest.mark.slow
def test_the_benchmark_times_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    manifests.main(["--stores", "40", "--manifests", "4", "--rounds", "1"])
    said = capsys.readouterr().out
    assert "merge 4 manifests" in said
    assert said.count(" MiB") == len(manifests.commands(Path(), 4))
    assert "40 stores" in said
