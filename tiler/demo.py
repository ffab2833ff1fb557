"""`histotile demo`: the whole way on synthetic slides, with no data and no network.

Paints five small slides (two organs, H&E-like and DAB-like, one of them blank) at 0.5 µm/px, cuts
them, shows the manifest, trains a few steps if torch is installed, and says what lies where.
Running it again continues or repeats it.
"""

from __future__ import annotations

import csv
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from manifests.console import Display
from manifests.slidetable import load_table
from tiler.errors import TilerError
from tiler.options import TileSpec
from tiler.outfolder import locked
from tiler.report import ProgressReporter
from tiler.request import Request, make_workload
from tiler.run import extract
from tiler.synthetic import Stain, paint, write_slide

if TYPE_CHECKING:
    from tiler.executor import Executor

_MPP = 0.5
_SIZE = (3072, 2304)
_COLUMNS = ("slide", "organ", "stain", "dataset", "license", "patient")


@dataclass(frozen=True, slots=True)
class _DemoSlide:
    name: str
    organ: str
    stain: str
    kind: Stain | None
    """What to paint; None leaves the slide blank."""
    seed: int


_SLIDES = (
    _DemoSlide("colon-1", "colon", "H&E", "he", 1),
    _DemoSlide("colon-2", "colon", "H&E", "he", 2),
    _DemoSlide("breast-1", "breast", "IHC: ER", "dab", 3),
    _DemoSlide("breast-2", "breast", "IHC: ER", "dab", 4),
    _DemoSlide("blank", "colon", "H&E", None, 5),
)


def run_demo(folder: Path, executor: Executor, say: Callable[[str], None]) -> None:
    """Make the slides, the stores and a short training run below `folder`.

    Raises:
        TilerError: `folder` holds other things.
    """
    slides, tiles, run = folder / "slides", folder / "tiles", folder / "run"
    _check_folder(folder)
    say(f"1. Painting {len(_SLIDES)} synthetic slides in {slides}")
    table = _make_slides(slides)
    say(f"2. Cutting tiles of 256 px at {_MPP} µm/px into {tiles}")
    spec = TileSpec((_MPP,))
    request = Request((slides,), tiles, spec, load_table(table), preview=True)
    tiles.mkdir(exist_ok=True)
    with Display("shards") as display, locked(tiles):
        reporter = ProgressReporter(display)
        extract(make_workload(request), tiles, executor, reporter, preview=True)
    say("3. The manifest")
    _show(tiles / "manifest.json")
    trained = _train(tiles / "manifest.json", run, say)
    say(_closing(folder, trained))


def _check_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    others = {item.name for item in folder.iterdir()} - {"slides", "tiles", "run"}
    if others:
        raise TilerError(f"{folder} holds other files ({sorted(others)[0]}, …); give a new folder")


def _make_slides(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    table = folder / "slides.csv"
    for slide in _SLIDES:
        file = folder / f"{slide.name}.tif"
        if not file.exists():
            # Under another name until it is whole: an interrupted demo must not cut half a slide.
            partial = folder / f".{slide.name}.tif.tmp"
            write_slide(partial, _pixels(slide), _MPP)
            partial.replace(file)
    with table.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(_COLUMNS)
        for slide in _SLIDES:
            name = f"{slide.name}.tif"
            patient = f"demo-{slide.seed}"
            writer.writerow((name, slide.organ, slide.stain, "demo", "CC0-1.0", patient))
    return table


def _pixels(slide: _DemoSlide) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    width, height = _SIZE
    if slide.kind is None:
        return np.full((height, width, 3), (243, 242, 240), dtype=np.uint8)
    return paint(slide.kind, width, height, slide.seed)


def _show(manifest: Path) -> None:
    from manifests.console import print_table
    from manifests.describe.summary import summarise, summary_table
    from manifests.jsonfile import load_manifest

    print_table(summary_table(summarise(load_manifest(manifest))))


def _train(manifest: Path, run: Path, say: Callable[[str], None]) -> bool:
    """Train a few steps in a process of its own; say why not if that is so."""
    if importlib.util.find_spec("torch") is None:
        say("4. No training: torch is not installed (pip install 'histotile[pretrain]')")
        return False
    if (run / "encoder.safetensors").exists():
        say(f"4. Trained before: {run / 'encoder.safetensors'}")
        return True
    say(f"4. Training a ResNet-18 for a few steps on the CPU, into {run}")
    command = [sys.executable, "-m", "pretrain", "run", str(manifest), "--out", str(run)]
    settings = ["--batch-size", "16", "--image-size", "64", "--max-steps", "12", "--device", "cpu"]
    done = subprocess.run([*command, *settings], check=False)
    if done.returncode != 0:
        raise TilerError(f"training ended with exit code {done.returncode}; see the lines above")
    return True


def _closing(folder: Path, trained: bool) -> str:
    lines = [
        "",
        f"Slides     {folder / 'slides'}   (and slides.csv, what is known of them)",
        f"Stores     {folder / 'tiles'}   (one .zarr per slide)",
        f"Manifest   {folder / 'tiles' / 'manifest.json'}",
        f"Pictures   {folder / 'tiles' / 'preview'}   (tissue outline and tiles: look at them)",
    ]
    if trained:
        lines.append(f"Encoder    {folder / 'run' / 'encoder.safetensors'}")
    return "\n".join(
        [
            *lines,
            "",
            "Next, with slides of your own:",
            "  histotile inspect SLIDES --mpp 0.5      what would happen, before any work",
            "  histotile extract SLIDES --mpp 0.5      cut them into ./tiles",
            "  histopretrain run tiles/manifest.json   train an encoder into ./runs",
        ]
    )
