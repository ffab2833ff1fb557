"""Caps: at most so many tiles of one slide, and of one patient, in a batch.

Tiles of one slide are near-copies of each other, and as negatives they teach the wrong thing. A
draw over a cap goes to another slide of its stratum, so shares stay as they are. Slides are their
places in `Mix.slides`; a patient that is not known is the slide itself. A packed store of no
patient has room for any number: of whom its tiles are is not known. Everything is a pure function
of the batch's draws and a key.
"""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from manifests.listing import many
from pretrain.errors import ConfigError
from pretrain.mixing.keyed import permute, subkey
from pretrain.mixing.mix import Mix

Demands = Callable[[int], list[int]]
"""The most draws of each stratum in a batch of a given size."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Most places of a batch; None: no limit."""

    per_slide: int | None
    per_patient: int | None


@dataclass(frozen=True, slots=True)
class _Filled:
    """A batch while it is filled: the places that went to each slide, store and patient."""

    limits: Limits
    key: int
    slide: dict[int, int] = field(default_factory=dict)
    """Slide by place in the batch."""
    of_store: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    """Places by store: with `mpp` in the balance, a store is a slide of several strata."""
    of_patient: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))


class Caps:
    """Caps on the slides and patients of a mix. Safe for threads."""

    def __init__(self, mix: Mix, limits: Limits) -> None:
        """Number the slides, their stores and their patients."""
        self._limits = limits
        self._names = [stratum.name for stratum in mix.strata]
        self._members: list[range] = []
        self._stratum: list[int] = []
        for number, stratum in enumerate(mix.strata):
            first = len(self._stratum)
            self._members.append(range(first, first + len(stratum.slides)))
            self._stratum.extend([number] * len(stratum.slides))
        self._pooled = [slide.pooled for slide in mix.slides]
        stores: dict[str, int] = {}
        patients: dict[tuple[bool, str], int] = {}
        self._store = [stores.setdefault(slide.id, len(stores)) for slide in mix.slides]
        self._patient = [
            patients.setdefault((s.patient is None, s.patient or s.id), len(patients))
            for s in mix.slides
        ]
        # A patient with slides in several strata makes these depend on each other.
        self._shared = len(set(zip(self._patient, self._stratum, strict=True))) > len(patients)

    def check(self, demands: Demands, batch_size: int) -> None:
        """Raise `ConfigError` unless every batch of that size can keep to the caps.

        It names the stratum that falls short, the least cap and the largest batch that would do.
        Where strata share patients it supposes that all have their most draws at once.
        """
        slide, patient = self._limits.per_slide, self._limits.per_patient
        if slide is not None:
            self._check("max-per-slide", slide, lambda cap: Limits(cap, None), demands, batch_size)
        if patient is not None:
            limits = functools.partial(Limits, slide)
            self._check("max-per-patient", patient, limits, demands, batch_size)

    def _check(
        self,
        name: str,
        cap: int,
        limits: Callable[[int], Limits],
        demands: Demands,
        batch_size: int,
    ) -> None:
        most = demands(batch_size)
        short = self._short(most, limits(cap))
        if short is None:
            return

        def falls_short(size: int) -> bool:
            return self._short(demands(size), limits(cap)) is not None

        caps, sizes = range(cap + 1, sum(most) + 1), range(2, batch_size)
        least = bisect_left(caps, 1, key=lambda c: self._short(most, limits(c)) is None)
        small = bisect_left(sizes, 1, key=falls_short)
        smaller = f", or batches of at most {sizes[small - 1]}" if small else ""
        members = self._members[short]
        slides = many(len({self._store[member] for member in members}), "slide")
        patients = many(len({self._patient[member] for member in members}), "patient")
        raise ConfigError(
            f"{name} {cap} cannot be kept in batches of {batch_size}: up to {most[short]} of it "
            f"come from {self._names[short]}, which has {slides} of {patients}; take {name} "
            f"{caps[least]} or more{smaller}"
        )

    def _short(self, demands: Sequence[int], limits: Limits) -> int | None:
        """A stratum that may have more draws than it has room for; None if there is none."""
        for stratum, demand in enumerate(demands):
            if demand > self._capacity(stratum, limits):
                return stratum
        if self._shared:
            batch, place = _Filled(limits, key=0), 0
            for stratum, demand in enumerate(demands):
                for _ in range(demand):
                    if not self._settle(batch, place, stratum, set()):
                        return stratum
                    place += 1
        return None

    def _capacity(self, stratum: int, limits: Limits) -> int:
        """Places for a stratum that has all its slides and patients to itself."""
        stores: dict[int, set[int]] = defaultdict(set)
        unlimited = 1 << 62
        for slide in self._members[stratum]:
            if self._pooled[slide]:
                return unlimited
            stores[self._patient[slide]].add(self._store[slide])
        per_slide = unlimited if limits.per_slide is None else limits.per_slide
        per_patient = unlimited if limits.per_patient is None else limits.per_patient
        return sum(min(per_patient, len(own) * per_slide) for own in stores.values())

    def moved(self, slides: Sequence[int], key: int) -> dict[int, int]:
        """Where the draws of a batch go that are over a cap: slide by place in the batch.

        Args:
            slides: the slide of each draw.
            key: decides among the slides that have room.
        """
        batch = _Filled(self._limits, key)
        over = []
        for place, slide in enumerate(slides):
            if self._has_room(batch, slide):
                self._put(batch, place, slide)
            else:
                over.append(place)
        for place in over:
            stratum = self._stratum[slides[place]]
            if not self._settle(batch, place, stratum, set()):
                raise ConfigError(
                    f"no slide of {self._names[stratum]} has room under the caps; "
                    "raise max-per-slide or max-per-patient, or take smaller batches"
                )
        return {p: slide for p, slide in sorted(batch.slide.items()) if slide != slides[p]}

    def _settle(self, batch: _Filled, place: int, stratum: int, tried: set[int]) -> bool:
        """Give a place to a slide of a stratum; False, and nothing is changed, if none has room.

        Where strata share patients, places of others are moved along if that makes room: an
        augmenting path, as in bipartite matching.
        """
        for slide in self._order(batch.key, place, stratum):
            if self._has_room(batch, slide):
                self._put(batch, place, slide)
                return True
        if not self._shared:
            return False
        tried.add(stratum)
        for slide in self._order(batch.key, place, stratum):
            for other in self._in_the_way(batch, slide):
                old = batch.slide[other]
                if self._stratum[old] in tried:
                    continue
                self._take(batch, other)
                self._put(batch, place, slide)
                if self._settle(batch, other, self._stratum[old], tried):
                    return True
                self._take(batch, place)
                self._put(batch, other, old)
        return False

    def _order(self, key: int, place: int, stratum: int) -> Iterator[int]:
        members = self._members[stratum]
        own = subkey(key, place)
        return (members[permute(own, len(members), i)] for i in range(len(members)))

    def _has_room(self, batch: _Filled, slide: int) -> bool:
        full = self._store_is_full(batch, slide) or self._patient_is_full(batch, slide)
        return self._pooled[slide] or not full

    def _store_is_full(self, batch: _Filled, slide: int) -> bool:
        most = batch.limits.per_slide
        return most is not None and len(batch.of_store[self._store[slide]]) >= most

    def _patient_is_full(self, batch: _Filled, slide: int) -> bool:
        most = batch.limits.per_patient
        return most is not None and len(batch.of_patient[self._patient[slide]]) >= most

    def _in_the_way(self, batch: _Filled, slide: int) -> list[int]:
        """The places of which any one, moved away, makes room for the slide."""
        if self._store_is_full(batch, slide):
            return sorted(batch.of_store[self._store[slide]])
        return sorted(batch.of_patient[self._patient[slide]])

    def _put(self, batch: _Filled, place: int, slide: int) -> None:
        batch.slide[place] = slide
        batch.of_store[self._store[slide]].add(place)
        batch.of_patient[self._patient[slide]].add(place)

    def _take(self, batch: _Filled, place: int) -> None:
        slide = batch.slide.pop(place)
        batch.of_store[self._store[slide]].remove(place)
        batch.of_patient[self._patient[slide]].remove(place)
