"""Embedding: aligned with the tiles, the same bytes however it went, and loud when it cannot."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from manifests import load_manifest, save_manifest  # noqa: E402
from manifests.codec import Rgb  # noqa: E402
from manifests.files import write_atomic  # noqa: E402
from pretrain.embedding import featurestore  # noqa: E402
from pretrain.embedding.embed import EmbedResult, Silent, embed  # noqa: E402
from pretrain.embedding.encoders import Encoder, open_encoder  # noqa: E402
from pretrain.embedding.featurestore import load_features, open_features  # noqa: E402
from pretrain.embedding.settings import EmbedSettings  # noqa: E402
from pretrain.embedding.wanted import wanted_tiles  # noqa: E402
from pretrain.errors import ConfigError, Interrupted, RunBusy  # noqa: E402
from pretrain.locking import locked  # noqa: E402
from pretrain.network.encoder import load_encoder, save_encoder  # noqa: E402
from pretrain.network.model import build_encoder  # noqa: E402
from pretrain.stopping import Stopper  # noqa: E402
from tests.manifests.make import tile_pixels  # noqa: E402
from tests.pretrain.embedding.placed import (  # noqa: E402
    FEW_ROWS,
    digests,
    make_placed,
    two_slides,
    wanted_of,
)
from tests.pretrain.make import damage_tile, save  # noqa: E402
from tests.pretrain.network.test_encoder import SMALL, info_of  # noqa: E402

CPU = EmbedSettings(device="cpu", batch_size=3)
FINE = replace(CPU, dtype="float32")
RANDOM = "random:test_resnet"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(featurestore, "CHUNK_ROWS", FEW_ROWS)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_slides(tmp_path_factory.mktemp("tiles"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoder") / "small.safetensors"
    torch.manual_seed(0)
    save_encoder(path, build_encoder(SMALL), info_of())
    return path


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A manifest of the test's own, whose stores it may damage."""
    return two_slides(tmp_path / "tiles")


def one_by_one(encoder: Path, tiles: Rgb) -> Any:
    model, transform = load_encoder(encoder)
    with torch.no_grad():
        return np.concatenate([model(transform(tile)).numpy() for tile in tiles])


class StopAfter(Silent):
    """Asks to stop once so many tiles were embedded."""

    def __init__(self, tiles: int, number: int = signal.SIGTERM) -> None:
        self.stopper = Stopper()
        self._tiles, self._number = tiles, number

    def embedded(self, done: int, total: int, tiles_per_s: float) -> None:
        if done >= self._tiles:
            self.stopper.ask(self._number)


def stop_after(tiles: int, manifest: Path, out: Path, settings: EmbedSettings = CPU) -> None:
    watcher = StopAfter(tiles)
    with pytest.raises(Interrupted, match="the same command goes on") as caught:
        embed(RANDOM, manifest, out, settings, watcher, stopper=watcher.stopper)
    assert caught.value.exit_code == 143


def test_features_are_those_of_a_loop_over_the_tiles_that_are_meant(
    manifest: Path, encoder: Path, tmp_path: Path
) -> None:
    result = embed(str(encoder), manifest, tmp_path / "f", FINE)
    assert (result.stores, result.tiles, result.embedded, result.exit_code) == (2, 14, 14, 0)
    folder = open_features(tmp_path / "f")
    assert folder.ids == ("a", "b")
    for name in folder.ids:
        store, wanted = wanted_of(manifest, name)
        found = folder.open(name)
        expected = one_by_one(encoder, store["0.5"].read_batch(wanted))
        np.testing.assert_allclose(found.read("0.5"), expected, rtol=1e-4, atol=1e-5)
        assert found.column("0.5", "index").tolist() == wanted
        for axis in ("x", "y"):
            assert (found.column("0.5", axis) == store["0.5"].column(axis)[wanted]).all()
        tiles = found.attributes["tiles"]
        assert (tiles["uuid"], tiles["commit"]) == (store.attributes["uuid"], store.commit_sha256)


def test_float16_is_float32_rounded(manifest: Path, encoder: Path, tmp_path: Path) -> None:
    embed(str(encoder), manifest, tmp_path / "fine", FINE)
    embed(str(encoder), manifest, tmp_path / "coarse", CPU)
    fine, coarse = (open_features(tmp_path / n).open("a").read("0.5") for n in ("fine", "coarse"))
    assert coarse.dtype == np.float16
    assert (fine.astype(np.float16) == coarse).all()


def test_threads_change_no_byte(manifest: Path, tmp_path: Path) -> None:
    for threads in (1, 3):
        embed(RANDOM, manifest, tmp_path / str(threads), replace(CPU, threads=threads))
    assert digests(tmp_path / "1") == digests(tmp_path / "3")


@pytest.mark.parametrize("kind", ["zarr", "h5"])
def test_stopped_anywhere_and_gone_on_with_it_is_the_same_to_the_byte(
    kind: str, manifest: Path, tmp_path: Path
) -> None:
    settings = replace(CPU, format=kind)
    embed(RANDOM, manifest, tmp_path / "whole", settings)
    parts = tmp_path / "parts"
    for tiles in (2, 7, 11):
        stop_after(tiles, manifest, parts, settings)
        assert not (parts / "features.json").exists()
    result = embed(RANDOM, manifest, parts, settings)
    assert 0 < result.embedded < result.tiles
    assert digests(parts) == digests(tmp_path / "whole")


def test_what_a_kill_tore_is_computed_again(manifest: Path, tmp_path: Path) -> None:
    embed(RANDOM, manifest, tmp_path / "whole", CPU)
    parts = tmp_path / "parts"
    stop_after(8, manifest, parts)
    chunk = parts / "a.zarr/0.5/features/c.0.0"
    chunk.write_bytes(chunk.read_bytes()[:-7])
    (parts / "a.zarr/0.5/features/.c.1.0.012345678901.tmp").write_bytes(b"half")
    embed(RANDOM, manifest, parts, CPU)
    assert digests(parts) == digests(tmp_path / "whole")


def test_a_finished_folder_is_left_as_it_is(manifest: Path, tmp_path: Path) -> None:
    embed(RANDOM, manifest, tmp_path / "f", CPU)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "f").rglob("c.*")}
    result = embed(RANDOM, manifest, tmp_path / "f", CPU)
    assert (result.embedded, result.tiles, result.tiles_per_s) == (0, 14, 0)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "f").rglob("c.*")} == before


def test_a_slide_that_came_later_is_added(own: Path, tmp_path: Path) -> None:
    loaded = load_manifest(own)
    save_manifest(replace(loaded, stores=loaded.stores[:1]), own)
    assert embed(RANDOM, own, tmp_path / "f", CPU).embedded == 9
    save_manifest(loaded, own)
    assert embed(RANDOM, own, tmp_path / "f", CPU).embedded == 5
    embed(RANDOM, own, tmp_path / "whole", CPU)
    assert digests(tmp_path / "f") == digests(tmp_path / "whole")


def test_a_stop_by_ctrl_c_has_its_own_code(manifest: Path, tmp_path: Path) -> None:
    watcher = StopAfter(3, signal.SIGINT)
    with pytest.raises(Interrupted) as caught:
        embed(RANDOM, manifest, tmp_path / "f", CPU, watcher, stopper=watcher.stopper)
    assert caught.value.exit_code == 130


def test_a_damaged_tile_is_nan_and_told(own: Path, tmp_path: Path) -> None:
    embed(RANDOM, own, tmp_path / "whole", CPU)
    damage_tile(own.parent / "a.zarr", "0.5", 3)
    result = embed(RANDOM, own, tmp_path / "f", CPU)
    assert (result.damaged, result.exit_code) == (("a/0.5/3",), 3)
    folder = open_features(tmp_path / "f")
    assert folder.said["stores"][0]["groups"]["0.5"] == {"rows": 9, "damaged": [3]}
    rows = folder.open("a").read("0.5")
    assert np.flatnonzero(np.isnan(rows).any(axis=1)).tolist() == [2]
    expected = open_features(tmp_path / "whole").open("a").read("0.5")
    assert (rows[3:] == expected[3:]).all()
    found, damaged = load_features(folder, wanted_tiles(load_manifest(own)))
    assert damaged == (2,)
    assert np.isnan(found[2]).all()


def test_a_store_that_is_not_there_keeps_no_other_from_being_embedded(
    own: Path, tmp_path: Path
) -> None:
    shutil.rmtree(own.parent / "a.zarr")
    result = embed(RANDOM, own, tmp_path / "f", CPU)
    assert (result.stores, result.tiles, result.exit_code) == (1, 5, 3)
    assert list(result.failed) == ["a"]
    assert open_features(tmp_path / "f").said["failed"] == ["a"]
    shutil.rmtree(own.parent / "b.zarr")
    result = embed(RANDOM, own, tmp_path / "g", CPU)
    assert (result.stores, result.exit_code) == (0, 4)
    assert not (tmp_path / "g").exists()


def test_a_store_that_goes_while_it_is_read_fails_alone(own: Path, tmp_path: Path) -> None:
    class Remove(Silent):
        def started(self, text: str) -> None:
            shutil.rmtree(own.parent / "a.zarr")

    result = embed(RANDOM, own, tmp_path / "f", CPU, Remove())
    assert (list(result.failed), result.stores, result.embedded) == (["a"], 1, 5)
    embed(RANDOM, save(own.parent, load_manifest(own).stores[1]), tmp_path / "alone", CPU)
    left = {k: v for k, v in digests(tmp_path / "f").items() if k.startswith("b.zarr")}
    assert left.items() <= digests(tmp_path / "alone").items()


@pytest.fixture(scope="module")
def stopped(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of features that was not finished, with those of the first store."""
    out = tmp_path_factory.mktemp("stopped") / "f"
    stop_after(12, manifest, out)
    assert (out / "a.zarr").is_dir()
    return out


def refusals() -> list[Any]:
    return [
        pytest.param({"encoder": "random:test_vit"}, "the encoder was random:test_resnet", id="e"),
        pytest.param({"seed": 1}, "the encoder was random:test_resnet", id="weights"),
        pytest.param({"dtype": "float32"}, "--dtype was float16 and is float32", id="dtype"),
        pytest.param({"image_size": 48}, "--image-size was that of the tiles and is 48", id="size"),
        pytest.param({"format": "h5"}, "--format was zarr and is h5", id="format"),
        pytest.param({"precision": "bf16"}, "--precision was fp32 and is bf16", id="precision"),
    ]


@pytest.mark.parametrize(("changes", "words"), refusals())
def test_features_of_another_kind_are_not_mixed_in(
    changes: dict[str, Any], words: str, manifest: Path, stopped: Path
) -> None:
    before = digests(stopped)
    name = changes.pop("encoder", RANDOM)
    with pytest.raises(ConfigError, match=words):
        embed(name, manifest, stopped, replace(CPU, **{"dtype": "float16", **changes}))
    assert digests(stopped) == before


@pytest.mark.parametrize("kind", ["zarr", "h5"])
def test_features_of_other_tiles_are_not_mixed_in(kind: str, own: Path, tmp_path: Path) -> None:
    settings = replace(CPU, format=kind)
    embed(RANDOM, own, tmp_path / "f", settings)
    entries = load_manifest(own).stores
    save(own.parent, replace(entries[0], selection=None), entries[1])
    with pytest.raises(ConfigError, match="features of other tiles of a"):
        embed(RANDOM, own, tmp_path / "f", settings)
    save(own.parent, entries[1])
    with pytest.raises(ConfigError, match=r"holds a\.(zarr|h5), which is not of the tiles"):
        embed(RANDOM, own, tmp_path / "f", settings)


def test_a_tile_store_that_was_cut_anew_is_not_mixed_in(own: Path, tmp_path: Path) -> None:
    embed(RANDOM, own, tmp_path / "f", CPU)
    shutil.rmtree(own.parent / "b.zarr")
    entry = make_placed(own.parent, "b", {"0.5": tile_pixels(6, seed=3)}, unread=[0])
    save(own.parent, load_manifest(own).stores[0], entry)
    with pytest.raises(ConfigError, match="other tiles of b, or of another state of its store"):
        embed(RANDOM, own, tmp_path / "f", CPU)


def test_a_folder_of_other_things_is_refused(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is in use and holds no features"):
        embed(RANDOM, manifest, tmp_path, CPU)
    with pytest.raises(ConfigError, match="is a file"):
        embed(RANDOM, manifest, tmp_path / "notes.txt", CPU)
    with pytest.raises(ConfigError, match="is in use and holds no features"):
        embed(RANDOM, manifest, manifest.parent, CPU)


def test_two_writers_are_kept_apart(manifest: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "f"), pytest.raises(RunBusy) as caught:
        embed(RANDOM, manifest, tmp_path / "f", CPU)
    assert caught.value.exit_code == 75


def test_features_that_float16_cannot_hold_are_refused_by_name(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaled(monkeypatch, 1e7)
    with pytest.raises(ConfigError, match="exceed float16: give --dtype float32"):
        embed(RANDOM, manifest, tmp_path / "f", CPU)
    # What was refused left nothing that the advice would stumble on.
    assert embed(RANDOM, manifest, tmp_path / "f", FINE).exit_code == 0


def test_features_that_are_no_numbers_are_no_damage(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaled(monkeypatch, float("nan"))
    with pytest.raises(ConfigError, match=r"tile a/0\.5/0 are no numbers"):
        embed(RANDOM, manifest, tmp_path / "f", FINE)


def scaled(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Let every encoder give features that are so many times as large."""

    def opened(text: str, **options: Any) -> Encoder:
        found = open_encoder(text, **options)
        found.model.register_forward_hook(lambda _model, _views, rows: (1 + rows.abs()) * factor)
        return found

    monkeypatch.setattr("pretrain.embedding.embed.open_encoder", opened)


@pytest.mark.parametrize("nth", [0, 5, 12, 20])
def test_a_full_disk_tears_nothing(
    nth: int, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(RANDOM, manifest, tmp_path / "whole", CPU)
    written = 0

    def write(path: Path, data: bytes) -> None:
        nonlocal written
        if written == nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        written += 1
        write_atomic(path, data)

    with monkeypatch.context() as patched:
        patched.setattr("pretrain.embedding.featurewriter.write_atomic", write)
        with pytest.raises(OSError, match="No space left"):
            embed(RANDOM, manifest, tmp_path / "f", CPU)
    embed(RANDOM, manifest, tmp_path / "f", CPU)
    assert digests(tmp_path / "f") == digests(tmp_path / "whole")


def test_encoders_of_other_resolutions_are_refused(tmp_path: Path, encoder: Path) -> None:
    manifest = save(tmp_path, make_placed(tmp_path, "a", {"1": tile_pixels(4)}))
    with pytest.raises(ConfigError, match="was trained on tiles of"):
        embed(str(encoder), manifest, tmp_path / "f", CPU)
    assert not (tmp_path / "f").exists()
    result = embed(str(encoder), manifest, tmp_path / "f", replace(CPU, any_mpp=True))
    assert result.tiles == 4


def test_split_and_resolution_choose_tiles(tmp_path: Path) -> None:
    groups = {"0.5": tile_pixels(5, seed=1), "1": tile_pixels(3, seed=2)}
    slide = replace(make_placed(tmp_path, "a", groups), split="train")
    other = replace(make_placed(tmp_path, "b", {"1": tile_pixels(2)}), split="test")
    manifest = save(tmp_path, slide, other)

    def tiles_of(name: str, **changes: Any) -> tuple[int, int]:
        result: EmbedResult = embed(RANDOM, manifest, tmp_path / name, replace(CPU, **changes))
        return result.stores, result.tiles

    assert tiles_of("all") == (2, 10)
    assert open_features(tmp_path / "all").open("a").groups == ("0.5", "1")
    assert tiles_of("mpp", mpp="1") == (2, 5)
    assert tiles_of("split", split="train") == (1, 8)
    assert tiles_of("both", split="train", mpp="0.5") == (1, 5)
    with pytest.raises(ConfigError, match="no tiles are in the split 'val'"):
        tiles_of("none", split="val")


KILLED = """
import os, random, signal, sys, time
import torch
torch.set_num_threads(1)
from pathlib import Path
from pretrain.embedding import featurestore
from pretrain.embedding.embed import embed
from tests.pretrain.embedding.test_embed import CPU, RANDOM, replace
featurestore.CHUNK_ROWS = 4
manifest, out, kind, kills = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
random.seed(1)
done = 0
while True:
    child = os.fork()
    if child == 0:
        embed(RANDOM, manifest, out, replace(CPU, format=kind))
        os._exit(0)
    if done < kills:
        time.sleep(random.uniform(0.05, 0.5))
        os.kill(child, signal.SIGKILL)
        done += 1
    _, status = os.waitpid(child, 0)
    if status == 0:
        break
print(done)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zarr", "h5"])
def test_twenty_kills_at_any_moment_change_no_byte(kind: str, tmp_path: Path) -> None:
    slides = [
        make_placed(tmp_path, f"s{n}", {"0.5": tile_pixels(60 + n, seed=n)}) for n in range(4)
    ]
    manifest = save(tmp_path, *slides)
    embed(RANDOM, manifest, tmp_path / "whole", replace(CPU, format=kind))
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(manifest), str(tmp_path / "f"), kind, "20"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 5
    assert digests(tmp_path / "f") == digests(tmp_path / "whole")
    assert list((tmp_path / "f").rglob("*.tmp")) == []
