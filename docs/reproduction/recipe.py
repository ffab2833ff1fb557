"""A downstream set of the paper from its download to scores: recipes are TOML files in `recipes/`.

    python docs/reproduction/recipe.py bach ~/Downloads/bach -o bach -- run/encoder.safetensors

A recipe says how a download is laid out and what its names mean. Its pictures are linked into
OUT/pictures, what is known of them goes into OUT/slides.csv, and the commands of histotile do the
rest: tiles, splits, scores. Nothing is downloaded. Paths in a recipe are regular expressions for
paths below the download, with forward slashes; their named groups are columns of the table.
"""

from __future__ import annotations

import argparse
import csv
import re
import shlex
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

FOLDER = Path(__file__).parent / "recipes"
RATIOS = ("--names", "train,val,test", "--ratios", "0.6,0.2,0.2", "--exact")
"""Of the patients, where a set has no official split of its own."""
_MOST_VALUES = 256
_OTHER = 255
"""Stands for pixels of no class."""

Pixels = npt.NDArray[np.uint8]
Run = Callable[[Sequence[str]], None]


class RecipeError(Exception):
    """The recipe or the download is not as it should be; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures of a download, found by their paths."""

    path: str
    example: str
    split: str = ""
    """Official split; empty: there is none."""
    mask: str = ""
    """`none`: nothing in them belongs to a class, so that they have no masks."""


@dataclass(frozen=True, slots=True)
class Table:
    """A CSV of the download that says more of its pictures."""

    path: str
    key: str
    """What a picture is called, made of its named groups, such as `{group}_{region}`."""
    columns: Mapping[str, Sequence[str]]
    """Column of the slides table → columns of the CSV, of which the first that is there counts."""
    key_columns: Sequence[str] = ("picture",)
    """Columns of the CSV that make the same name, joined with `_`."""
    example: str = ""
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Patches:
    """Labelled patches, cut from pictures whose classes lie in maps."""

    px: int
    share: float
    """Least share of a patch that is of its class."""
    maps: str
    example: str
    values: Mapping[str, Sequence[int]]
    """Class → values in the maps."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One downstream set."""

    title: str
    url: str
    licence: str
    dataset: str
    organ: str
    stain: str
    task: str
    label: str
    """Column of the label; empty for segmentation."""
    metric: str
    """What the paper, or the set, is compared by."""
    by: str
    """What splits must not tear."""
    mpp: float
    tile_px: int
    unconfirmed: Sequence[str]
    """What no source at hand confirms, in sentences."""
    pictures: Sequence[Pictures]
    tiles_mpp: float = 0.0
    """µm per pixel of the tiles; 0: those of the pictures."""
    tables: Sequence[Table] = ()
    patches: Patches | None = None
    masks: str = ""
    """End of a mask's name, which begins as its picture's does."""


def read_recipe(name: str) -> Recipe:
    """Read a recipe by its name in `recipes/`, or a file.

    Raises:
        RecipeError: there is none of that name, or it lacks a key or has an unknown one.
    """
    file = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in FOLDER.glob("*.toml")))
        raise RecipeError(f"there is no recipe {name}; there are {known}")
    data = tomllib.loads(file.read_text(encoding="utf-8"))
    try:
        parts: dict[str, Any] = {
            "pictures": [Pictures(**item) for item in data.pop("pictures")],
            "tables": [Table(**item) for item in data.pop("tables", [])],
            "patches": Patches(**data.pop("patches")) if "patches" in data else None,
            "masks": data.pop("masks", {}).get("suffix", ""),
        }
        return Recipe(**data, **parts)
    except (KeyError, TypeError) as error:
        raise RecipeError(f"{file.name}: {error}") from error


@dataclass(frozen=True, slots=True)
class Found:
    """A picture of the download."""

    file: Path
    name: str
    """Its path below the download, with forward slashes."""
    kind: Pictures
    columns: Mapping[str, str]


def find_pictures(recipe: Recipe, download: Path) -> list[Found]:
    """The pictures of a download, with what their names and the tables say.

    Raises:
        RecipeError: files are missing, or a picture has no label.
    """
    files = _files(download)
    tables = [(table, _read_table(table, files)) for table in recipe.tables]
    found = []
    for kind in recipe.pictures:
        named = [(name, re.search(kind.path, name)) for name in files]
        matches = [(name, match) for name, match in named if match]
        if not matches:
            raise RecipeError(
                f"{download.name} has no pictures such as {kind.example}; unpack what {recipe.url} "
                "gives there, and name the folder that holds it"
            )
        for name, match in matches:
            columns = {key: value for key, value in match.groupdict().items() if value}
            for table, rows in tables:
                columns |= rows.get(table.key.format(**columns), {})
            found.append(Found(files[name], name, kind, columns))
    bare = [item.name for item in found if recipe.label and recipe.label not in item.columns]
    if bare and recipe.patches is None:
        raise RecipeError(
            f"{len(bare)} of {len(found)} pictures have no {recipe.label}, the first is {bare[0]}; "
            "is the download whole?"
        )
    return found


def _files(download: Path) -> dict[str, Path]:
    if not download.is_dir():
        raise RecipeError(f"the download {download} is no folder; unpack it first")
    paths = sorted(path for path in download.rglob("*") if path.is_file())
    return {path.relative_to(download).as_posix(): path for path in paths}


def _read_table(table: Table, files: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    """Rows of a CSV by the names of pictures."""
    names = [name for name in files if re.search(table.path, name)]
    if not names:
        if table.optional:
            return {}
        raise RecipeError(f"the download lacks its table {table.example or table.path}")
    with files[names[0]].open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    found = {}
    for row in rows:
        try:
            key = "_".join(row[column].strip() for column in table.key_columns)
            found[key] = {
                name: next(row[column] for column in columns if row.get(column))
                for name, columns in table.columns.items()
            }
        except (KeyError, StopIteration, AttributeError):
            wanted = [*table.key_columns, *(c for cs in table.columns.values() for c in cs[:1])]
            raise RecipeError(
                f"{names[0]} has no value in one of the columns {', '.join(wanted)}; it has the "
                f"columns {', '.join(rows[0])}"
            ) from None
    return found


def lay_out(recipe: Recipe, download: Path, out: Path) -> list[Path]:
    """Write OUT/pictures, OUT/masks, OUT/slides.csv and the lists of an official split.

    Returns:
        The lists, named after their splits; none if there is no official split.
    """
    found = find_pictures(recipe, download)
    if any((out / name).exists() for name in ("pictures", "masks")):
        raise RecipeError(f"{out} holds pictures already; give a folder that is new or empty")
    if recipe.patches is not None:
        found = list(_cut_patches(recipe.patches, found, _files(download), out / "patches"))
    for item in found:
        _link(item.file, out / "pictures" / item.name)
        if recipe.masks:
            _add_mask(recipe, item, out / "masks")
    keys = sorted({key for item in found for key in item.columns})
    with (out / "slides.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["slide", *keys])
        writer.writeheader()
        writer.writerows({"slide": item.name, **item.columns} for item in found)
    return _write_lists(recipe, found, out)


def _link(file: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(file.resolve())


def _add_mask(recipe: Recipe, item: Found, folder: Path) -> None:
    """Link a picture's mask; draw one where a set says that nothing is there."""
    name = PurePosixPath(item.name)
    if item.kind.mask == "none":
        blank = (folder / name).with_suffix(".png")
        blank.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(item.file) as picture:
            Image.new("L", picture.size).save(blank)
        return
    mask = item.file.with_name(name.stem + recipe.masks)
    if not mask.is_file():
        raise RecipeError(f"{item.name} has no mask {mask.name} beside it; is the download whole?")
    _link(mask, folder / name.with_name(mask.name))


def _write_lists(recipe: Recipe, found: Iterable[Found], out: Path) -> list[Path]:
    units: dict[str, set[str]] = defaultdict(set)
    for item in found:
        if item.kind.split:
            units[item.kind.split].add(item.columns.get(recipe.by, item.name))
    lists = []
    for split, names in sorted(units.items()):
        lists.append(out / f"{split}.txt")
        lists[-1].write_text("".join(f"{name}\n" for name in sorted(names)), encoding="utf-8")
    return lists


def _cut_patches(
    patches: Patches, found: Iterable[Found], files: Mapping[str, Path], folder: Path
) -> Iterator[Found]:
    """Cut pictures into patches of the class that most of their pixels have."""
    maps: dict[str, list[Path]] = defaultdict(list)
    for name, file in files.items():
        if match := re.search(patches.maps, name):
            maps[match["group"]].append(file)
    if not maps:
        raise RecipeError(f"the download has no maps such as {patches.example}")
    folder.mkdir(parents=True, exist_ok=True)
    names = tuple(patches.values)
    for item in found:
        group = item.columns["group"]
        if group not in maps:
            continue  # a few cores were looked at by nobody
        with Image.open(item.file) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        classes = _voted([_read_map(file) for file in maps[group]], patches)
        for x, y, number in _patches_of(classes, patches):
            name = f"{group}_{x}_{y}.png"
            patch = pixels[y : y + patches.px, x : x + patches.px]
            Image.fromarray(patch).save(folder / name)
            columns = {**item.columns, "label": names[number]}
            yield Found(folder / name, f"{names[number]}/{name}", item.kind, columns)


def _read_map(file: Path) -> Pixels:
    with Image.open(file) as image:
        return np.asarray(image if image.mode in ("L", "P") else image.convert("L"))


def _voted(maps: Sequence[Pixels], patches: Patches) -> Pixels:
    """The class of each pixel, (h, w), that most maps say; the first of equals; 255 for none."""
    class_of = np.full(_MOST_VALUES, _OTHER, dtype=np.uint8)
    for number, values in enumerate(patches.values.values()):
        class_of[list(values)] = number
    height = min(len(one) for one in maps)
    width = min(one.shape[1] for one in maps)
    said = [class_of[one[:height, :width]] for one in maps]
    votes = np.stack([sum(one == n for one in said) for n in range(len(patches.values))])
    return np.where(votes.any(axis=0), votes.argmax(axis=0), _OTHER).astype(np.uint8)


def _patches_of(classes: Pixels, patches: Patches) -> Iterator[tuple[int, int, int]]:
    """x, y and class of each patch that has one."""
    px = patches.px
    for y in range(0, len(classes) - px + 1, px):
        for x in range(0, classes.shape[1] - px + 1, px):
            counts = np.bincount(classes[y : y + px, x : x + px].ravel(), minlength=_MOST_VALUES)
            number = int(counts[:_OTHER].argmax())
            if counts[number] >= patches.share * px * px:
                yield x, y, number


def commands(
    recipe: Recipe, out: Path, lists: Sequence[Path], encoders: Sequence[str]
) -> list[list[str]]:
    """What is run after the layout: extract, split, and evaluate if there are encoders."""
    tiles, split = out / "tiles", out / "tiles" / "split.json"
    extract = ["histotile", "extract", str(out / "pictures"), "--packed"]
    extract += ["--slides", str(out / "slides.csv"), "--out", str(tiles)]
    extract += ["--assume-mpp", f"{recipe.mpp:g}", "--tile-size", str(recipe.tile_px)]
    extract += ["--organ", recipe.organ, "--stain", recipe.stain, "--dataset", recipe.dataset]
    if recipe.tiles_mpp:
        extract += ["--mpp", f"{recipe.tiles_mpp:g}"]
    if recipe.task == "classification":
        extract += ["--label-from", recipe.label]
    divide = ["histotile", "manifest", "split", str(tiles), "-o", str(split), "--by", recipe.by]
    if lists:
        # All are named, so that the ratios decide nothing; evaluate takes val from train.
        divide += ["--names", ",".join(["train", "test"]), "--ratios", "0.5,0.5"]
        divide += [word for file in lists for word in ("--holdout", f"{file.stem}={file}")]
    else:
        divide += RATIOS
        if recipe.task == "classification":
            divide += ["--stratify", recipe.label]
    evaluate = ["histopretrain", "evaluate", *encoders, str(tiles), "--split", str(split)]
    evaluate += ["--task", recipe.task, "-o", str(out / "evaluation")]
    evaluate += ["--masks", str(out / "masks")] if recipe.masks else ["--label", recipe.label]
    return [extract, divide, *([evaluate] if encoders else [])]


def cook(name: str, download: Path, out: Path, encoders: Sequence[str], run: Run) -> None:
    """Do all that a recipe says.

    Args:
        run: runs a command, `histotile …` or `histopretrain …`.

    Raises:
        RecipeError: see `read_recipe` and `find_pictures`.
    """
    recipe = read_recipe(name)
    _say(f"{recipe.title}; licence: {recipe.licence}; compared by {recipe.metric}")
    for sentence in recipe.unconfirmed:
        _say(f"Not confirmed: {sentence}")
    out.mkdir(parents=True, exist_ok=True)
    lists = lay_out(recipe, download, out)
    for command in commands(recipe, out, lists, encoders):
        _say(shlex.join(command))
        run(command)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _run(command: Sequence[str]) -> None:
    module = {"histotile": "tiler.cli", "histopretrain": "pretrain.cli"}[command[0]]
    call = [sys.executable, "-c", f"from {module} import main; main()", *command[1:]]
    if code := subprocess.run(call, check=False).returncode:
        raise RecipeError(f"{shlex.join(command[:3])} … ended with exit code {code}")


def main(words: Sequence[str] | None = None) -> int:
    """The command; its exit code is 0, or 2 with a sentence on stderr."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipe", help="name in recipes/, or a file .toml")
    parser.add_argument("download", type=Path, help="folder of the unpacked download")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder to write")
    parser.add_argument("encoders", nargs="*", help="after --; without any, evaluate is not run")
    given = parser.parse_args(words)
    try:
        cook(given.recipe, given.download, given.out, given.encoders, _run)
    except RecipeError as error:
        _say(f"Error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
