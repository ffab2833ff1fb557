"""Tables written for other programs: CSV and Parquet, each file whole or not there.

CSV follows RFC 4180 with plain newlines, in UTF-8: a header, lists joined by `;`, an empty cell for
what is not known, floats with as many digits as tell them apart. Parquet holds the same columns
with their types. Rows are written as they are read, so memory does not grow with the set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from manifests.errors import EXIT_USAGE, HistotileError
from manifests.exports.tables import Block, Cells, Coded, Column, Table
from manifests.files import atomic_file
from manifests.listing import csv_lines

if TYPE_CHECKING:
    import pyarrow

Progress = Callable[[int], None]
"""Is told how many rows were written so far."""

_CSV_ROWS = 1 << 16
_ROW_GROUP_ROWS = 1 << 17
"""Rows that are gathered for a row group, which holds whole stores; larger stores make several."""


class MissingExtra(HistotileError):
    """A library that only an extra of histotile brings is not installed."""

    exit_code = EXIT_USAGE


def write_csv(table: Table, file: Path, progress: Progress | None = None) -> int:
    """Write a table as CSV and return the number of rows.

    Values are written as they are: a text that begins with `=` is a formula to spreadsheet
    programs, so import such files as text.

    Raises:
        OSError: the disk is full, read-only, ...; a file that was there is then untouched.
    """
    rows = 0
    with atomic_file(file) as stream:
        stream.write(csv_lines([[column.name for column in table.columns]]).encode())
        for block in table.blocks:
            cells = [_csv_cells(block.cells[column.name], block.rows) for column in table.columns]
            for start in range(0, block.rows, _CSV_ROWS):
                part = [column[start : start + _CSV_ROWS] for column in cells]
                stream.write(csv_lines(list(zip(*part, strict=True))).encode())
            rows += block.rows
            if progress is not None:
                progress(rows)
    return rows


def write_parquet(table: Table, file: Path, progress: Progress | None = None) -> int:
    """Write a table as Parquet (zstd) and return the number of rows.

    Raises:
        MissingExtra: pyarrow is not installed.
        OSError: the disk is full, read-only, ...; a file that was there is then untouched.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtra(
            "Parquet needs pyarrow: install it with `pip install 'histotile[parquet]'`"
        ) from error
    schema = pyarrow.schema([(column.name, _arrow_type(column.kind)) for column in table.columns])
    rows = 0
    with (
        atomic_file(file) as stream,
        parquet.ParquetWriter(stream, schema, compression="zstd") as writer,
    ):
        for part in _row_groups(table, schema):
            writer.write_table(part, row_group_size=_ROW_GROUP_ROWS)
            rows += part.num_rows
            if progress is not None:
                progress(rows)
    return rows


def _csv_cells(cells: Cells, rows: int) -> list[Any]:
    if cells is None:
        return [""] * rows
    if isinstance(cells, Coded):
        # The last one is what the index -1 stands for.
        names = np.array([*cells.names, ""], dtype=object)
        return list(names[cells.codes])
    if isinstance(cells, list):
        return [_csv_cell(value) for value in cells]
    if cells.dtype == np.bool_:
        cells = np.where(cells, "true", "false")
    elif cells.dtype.kind == "f":
        # numpy writes a float32 with the digits of one, Python with those of a float64.
        cells = cells.astype("U")
    found: list[Any] = cells.tolist()
    return found


def _csv_cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ";".join(map(str, value)) if isinstance(value, list) else value


def _row_groups(table: Table, schema: pyarrow.Schema) -> Iterator[pyarrow.Table]:
    """The blocks, joined until there are enough rows for a row group."""
    import pyarrow

    waiting: list[pyarrow.Table] = []
    for block in table.blocks:
        arrays = [_arrow(block, column) for column in table.columns]
        waiting.append(pyarrow.Table.from_arrays(arrays, schema=schema))
        if sum(part.num_rows for part in waiting) >= _ROW_GROUP_ROWS:
            yield pyarrow.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pyarrow.concat_tables(waiting)


def _arrow(block: Block, column: Column) -> pyarrow.Array:
    import pyarrow

    cells, kind = block.cells[column.name], _arrow_type(column.kind)
    if cells is None:
        return pyarrow.nulls(block.rows, kind)
    if isinstance(cells, Coded):
        codes = pyarrow.array(cells.codes, mask=cells.codes < 0)
        return pyarrow.array(cells.names, kind).take(codes)
    return pyarrow.array(cells, kind)


def _arrow_type(kind: str) -> pyarrow.DataType:
    import pyarrow

    inner = kind.removeprefix("list<").removesuffix(">")
    found = pyarrow.type_for_alias({"float64": "double", "float32": "float"}.get(inner, inner))
    return found if inner == kind else pyarrow.list_(found)
