"""Settings of an evaluation: frozen, checked on construction, the one home of every default.

Nothing here needs torch, so that the command line can show its defaults without it.
"""

from __future__ import annotations

from dataclasses import dataclass

from pretrain.config import DEVICES
from pretrain.setting import check, check_least, setting

CLASSIFICATION, REGRESSION, SEGMENTATION = "classification", "regression", "segmentation"
TASKS = (CLASSIFICATION, REGRESSION, SEGMENTATION)
LEAK_POLICIES = ("refuse", "drop", "keep")
UNLABELLED_POLICIES = ("refuse", "drop")

NEIGHBOURS = (5, 10, 20, 50)
"""How many neighbours may vote; which of these is chosen by the validation tiles."""
SHARES = (0.01, 0.05, 0.1, 0.5, 1.0)
"""Shares of the training labels that the learning curve looks at."""
MOST_RESAMPLES = 100_000


@dataclass(frozen=True, slots=True)
class MeasureSettings:
    """How encoders are fed, and what is drawn, wherever they are measured."""

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
    seed: int = setting(0, "Of whatever is drawn: random encoders, resamples, labels.")
    device: str = setting("auto", "auto takes a GPU if there is one.", choices=DEVICES)
    threads: int = setting(2, "Threads that read tiles.")
    batch_size: int = setting(64, "Tiles that go through an encoder at a time.")

    def __post_init__(self) -> None:
        lows = (("threads", 1), ("batch_size", 1), ("image_size", 8), ("resamples", 10))
        check_least(self, lows)
        good = self.resamples <= MOST_RESAMPLES
        check(good, f"resamples must be at most {MOST_RESAMPLES}, got {self.resamples}")
        check(0 <= self.seed < 2**63, f"seed must lie in 0 to 2^63 - 1, got {self.seed}")


@dataclass(frozen=True, slots=True)
class EvaluateSettings(MeasureSettings):
    """Everything an evaluation depends on besides its encoders and its tiles."""

    label: str | None = setting(
        None,
        "What tiles are told apart by: label, a field of the manifest, or a column of the slides "
        "table.",
        shown="needed, but for segmentation",
    )
    task: str = setting(CLASSIFICATION, "What the label is, or what to predict.", choices=TASKS)
    masks: str | None = setting(
        None, "Folder of mask pictures, named as the pictures or slides are.", shown="none"
    )
    split: str | None = setting(
        None,
        "A manifest with train, val and test, as `histotile manifest split` writes it.",
        shown="the splits of MANIFEST",
    )
    by: tuple[str, ...] = setting(
        (),
        "What tiles belong together by: intervals resample these, splits must not tear them.",
        shown="what the split was made by, else patient",
    )
    leaks: str = setting(
        "refuse",
        "Units, slides or tiles in two splits: refuse them, drop them from val and test, or keep "
        "them and say so.",
        choices=LEAK_POLICIES,
    )
    near: bool = setting(True, "Look for tiles that look the same in two splits, too.")
    unlabelled: str = setting(
        "refuse",
        "Tiles without a label: refuse them, or leave them out.",
        choices=UNLABELLED_POLICIES,
    )
    classes: tuple[str, ...] = setting((), "Only these classes.", shown="all")
    finetune: bool = setting(False, "Also train each encoder whole, from its weights on.")
    curve: bool = setting(True, "Learning curve: the linear probe on 1 to 100 % of the labels.")

    def __post_init__(self) -> None:
        MeasureSettings.__post_init__(self)  # super() does not know classes with slots
        check(self.task in TASKS, f"task must be one of {', '.join(TASKS)}, got {self.task!r}")
        needs_masks = self.task == SEGMENTATION
        if needs_masks:
            check(self.masks is not None, "--task segmentation needs --masks FOLDER")
            check(self.label is None, "--label is not for --task segmentation: masks say it all")
            fixed = "--finetune is not for --task segmentation: its encoders stay frozen"
            check(not self.finetune, fixed)
        else:
            check(self.label is not None, f"--task {self.task} needs --label NAME")
            check(self.masks is None, "--masks is for --task segmentation alone")
        both = self.task == REGRESSION and bool(self.classes)
        check(not both, "--classes is not for --task regression: numbers have no classes")
        check(len(set(self.classes)) == len(self.classes), "--classes names a class twice")
