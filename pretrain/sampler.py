"""Which tile comes next: even over strata, even over a stratum's slides, each tile in its turn.

Sample number k of a seed is a pure function of both, so a run can be continued anywhere and cut
into batches by anyone. Draws go in rounds: each round visits every stratum once, each round of a
stratum every slide once, each pass over a slide every tile once; all in keyed random order.
"""

from __future__ import annotations

from dataclasses import dataclass

from pretrain.keyed import key_of, permute
from pretrain.mix import Mix


@dataclass(frozen=True, slots=True)
class Draw:
    """One sample."""

    number: int
    """Which sample of the run it is, from 0."""
    slide: int
    """Place of the slide in `Mix.slides`."""
    turn: int
    """How often the slide was drawn before."""
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


class Sampler:
    """Draws samples from a mix. Safe for threads."""

    def __init__(self, mix: Mix, seed: int, distinct: int) -> None:
        """Prepare the draws.

        Args:
            distinct: so many consecutive samples (a batch) hold no tile twice, unless a slide has
                fewer tiles than its share of them.
        """
        self._key = key_of(seed, "strata")
        self._strata: list[_Stratum] = []
        self._slides: list[_Slide] = []
        visits = _most_visits(distinct, len(mix.strata))
        for stratum in mix.strata:
            count = len(stratum.slides)
            key = key_of(seed, "slides", stratum.stain, stratum.organ)
            self._strata.append(_Stratum(key, len(self._slides), count))
            apart = _most_visits(visits, count)
            for slide in stratum.slides:
                # A batch that takes a third of a slide mixes it well enough in one fixed order,
                # and then nothing comes twice before the whole slide was seen.
                fixed = 3 * (apart - 1) > slide.tiles
                key = key_of(seed, "tiles", slide.id)
                self._slides.append(_Slide(key, slide.tiles, 0 if fixed else apart))
        self._swaps: dict[tuple[int, int], tuple[int, dict[int, int]]] = {}

    def draw(self, number: int) -> Draw:
        """Sample `number`, from 0 without end."""
        round_, place = divmod(number, len(self._strata))
        stratum = self._strata[permute(key_of(self._key, round_), len(self._strata), place)]
        turn, place = divmod(round_, stratum.slides)
        slide = stratum.first_slide + permute(key_of(stratum.key, turn), stratum.slides, place)
        return Draw(number, slide, turn, self._tile(slide, turn))

    def substitute(self, draw: Draw, attempt: int) -> Draw:
        """What to take instead of a sample that cannot be read: a later one of the same slide."""
        turn = draw.turn + attempt
        return Draw(draw.number, draw.slide, turn, self._tile(draw.slide, turn))

    def _tile(self, slide_number: int, turn: int) -> int:
        slide = self._slides[slide_number]
        pass_, place = divmod(turn, slide.tiles)
        if not slide.apart:
            return permute(slide.key, slide.tiles, place)
        swapped = self._swapped(slide_number, pass_).get(place)
        return _shuffled(slide, pass_, place) if swapped is None else swapped

    def _swapped(self, slide_number: int, pass_: int) -> dict[int, int]:
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
    return permute(key_of(slide.key, pass_), slide.tiles, place)


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
