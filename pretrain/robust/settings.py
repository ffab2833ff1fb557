"""Settings of `histopretrain robustness`: frozen, checked on construction.

Nothing here needs torch, so that the command line can show its defaults without it.
"""

from __future__ import annotations

from dataclasses import dataclass

from pretrain.results.settings import UNLABELLED_POLICIES, MeasureSettings
from pretrain.setting import check, check_least, setting


@dataclass(frozen=True, slots=True)
class RobustSettings(MeasureSettings):
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

    def __post_init__(self) -> None:
        MeasureSettings.__post_init__(self)  # super() does not know classes with slots
        same = self.biology == self.confounder
        check(not same, f"biology and confounder are both {self.biology!r}; name two fields")
        check_least(self, (("k", 1),))

    @property
    def predicted(self) -> tuple[str, ...]:
        """The fields that neighbours predict, each once, the biology first."""
        return tuple(dict.fromkeys((self.biology, self.confounder, *self.also)))
