"""The commands that histotile stands for, on real slides, as a person types them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import openslide
import pytest

from manifests import Manifest, TileStore, load_manifest


def run(*arguments: object, module: str = "tiler") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def statuses(manifest: Manifest) -> dict[str, str]:
    return {entry.id: entry.status for entry in manifest.stores}


def psnr(
    a: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
    b: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
) -> float:
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


@pytest.mark.parametrize(("codec", "least_psnr"), [("jpeg", 40.0), ("zstd", float("inf"))])
def test_tiles_of_a_real_slide_are_openslides_pixels(
    real_data: Path, tmp_path: Path, codec: str, least_psnr: float
) -> None:
    slide = real_data / "svs" / "CMU-1-Small-Region.svs"
    options = ["--mpp", "0.5", "--codec", codec, "--quality", "95", "--out", tmp_path / "a"]
    done = run("extract", slide, *options)
    assert done.returncode == 0, done.stderr
    group = TileStore(tmp_path / "a" / "CMU-1-Small-Region.zarr")["0.5"]
    assert group.mpp == (0.499, 0.499)
    assert len(group) > 30
    with openslide.OpenSlide(slide) as reference:
        for index, (x, y) in enumerate(zip(group.column("x"), group.column("y"), strict=True)):
            region = reference.read_region((int(x), int(y)), 0, (256, 256))
            assert psnr(np.asarray(region)[..., :3], group.read(index)) >= least_psnr


def test_a_reduced_tile_is_the_area_average_of_openslides_region(
    real_data: Path, tmp_path: Path
) -> None:
    slide = real_data / "svs" / "CMU-1-Small-Region.svs"
    options = ["--mpp", "1.0", "--mpp-tolerance", "0", "--codec", "zstd", "--out", tmp_path / "a"]
    assert run("extract", slide, *options).returncode == 0
    group = TileStore(tmp_path / "a" / "CMU-1-Small-Region.zarr")["1"]
    scale, size = 1.0 / 0.499, 256
    edges = np.arange(size + 1) * scale
    cells = int(np.ceil(edges[-1]))
    low, high = (
        np.maximum.outer(edges[:-1], np.arange(cells)),
        np.minimum.outer(edges[1:], np.arange(1, cells + 1)),
    )
    weights = np.clip(high - low, 0, None) / scale
    with openslide.OpenSlide(slide) as reference:
        for index in range(len(group)):
            x, y = (int(group.column(name)[index]) for name in ("x", "y"))
            region = np.asarray(reference.read_region((x, y), 0, (cells, cells)))[..., :3]
            mean = np.einsum(
                "yh,hwc,xw->yxc", weights, region.astype(np.float64), weights, optimize=True
            )
            assert np.abs(mean - group.read(index)).max() <= 0.51


def test_a_mixed_cohort_fails_only_the_slide_without_mpp_and_then_nothing(
    real_data: Path, tmp_path: Path
) -> None:
    folders = ["svs", "derived", "dicom/cmu-1-small-region-wsi2dcm", "ome_tiff"]
    paths = [real_data / folder for folder in folders]
    options = ["--mpp", "0.5", "--out", tmp_path / "b", "--organ", "skin", "--stain", "H&E"]
    done = run("extract", *paths, *options)
    assert done.returncode == 3
    assert "--assume-mpp" in done.stderr
    first = statuses(load_manifest(tmp_path / "b"))
    assert first.pop("TCGA-CR-7395-01A-01-TS1") == "failed"
    assert first.pop("openslide-python-small") == "empty"
    assert len(first) == 7
    assert set(first.values()) == {"done"}
    table = tmp_path / "slides.csv"
    table.write_text("slide,mpp\nTCGA-CR-7395-01A-01-TS1.svs,0.5\n")
    done = run("extract", *paths, *options, "--slides", table)
    assert done.returncode == 0, done.stderr
    tcga = next(e for e in load_manifest(tmp_path / "b").stores if e.id.startswith("TCGA"))
    assert (tcga.patient, tcga.site) == ("TCGA-CR-7395", "CR")
    assert tcga.sample_type == "Primary Solid Tumor"
    assert tcga.tiles > 100


ZEROED = "derived_CMU-1-Small-Region_3_zeroed_jpeg_tiles.svs"


def test_every_broken_file_is_listed_with_a_reason_and_memory_stays_small(
    real_data: Path, tmp_path: Path
) -> None:
    command = ["extract", real_data / "broken", "--mpp", "0.5", "--assume-mpp", "0.5"]
    done = run(*command, "--out", tmp_path / "c", module="tests.peak_memory")
    peak_mb = int(done.stdout.rsplit(maxsplit=1)[-1])
    assert done.returncode in (3, 4), done.stderr
    manifest = load_manifest(tmp_path / "c")
    files = [path for path in (real_data / "broken").rglob("*") if path.is_file()]
    assert {entry.source for entry in manifest.stores} == {path.name for path in files}
    [partly] = [entry for entry in manifest.stores if entry.status != "failed"]
    assert (partly.source, partly.status) == (ZEROED, "done")
    assert 0 < partly.unread < partly.tiles / 4, "three native tiles are lost, and no other"
    for entry in manifest.stores:
        if entry is partly:
            continue
        assert entry.reason
        assert not any(word in entry.reason for word in ("Traceback", "0x", str(real_data)))
    assert [path.stem for path in (tmp_path / "c").glob("*.zarr")] == [partly.id]
    assert peak_mb < 1000
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_packed_tiles_of_two_organs_train_an_encoder(real_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    tiles = real_data / "tiles"
    options = "--packed --assume-mpp 0.5 --tile-size 224 --label-from label --organ-from organ"
    done = run(
        "extract",
        tiles / "lc25000_224",
        *options.split(),
        "--slides",
        tiles / "labels.csv",
        "--out",
        tmp_path / "d",
    )
    assert done.returncode == 0, done.stderr
    colon, lung = load_manifest(tmp_path / "d").stores
    assert (colon.organ, colon.tiles, colon.labels) == ("colon", 1200, ("colon_aca", "colon_n"))
    assert (lung.organ, lung.tiles) == ("lung", 2400)
    assert lung.labels == ("lung_aca", "lung_n", "lung_scc")
    out = tmp_path / "run"
    training = ["--epochs", "1", "--batch-size", "32", "--image-size", "64", "--device", "cpu"]
    done = run("run", tmp_path / "d" / "manifest.json", *training, "--out", out, module="pretrain")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:5])
    assert (out / "encoder.safetensors").is_file()
