"""The slides table: what people know of their slides, one CSV row per slide or picture.

The column that names the slide is `slide`, `file`, `path`, `filename` or `image`; its values are
file names, or paths of which the last parts are enough, with or without the suffix. `mpp` (µm per
level-0 pixel), `id`, `roi` and the curated fields are understood, in upper or lower case; other
columns are kept as they are.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from manifests.errors import TableError
from manifests.model import CURATED_FIELDS

KEY_COLUMNS = ("slide", "file", "path", "filename", "image")
_KNOWN = (*CURATED_FIELDS, "id", "mpp", "roi")


@dataclass(frozen=True, slots=True)
class Row:
    """What the table says of one slide."""

    key: str
    """How the table names the slide."""
    id: str | None = None
    mpp: float | None = None
    roi: str | None = None
    """GeoJSON file, relative to the table."""
    curated: Mapping[str, str] = field(default_factory=dict)
    """Organ, stain, dataset, ...: the non-empty ones of `CURATED_FIELDS`."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """All other non-empty columns."""

    @property
    def name(self) -> str:
        """The last part of the key: the name of a file or folder, with or without its suffix."""
        return _parts(self.key)[-1]

    def value(self, column: str) -> str | None:
        """A value by the name of its column, known or not."""
        return self.curated.get(_column(column)) or self.columns.get(column)


class SlidesTable:
    """Rows of a slides table, found by the path of a slide."""

    def __init__(
        self, rows: Sequence[Row], folder: Path = Path(), file: Path | None = None
    ) -> None:
        self.folder = folder
        """Folder that paths in the table are relative to."""
        self.file = file
        """The table itself, which may lie among the slides."""
        self._by_name: dict[str, list[Row]] = {}
        self._used: set[str] = set()
        self._rows = list(rows)
        for row in rows:
            self._by_name.setdefault(row.name, []).append(row)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows, in the order of the table."""
        return tuple(self._rows)

    def find(self, path: Path) -> Row | None:
        """The row of a slide: the one whose name agrees with most of the path's last parts.

        Of rows that agree with as many parts, the one that spells most of the file's name out wins,
        so that `case1` and `case1.2` name two slides.

        Raises:
            TableError: two rows agree equally well.
        """
        name = path.name
        place = Path(os.path.abspath(path))  # noqa: PTH100 - links are not to be followed
        fitting = [
            ((len(_parts(row.key)), len(stem)), row)
            for stem in file_stems(name)
            for row in self._by_name.get(stem, ())
            if _ends_with(place, _parts(row.key))
        ]
        if not fitting:
            return None
        closest = max(agreement for agreement, _ in fitting)
        best = [row for agreement, row in fitting if agreement == closest]
        if len(best) > 1:
            keys = " and ".join(repr(row.key) for row in best)
            raise TableError(f"the slides table names {name} twice, as {keys}; keep one row")
        self._used.add(best[0].key)
        return best[0]

    def unused(self) -> list[str]:
        """Names of rows that no slide was found for."""
        return [row.key for row in self._rows if row.key not in self._used]


def load_table(path: Path, key_columns: Sequence[str] = KEY_COLUMNS) -> SlidesTable:
    """Read a slides table.

    Args:
        key_columns: columns that may name the slide; the first that the table has counts.

    Raises:
        TableError: no such file, no column that names the slide, two columns of one name, two rows
            for one slide, or an mpp that is not a positive number; the message names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = [_column(name.strip()) for name in reader.fieldnames or ()]
            reader.fieldnames = header
            lines = [(reader.line_num, raw) for raw in reader]
    except UnicodeDecodeError as error:
        raise TableError(
            f"the slides table {path.name} cannot be read: it is not UTF-8; save it as CSV UTF-8"
        ) from error
    except (OSError, csv.Error) as error:
        raise TableError(f"the slides table {path.name} cannot be read ({error})") from error
    key_column = next((name for name in key_columns if name in header), None)
    if key_column is None:
        split = "; separate the columns by commas" if re.search(r"[;\t]", "".join(header)) else ""
        raise TableError(
            f"the slides table {path.name} has the columns {', '.join(header) or 'none'}; "
            f"one of {', '.join(key_columns)} must name the slide{split}"
        )
    doubled = [name for name, count in Counter(header).items() if name and count > 1]
    if doubled:
        raise TableError(
            f"the slides table {path.name} has two columns named {doubled[0]}; keep one"
        )
    rows = [_row(raw, key_column, f"{path.name}, line {number}") for number, raw in lines]
    keys = [row.key for row in rows]
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise TableError(f"the slides table {path.name} has two rows for {twice!r}; keep one")
    return SlidesTable(rows, path.parent, path)


def _column(name: str) -> str:
    """The name of a column; those that are understood are so in upper case, too."""
    understood = name.lower()
    return understood if understood in (*KEY_COLUMNS, *_KNOWN) else name


def _row(raw: Mapping[str | None, str | list[str] | None], key_column: str, where: str) -> Row:
    if None in raw:
        raise TableError(f"{where}: more values than columns; quote values that contain commas")
    cells = {str(k): v.strip() for k, v in raw.items() if isinstance(v, str) and v.strip()}
    if key_column not in cells:
        raise TableError(f"{where}: the column {key_column} is empty; it must name the slide")
    return Row(
        key=cells[key_column],
        id=cells.get("id"),
        mpp=_number(cells.get("mpp"), where),
        roi=cells.get("roi"),
        curated={name: cells[name] for name in CURATED_FIELDS if name in cells},
        columns={k: v for k, v in cells.items() if k not in ("", *_KNOWN, key_column)},
    )


def _number(text: str | None, where: str) -> float | None:
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise TableError(f"{where}: the mpp {text!r} is not a number of µm per pixel")
    return number


def _parts(key: str) -> tuple[str, ...]:
    return PurePosixPath(key.replace("\\", "/")).parts or ("",)


def file_stems(name: str) -> list[str]:
    """What may stand for a file: its name, whole and without its last one or two suffixes."""
    suffixes = Path(name).suffixes
    cut = ["".join(suffixes[-n:]) for n in (1, 2) if len(suffixes) >= n]
    return list(dict.fromkeys([name, *(name.removesuffix(suffix) for suffix in cut)]))


def _ends_with(path: Path, key: tuple[str, ...]) -> bool:
    *folders, _ = key
    return not folders or tuple(path.parts[-1 - len(folders) : -1]) == tuple(folders)
