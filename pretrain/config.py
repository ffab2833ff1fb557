"""Settings of a training run: frozen, checked on construction, the one home of every default.

Lengths are pixels. Nothing here needs torch, so that the command line can show its defaults
without it.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path

from manifests.files import Json
from pretrain.setting import check, setting
from pretrain.views.viewconfig import ViewConfig

ARCHS = ("resnet18", "resnet34", "resnet50", "resnet101")
"""Encoders that come from torchvision; other names are timm's."""
DEVICES = ("auto", "cpu", "cuda")
HEADS = ("paper", "simclr", "simclr2")
OPTIMIZERS = ("adamw", "lars")
LR_RULES = ("constant", "linear", "sqrt")
PRECISIONS = ("auto", "fp32", "bf16")

MOST_RESIZE_PX = 8192
MOST_PROJECTION_DIM = 65_536
"""More than this is a slip, and would be found only when memory runs out."""

ALL_SPLITS = "all"
TRAIN_SPLIT = "train"

BATCH_SIZE = {"cuda": 256, "cpu": 64}
"""Tiles a batch where none is asked for; 64 keeps a step on two cores near a second."""
IMAGE_SIZE_PX = {"cuda": 224, "cpu": 112}
"""Side of a view where none is asked for: the paper's 224, and a quarter of that work on a CPU."""

BASE_LR = {
    ("adamw", "constant"): 3e-4,
    ("adamw", "linear"): 3e-4,
    ("adamw", "sqrt"): 2e-5,
    ("lars", "constant"): 0.3,
    ("lars", "linear"): 0.3,
    ("lars", "sqrt"): 0.075,
}
"""`lr` where none is given, before the rule; LARS as in Chen et al., ICML 2020, appendix B.1."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Everything a run depends on besides its tiles.

    What is None is settled by the device and the data; `config.json` of a run holds what was used.
    """

    epochs: int = setting(10, "Passes over as many tiles as there are.")
    max_steps: int | None = setting(
        None, "Stop after so many steps; the schedule ends there, too.", shown="all epochs"
    )
    batch_size: int | None = setting(
        None,
        "Tiles a step, over all GPUs together; each gives two views.",
        shown=f"{BATCH_SIZE['cuda']} on a GPU, {BATCH_SIZE['cpu']} on a CPU, no more than there "
        "are",
    )
    image_size: int | None = setting(
        None,
        "Pixels of a view's side.",
        shown=f"{IMAGE_SIZE_PX['cuda']} on a GPU, {IMAGE_SIZE_PX['cpu']} on a CPU, no more than "
        "the tiles have",
    )
    seed: int = setting(0, "Weights, order and views.")

    balance: tuple[str, ...] = setting(
        ("stain", "organ"), "Fields of the manifest whose combinations are the strata."
    )
    mix_temperature: float = setting(
        0.0, "Strata of n tiles are drawn as n to this power: 0 evenly, 1 in proportion."
    )
    weight: tuple[str, ...] = setting(
        (), "Draw strata more often, 'stain=IHC*:2', or never, 'organ=skin:0'; repeatable."
    )
    max_per_slide: int | None = setting(
        None,
        "Most tiles of one slide in a batch; packed stores without a patient are exempt.",
        shown="no limit",
    )
    max_per_patient: int | None = setting(
        None, "Most tiles of one patient in a batch; the same are exempt.", shown="no limit"
    )
    split: str | None = setting(
        None,
        "Train on the tiles of this split.",
        shown="train if the manifest has splits, else all",
    )
    resize: int | None = setting(
        None, "Bring tiles of different sizes to so many pixels.", shown="refuse them"
    )

    arch: str = setting("resnet18", f"Encoder: {', '.join(ARCHS)}, or any name that timm knows.")
    init: str = setting(
        "random", "Weights to start from: random, imagenet, or a file (safetensors, state dict)."
    )
    head: str = setting(
        "paper",
        "Projection: two layers (paper), two with BatchNorm (simclr) or three (simclr2).",
        choices=HEADS,
    )
    projection_dim: int = setting(128, "Width of the embedding that the loss sees.")

    temperature: float = setting(0.2, "Of the NT-Xent loss.")
    decoupled: bool = setting(
        False, "Leave the positive pair out of the denominator (decoupled contrastive learning)."
    )
    optimizer: str = setting("adamw", "lars is made for batches of thousands.", choices=OPTIMIZERS)
    lr: float | None = setting(
        None,
        "Highest learning rate, before the rule.",
        shown=", ".join(f"{lr:g} for {o} {r}" for (o, r), lr in BASE_LR.items()),
    )
    lr_rule: str | None = setting(
        None,
        "lr as it is, times batch / 256 (linear), or times the root of the batch (sqrt).",
        choices=LR_RULES,
        shown="constant for adamw, linear for lars",
    )
    warmup: float = setting(0.1, "Share of the steps in which the learning rate rises.")
    weight_decay: float = setting(1e-4, "Of weights; biases and norms do not decay.")
    accumulate: int = setting(
        1, "Parts a batch is done in; negatives then come from a tile's own part alone."
    )
    grad_cache: int | None = setting(
        None,
        "Tiles at a time through the network with all negatives kept (gradient caching).",
        shown="off",
    )
    ema: float = setting(0.0, "Decay of an average of the weights, which is exported; 0: none.")

    device: str = setting("auto", "auto takes a GPU if there is one.", choices=DEVICES, exact=False)
    precision: str = setting(
        "auto", "auto is bf16 on a GPU that has it, else fp32.", choices=PRECISIONS
    )
    compile: bool = setting(False, "torch.compile the network.")
    deterministic: bool = setting(
        False, "Same bits each time on the same machine, at some cost of speed."
    )
    threads: int | None = setting(
        None, "Threads that read tiles.", shown="half of the CPUs, at most 8", exact=False
    )
    log_every: int = setting(1, "Steps between two lines of metrics.", exact=False)
    monitor_every: float = setting(
        1.0, "Epochs between two looks at the features; 0: never.", exact=False
    )
    knn_field: str | None = setting(
        None,
        "What neighbours should agree on: label, or a field of the manifest.",
        shown="label if tiles have one, else organ, else stain",
        exact=False,
    )
    checkpoint_minutes: float = setting(10.0, "Minutes between two checkpoints.", exact=False)
    tensorboard: bool = setting(True, "Write events for TensorBoard, too.", exact=False)

    views: ViewConfig = field(default_factory=ViewConfig)

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            choices, value = item.metadata.get("choices"), getattr(self, item.name)
            if choices is not None and value is not None:
                message = f"{_flag(item.name)} must be one of {', '.join(choices)}, got {value!r}"
                check(value in choices, message)
        # One tile has no negatives, and BatchNorm no statistics.
        self._at_least(2, "batch_size", "grad_cache")
        # A ResNet halves five times.
        self._at_least(32, "image_size", "resize")
        self._at_least(1, "epochs", "max_steps", "projection_dim", "accumulate", "threads")
        self._at_least(1, "max_per_slide", "max_per_patient", "log_every")
        for name, most in (("resize", MOST_RESIZE_PX), ("projection_dim", MOST_PROJECTION_DIM)):
            value = getattr(self, name)
            good = value is None or value <= most
            check(good, f"{_flag(name)} must be at most {most}, got {value}")
        self._at_least(0, "mix_temperature", "weight_decay", "monitor_every")
        check(0 <= self.seed < 2**63, f"seed must lie in 0 to 2^63 - 1, got {self.seed}")
        for name in ("lr", "temperature", "checkpoint_minutes"):
            value = getattr(self, name)
            good = value is None or (math.isfinite(value) and value > 0)
            check(good, f"{_flag(name)} must be a positive number, got {value}")
        for name in ("warmup", "ema"):
            value = getattr(self, name)
            check(0 <= value < 1, f"{name} must be at least 0 and below 1, got {value}")
        both = self.accumulate > 1 and self.grad_cache is not None
        check(not both, "accumulate and grad-cache both split a batch: choose one of them")
        check(len(set(self.balance)) == len(self.balance), "balance names a field twice")

    def _at_least(self, low: int, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            good = value is None or (math.isfinite(value) and value >= low)
            check(good, f"{_flag(name)} must be at least {low}, got {value}")

    @property
    def rule(self) -> str:
        """How the learning rate follows the batch."""
        return self.lr_rule or ("linear" if self.optimizer == "lars" else "constant")

    @property
    def base_lr(self) -> float:
        """The learning rate before the rule."""
        return self.lr if self.lr is not None else BASE_LR[self.optimizer, self.rule]

    def to_json(self) -> Json:
        """The settings as a JSON value; of a file with first weights the name alone is kept."""
        # Folders say who somebody is, and run folders are passed on.
        return {**dataclasses.asdict(self), "init": Path(self.init).name}


def _flag(name: str) -> str:
    return name.replace("_", "-")
