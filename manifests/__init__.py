"""The contract between cutting tiles and training on them: manifests and tile stores."""

from manifests.errors import HistotileError, ManifestError, StoreError
from manifests.jsonfile import load_manifest, save_manifest
from manifests.model import Manifest, Resolution, SlideInfo, StoreEntry
from manifests.store import TileStore

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
    "save_manifest",
]
