"""Which manifest a result was made of: the hash of its bytes, taken before the work begins."""

from __future__ import annotations

from pathlib import Path

from manifests.errors import ManifestError
from manifests.files import file_digest


def manifest_digest(manifest: str | Path) -> str:
    """sha256 of a manifest's file, or of `manifest.json` in a folder, 64 hexadecimal digits.

    Raises:
        ManifestError: it cannot be read.
    """
    path = Path(manifest)
    file = path / "manifest.json" if path.is_dir() else path
    try:
        found = file_digest(file)
    except OSError as error:
        raise ManifestError(f"{file} cannot be read ({error.strerror})") from error
    if not found:
        raise ManifestError(f"{file} is not there any more")
    return found
