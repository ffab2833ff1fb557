"""The contract between cutting tiles and training on them: manifests and tile stores.

Names are imported on first use, so that a command line that only prints its help does not wait for
NumPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from manifests.errors import HistotileError, ManifestError, StoreError
    from manifests.jsonfile import load_manifest, save_manifest
    from manifests.model import Manifest, Resolution, SlideInfo, StoreEntry
    from manifests.store import TileStore, open_store

__version__ = "0.1.0"
"""That of pyproject.toml. `importlib.metadata` would say it too, but takes as long to import as
forty tiles take to cut."""

_HOMES = {
    "HistotileError": "manifests.errors",
    "Manifest": "manifests.model",
    "ManifestError": "manifests.errors",
    "Resolution": "manifests.model",
    "SlideInfo": "manifests.model",
    "StoreEntry": "manifests.model",
    "StoreError": "manifests.errors",
    "TileStore": "manifests.store",
    "load_manifest": "manifests.jsonfile",
    "open_store": "manifests.store",
    "save_manifest": "manifests.jsonfile",
}

__all__ = [
    "HistotileError",
    "Manifest",
    "ManifestError",
    "Resolution",
    "SlideInfo",
    "StoreEntry",
    "StoreError",
    "TileStore",
    "load_manifest",
    "open_store",
    "save_manifest",
]


if not TYPE_CHECKING:  # type checkers would take any name for one that this function provides

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'manifests' has no attribute {name!r}")
        return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
