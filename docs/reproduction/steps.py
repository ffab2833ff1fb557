"""Commands of the study as steps that are done once: each has a record with its words and seconds.

All commands run in the out folder and name files relative to it; the data folder is DATA in the
records, so that they hold no path of a machine. A step whose record lies there is not done again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

RECORDS = "records"


class StepFailed(Exception):
    """A command failed, or a step's result is not as it should be."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Where the study works: the data it reads and the folder that it writes."""

    data: Path
    out: Path

    def record(self, name: str) -> Path:
        """The file that says that a step is done."""
        return self.out / RECORDS / f"{name}.json"

    def is_done(self, name: str) -> bool:
        """Whether a step's record lies there."""
        return self.record(name).is_file()

    def step(self, name: str, work: Callable[[], dict[str, object]]) -> None:
        """Do a step unless it is done, and record what it says and its seconds.

        Raises:
            StepFailed: the step does not come to its end; it has no record then.
        """
        if self.is_done(name):
            return
        say(f"{name} …")
        begun = time.monotonic()
        facts = work()
        seconds = round(time.monotonic() - begun, 1)
        write_json(self.record(name), {"step": name, "seconds": seconds} | facts)
        say(f"{name}: {seconds} s")

    def commands(self, *commands: Sequence[str]) -> dict[str, object]:
        """Run commands one after another; the facts of a step that is these commands."""
        for command in commands:
            self.output(command)
        return {"commands": [self._words(command) for command in commands]}

    def output(self, command: Sequence[str]) -> str:
        """Run a command of this project in the out folder, and give what it prints on stdout."""
        tool, *words = command
        start = {
            "python": [sys.executable],
            "histotile": [sys.executable, "-c", "from tiler.cli import main; main()"],
            "histopretrain": [sys.executable, "-c", "from pretrain.cli import main; main()"],
        }[tool]
        done = subprocess.run(
            [*start, *words],
            cwd=self.out,
            capture_output=True,
            text=True,
        )
        log = self.out / "log.txt"
        with log.open("a", encoding="utf-8") as stream:
            stream.write(f"$ {' '.join(self._words(command))}\n{done.stderr}\n")
        if done.returncode:
            told = done.stderr.strip().splitlines()[-3:] or [f"exit code {done.returncode}"]
            raise StepFailed(f"{' '.join(self._words(command))}: {' / '.join(told)}")
        return done.stdout

    def _words(self, command: Sequence[str]) -> list[str]:
        return [word.replace(str(self.data), "DATA") for word in command]


def write_json(file: Path, content: object) -> None:
    """Write JSON in one go: a file that lies there is whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(file)


def say(text: str) -> None:
    """Tell what happens, with the time, on stderr."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
