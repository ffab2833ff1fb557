"""Rows of text for people and for spreadsheets: tables on stdout, and CSV.

A table that fits on a few screens is laid out by rich. A long one is written line by line in
aligned columns, since laying out 30,000 rows takes rich 20 seconds; nothing is cut or folded there.
Widths are cells of a terminal.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from manifests.console import print_table, printable
from manifests.files import Json

if TYPE_CHECKING:
    from rich.table import Table

_MOST_RICH_ROWS = 300


@dataclass(frozen=True, slots=True)
class Column:
    """How a column is called, and how its cells stand."""

    name: str
    total: str = ""
    """What stands below the last row."""
    number: bool = False
    """Whether the cells are numbers: to the right, and never folded."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A table of text, a line of totals below it."""

    columns: tuple[Column, ...]
    rows: Sequence[tuple[str, ...]]
    """A cell per column."""


def print_listing(listing: Listing) -> None:
    """Print the table on stdout, through rich where it is short."""
    if len(listing.rows) <= _MOST_RICH_ROWS:
        print_table(rich_table(listing))
    else:
        sys.stdout.writelines(f"{line}\n" for line in plain_lines(listing))


def rich_table(listing: Listing) -> Table:
    """The table as rich lays it out; long cells are folded, never cut."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, show_footer=True, pad_edge=False)
    for column in listing.columns:
        table.add_column(
            Text(one_line(column.name)),
            Text(one_line(column.total)),
            justify="right" if column.number else "left",
            no_wrap=column.number,
            overflow="fold",
        )
    for row in listing.rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))
    return table


def plain_lines(listing: Listing) -> Iterator[str]:
    """The table line by line, every column as wide as its widest cell."""
    head = [one_line(column.name) for column in listing.columns]
    foot = [one_line(column.total) for column in listing.columns]
    rows = [[one_line(cell) for cell in row] for row in listing.rows]
    widths = [max(map(_width, cells)) for cells in zip(head, foot, *rows, strict=True)]
    rule = " " + "─" * (sum(widths) + 3 * (len(widths) - 1))
    layout = [*zip(widths, (column.number for column in listing.columns), strict=True)]
    yield _line(head, layout)
    yield rule
    for row in rows:
        yield _line(row, layout)
    yield rule
    yield _line(foot, layout)


def _line(cells: Sequence[str], layout: Sequence[tuple[int, bool]]) -> str:
    parts = []
    for cell, (width, number) in zip(cells, layout, strict=True):
        gap = " " * (width - _width(cell))
        parts.append(gap + cell if number else cell + gap)
    return (" " + "   ".join(parts)).rstrip()


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def one_line(text: str) -> str:
    """The text on one line, control characters written out."""
    return text if text.isprintable() else printable(text).replace("\n", " ")


def many(count: int, one: str, several: str | None = None) -> str:
    """A count and its noun: `1 tile`, `2,000 tiles`."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Json]]) -> str:
    """CSV (RFC 4180, but with plain newlines): a header and a line per row; None is empty."""
    return csv_lines([header, *rows])


def csv_lines(rows: Sequence[Sequence[Json]]) -> str:
    """Rows as lines of CSV; values are exact, whatever they hold."""
    text = _written(rows, csv.QUOTE_MINIMAL)
    # Python 3.11 and 3.12 leave a carriage return unquoted, and readers take it for a new row.
    return _written(rows, csv.QUOTE_ALL) if "\r" in text else text


def _written(rows: Sequence[Sequence[Json]], quoting: Literal[0, 1]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n", quoting=quoting).writerows(rows)
    return out.getvalue()


__all__ = [
    "Column",
    "Listing",
    "csv_lines",
    "csv_text",
    "many",
    "one_line",
    "plain_lines",
    "print_listing",
    "rich_table",
]
