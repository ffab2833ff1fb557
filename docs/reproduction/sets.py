"""The data of the study: public pictures cut into stores, one pool to train on, two labelled sets.

Sources are what encoders are trained on: five of them, all tiles 128 px (LC25000: 224 px). Labelled
sets are what they are measured on: LC25000 by class, and breast tiles that no encoder sees. µm per
pixel is 0.5 where a picture does not say it, which is a guess for LC25000 and the nuclei.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

LABELS = ("lymphocyte", "tumour", "stroma")
"""The classes of BRCA-M2C's cells, numbered 1, 2, 3 in its files."""
BREAST_TILE_PX = 128
LEAST_CELLS = 8
LEAST_SHARE = 0.5

Row = dict[str, str]


@dataclass(frozen=True, slots=True)
class Source:
    """Pictures of one origin: where they lie below the data folder, and how they are cut."""

    name: str
    patterns: tuple[str, ...]
    flags: tuple[str, ...]
    known: dict[str, Row]
    """What the slides table says of a file, by a piece of its name; the first that fits counts."""

    def files(self, data: Path) -> list[Path]:
        """The pictures, in order of their names."""
        return sorted(file for pattern in self.patterns for file in data.glob(pattern))

    def rows(self, data: Path) -> list[Row]:
        """The slides table: every picture is a group of its own, but for LC25000."""
        rows = []
        for file in self.files(data):
            facts = next((row for piece, row in self.known.items() if piece in file.name), {})
            rows.append({"slide": file.name, "dataset": self.name, "group": file.stem} | facts)
        return rows


_FIELD = ("--tile-size", "128", "--assume-mpp", "0.5", "--min-tissue", "0.3")
_KIDNEY = ("ihc_fields/kidney_*.png",)
_LIVER = ("he_fields/liver_*_HE.jpg",)
_SLIDES = ("svs/CMU-1-Small-Region.svs", "svs/TCGA-CR-*.svs", "ome_tiff/OS-*.ome.tif")
_KNOWN: dict[str, Row] = {
    "stain_01": {"organ": "kidney", "stain": "H&E"},
    "stain_02": {"organ": "kidney", "stain": "PAS"},
    "stain_03": {"organ": "kidney", "stain": "Jones H&E"},
    "stain_16": {"organ": "kidney", "stain": "CD68 IHC"},
    "stain_32": {"organ": "kidney", "stain": "Sirius Red"},
    "stain_39": {"organ": "kidney", "stain": "IHC: CD39"},
    "kidney": {"organ": "kidney"},
    "liver": {"organ": "liver", "stain": "H&E"},
    "CMU": {"organ": "skin", "stain": "H&E"},
    "TCGA": {"organ": "head and neck", "stain": "H&E", "mpp": "0.25"},
    "OS-1": {"stain": "H&E"},
    "OS-2": {"stain": "IHC: Ki-67", "group": "OS-2"},
}

SOURCES = (
    Source("kidney", _KIDNEY, (*_FIELD, "--mpp", "0.5"), _KNOWN),
    Source("liver", _LIVER, (*_FIELD, "--mpp", "0.5"), _KNOWN),
    Source(
        "nuclei", ("he_fields/dsb2018_stained/*.png",), (*_FIELD, "--mpp", "0.5", "--no-tissue"), {}
    ),
    Source("slides", _SLIDES, (*_FIELD, "--mpp", "0.5"), _KNOWN),
    Source("coarse1", _KIDNEY + _LIVER + _SLIDES, (*_FIELD, "--mpp", "1"), _KNOWN),
    Source("coarse2", _KIDNEY + _LIVER + _SLIDES, (*_FIELD, "--mpp", "2"), _KNOWN),
)
"""Besides LC25000. The field of Picrosirius red is left out: it is coarser than 0.5 µm/px."""


def write_table(file: Path, rows: Sequence[Row]) -> None:
    """Write a slides table; an empty cell where a row says nothing."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, names, restval="")
        writer.writeheader()
        writer.writerows(rows)


def lc25000_rows(data: Path) -> list[Row]:
    """The slides table of the LC25000 tiles, with the group that a picture was augmented from."""
    with (data / "tiles" / "labels.csv").open(newline="", encoding="utf-8") as stream:
        listed = [row for row in csv.DictReader(stream) if row["dataset"] == "lc25000_224"]
    return [
        {
            "slide": row["file"],
            "stain": row["stain"],
            "dataset": "lc25000",
            "group": f"{row['label']}-{row['group']}",
        }
        for row in listed
    ]


@dataclass(frozen=True, slots=True)
class Cells:
    """Cell centres of a field in its pixels, float64 (n, 2) as (x, y), and their classes 0 to 2."""

    centres: npt.NDArray[np.float64]
    classes: npt.NDArray[np.int64]


def read_cells(file: Path) -> Cells:
    """Read a file of BRCA-M2C: a line `y x class` a cell, the class from 1 to 3."""
    lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    values = np.array(lines, dtype=np.float64).reshape(-1, 3)
    return Cells(centres=values[:, 1::-1], classes=values[:, 2].astype(np.int64) - 1)


def starts(length_px: int, tile_px: int) -> list[int]:
    """First pixels of the fewest tiles that cover a length, evenly spread and overlapping."""
    count = -(-length_px // tile_px)
    last = length_px - tile_px
    return [round(last * place / max(1, count - 1)) for place in range(count)]


def tile_label(classes: npt.NDArray[np.int64]) -> str | None:
    """The class of most cells; None with fewer than 8 cells, or where none has half of them."""
    counts = np.bincount(classes, minlength=len(LABELS))
    most = int(counts.argmax())
    if len(classes) < LEAST_CELLS or counts[most] < LEAST_SHARE * len(classes):
        return None
    return LABELS[most]


def cut_field(picture: Path, cells: Cells, out: Path) -> Iterable[Row]:
    """Cut a field of breast tissue into labelled PNG tiles, and give their rows of the table.

    A cell belongs to each tile that its centre lies in. The patient is the first 12 characters of
    the field's name.
    """
    with Image.open(picture) as opened:
        field = opened.convert("RGB")
    for top in starts(field.height, BREAST_TILE_PX):
        for left in starts(field.width, BREAST_TILE_PX):
            shifted = cells.centres - (left, top)
            classes = cells.classes[((shifted >= 0) & (shifted < BREAST_TILE_PX)).all(axis=1)]
            label = tile_label(classes)
            if label is None:
                continue
            name = f"{picture.stem.split('_')[0]}_{left}_{top}.png"
            (out / label).mkdir(parents=True, exist_ok=True)
            box = (left, top, left + BREAST_TILE_PX, top + BREAST_TILE_PX)
            field.crop(box).save(out / label / name)
            yield {
                "slide": f"{out.name}/{label}/{name}",
                "patient": picture.name[:12],
                "organ": "breast",
                "stain": "H&E",
                "dataset": "brca_m2c",
                "tumour_share": f"{(classes == 1).mean():.4f}",
            }


def cut_breast(data: Path, out: Path) -> list[Row]:
    """Cut all fields of BRCA-M2C below the data folder; `out` is the folder of the tiles."""
    folder = data / "tiles" / "brca_m2c"
    rows: list[Row] = []
    for picture in sorted((folder / "images").glob("*.png")):
        cells = read_cells(next((folder / "labels").glob(f"{picture.stem}*.txt")))
        rows.extend(cut_field(picture, cells, out))
    return rows
