"""What the study trains: experiments read from TOML, and the runs that they need, each once.

A run is what is trained on (parts of the pool), how (flags of `histopretrain run`) and the seed;
its key is a hash of these, so that experiments that need the same run share it.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "experiments"
ORDER = (
    "architectures",
    "views",
    "sources",
    "leak",
    "mixing",
    "stains",
    "resolutions",
    "images",
    "steps",
)
SPLITS = ("train", "all", "test")
LEAST_TILES = 64
"""A share of the pool is at least a batch of the small scale."""
Flags = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """Some tiles of the pool: those of a split for which `where` is true, and a draw of them."""

    where: str = ""
    sample: int = 0
    """Tiles to draw; 0: all of them."""
    share: float = 0.0
    """... or this share of them, but no fewer than a batch; 0: all of them."""

    def __post_init__(self) -> None:
        """Check that the part can be drawn."""
        if self.sample and self.share:
            raise ValueError(f"a part has sample = {self.sample} and share too; give one of them")


@dataclass(frozen=True, slots=True)
class Run:
    """One training: parts of the pool, flags, and a seed."""

    parts: tuple[Part, ...]
    flags: Flags
    seed: int
    split: str = "train"
    """The split of the same seed; `all` takes the pool as it is, which the leak alone does."""

    @property
    def key(self) -> str:
        """Ten hexadecimal digits of the sha256 of what is trained."""
        return _key(self._data() | {"flags": dict(self.flags)})

    @property
    def data_key(self) -> str:
        """The same of what it is trained on alone: runs on the same tiles share a manifest."""
        return _key(self._data())

    def _data(self) -> dict[str, Any]:
        parts = [asdict(part) for part in self.parts]
        return {"parts": parts, "split": self.split, "seed": self.seed}


def _key(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:10]


@dataclass(frozen=True, slots=True)
class Variant:
    """A row of an experiment's table: an encoder that is trained, or one that is there."""

    name: str
    parts: tuple[Part, ...] = ()
    flags: Flags = field(default_factory=dict)
    split: str = "train"
    encoder: str = ""
    """As `histopretrain evaluate` takes it, for one that is not trained here."""

    def run(self, seed: int) -> Run | None:
        """The training of a seed; None for an encoder that is there."""
        return None if self.encoder else Run(self.parts, self.flags, seed, self.split)


@dataclass(frozen=True, slots=True)
class Experiment:
    """A question, and the variants that answer it."""

    name: str
    question: str
    variants: tuple[Variant, ...]


def load_experiment(file: Path, scale: str) -> Experiment:
    """Read an experiment; flags of the scale count less than a variant's own.

    Raises:
        ValueError: the file has no such scale, or a variant neither parts nor an encoder.
    """
    content = tomllib.loads(file.read_text(encoding="utf-8"))
    if scale not in content["scale"]:
        raise ValueError(f"{file.name} has no [scale.{scale}]; it has {sorted(content['scale'])}")
    common = content.get("flags", {}) | content["scale"][scale]
    variants = tuple(_variant(raw, common, scale, file.name) for raw in content["variants"])
    return Experiment(file.stem, content["question"], variants)


def _variant(raw: dict[str, Any], common: Flags, scale: str, file: str) -> Variant:
    if ("parts" in raw) == ("encoder" in raw):
        raise ValueError(f"{file}: the variant {raw['name']!r} needs either parts or an encoder")
    return Variant(
        name=raw["name"],
        parts=tuple(Part(**part) for part in raw.get("parts", ())),
        flags=dict(common) | raw.get("flags", {}) | raw.get("scale", {}).get(scale, {}),
        split=_split(raw, file),
        encoder=raw.get("encoder", ""),
    )


def _split(raw: dict[str, Any], file: str) -> str:
    split = str(raw.get("split", "train"))
    if split not in SPLITS:
        raise ValueError(f"{file}: {raw['name']!r} trains on {split!r}; give one of {SPLITS}")
    return split


def load_all(scale: str, names: Sequence[str] = ORDER) -> list[Experiment]:
    """The experiments of these names, in this order."""
    return [load_experiment(FOLDER / f"{name}.toml", scale) for name in names]


def runs_of(experiments: Sequence[Experiment], seeds: int) -> list[Run]:
    """Every run that they need, once; all seeds of an experiment before the next one."""
    runs: dict[str, Run] = {}
    for experiment in experiments:
        for seed in range(seeds):
            for variant in experiment.variants:
                run = variant.run(seed)
                if run is not None:
                    runs.setdefault(run.key, run)
    return list(runs.values())


def arguments(flags: Flags) -> list[str]:
    """Flags as `histopretrain run` takes them: a name and a value, `--no-name` for false."""
    words = []
    for name, value in flags.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            words += [f"--{name}", str(value)]
    return words
