"""Settings of `histopretrain robustness`: frozen, checked on construction.

Nothing here needs torch, so that the command line can show its defaults without it.
"""

from __future__ import annotations

from dataclasses import dataclass

from pretrain.config import DEVICES
from pretrain.results.settings import MOST_RESAMPLES, UNLABELLED_POLICIES
from pretrain.setting import check, setting


@dataclass(frozen=True, slots=True)
class RobustSettings:
    """Everything a measurement of robustness depends on besides its encoders and its tiles."""

    biology: str = setting(
        "label",
        "What an encoder should know: label, a field of the manifest, or a column of the slides "
        "table.",
    )
    confounder: str = setting(
        "site", "What it should not be led by: such a name, too, as site, scanner or stain."
    )
    also: tuple[str, ...] = setting((), "Further fields to predict by neighbours.")
    k: int | None = setting(
        None,
        "Neighbours of a tile.",
        shown="what predicts the biology best: the median over the encoders",
    )
    by: tuple[str, ...] = setting(
        (),
        "What tiles belong together by: none is a neighbour of its own, intervals resample them.",
        shown="what the set was split by, else patient and group, else slides and pictures",
    )
    split: str | None = setting(None, "Only the tiles of this split.", shown="all tiles")
    unlabelled: str = setting(
        "refuse",
        "Tiles of which the biology or the confounder is not known: refuse them, or leave them "
        "out.",
        choices=UNLABELLED_POLICIES,
    )
    mpp: str | None = setting(
        None, "Resolution of the tiles, a group of the stores such as 0.5.", shown="the only one"
    )
    any_mpp: bool = setting(
        False, "Take tiles of other µm per pixel than an encoder was trained on."
    )
    image_size: int | None = setting(
        None, "Bring tiles to so many pixels for each encoder.", shown="as each encoder needs it"
    )
    resamples: int = setting(1000, "Bootstrap resamples behind an interval.")
    seed: int = setting(0, "Random encoders and resamples.")
    device: str = setting("auto", "auto takes a GPU if there is one.", choices=DEVICES)
    threads: int = setting(2, "Threads that read tiles.")
    batch_size: int = setting(64, "Tiles that go through an encoder at a time.")

    def __post_init__(self) -> None:
        same = self.biology == self.confounder
        check(not same, f"biology and confounder are both {self.biology!r}; name two fields")
        lows = (("k", 1), ("threads", 1), ("batch_size", 1), ("image_size", 8), ("resamples", 10))
        for name, low in lows:
            value = getattr(self, name)
            good = value is None or value >= low
            check(good, f"{name.replace('_', '-')} must be at least {low}, got {value}")
        good = self.resamples <= MOST_RESAMPLES
        check(good, f"resamples must be at most {MOST_RESAMPLES}, got {self.resamples}")
        check(0 <= self.seed < 2**63, f"seed must lie in 0 to 2^63 - 1, got {self.seed}")

    @property
    def predicted(self) -> tuple[str, ...]:
        """The fields that neighbours predict, each once, the biology first."""
        return tuple(dict.fromkeys((self.biology, self.confounder, *self.also)))
