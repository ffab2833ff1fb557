"""A manifest for tests that says everything a manifest can say."""

from __future__ import annotations

from typing import Any

from manifests.model import Manifest, Resolution, SlideInfo, StoreEntry

UUID = "12345678-1234-5678-1234-567812345678"
SPEC_HASH = "ab" * 32


def done_entry(name: str = "slide-1", **changes: Any) -> StoreEntry:
    """An entry with every field set."""
    fields: dict[str, Any] = {
        "id": name,
        "status": "done",
        "source": f"{name}.svs",
        "path": f"{name}.zarr",
        "uuid": UUID,
        "spec_hash": SPEC_HASH,
        "organ": "breast",
        "stain": "H&E",
        "dataset": "TCGA-BRCA",
        "license": "CC0-1.0",
        "patient": "TCGA-A7-A0D9",
        "site": "A7",
        "scanner": "Aperio ScanScope",
        "sample_type": "Primary Solid Tumor",
        "packed": True,
        "labels": ("normal", "tumour"),
        "slide": SlideInfo(
            reader="openslide",
            vendor="aperio",
            compression="jpeg",
            fingerprint="sha256:00ff",
            width=100_000,
            height=80_000,
            mpp=(0.252, 0.251),
            mpp_source="aperio.MPP",
            objective_power=40.0,
        ),
        "resolutions": (
            Resolution("0.5", (0.504, 0.502), 0.5, 256, 1200, 0, (2.0, 2.0)),
            Resolution("1", (1, 1), 1, 256, 300, 1, (1.0, 1.0)),
        ),
        "codec": {"name": "jpeg", "quality": 90, "subsampling": "444"},
        "bytes": 12_345_678,
        "dropped": {"tissue": 4000, "edge": 3},
        "warnings": ("the objective power contradicts the µm per pixel",),
        "columns": {"batch": "7", "note": ""},
        "extra": {"x-lab": {"shelf": [1, 2.5, None, True, "é"]}},
    }
    return StoreEntry(**{**fields, **changes})


def failed_entry(name: str = "slide-2", **changes: Any) -> StoreEntry:
    """A slide that gave no store."""
    fields: dict[str, Any] = {
        "id": name,
        "status": "failed",
        "source": f"{name}.tif",
        "reason": "no reader opens the file",
    }
    return StoreEntry(**{**fields, **changes})


def full_manifest() -> Manifest:
    """Entries of every status, unsorted, with keys of a user's own."""
    empty = StoreEntry(
        id="slide-0",
        status="empty",
        source="slide-0.svs",
        reason="no tissue was found",
        path="deep/er/slide-0.zarr",
        uuid=UUID,
        spec_hash=SPEC_HASH,
    )
    return Manifest((failed_entry(), done_entry(), empty), extra={"x-note": "kept"})
