"""The page of `manifest summary --html`: totals, charts, and a few tiles of each group.

Pictures are chosen by hashes of the stores' identities, so that the same set gives the same page;
they are JPEG of at most 128 px in the page itself, which needs no network and no script. Tiles that
were not selected, that could not be read from the slide, or that are mostly glass, are not shown.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from manifests.codec import Rgb, encode_jpeg
from manifests.describe.composition import Composition, composition_listing, notes, value_text
from manifests.describe.groups import Group, Part, group_parts
from manifests.errors import HistotileError
from manifests.files import sha256, write_atomic
from manifests.listing import Listing, many, one_line
from manifests.model import Manifest
from manifests.store import TileGroup, open_store

if TYPE_CHECKING:
    from manifests.console import Display

_TEMPLATE = "summary.html.j2"
_SIDE = 128
_QUALITY = 82
_LEAST_TISSUE = 0.5
_LARGEST_TILE = 4096
_TRIES_PER_PICTURE = 2
_MOST_STRIPS = 60
_MOST_ROWS = 400
_MOST_BARS = 10
_MOST_NAMED = 20
_CHARTS = ("organ", "stain", "dataset", "mpp")


@dataclass(frozen=True, slots=True)
class Picture:
    """A tile on the page."""

    caption: str
    """Slide, tile and resolution."""
    jpeg: str
    """A JPEG of at most 128 px, in base64."""


@dataclass(frozen=True, slots=True)
class Strip:
    """The pictures of a group."""

    title: str
    counts: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of a chart."""

    name: str
    tiles: str
    percent: float
    """Length, of the longest bar of the chart."""
    known: bool = True
    """Whether it stands for something known."""


@dataclass(slots=True)
class _Stores:
    """The stores that were looked into, and why some of them could not be read."""

    manifest: Manifest
    tried: set[str] = field(default_factory=set)
    unreadable: dict[str, str] = field(default_factory=dict)
    """Reasons by id of the entry."""

    def open(self, part: Part) -> _Source | None:
        """A part's tiles to show; None if its store cannot be read."""
        name = part.entry.id
        self.tried.add(name)
        if name in self.unreadable:
            return None
        try:
            store = open_store(self.manifest, part.entry)
            group = store[part.resolution.group]
            return _Source(part, group, presentable(group, part))
        except _UNREADABLE as error:
            self.unreadable[name] = str(error)
            return None

    def read(self, source: _Source, tile: int) -> Picture | None:
        """A tile as a picture; None if it cannot be read."""
        try:
            return Picture(_caption(source, tile), _thumbnail(source.group.read(tile)))
        except _UNREADABLE as error:
            self.unreadable[source.part.entry.id] = str(error)
            return None


# A store that was made by hand may be wrong in any way; the page is to be written all the same.
_UNREADABLE = (
    *(HistotileError, OSError, LookupError, TypeError, ValueError),
    *(AttributeError, ArithmeticError),
)


@dataclass(frozen=True, slots=True)
class _Source:
    """An open part of a group, and its tiles that may be shown."""

    part: Part
    group: TileGroup
    tiles: npt.NDArray[np.int64]


def write_page(
    manifest: Manifest, found: Composition, file: Path, per_group: int, display: Display
) -> None:
    """Write the page; a store that cannot be read is a line in it and on stderr, no failure.

    Args:
        per_group: pictures of each group; 0 opens no store.

    Raises:
        OSError: the file cannot be written; an older one is then untouched.
    """
    stores = _Stores(manifest)
    strips = []
    shown = [group for group in found.groups if group.tiles][: _MOST_STRIPS if per_group else 0]
    for number, group in enumerate(shown):
        display.update(_title(found.fields, group), number, len(shown))
        strips.append(_strip(found.fields, group, _pictures(group, per_group, stores)))
    unreadable = sorted(stores.unreadable.items())
    for name, reason in unreadable[:_MOST_NAMED]:
        display.say(f"No pictures of {name}: {reason}")
    if len(unreadable) > _MOST_NAMED:
        display.say(f"No pictures of {len(unreadable) - _MOST_NAMED:,} more stores")
    write_atomic(file, page_html(found, strips, _problems(stores), file.stem).encode())


def page_html(
    found: Composition, strips: Sequence[Strip], problems: Sequence[str], name: str
) -> str:
    """The page as HTML; everything that a manifest says is escaped.

    Args:
        name: what the page is about, above its headline.
    """
    from importlib.resources import files

    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    listing = composition_listing(found)
    return environment.from_string(
        files("manifests.describe").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    ).render(
        name=one_line(name),
        headline=_headline(found.totals),
        facts=_facts(found, listing),
        charts=[(title, bars) for title, bars in _charts(found) if bars],
        listing=listing,
        rows=listing.rows[:_MOST_ROWS],
        more_rows=f"{max(len(listing.rows) - _MOST_ROWS, 0):,}",
        strips=strips,
        more_strips=f"{max(sum(g.tiles > 0 for g in found.groups) - len(strips), 0):,}",
        problems=[one_line(problem) for problem in problems],
        notes=notes(found),
    )


def presentable(group: TileGroup, part: Part) -> npt.NDArray[np.int64]:
    """Indices of a part's tiles that may be shown, ascending.

    Those that are meant and were read whole from the slide, and of them those with at least half
    of their area on tissue, if there are any.
    """
    if group.tile_size > _LARGEST_TILE:
        return np.empty(0, dtype=np.int64)
    usable = group.usable()
    if part.members is not None:
        usable = usable[part.members.mask(len(group))[usable]]
    if "tissue" in group.columns:
        good = usable[group.column("tissue")[usable] >= _LEAST_TISSUE]
        return good if len(good) else usable
    return usable


def _pictures(group: Group, count: int, stores: _Stores) -> tuple[Picture, ...]:
    """At most `count` pictures of a group, of as many slides as there are."""
    sources: list[_Source] = []
    for part in _order(group.parts)[: count * _TRIES_PER_PICTURE]:
        source = stores.open(part)
        if source is not None and len(source.tiles):
            sources.append(source)
        if len(sources) == count:
            break
    quotas = share(count, [len(source.tiles) for source in sources])
    read = (
        stores.read(source, tile)
        for source, quota in zip(sources, quotas, strict=True)
        for tile in spread(source.tiles, quota)
    )
    return tuple(picture for picture in read if picture is not None)


def _order(parts: Iterable[Part]) -> list[Part]:
    """Parts of all slides first, then the second part of each; slides in the order of a hash."""
    seen: dict[str, int] = {}
    ranked = []
    for part in parts:
        if part.tiles and not part.entry.is_remote:
            rank = seen[part.entry.id] = seen.get(part.entry.id, -1) + 1
            ranked.append((rank, sha256(f"{part.entry.uuid}".encode()), part.entry.id, part))
    return [part for *_, part in sorted(ranked, key=lambda item: item[:3])]


def share(count: int, available: Sequence[int]) -> list[int]:
    """How many of `count` things to take from each heap: as evenly as the heaps allow."""
    taken = [0] * len(available)
    while sum(taken) < min(count, sum(available)):
        place = min(
            (i for i, most in enumerate(available) if taken[i] < most), key=lambda i: taken[i]
        )
        taken[place] += 1
    return taken


def spread(tiles: npt.NDArray[np.int64], count: int) -> list[int]:
    """`count` of some tiles, evenly spaced: the middle of each of `count` equal stretches."""
    return [int(tiles[(2 * place + 1) * len(tiles) // (2 * count)]) for place in range(count)]


def _thumbnail(pixels: Rgb) -> str:
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return base64.b64encode(encode_jpeg(np.asarray(picture), _QUALITY, "420")).decode()


def _caption(source: _Source, tile: int) -> str:
    entry, resolution = source.part.entry, source.part.resolution
    words = [entry.id, f"tile {tile}", f"{resolution.mpp[0]:.4g} µm/px"]
    if entry.labels and "label" in source.group.columns:
        label = int(source.group.column("label")[tile])
        words += [entry.labels[label]] if 0 <= label < len(entry.labels) else []
    return one_line(", ".join(words))


def _strip(fields: Sequence[str], group: Group, pictures: tuple[Picture, ...]) -> Strip:
    return Strip(_title(fields, group), _counted(group), pictures)


def _title(fields: Sequence[str], group: Group) -> str:
    units = {"mpp": " µm/px", "tile_size": " px"}
    named = zip(fields, group.key, strict=True)
    known = [value_text(value) + units.get(name, "") for name, value in named if value is not None]
    return " · ".join(known) or "nothing known"


def _headline(totals: Group) -> str:
    return f"{totals.tiles:,} tiles from {_counted(totals, tiles=False)}"


def _counted(group: Group, *, tiles: bool = True) -> str:
    """What a group counts, in words."""
    counts = (
        (group.tiles if tiles else 0, "tile"),
        (group.slides, "slide"),
        (group.packed, "packed store"),
    )
    words = [many(number, what) for number, what in counts if number]
    return ", ".join(words) if tiles else " and ".join(words) or "no slide"


def _facts(found: Composition, listing: Listing) -> list[tuple[str, str]]:
    """The counts at the top of the page: those of the whole set, and of distinct values."""
    totals, size = found.totals, listing.columns[-1]
    counts = [
        ("slides", totals.slides),
        ("packed stores", totals.packed),
        ("patients", totals.patients),
        ("tiles", totals.tiles),
    ]
    distinct = []
    for name in ("organ", "stain", "dataset"):
        values = {getattr(part.entry, name) for part in totals.parts if part.tiles} - {None}
        distinct.append((f"{name}s", len(values)))
    return [
        *((name, f"{count:,}") for name, count in counts if count),
        ("on disk", f"{size.total} {size.name}"),
        *((name, f"{count:,}") for name, count in distinct if count),
    ]


def _charts(found: Composition) -> Iterator[tuple[str, list[Bar]]]:
    for name in _CHARTS:
        groups = group_parts(found.totals.parts, [name])
        known = any(group.key[0] is not None for group in groups)
        title = "resolution" if name == "mpp" else name
        yield f"Tiles per {title}", _bars(name, groups) if known else []


def _bars(name: str, groups: Sequence[Group]) -> list[Bar]:
    shown, rest = [*groups[:_MOST_BARS]], groups[_MOST_BARS:]
    if name == "mpp":
        shown.sort(key=lambda group: group.mpp)
    most = max(1, *(group.tiles for group in groups), sum(group.tiles for group in rest))

    def bar(text: str, tiles: int, *, known: bool) -> Bar:
        return Bar(text, f"{tiles:,}", round(100 * tiles / most, 2), known)

    bars = [
        bar(_title([name], group), group.tiles, known=True)
        if group.key[0] is not None
        else bar("not known", group.tiles, known=False)
        for group in shown
    ]
    others = sum(group.tiles for group in rest)
    return [*bars, *([bar(f"{len(rest):,} more", others, known=False)] if rest else [])]


def _problems(stores: _Stores) -> list[str]:
    """What the page says of stores without pictures; reasons name folders, so stderr has them."""
    problems = []
    if stores.unreadable:
        names = sorted(stores.unreadable)
        more = len(names) - _MOST_NAMED
        listed = ", ".join(names[:_MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")
        problems.append(
            f"{len(names):,} of the {many(len(stores.tried), 'store')} opened for pictures could "
            f"not be read: {listed}. histotile manifest verify says why."
        )
    remote = sum(entry.is_remote for entry in stores.manifest.committed())
    if remote:
        problems.append(f"No pictures of {many(remote, 'store')} behind URLs.")
    return problems
