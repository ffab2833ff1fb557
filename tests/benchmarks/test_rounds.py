"""What a run costs is counted in full, ratios stay within rounds, and a failure spoils nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.contenders import Contender, Made, count_printed
from tests.benchmarks.measure import CommandFailed, Cost, run
from tests.benchmarks.rounds import Record, Run, figures, ratio, ratios, run_rounds

BURN = "import time\nwhile time.process_time() < 0.4: pass"


def python(script: str) -> list[str]:
    """A command that runs a script."""
    return [sys.executable, "-c", script]


def printing(name: str, script: str) -> Contender:
    """A contender that runs a script."""
    return Contender(name, lambda _: python(script), count_printed)


def ran(cpu_s: float) -> Run:
    """A run of 100 tiles."""
    return Run(Cost(cpu_s, cpu_s, 50), Made(100, 1000, {}))


def test_cpu_time_memory_and_output_are_those_of_the_command() -> None:
    done = run(python(f"{BURN}\nx = bytearray(300 << 20)\nprint('made')"))
    assert done.stdout == "made\n"
    assert 0.4 <= done.cost.cpu_s < 5
    assert done.cost.wall_s >= 0.3
    assert done.cost.peak_mib > 300


def test_processes_that_a_command_leaves_behind_count() -> None:
    leave = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {BURN!r}])"
    measure = (
        "from tests.benchmarks.measure import run, take_orphans\n"
        "take_orphans()\n"
        f"print(run({python(leave)!r}).cost.cpu_s)"
    )
    printed = subprocess.run(python(measure), check=True, capture_output=True, text=True)
    assert float(printed.stdout) >= 0.4


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(CommandFailed, match=r"failed with 1: no room"):
        run(python("raise SystemExit('no room')"))
    with pytest.raises(CommandFailed, match=r"not available: Error: No such option"):
        run(python("import sys\nprint('Error: No such option', file=sys.stderr)\nsys.exit(2)"))
    with pytest.raises(CommandFailed, match="No such file"):
        run(["/no/such/program"])


def test_a_command_that_takes_too_long_is_ended() -> None:
    with pytest.raises(CommandFailed, match="-9"):
        run(python("import time; time.sleep(60)"), timeout_s=0.3)


def test_a_contender_that_fails_drops_out(tmp_path: Path) -> None:
    made = json.dumps({"tiles": 4, "bytes": 400})
    good = printing("good", f"print({made!r})")
    records = run_rounds([good, printing("bad", "raise SystemExit('broken')")], 2, tmp_path / "o")
    assert [len(record.runs) for record in records] == [2, 0]
    assert "bad: failed with 1: broken" in figures(records)
    assert ratios(records[:1], records[1:]) == ""


def test_ratios_are_taken_within_rounds() -> None:
    slow = Record("slow", [ran(2), ran(20), ran(200)])
    fast = Record("fast", [ran(1), ran(10), ran(50)])
    found = ratio(fast, slow, lambda r: r.per_cpu_s)
    assert found is not None
    assert (found.median, found.least, found.most) == (2, 2, 4)
    assert "fast ÷ slow" in ratios([fast], [slow])
