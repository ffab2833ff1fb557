"""`histotile manifest duplicates`: what is in a set twice, and the set without it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manifests.cli.arguments import JSON, MANIFEST, OUTPUT_IF_WRITTEN
from manifests.console import exit_codes, without_blas_threads

if TYPE_CHECKING:
    from rich.table import Table

    from manifests.files import Json
    from manifests.likeness.duplicates import DuplicateGroup, Duplicates, Kept

_MOST_SHOWN = 20


@click.command()
@MANIFEST
@click.option("--exact", is_flag=True, help="Only equal fingerprints and equal bytes.")
@click.option("--near", is_flag=True, help="Only what looks the same without being equal.")
@click.option("--slides", is_flag=True, help="Only slides.")
@click.option("--tiles", is_flag=True, help="Only tiles.")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="SIMILARITY",
    help="Least similarity of what looks the same, up to 1. Default: 0.35 for tiles, 0.75 for "
    "slides. Higher finds fewer and surer ones.",
)
@click.option(
    "--drop", is_flag=True, help="Write a manifest that keeps one of each group: needs -o."
)
@OUTPUT_IF_WRITTEN
@JSON
@exit_codes()
def duplicates(manifest_path: Path, **options: Any) -> None:
    """Find slides and tiles that are in MANIFEST more than once.

    Equal: one fingerprint (slides), the same bytes (tiles). Near: what looks the same although it
    was encoded anew, rescaled, mirrored, turned by any angle, enlarged up to 1.7 times, or is
    somewhat brighter. MANIFEST is a manifest.json or the folder that holds one. Duplicates are no
    error: the exit code is 0 with and without them.
    """
    if options["drop"] != (options["out"] is not None):
        raise click.UsageError("--drop and -o FILE need each other.")
    without_blas_threads()
    from manifests.console import Display, print_table
    from manifests.files import pretty_json
    from manifests.jsonfile import load_manifest
    from manifests.likeness.duplicates import drop_duplicates, find_duplicates
    from manifests.placing import Destination, rebase

    destination = Destination(options["out"]) if options["drop"] else None
    manifest = load_manifest(manifest_path)
    if destination is not None:
        rebase(manifest, destination.path.parent)  # before the long search, not after it
    kinds = {"exact": options["exact"], "near": options["near"]}
    things = {"slides": options["slides"], "tiles": options["tiles"]}
    with Display("done") as display:
        found = find_duplicates(
            manifest,
            **_chosen(kinds),
            **_chosen(things),
            threshold=options["threshold"],
            display=display,
        )
    kept = None
    if destination is not None:
        kept = drop_duplicates(manifest, found.groups)
        destination.save(kept.manifest)
    if options["as_json"]:
        click.echo(pretty_json(_to_json(found, kept)).decode(), nl=False)
    elif found.groups:
        print_table(_table(found.groups))
    for line in [*_counted(found), *([] if kept is None else _dropped(kept, options["out"]))]:
        click.echo(line, err=True)


def _chosen(flags: dict[str, bool]) -> dict[str, bool]:
    """No flag and all flags mean the same."""
    return flags if any(flags.values()) else dict.fromkeys(flags, True)


def _table(groups: tuple[DuplicateGroup, ...]) -> Table:
    """The largest groups first, with how many members each entry has."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from manifests.console import printable

    ordered = sorted(groups, key=lambda group: -len(group.members))
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("kind")
    table.add_column("members", justify="right")
    table.add_column("similarity", justify="right")
    table.add_column("where", overflow="fold")
    for group in ordered[:_MOST_SHOWN]:
        similarity = "exact" if group.exact else f"{group.similarity:.3f}"
        cells = group.kind, f"{len(group.members):,}", similarity, printable(_where(group))
        table.add_row(*map(Text, cells))
    return table


def _where(group: DuplicateGroup) -> str:
    if group.kind == "slide":
        return ", ".join(member.entry for member in group.members)
    counts = Counter((member.entry, member.group) for member in group.members)
    found = []
    for (entry, resolution), count in counts.items():
        tiles = [m.tile for m in group.members if (m.entry, m.group) == (entry, resolution)]
        shown = ", ".join(map(str, tiles[:4])) + (", …" if count > 4 else "")
        found.append(f"{entry} {resolution}: {shown}" + (f" ({count:,})" if count > 4 else ""))
    return "; ".join(found)


def _counted(found: Duplicates) -> list[str]:
    """What was found and what was not looked at, a sentence each."""
    lines = []
    if len(found.groups) > _MOST_SHOWN:
        lines.append(f"{_MOST_SHOWN} of {len(found.groups):,} groups are shown; --json has all.")
    for kind, looked_at in (("slide", found.slides), ("tile", found.tiles)):
        groups = [group for group in found.groups if group.kind == kind]
        surplus = sum(len(group.members) - 1 for group in groups)
        if looked_at:
            lines.append(
                f"{_so_many(looked_at, kind)}: {_so_many(len(groups), 'group')} of duplicates, "
                f"{_so_many(surplus, kind)} more than needed."
            )
    if found.blank:
        lines.append(
            f"Too blank to be told apart, and in no group: {_so_many(found.blank, 'tile')}."
        )
    if found.unpictured:
        lines.append(
            f"Without a thumbnail that shows tissue, as packed stores are: "
            f"{_so_many(found.unpictured, 'slide')}; only fingerprints were compared."
        )
    if found.passed_over:
        lines.append(
            f"So like many others that not all of these were compared with them: "
            f"{found.passed_over:,} slides or tiles."
        )
    return lines


def _so_many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _dropped(kept: Kept, out: Path) -> list[str]:
    lines = [f"{name}: left out, the same slide is there already" for name in kept.entries]
    lines += [f"{name}: {_so_many(count, 'tile')} dropped" for name, count in kept.tiles.items()]
    slides = _so_many(len(kept.entries), "slide")
    tiles = _so_many(sum(kept.tiles.values()), "tile")
    return [*lines, f"{slides} and {tiles} dropped; wrote {out.name}."]


def _to_json(found: Duplicates, kept: Kept | None) -> Json:
    from dataclasses import asdict

    def members(group: DuplicateGroup) -> Json:
        return [
            {key: value for key, value in asdict(member).items() if value is not None}
            for member in group.members
        ]

    counts = {
        name: getattr(found, name)
        for name in ("slides", "tiles", "blank", "unpictured", "passed_over")
    }
    groups = [
        {
            "kind": group.kind,
            "exact": group.exact,
            "similarity": group.similarity,
            "members": members(group),
        }
        for group in found.groups
    ]
    dropped = None if kept is None else {"slides": list(kept.entries), "tiles": dict(kept.tiles)}
    return {"groups": groups, "looked_at": counts, "dropped": dropped}
