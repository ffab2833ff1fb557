"""What a selection did: tiles before and after, per condition and per group, for people and JSON.

Counts are tiles of all resolutions together. Patients are those that entries name; what packed
stores know of single pictures is not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from manifests.files import Json
from manifests.listing import Column, Listing
from manifests.model import Manifest


@dataclass(frozen=True, slots=True)
class StepCount:
    """A condition, a split, or a draw, and what it did."""

    name: str
    """The condition as it was written, or the option."""
    tiles: int
    """Tiles that it was asked about."""
    passed: int
    """Tiles among them that pass it, whatever the other steps say."""
    undecided: int
    """Tiles among them for which it cannot be decided, as a value is not known."""
    left: int
    """Tiles that pass it and all steps before it."""
    there: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Where no tile passes: the texts that the manifest has for the names in a condition."""


@dataclass(frozen=True, slots=True)
class Totals:
    """How much there is."""

    stores: int
    patients: int
    tiles: int


@dataclass(frozen=True, slots=True)
class GroupCount:
    """The tiles of one stain and organ; None: not known."""

    stain: str | None
    organ: str | None
    before: Totals
    after: Totals


@dataclass(frozen=True, slots=True)
class Selected:
    """A selection, and how it came about."""

    manifest: Manifest
    """The entries that still have tiles, each with its selection. Its root is that of the manifest
    that was selected from."""
    before: Totals
    after: Totals
    steps: tuple[StepCount, ...]
    """In the order in which they were applied: conditions that the manifest alone decides first."""
    groups: tuple[GroupCount, ...]
    """By stain, then by organ."""
    missing: Mapping[str, int]
    """Columns that were asked for → stores without them."""
    notes: tuple[str, ...]
    """What somebody should know, as sentences."""


def selected_json(selected: Selected) -> Json:
    """The counts for programs."""
    return {
        "before": asdict(selected.before),
        "after": asdict(selected.after),
        "steps": [asdict(step) for step in selected.steps],
        "groups": [asdict(group) for group in selected.groups],
        "missing_columns": dict(sorted(selected.missing.items())),
        "notes": list(selected.notes),
    }


def step_listing(selected: Selected) -> Listing:
    """What each step did, in order."""
    columns = (
        Column("step", f"{selected.before.tiles:,} tiles before"),
        Column("tiles asked", number=True),
        Column("pass", number=True),
        Column("not known", number=True),
        Column("left", f"{selected.after.tiles:,}", number=True),
    )
    return Listing(
        columns,
        [
            (s.name, *(f"{count:,}" for count in (s.tiles, s.passed, s.undecided, s.left)))
            for s in selected.steps
        ],
    )


def group_listing(selected: Selected) -> Listing:
    """Each stain and organ before and after, and the totals."""
    before, after = selected.before, selected.after
    columns = (
        Column("stain", "in all"),
        Column("organ"),
        Column("stores", _change(before.stores, after.stores), number=True),
        Column("patients", _change(before.patients, after.patients), number=True),
        Column("tiles", _change(before.tiles, after.tiles), number=True),
    )
    rows = [
        (
            group.stain or "unknown",
            group.organ or "unknown",
            _change(group.before.stores, group.after.stores),
            _change(group.before.patients, group.after.patients),
            _change(group.before.tiles, group.after.tiles),
        )
        for group in selected.groups
    ]
    return Listing(columns, rows)


def _change(before: int, after: int) -> str:
    return f"{before:,} → {after:,}"
