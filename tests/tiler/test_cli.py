"""The command line: options reach the run, wrong input gets one sentence and an exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from manifests import TileStore, load_manifest
from tiler.cli import main
from tiler.synthetic import paint, write_slide


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "a.tif"
    write_slide(path, paint("he", 1024, 768, 3), 0.5)
    return path


def histotile(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(item) for item in arguments])


def extract(slide: Path, out: Path, *more: str | Path) -> Result:
    return histotile("extract", slide, "--mpp", "0.5", "--workers", "0", "--out", out, *more)


def test_extract_without_out_writes_to_tiles_and_says_so_first(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = histotile("extract", slide, "--mpp", "0.5", "--workers", "0")
    assert result.exit_code == 0
    assert result.stderr.splitlines()[0] == "Writing 1 store to tiles"
    assert (tmp_path / "tiles" / "manifest.json").is_file()
    assert "1 done" in result.stdout


def test_every_option_of_cutting_reaches_the_store(slide: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = "--tile-size 128 --stride 64 --edge pad --min-tissue 0.25 --max-tiles 9 --seed 5"
    options += " --mpp-tolerance 0.02 --codec zstd --shard-tiles 4 --mpp 1"
    assert extract(slide, out, *options.split()).exit_code == 0
    spec = TileStore(out / "a.zarr").attributes["spec"]
    assert spec["mpps"] == [0.5, 1.0]
    assert spec["codec"] == {"name": "zstd", "level": 3}
    found = {key: spec[key] for key in ("tile_size", "stride", "edge", "min_tissue", "max_tiles")}
    assert found == {
        "tile_size": 128,
        "stride": 64,
        "edge": "pad",
        "min_tissue": 0.25,
        "max_tiles": 9,
    }
    assert (spec["seed"], spec["mpp_tolerance"], spec["shard_tiles"]) == (5, 0.02, 4)
    assert len(TileStore(out / "a.zarr")["0.5"]) == 9


def test_jpeg_settings_reach_the_tiles(slide: Path, tmp_path: Path) -> None:
    import simplejpeg

    out = tmp_path / "out"
    assert extract(slide, out, "--quality", "60", "--subsampling", "420").exit_code == 0
    group = TileStore(out / "a.zarr")["0.5"]
    assert simplejpeg.decode_jpeg_header(group.read_encoded(0))[3] == "420"
    assert group.layout.codec.quality == 60


def test_what_people_know_of_their_slides_reaches_the_manifest(slide: Path, tmp_path: Path) -> None:
    table = tmp_path / "slides.csv"
    table.write_text("slide,organ,patient,grade\na.tif,colon,p1,3\n")
    constants = ["--organ", "breast", "--stain", "H&E", "--dataset", "demo", "--license", "CC0-1.0"]
    result = extract(slide, tmp_path / "out", "--slides", table, *constants)
    assert result.exit_code == 0
    entry = load_manifest(tmp_path / "out").stores[0]
    known = (entry.organ, entry.stain, entry.dataset, entry.license, entry.patient)
    assert known == ("colon", "H&E", "demo", "CC0-1.0", "p1")
    assert entry.columns == {"grade": "3"}


def test_names_of_organs_and_public_datasets_are_understood(slide: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('[organ."mammary gland"]\nsynonyms = ["MG"]\n')
    words = ["--organ", "mg", "--dataset", "BACH"]
    result = extract(slide, tmp_path / "out", *words, "--vocabulary", own)
    assert result.exit_code == 0
    assert "Note: stain H&E, licence CC-BY-NC-ND-4.0 and 0.42 µm/px for what" in result.stderr
    entry = load_manifest(tmp_path / "out").stores[0]
    known = (entry.organ, entry.stain, entry.dataset, entry.license)
    assert known == ("mammary gland", "H&E", "BACH", "CC-BY-NC-ND-4.0")


def test_json_is_one_object_on_stdout(slide: Path, tmp_path: Path) -> None:
    result = extract(slide, tmp_path / "out", "--json")
    data = json.loads(result.stdout)
    assert data["slides"] == {"done": 1, "empty": 0, "failed": 0}
    assert data["tiles"] == len(TileStore(tmp_path / "out" / "a.zarr")["0.5"]) > 0
    shown = histotile("manifest", "show", tmp_path / "out", "--json")
    assert json.loads(shown.stdout)


def test_quiet_says_nothing_on_stderr(slide: Path, tmp_path: Path) -> None:
    assert extract(slide, tmp_path / "out", "--quiet").stderr == ""


def test_a_broken_slide_beside_a_good_one_ends_with_3_and_its_sentence(
    slide: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.svs"
    broken.write_bytes(b"")
    result = extract(slide, tmp_path / "out", broken)
    assert result.exit_code == 3
    assert "broken: failed: the file is empty (0 bytes)" in result.stderr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--mpp", "-1"], "--mpp -1 is not in"),
        (["--tile-size", "0"], "--tile-size 0 is not in"),
        (["--stride", "0"], "--stride 0 is not"),
        (["--min-tissue", "2"], "--min-tissue 2 is not in 0 to 1"),
        (["--max-tiles", "0"], "--max-tiles 0 is not"),
        (["--mpp-tolerance", "0.9"], "--mpp-tolerance 0.9 is not"),
        (["--label-from", "parent"], "--label-from needs --packed"),
        (["--quality", "101"], "--quality"),
    ],
)
def test_wrong_options_end_with_2_and_say_what_is_allowed(
    slide: Path, tmp_path: Path, options: list[str], sentence: str
) -> None:
    result = extract(slide, tmp_path / "out", *options)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert not (tmp_path / "out").exists()


def test_no_mpp_no_slides_and_no_such_path_each_get_one_sentence(
    slide: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, sentence in (
        (["extract", slide], "say the resolution of the tiles with --mpp"),
        (["extract", empty, "--mpp", "0.5"], "there is no slide in"),
        (["extract", tmp_path / "nowhere", "--mpp", "0.5"], "does not exist"),
    ):
        result = histotile(*arguments)
        assert result.exit_code == 2
        assert sentence in result.stderr
        assert result.stderr.count("\n") == 1


def test_other_settings_on_the_same_output_end_with_2_and_show_both(
    slide: Path, tmp_path: Path
) -> None:
    extract(slide, tmp_path / "out")
    result = extract(slide, tmp_path / "out", "--tile-size", "128")
    assert result.exit_code == 2
    assert "was cut with tile_size 256" in result.stderr.replace("stride 256, ", "")
    assert "--overwrite" in result.stderr


def test_ready_made_tiles_are_packed_by_organ_with_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in ("colon_a", "colon_b", "lung_a"):
        (tmp_path / "tiles" / kind).mkdir(parents=True)
        for number in range(3):
            pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "tiles" / kind / f"{number}.png")
    options = "--packed --assume-mpp 0.5 --tile-size 64 --label-from parent --codec zstd"
    result = histotile(
        *("extract", tmp_path / "tiles", "--organ-from", "regex:^[a-z]+"),
        *(*options.split(), "--workers", "0", "--out", tmp_path / "out"),
    )
    assert result.exit_code == 0, result.stderr
    colon, lung = load_manifest(tmp_path / "out").stores
    assert (colon.id, colon.organ, colon.labels) == ("tiles-colon", "colon", ("colon_a", "colon_b"))
    assert (lung.id, lung.organ, lung.tiles) == ("tiles-lung", "lung", 3)
    store = TileStore(tmp_path / "out" / "tiles-colon.zarr")
    assert store["0.5"].column("label").tolist() == [0, 0, 0, 1, 1, 1]
    for index in range(6):
        name = store.sources()[int(store["0.5"].column("source")[index])]["name"]
        picture = np.asarray(Image.open(tmp_path / "tiles" / str(name)))
        assert np.array_equal(store["0.5"].read(index), picture)


@pytest.mark.parametrize("option", ["--no-tissue", "--min-tissue=0.1", "--max-tiles=3"])
def test_filters_are_refused_for_ready_made_tiles(tmp_path: Path, option: str) -> None:
    result = histotile("extract", tmp_path, "--packed", "--assume-mpp", "0.5", option)
    assert result.exit_code == 2
    assert "does not apply to --packed" in result.stderr


def test_inspect_foretells_what_extract_then_makes(slide: Path, tmp_path: Path) -> None:
    told = histotile("inspect", slide, "--mpp", "0.5", "--mpp", "1", "--workers", "0", "--json")
    assert told.exit_code == 0
    (item,) = json.loads(told.stdout)["slides"]
    assert (item["reader"], item["mpp"], item["mpp_source"]) == (
        "openslide",
        [0.5, 0.5],
        "openslide",
    )
    extract(slide, tmp_path / "out", "--mpp", "1")
    store = TileStore(tmp_path / "out" / "a.zarr")
    assert [forecast["tiles"] for forecast in item["forecasts"]] == [
        len(store["0.5"]),
        len(store["1"]),
    ]
    table = histotile("inspect", slide, "--mpp", "0.5", "--workers", "0")
    assert "level 0 as is" in table.stdout


def test_inspect_lists_broken_slides_with_their_reason(slide: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.svs"
    broken.write_bytes(b"II*\0")
    result = histotile("inspect", slide, broken, "--mpp", "0.5", "--workers", "0", "--json")
    assert result.exit_code == 3
    statuses = {item["source"]: item["status"] for item in json.loads(result.stdout)["slides"]}
    assert statuses == {"a.tif": "ok", "broken.svs": "failed"}


@pytest.mark.parametrize("command", [[], ["extract"], ["inspect"], ["manifest"], ["demo"]])
def test_help_is_quick_because_nothing_heavy_is_imported(command: list[str]) -> None:
    script = (
        "import sys\n"
        "from tiler.cli import main\n"
        f"try: main({[*command, '--help']!r})\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'zarr', 'dask', 'distributed', 'openslide', 'skimage', 'torch'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


def test_extract_imports_nothing_heavy_that_it_does_not_need(slide: Path, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from tiler.cli import main\n"
        f"try: main(['extract', {str(slide)!r}, '--mpp', '0.5', '--workers', '0',"
        f" '--json', '--out', {str(tmp_path / 'out')!r}])\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'scipy', 'skimage', 'dask', 'distributed', 'zarr', 'numcodecs', 'jsonschema'}\n"
        "heavy |= {'rich', 'numpy.ma', 'numpy.random', 'importlib.metadata', 'torch'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_extract_works_where_torch_is_not_installed(slide: Path, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['torchvision'] = None\n"
        "from tiler.cli import main\n"
        f"main(['extract', {str(slide)!r}, '--mpp', '0.5', '--workers', '0',"
        f" '--out', {str(tmp_path / 'out')!r}])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
