"""Published tools that take part where `rivals.sh` has installed them, each by itself.

They find tissue in their own ways and so cut other tiles: compare rates, not totals. All are asked
for tiles with at least half tissue; codecs are what each of them writes.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.contenders import Contender, Job, Made

PICTURES = (".jpg", ".jpeg", ".png")

HAS_TURBOJPEG = "import turbojpeg; turbojpeg.TurboJPEG()"
"""Works where the system has libturbojpeg."""

WSI_PATCHING = """
import sys
from pathlib import Path
from wsi_patching import WSIGrid, PatchExtractor, OtsuFilter, PNGEncoder, WebDatasetWriter

def main():
    out, mpp, size, workers, *slides = sys.argv[1:]
    Path(out).mkdir()
    grid = WSIGrid(slides=slides, resolution=float(mpp), unit="mpp", fallback_mode="resample",
                   resample_interpolation="area")
    steps = (grid.then(PatchExtractor(tile_size=int(size), stride=int(size)))
             .then(OtsuFilter(min_tissue_fraction=0.5)).then(PNGEncoder(threads=int(workers)))
             .to(WebDatasetWriter(outdir=Path(out), shard_size=1000)))
    steps.materialize(num_workers=int(workers))

if __name__ == "__main__":
    main()
"""

LAZYSLIDE = """
import sys
from pathlib import Path
import cv2, numpy
import lazyslide
from wsidata import open_wsi

out, mpp, size, workers, quality, *slides = sys.argv[1:]
for name in slides:
    folder = Path(out) / Path(name).stem
    folder.mkdir(parents=True)
    slide = open_wsi(name, reader="fastslide")
    lazyslide.pp.find_tissues(slide)
    lazyslide.pp.tile_tissues(slide, int(size), mpp=float(mpp), background_fraction=0.5)
    for number, tile in enumerate(slide.iter.tile_images("tiles")):
        pixels = cv2.cvtColor(numpy.asarray(tile.image), cv2.COLOR_RGB2BGR)
        cv2.imwrite(f"{folder}/{number}.jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
"""


def rivals(folder: Path, job: Job, scratch: Path) -> list[Contender]:
    """The rivals that are installed in a folder; what they need is written to `scratch`."""
    known: dict[str, Callable[[Path, Job, Path], Contender]] = {
        "hs2p": hs2p,
        "lazyslide": lazyslide,
        "wsi-patching": wsi_patching,
    }
    scratch.mkdir(parents=True, exist_ok=True)
    found = [name for name in known if (folder / name / "installed.txt").exists()]
    return [known[name](folder / name, job, scratch) for name in found]


def hs2p(home: Path, job: Job, scratch: Path) -> Contender:
    """hs2p to JPEG tars through OpenSlide, quality 90 and 4:2:0; turbojpeg where there is one."""
    csv, settings = scratch / "hs2p.csv", scratch / "hs2p.json"
    rows = [f"{slide.stem},{slide.absolute()}" for slide in job.slides]
    csv.write_text("\n".join(["sample_id,image_path", *rows, ""]))
    backend = "turbojpeg" if _loads(home, HAS_TURBOJPEG) else "pil"

    def command(out: Path) -> list[str]:
        asked = {"requested_spacing_um": job.mpp, "requested_tile_size_px": job.tile_size}
        config = {
            "csv": str(csv),
            "output_dir": str(out),
            "save_tiles": True,
            "tiling": {
                "backend": "openslide",
                "params": asked | {"overlap": 0.0, "tolerance": 0.05},
                "seg_params": {"method": "otsu", "downsample": 64},
                "preview": {"save_mask_preview": False, "save_tiling_preview": False},
                "masks": {"min_coverage": {"tissue": 0.5}},
            },
            "speed": {"num_workers": max(1, job.workers), "jpeg_backend": backend},
            "wandb": {"enable": False},
        }
        settings.write_text(json.dumps(config))  # JSON is YAML
        return [str(home / "bin" / "hs2p"), str(settings)]

    return Contender(f"{_release(home, 'hs2p')} ({backend}, 4:2:0)", command, count_pictures)


def lazyslide(home: Path, job: Job, _: Path) -> Contender:
    """LazySlide finds the tiles, fastslide reads them, a loop writes JPEG files (4:2:0)."""

    def command(out: Path) -> list[str]:
        asked = [f"{job.mpp:g}", str(job.tile_size), str(max(1, job.workers)), str(job.quality)]
        start = [str(home / "bin" / "python"), "-c", LAZYSLIDE, str(out)]
        return [*start, *asked, *map(str, job.slides)]

    return Contender(f"{_release(home, 'lazyslide')} (4:2:0)", command, count_pictures)


def wsi_patching(home: Path, job: Job, scratch: Path) -> Contender:
    """wsi-patching on fastslide to PNG in tars."""
    script = scratch / "wsi_patching_job.py"  # a file: its workers import it
    script.write_text(WSI_PATCHING)

    def command(out: Path) -> list[str]:
        asked = [f"{job.mpp:g}", str(job.tile_size), str(max(1, job.workers))]
        start = [str(home / "bin" / "python"), str(script), str(out)]
        return [*start, *asked, *map(str, job.slides)]

    return Contender(f"{_release(home, 'wsi-patching')} (PNG)", command, count_pictures)


def count_pictures(out: Path, _: str) -> Made:
    """Count pictures in a folder, loose and inside tars."""
    sizes = [f.stat().st_size for f in out.rglob("*") if f.suffix in PICTURES]
    for archive in out.rglob("*.tar"):
        with tarfile.open(archive) as tar:
            sizes += [member.size for member in tar if member.name.endswith(PICTURES)]
    return Made(len(sizes), sum(sizes), {})


def _release(home: Path, package: str) -> str:
    lines = (home / "installed.txt").read_text().splitlines()
    found = [line.replace("==", " ") for line in lines if line.startswith(f"{package}==")]
    return found[0] if found else package


def _loads(home: Path, script: str) -> bool:
    done = subprocess.run([home / "bin" / "python", "-c", script], check=False, capture_output=True)
    return done.returncode == 0
