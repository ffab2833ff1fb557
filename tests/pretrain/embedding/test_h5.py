"""HDF5 files of features: what CLAM and TRIDENT read, whole or not there."""

from __future__ import annotations

import errno
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
h5py = pytest.importorskip("h5py")

from pretrain.embedding.embed import embed  # noqa: E402
from pretrain.embedding.featurestore import (  # noqa: E402
    Features,
    FeatureStore,
    open_features,
)
from pretrain.embedding.h5 import magnification  # noqa: E402
from pretrain.embedding.settings import EmbedSettings  # noqa: E402
from pretrain.errors import ConfigError  # noqa: E402
from tests.manifests.make import tile_pixels  # noqa: E402
from tests.pretrain.embedding.placed import (  # noqa: E402
    digests,
    make_placed,
    two_slides,
    wanted_of,
)
from tests.pretrain.embedding.test_featurestore import keys_named  # noqa: E402
from tests.pretrain.make import damage_tile, make_slide, save  # noqa: E402

H5 = EmbedSettings(device="cpu", format="h5")
RANDOM = "random:test_resnet"


def test_a_file_holds_what_the_zarr_store_holds(tmp_path: Path) -> None:
    manifest = two_slides(tmp_path / "tiles")
    embed(RANDOM, manifest, tmp_path / "h5", H5)
    embed(RANDOM, manifest, tmp_path / "zarr", EmbedSettings(device="cpu", dtype="float32"))
    assert sorted(digests(tmp_path / "h5")) == ["a.h5", "b.h5", "features.json"]
    for name in ("a", "b"):
        store, wanted = wanted_of(manifest, name)
        places = [store["0.5"].column(axis)[wanted] for axis in ("x", "y")]
        with h5py.File(tmp_path / "h5" / f"{name}.h5", "r") as file:
            assert file["features"].dtype == np.float32
            expected = open_features(tmp_path / "zarr").open(name).read("0.5")
            assert (file["features"][:] == expected).all()
            assert file["coords"].dtype == np.int64
            assert (file["coords"][:] == np.stack(places, axis=1)).all()
            assert file["index"][:].tolist() == wanted
            assert file["features"].maxshape == (None, expected.shape[1])


def test_the_attributes_are_those_that_trident_writes(tmp_path: Path) -> None:
    embed(RANDOM, two_slides(tmp_path / "tiles"), tmp_path / "f", H5)
    with h5py.File(tmp_path / "f/a.h5", "r") as file:
        said = dict(file["coords"].attrs)
        assert set(file) <= keys_named("## HDF5: `--format h5`")
        text = Path(__file__).parents[3].joinpath("docs/reference/features.md").read_text()
        section = text.split("| attribute of `coords`", 1)[1]
        assert set(said) == {
            key
            for row in re.split(r"\n\n", section, maxsplit=1)[0].splitlines()[2:]
            for key in re.findall(r"`(\w+)`", row.split("|")[1])
        }
        everything = [str(v) for item in (file, *file.values()) for v in item.attrs.values()]
    assert said.pop("mpp").tolist() == [0.5, 0.5]
    assert said == {
        "name": "a",
        "patch_size": 32,
        "patch_size_level0": 64,
        "target_magnification": 20,
        "level0_magnification": 40,
        "overlap": 8,
        "level0_width": 4000,
        "level0_height": 3000,
    }
    assert not any("/" in value for value in everything)


@pytest.mark.parametrize(
    ("mpp", "expected"),
    [(0.5, 20), (0.2527, 40), (0.2268, 40), (0.499, 20), (1, 10), (0.7, 14.29), (8, 1.25)],
)
def test_magnifications_are_those_that_people_say(mpp: float, expected: float) -> None:
    assert magnification(mpp) == expected


def test_damaged_tiles_are_left_out_and_told(tmp_path: Path) -> None:
    manifest = two_slides(tmp_path / "tiles")
    damage_tile(tmp_path / "tiles/a.zarr", "0.5", 3)
    for _ in range(2):
        result = embed(RANDOM, manifest, tmp_path / "f", H5)
        assert (result.damaged, result.exit_code) == (("a/0.5/3",), 3)
        with h5py.File(tmp_path / "f/a.h5", "r") as file:
            assert file["damaged"][:].tolist() == [3]
            assert 3 not in file["index"][:]
            assert len(file["features"]) == len(file["coords"]) == len(file["index"]) == 8
            assert not np.isnan(file["features"][:]).any()


def test_each_resolution_has_a_folder_where_there_are_several(tmp_path: Path) -> None:
    slide = make_placed(tmp_path, "a", {"0.5": tile_pixels(3), "1": tile_pixels(2)})
    manifest = save(tmp_path, slide)
    embed(RANDOM, manifest, tmp_path / "f", H5)
    assert sorted(digests(tmp_path / "f")) == ["0.5/a.h5", "1/a.h5", "features.json"]
    with h5py.File(tmp_path / "f/1/a.h5", "r") as file:
        assert file["coords"].attrs["patch_size_level0"] == 128
        assert file["coords"].attrs["target_magnification"] == 10


def packed(root: Path, source: list[int], names: list[str]) -> Path:
    tiles = {"0.5": tile_pixels(len(source), seed=4)}
    return save(root, make_placed(root, "p", tiles, packed=source, names=names))


def test_each_picture_of_several_tiles_is_a_file_of_its_own(tmp_path: Path) -> None:
    names = ["x/1.png", "y/1.png", "y/1.jpg", "2.png"]
    manifest = packed(tmp_path, [0, 0, 2, 1, 3, 0], names)
    embed(RANDOM, manifest, tmp_path / "f", H5)
    rows = {"p/x/1.h5": [0, 1, 5], "p/y/1.png.h5": [3], "p/y/1.jpg.h5": [2], "p/2.h5": [4]}
    assert set(digests(tmp_path / "f")) == {*rows, "features.json"}
    for name, indices in rows.items():
        with h5py.File(tmp_path / "f" / name, "r") as file:
            assert file["index"][:].tolist() == indices
            assert set(file["coords"].attrs) & {"level0_width", "level0_height"} == set()
    assert embed(RANDOM, manifest, tmp_path / "f", H5).embedded == 0


def test_features_are_read_once_for_all_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = [n // 2 for n in range(12)]
    manifest = packed(tmp_path, source, [f"{n}.png" for n in range(6)])
    read, asked = FeatureStore.read, []

    def counted(store: FeatureStore, group: str) -> Features:
        asked.append(group)
        return read(store, group)

    monkeypatch.setattr(FeatureStore, "read", counted)
    embed(RANDOM, manifest, tmp_path / "f", H5)

    assert asked == ["0.5"]
    assert len(list((tmp_path / "f/p").glob("*.h5"))) == 6


def test_pictures_of_one_tile_each_share_a_file(tmp_path: Path) -> None:
    manifest = packed(tmp_path, [0, 2, 1], ["1.png", "2.png", "3.png"])
    embed(RANDOM, manifest, tmp_path / "f", H5)
    with h5py.File(tmp_path / "f/p.h5", "r") as file:
        assert file["source"][:].tolist() == [0, 2, 1]


def test_tiles_without_a_place_have_no_file(tmp_path: Path) -> None:
    slides = [make_placed(tmp_path, "a", {"0.5": tile_pixels(3)})]
    slides.append(make_slide(tmp_path, "b", {"0.5": tile_pixels(3)}))
    result = embed(RANDOM, save(tmp_path, *slides), tmp_path / "f", H5)
    assert result.exit_code == 3
    assert "have no x and y" in result.failed["b"]
    assert sorted(digests(tmp_path / "f")) == ["a.h5", "features.json"]


def test_a_picture_whose_name_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    manifest = packed(tmp_path, [0, 0, 1], ["../../1.png", "2.png"])
    result = embed(RANDOM, manifest, tmp_path / "f", H5)
    assert result.exit_code == 4
    assert "must be a relative POSIX path" in result.failed["p"]


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = two_slides(tmp_path / "tiles")

    create = h5py.Group.create_dataset

    def full(file: Any, name: str, **options: Any) -> Any:
        if name == "coords":
            raise OSError("Can't write data (errno = 28, message = 'No space left on device')")
        return create(file, name, **options)

    with monkeypatch.context() as patched:
        patched.setattr(h5py.Group, "create_dataset", full)
        with pytest.raises(OSError, match="No space left on device") as caught:
            embed(RANDOM, manifest, tmp_path / "f", H5)
    assert caught.value.errno == errno.ENOSPC
    assert Path(str(caught.value.filename)).name == "a.h5"
    assert [path.name for path in (tmp_path / "f").iterdir() if "h5" in path.name] == []
    embed(RANDOM, manifest, tmp_path / "f", H5)
    embed(RANDOM, manifest, tmp_path / "whole", H5)
    assert digests(tmp_path / "f") == digests(tmp_path / "whole")


def test_a_torn_file_of_the_same_name_is_refused(tmp_path: Path) -> None:
    manifest = two_slides(tmp_path / "tiles")
    embed(RANDOM, manifest, tmp_path / "f", H5)
    (tmp_path / "f/a.h5").write_bytes(b"not HDF5")
    with pytest.raises(ConfigError, match="holds features of other tiles of a"):
        embed(RANDOM, manifest, tmp_path / "f", replace(H5, threads=1))
