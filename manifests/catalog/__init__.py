"""The catalogue of public histopathology datasets: what is known of each, and from where.

The data are `datasets.toml` beside this module. Only facts with a source are in it; whatever is
unknown is absent. Resolutions are µm per pixel, and never derived from a magnification.
"""

from __future__ import annotations

import difflib
import functools
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

KINDS = ("wsi", "patch", "roi")
"""Whole slides, ready-made pictures, regions of slides."""

PAPER = ("confirmed", "possible", "excluded", "unknown")
"""Whether arXiv 2011.13971 used a set: seen, possible by its date, published later, not known."""

_LISTS = {"aliases", "organ", "stain", "kind"}
_LEAST_LIKENESS = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """One public dataset. None and empty tuples mean: not known."""

    name: str
    aliases: tuple[str, ...] = ()
    organ: tuple[str, ...] = ()
    """Canonical names of all organs of the set; empty if the source does not name them all."""
    organ_stated: str | None = None
    """The source's words, where `organ` does not say it all."""
    stain: tuple[str, ...] = ()
    stain_stated: str | None = None
    kind: tuple[str, ...] = ()
    """Some of `KINDS`."""
    kind_stated: str | None = None
    size: str | None = None
    """In the source's words."""
    magnification: str | None = None
    """Nominal, in the source's words; says nothing exact of µm per pixel."""
    mpp: float | None = None
    """µm per pixel of the pictures that carry none, where a source states it."""
    scanner: str | None = None
    year: int | None = None
    url: str | None = None
    """Where to get it, or to ask for it."""
    license: str | None = None
    """SPDX identifier, or the terms in a few words."""
    note: str | None = None
    paper: str
    """One of `PAPER`."""
    paper_reason: str
    sources: Mapping[str, str]
    """Where the facts come from: `list` for all that has no key of its own, which is a field."""

    def __post_init__(self) -> None:
        if self.paper not in PAPER or not set(self.kind) <= set(KINDS):
            raise ValueError(f"{self.name}: paper is one of {PAPER}, kind some of {KINDS}")
        own = [name for name in ("mpp", "license") if getattr(self, name) is not None]
        for name in ("list", *own):
            if name not in self.sources:
                raise ValueError(f"{self.name}: sources.{name} is missing")


@functools.cache
def load_catalog() -> tuple[Dataset, ...]:
    """All datasets, sorted by name, upper case like lower."""
    with Path(__file__).with_name("datasets.toml").open("rb") as file:
        data = tomllib.load(file)
    found = [_dataset(name, values) for name, values in data.items()]
    return tuple(sorted(found, key=lambda dataset: (dataset.name.casefold(), dataset.name)))


def find_dataset(name: str) -> Dataset | None:
    """The dataset of that name or alias; letter case, spaces, hyphens and underscores are one."""
    return _index().get(_key(name))


def nearest_dataset(name: str) -> Dataset | None:
    """The dataset whose name or alias is most like `name`; None if none is like it (`difflib`)."""
    found = difflib.get_close_matches(_key(name), sorted(_index()), n=1, cutoff=_LEAST_LIKENESS)
    return _index()[found[0]] if found else None


def filter_datasets(
    datasets: Iterable[Dataset],
    organ: str | None = None,
    stain: str | None = None,
    kind: str | None = None,
) -> list[Dataset]:
    """The datasets that have an organ, a stain and a kind, each by its canonical name.

    "IHC" finds every marker. A set whose organs a source does not name is not found by organ.
    """

    def fits(dataset: Dataset) -> bool:
        stains = {text for name in dataset.stain for text in (name, name.partition(":")[0])}
        return (
            (organ is None or organ in dataset.organ)
            and (stain is None or stain in stains)
            and (kind is None or kind in dataset.kind)
        )

    return [dataset for dataset in datasets if fits(dataset)]


def _dataset(name: str, values: Mapping[str, Any]) -> Dataset:
    known = dict(values)
    for key in _LISTS & known.keys():
        known[key] = tuple(known[key])
    # Read-only: all callers share it.
    known["sources"] = MappingProxyType(dict(values["sources"]))
    return Dataset(name=name, **known)


def _key(name: str) -> str:
    # Other signs count: "MIDOG++" is not "MIDOG".
    return re.sub(r"[\s_-]+", "", name).casefold()


@functools.cache
def _index() -> Mapping[str, Dataset]:
    index: dict[str, Dataset] = {}
    for dataset in load_catalog():
        for spelling in (dataset.name, *dataset.aliases):
            if index.setdefault(_key(spelling), dataset) is not dataset:
                raise ValueError(f"{spelling!r} names two datasets of the catalogue")
    return index
