"""Which tile comes next: strata by their shares, even over their slides, each tile in its turn.

Sample number k of a seed is a pure function of both, so a run can be continued anywhere and cut
into batches, ranks and workers by anyone. Strata are the leaves of a tree: each visit to a node
goes to the side that is furthest behind its share, so that a stratum's count is never more than a
few draws from what its share says, and how often it was visited before needs no counting. Within a
stratum each round visits every slide once, and each pass over a slide every tile once; all in keyed
random order. Numbers are shuffled in short rounds, so that strata do not always meet the same
others.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from pretrain.config import TrainConfig
from pretrain.mixing.caps import Caps, Limits
from pretrain.mixing.keyed import key_of, permute, subkey
from pretrain.mixing.mix import Mix

_LONGEST_ROUND = 64
"""Draws that are shuffled among each other, unless there are more strata: a round must not be so
long that a batch holds much more of a stratum than its share."""
_MOST_ALIGNMENTS = 64


@dataclass(frozen=True, slots=True)
class Draw:
    """One sample."""

    number: int
    """Which sample of the run it is, from 0."""
    slide: int
    """Place of the slide in `Mix.slides`."""
    turn: int
    """How often the slide was drawn before; of one that a cap brought in, where it stands."""
    tile: int
    """Number of the tile within the slide."""


@dataclass(frozen=True, slots=True)
class _Slide:
    key: int
    tiles: int
    apart: int
    """Draws of this slide that must not hold a tile twice; 0 where every pass has one order."""


@dataclass(frozen=True, slots=True)
class _Stratum:
    key: int
    first_slide: int
    slides: int


@dataclass(frozen=True, slots=True)
class _Node:
    """A node of the tree of strata; negative children are strata, -1 the first."""

    left_weight: int
    weight: int
    phase: int
    """From 0 to `weight` - 1: which side comes first."""
    left: int
    right: int


class Sampler:
    """Draws samples from a mix. Safe for threads."""

    def __init__(
        self,
        mix: Mix,
        seed: int,
        batch_size: int,
        max_per_slide: int | None = None,
        max_per_patient: int | None = None,
    ) -> None:
        """Prepare the draws.

        Args:
            batch_size: so many consecutive samples hold no tile twice, unless a slide has fewer
                tiles than its share of them.
            max_per_slide: most tiles of one slide in a batch.
            max_per_patient: most tiles of one patient in a batch.

        Raises:
            ConfigError: batches of that size cannot keep to the caps.
        """
        self._key = key_of(seed, "strata")
        self._caps_key = key_of(seed, "caps")
        self._batch_size = batch_size
        weights = [stratum.weight for stratum in mix.strata]
        self._nodes: list[_Node] = []
        self._root = self._grow(weights, 0, len(weights))
        longest = max(len(weights), _LONGEST_ROUND)
        self._round = min(-(-sum(weights) // min(weights)), longest)
        self._strata: list[_Stratum] = []
        self._slides: list[_Slide] = []
        self._prepare_slides(mix, seed)
        self._swaps: dict[tuple[int, int], tuple[int, dict[int, int]]] = {}
        self._caps: Caps | None = None
        if max_per_slide is not None or max_per_patient is not None:
            self._caps = Caps(mix, Limits(max_per_slide, max_per_patient))
            self._caps.check(self._most_of_a_batch, batch_size)

    def _grow(self, weights: Sequence[int], first: int, end: int) -> int:
        """Add the node of strata `first` to `end` - 1; return what its parent calls it."""
        if end - first == 1:
            return -end
        middle = (first + end) // 2
        left, right = self._grow(weights, first, middle), self._grow(weights, middle, end)
        own, all_ = sum(weights[first:middle]), sum(weights[first:end])
        phase = key_of(self._key, "phase", len(self._nodes)) % all_
        self._nodes.append(_Node(own, all_, phase, left, right))
        return len(self._nodes) - 1

    def _prepare_slides(self, mix: Mix, seed: int) -> None:
        # The shuffle of a round may bring a stratum's visits forward or back within it.
        rounds = _most_visits(self._batch_size, self._round)
        for stratum, visits in zip(mix.strata, self._most_in(rounds * self._round), strict=True):
            count = len(stratum.slides)
            key = key_of(seed, "slides", *(text for pair in stratum.key for text in pair))
            self._strata.append(_Stratum(key, len(self._slides), count))
            apart = _most_visits(visits, count)
            for slide in stratum.slides:
                # A batch that takes a third of a slide mixes it well enough in one fixed order,
                # and then nothing comes twice before the whole slide was seen.
                tiles = slide.tiles
                fixed = 3 * (apart - 1) > tiles
                groups = (source.group for source in slide.sources)
                key = key_of(seed, "tiles", slide.id, *groups)
                self._slides.append(_Slide(key, tiles, 0 if fixed else apart))

    def batch(self, step: int, part: slice | None = None) -> list[Draw]:
        """The draws of a step, from 0: all of the batch, or those of `part`.

        The caps hold in the whole batch: a draw over one is given to another slide of its stratum.
        Such a draw differs from what `draw` says of its number.
        """
        numbers = range(step * self._batch_size, (step + 1) * self._batch_size)
        if self._caps is None:
            return [self.draw(number) for number in (numbers if part is None else numbers[part])]
        draws = [self.draw(number) for number in numbers]
        taken = {(draw.slide, draw.tile) for draw in draws}
        key = subkey(self._caps_key, step)
        for place, slide in self._caps.moved([draw.slide for draw in draws], key).items():
            draws[place] = self._moved(draws[place], slide, taken)
        return draws if part is None else draws[part]

    def draw(self, number: int) -> Draw:
        """Sample `number`, from 0 without end, as it is without caps."""
        round_, place = divmod(number, self._round)
        place = permute(subkey(self._key, round_), self._round, place)
        stratum, visit = self._visited(round_ * self._round + place)
        turn, place = divmod(visit, stratum.slides)
        slide = stratum.first_slide + permute(subkey(stratum.key, turn), stratum.slides, place)
        return Draw(number, slide, turn, self._tile(slide, turn))

    def substitute(self, draw: Draw, attempt: int) -> Draw:
        """What to take instead of a sample that cannot be read: a later one of the same slide."""
        turn = draw.turn + attempt
        return Draw(draw.number, draw.slide, turn, self._tile(draw.slide, turn))

    def _visited(self, tick: int) -> tuple[_Stratum, int]:
        """The stratum that is visited at a tick, and how often it was before."""
        place = self._root
        while place >= 0:
            node = self._nodes[place]
            lefts, rest = divmod(tick * node.left_weight + node.phase, node.weight)
            if rest + node.left_weight >= node.weight:
                tick, place = lefts, node.left
            else:
                tick, place = tick - lefts, node.right
        return self._strata[-1 - place], tick

    def _moved(self, draw: Draw, slide: int, taken: set[tuple[int, int]]) -> Draw:
        """The draw, of another slide: a tile that the batch does not hold, if there is one."""
        tiles = self._slides[slide].tiles
        # Half a pass away from the slide's own turns, which took or will soon take theirs.
        moved = Draw(draw.number, slide, draw.turn + tiles // 2, 0)
        for attempt in range(tiles):
            found = self.substitute(moved, attempt)
            if (slide, found.tile) not in taken:
                taken.add((slide, found.tile))
                return found
        return dataclasses.replace(moved, tile=self._tile(slide, moved.turn))

    def _most_in(self, ticks: int) -> list[int]:
        """The most that each stratum is visited in so many consecutive ticks of the tree."""
        found = [ticks] * len(self._nodes)
        most = [ticks] * (len(self._nodes) + 1)
        for place in reversed(range(len(self._nodes))):
            node = self._nodes[place]
            sides = ((node.left, node.left_weight), (node.right, node.weight - node.left_weight))
            for child, weight in sides:
                # Any n visits of a node hold at most the ceiling of n times a side's share of it.
                visits = -(-found[place] * weight // node.weight)
                if child >= 0:
                    found[child] = visits
                else:
                    most[-1 - child] = visits
        return most

    def _most_of_a_batch(self, batch_size: int) -> list[int]:
        """The most draws of each stratum in any batch."""
        step = math.gcd(batch_size, self._round)
        if self._round // step > _MOST_ALIGNMENTS:
            most = self._most_in(_most_visits(batch_size, self._round) * self._round)
            return [min(batch_size, count) for count in most]
        once = self._most_in(self._round)
        worst = [0] * len(once)
        for start in range(0, self._round, step):
            head = min(-start % self._round, batch_size)
            rounds, tail = divmod(batch_size - head, self._round)
            whole = self._most_in(rounds * self._round)
            for i, (one, all_) in enumerate(zip(once, whole, strict=True)):
                worst[i] = max(worst[i], min(head, one) + all_ + min(tail, one))
        return worst

    def _tile(self, slide_number: int, turn: int) -> int:
        slide = self._slides[slide_number]
        pass_, place = divmod(turn, slide.tiles)
        if not slide.apart:
            return permute(slide.key, slide.tiles, place)
        swapped = self._swapped(slide_number, pass_).get(place)
        return _shuffled(slide, pass_, place) if swapped is None else swapped

    def _swapped(self, slide_number: int, pass_: int) -> dict[int, int]:
        if pass_ == 0:
            return {}
        # Two passes are kept: at a seam, one thread may be ahead of another.
        kept = self._swaps.get((slide_number, pass_ % 2))
        if kept is None or kept[0] != pass_:
            kept = pass_, _seam(self._slides[slide_number], pass_)
            self._swaps[slide_number, pass_ % 2] = kept
        return kept[1]


def _most_visits(samples: int, choices: int) -> int:
    """The most that one choice is met in consecutive samples, if each round meets it once."""
    return (samples + choices - 2) // choices + 1


def _shuffled(slide: _Slide, pass_: int, place: int) -> int:
    return permute(subkey(slide.key, pass_), slide.tiles, place)


def _seam(slide: _Slide, pass_: int) -> dict[int, int]:
    """Tiles by place where a pass departs from its own shuffle.

    Tiles that ended the last pass must not begin this one: those change places with the first
    tiles after the beginning that may. Places near the end stay as they are, so that a pass needs
    to know only the shuffle of the one before it.
    """
    length = slide.apart - 1
    if pass_ == 0 or length == 0:
        return {}
    ends = range(slide.tiles - length, slide.tiles)
    late = {_shuffled(slide, pass_ - 1, place) for place in ends}
    swaps: dict[int, int] = {}
    free = length
    for place in range(length):
        tile = _shuffled(slide, pass_, place)
        if tile not in late:
            continue
        while (other := _shuffled(slide, pass_, free)) in late:
            free += 1
        swaps[place], swaps[free] = other, tile
        free += 1
    return swaps


def make_sampler(mix: Mix, config: TrainConfig, batch_size: int) -> Sampler:
    """The sampler of a run with these settings; errors as `Sampler`."""
    return Sampler(mix, config.seed, batch_size, config.max_per_slide, config.max_per_patient)
