"""Steps of the study: done once, recorded without a path of the machine, and not when they fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from docs.reproduction.steps import Bench, StepFailed


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A bench in two empty folders."""
    (tmp_path / "data").mkdir()
    (tmp_path / "out").mkdir()
    return Bench(tmp_path / "data", tmp_path / "out")


def test_a_step_is_done_once_and_its_facts_are_kept(bench: Bench) -> None:
    calls = []

    def work() -> dict[str, object]:
        calls.append(1)
        return {"tiles": 7}

    bench.step("a", work)
    bench.step("a", work)

    assert len(calls) == 1
    record = json.loads(bench.record("a").read_text())
    assert record["step"] == "a"
    assert record["tiles"] == 7
    assert record["seconds"] >= 0


def test_a_step_that_fails_is_not_done_and_says_what_its_command_said(bench: Bench) -> None:
    command = ["python", "-c", "import sys; sys.exit('no such thing')"]

    with pytest.raises(StepFailed, match="no such thing"):
        bench.step("a", lambda: bench.commands(command))

    assert not bench.is_done("a")
    assert "no such thing" in (bench.out / "log.txt").read_text()


def test_a_record_holds_no_path_of_the_machine(bench: Bench) -> None:
    words = ["python", "-c", "import sys; print(sys.argv[1])", str(bench.data / "slide.svs")]

    assert bench.output(words).strip() == str(bench.data / "slide.svs")
    bench.step("a", lambda: bench.commands(words))

    text = bench.record("a").read_text()
    assert str(bench.data.parent) not in text
    assert "DATA/slide.svs" in text
    assert str(bench.data.parent) not in (bench.out / "log.txt").read_text()


def test_commands_run_in_the_out_folder(bench: Bench) -> None:
    bench.output(["python", "-c", "open('made.txt', 'w').close()"])

    assert (bench.out / "made.txt").is_file()
