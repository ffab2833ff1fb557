"""How fast tiles are cut, against other ways to cut them: `python -m tests.benchmarks.extract`.

All do the same job as whole processes, in turn, several times: tissue tiles of one slide, as
JPEG on disk. The slide is made from real tissue (`slide`), at 0.25 µm/px. Quote ratios of one run:
they are taken round by round, since machines drift. Scenarios:

- half: 256 px at 0.5 µm/px, against OpenSlide, a loop around it, the least it can cost, and rivals;
- passthrough: native tiles at 0.25 µm/px, taken as they are;
- jpeg2000: 0.5 µm/px from a JPEG 2000 slide;
- workers: wall time of one worker against two;
- decodes: how often native tiles are decoded, by tile size, stride and resolution.

With `--workers 0` each contender works in one process; rivals have one worker then. Otherwise all
are given as many copies of the slide as workers, since some rivals share out slides, not tiles.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.benchmarks.contenders import (
    Contender,
    Job,
    bare_limit,
    copies,
    histotile,
    kept_positions,
    openslide_loop,
    slide_facts,
)
from tests.benchmarks.measure import CommandFailed, machine, take_orphans
from tests.benchmarks.rivals import rivals
from tests.benchmarks.rounds import (
    Record,
    figures,
    ratios,
    records_json,
    run_once,
    run_rounds,
    table,
)
from tests.benchmarks.slide import MPP, SlideSpec, add_options

JPEG2000 = SlideSpec(width=16_384, height=12_288, compression="jpeg2000")

OPENSLIDE = ("--reader", "openslide")

DECODES = (
    ("256 px at 0.5 µm/px", ("--mpp", "0.5", "--tile-size", "256")),
    ("224 px at 0.5 µm/px", ("--mpp", "0.5", "--tile-size", "224")),
    ("256 px at 0.5 µm/px, stride 128", ("--mpp", "0.5", "--stride", "128")),
    ("256 px at 0.37 µm/px", ("--mpp", "0.37")),
)


class Bench:
    """The slides, the options and the results of one call."""

    def __init__(self, given: argparse.Namespace, work: Path) -> None:
        self.given = given
        self.work = work
        self.results: dict[str, object] = {}

    def slide(self, spec: SlideSpec) -> Path:
        """A slide that was given, or one that is made; a folder that is kept has it already."""
        for slide in self.given.slide:
            if slide_facts(slide)["compression"] == spec.compression:
                return Path(slide)
        name = f"{spec.compression}-{spec.native}-{spec.width}x{spec.height}.svs"
        path = self.work / name
        if not path.exists():
            print(f"making {name}", file=sys.stderr)
            size = ["--width", str(spec.width), "--height", str(spec.height)]
            kind = ["--native", str(spec.native), "--compression", spec.compression]
            # A process of its own: its memory would count as that of every contender.
            start = [sys.executable, "-m", "tests.benchmarks.slide", str(path)]
            subprocess.run([*start, *size, *kind], check=True, stdout=subprocess.DEVNULL)
        return path

    def spec(self) -> SlideSpec:
        """The JPEG slide that the options ask for."""
        return SlideSpec(self.given.width, self.given.height, self.given.native)

    def job(self, slide: Path, mpp: float, tile_size: int, workers: int | None = None) -> Job:
        """A job for all contenders."""
        workers = self.given.workers if workers is None else workers
        slides = copies(slide, self.work / "copies", max(1, workers))
        return Job(slides, mpp, tile_size, workers, subsampling=self.given.subsampling)

    def positions(self, job: Job) -> Path:
        """Where histotile cuts tiles, found by cutting them; for those who are handed them.

        Raises:
            CommandFailed: histotile failed.
        """
        out = self.work / "tiles"
        path = self.work / "positions.npy"
        first = dataclasses.replace(job, slides=job.slides[:1], workers=0)
        run_once(histotile(first), out)
        np.save(path, kept_positions(out, job.mpp))
        return path

    def compare(
        self, scenario: str, job: Job, ours: list[Contender], theirs: list[Contender]
    ) -> None:
        """Run rounds, print them, keep them for the file."""
        if self.given.only:
            ours = [contender for contender in ours if contender.name in self.given.only]
            theirs = [contender for contender in theirs if contender.name in self.given.only]
        records = run_rounds([*ours, *theirs], self.given.runs, self.work / "tiles")
        own, others = records[: len(ours)], records[len(ours) :]
        self.show(scenario, job, records)
        print(f"{ratios(own, others)}\n")

    def show(self, scenario: str, job: Job, records: list[Record]) -> None:
        """Print the figures of a scenario and keep them for the file."""
        facts = slide_facts(job.slides[0])
        size = f"{facts['width']} × {facts['height']} px, native tiles {facts['native']} px"
        print(f"## {scenario}: {job.tile_size} px at {job.mpp:g} µm/px from {MPP:g} µm/px\n")
        slides = f"{len(job.slides)} slide(s)"
        crew = "" if scenario == "workers" else f" workers {job.workers};"
        print(f"{size}, {facts['compression']}; {slides};{crew}")
        print(
            f"JPEG {job.quality} {job.subsampling}; medians (least to most), n = {self.given.runs}"
        )
        print(f"\n{figures(records)}\n", flush=True)
        self.results[scenario] = {"slide": facts, "contenders": records_json(records)}


def half(bench: Bench) -> None:
    """The usual job, against everybody."""
    job = bench.job(bench.slide(bench.spec()), 0.5, 256)
    positions = bench.positions(job)
    ours = [
        histotile(job),
        histotile(job, "--exact", name="histotile, exact"),
        histotile(job, *OPENSLIDE, name="histotile, OpenSlide"),
    ]
    theirs = [openslide_loop(job, positions), bare_limit(job, positions)]
    if bench.given.rivals:
        theirs += rivals(bench.given.rivals, job, bench.work / "rivals")
    bench.compare("half", job, ours, theirs)


def passthrough(bench: Bench) -> None:
    """Native tiles as they are, with the quality columns and without; and decoded."""
    slide = bench.slide(bench.spec())
    side = int(str(slide_facts(slide)["native"]))
    job = bench.job(slide, MPP, side)
    native = ("--tile-size", "native")
    ours = [
        histotile(job, *native, "--no-quality", name="histotile, native, no quality"),
        histotile(job, *native, name="histotile, native"),
        histotile(job, *OPENSLIDE, name="histotile, OpenSlide"),
    ]
    bench.compare("passthrough", job, ours, [openslide_loop(job, bench.positions(job))])


def jpeg2000(bench: Bench) -> None:
    """The usual job from a slide that is slow to decode."""
    job = bench.job(bench.slide(JPEG2000), 0.5, 256)
    ours = [histotile(job), histotile(job, *OPENSLIDE, name="histotile, OpenSlide")]
    bench.compare("jpeg2000", job, ours, [openslide_loop(job, bench.positions(job))])


def workers(bench: Bench) -> None:
    """One slide, more processes: what counts is wall time."""
    slide = bench.slide(bench.spec())
    job = bench.job(slide, 0.5, 256, workers=0)
    two, one = (
        histotile(dataclasses.replace(job, workers=n), name=f"histotile --workers {n}")
        for n in (2, 1)
    )
    bench.compare("workers", job, [two], [one])


def decodes(bench: Bench) -> None:
    """How many native tiles are decoded for how many that are needed."""
    slide = bench.slide(dataclasses.replace(bench.spec(), native=240))
    job = bench.job(slide, 0.5, 256, workers=0)
    keys = ("tiles", "native_tiles_decoded", "native_tiles_distinct", "decodes_per_native_tile")
    rows, kept = [], {}
    for name, options in DECODES:
        try:
            facts = run_once(histotile(job, *options), bench.work / "tiles").made.facts
        except CommandFailed as problem:
            rows.append([name, str(problem), "", "", ""])
            continue
        rows.append([name, *(_shown(facts.get(key)) for key in keys)])
        kept[name] = facts
    side = slide_facts(slide)["native"]
    print(f"## decodes: native tiles of {side} px\n\n{table(['what', *keys], rows)}\n", flush=True)
    bench.results["decodes"] = kept


def _shown(value: object) -> str:
    return "n/a" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


SCENARIOS = {
    "half": half,
    "passthrough": passthrough,
    "jpeg2000": jpeg2000,
    "workers": workers,
    "decodes": decodes,
}


def main() -> None:
    """Run the scenarios that are asked for; print tables, write a file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenario", choices=(*SCENARIOS, "all"), default="half")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0, help="0: in one process (default)")
    parser.add_argument("--subsampling", choices=("444", "420"), default="444")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="only the contenders of these names"
    )
    parser.add_argument("--rivals", type=Path, help="folder that rivals.sh has filled")
    parser.add_argument(
        "--slide", type=Path, action="append", default=[], help="a slide that was made before"
    )
    parser.add_argument("--work", type=Path, help="folder for slides and tiles, on a local disk")
    parser.add_argument("--keep", action="store_true", help="keep the slides that were made")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run to a file too")
    add_options(parser)
    given = parser.parse_args()
    take_orphans()
    work = given.work or Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    bench = Bench(given, work)
    facts = machine()
    print(f"{facts['date']}, {facts['processor']}, {facts['cores']} cores, ", end="")
    print(f"Python {facts['python']}, {facts['system']}\n", flush=True)
    try:
        for name in SCENARIOS if given.scenario == "all" else (given.scenario,):
            attempt(name, bench)
    finally:
        if given.json:
            given.json.write_text(
                json.dumps({"machine": facts, "scenarios": bench.results}, indent=1) + "\n"
            )
        if given.keep or given.work:
            print(f"slides are in {work}", file=sys.stderr)
        else:
            shutil.rmtree(work)


def attempt(name: str, bench: Bench) -> None:
    """Run a scenario; where histotile itself fails, say so and go on with the next."""
    try:
        SCENARIOS[name](bench)
    except CommandFailed as problem:
        print(f"## {name}\n\nhistotile {problem}\n", flush=True)
        bench.results[name] = {"error": str(problem)}


if __name__ == "__main__":
    main()
