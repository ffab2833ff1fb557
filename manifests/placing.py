"""Where stores lie: paths of a manifest made relative to another folder.

A manifest's folder is its root, and no path leaves it: so a manifest can be moved with its stores,
and one from elsewhere points at nothing of yours. A manifest that combines others must lie in a
folder that all their stores lie below.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from manifests.errors import EXIT_USAGE, ManifestError
from manifests.files import file_digest
from manifests.jsonfile import save_manifest
from manifests.model import Manifest


class MisplacedManifest(ManifestError):
    """A manifest would have to point out of the folder that it is to lie in."""

    exit_code = EXIT_USAGE


class Destination:
    """A manifest that is going to be written.

    Make it before anything is read: what others write there in the meantime is not overwritten.
    """

    def __init__(self, path: Path) -> None:
        """Look at what is there now.

        Raises:
            MisplacedManifest: there is no such folder.
        """
        if not path.parent.is_dir():
            raise MisplacedManifest(f"there is no folder {path.parent} to write {path.name} to")
        self.path = path
        self._was = file_digest(path)

    def save(self, manifest: Manifest) -> None:
        """Write the manifest, its paths relative to its new folder, whole or not at all.

        Raises:
            MisplacedManifest: a store lies outside of the folder.
            FileChanged: someone else wrote the file in the meantime.
            OSError: the disk is full, read-only, ...; a file that was there is then untouched.
        """
        save_manifest(rebase(manifest, self.path.parent), self.path, replacing=self._was)


def rebase(manifest: Manifest, folder: Path) -> Manifest:
    """The same manifest, to be saved in `folder`; URLs stay as they are.

    Raises:
        MisplacedManifest: a store lies outside of `folder`; the message names the nearest folder
            that would do.
    """
    paths = paths_from(manifest, folder)
    entries = tuple(
        replace(entry, path=paths[entry.id]) if entry.id in paths else entry
        for entry in manifest.stores
    )
    return replace(manifest, stores=entries, root=folder)


def paths_from(manifest: Manifest, folder: Path) -> dict[str, str]:
    """Paths relative to `folder`, by id, of the entries whose paths change.

    Raises:
        MisplacedManifest: as `rebase`.
    """
    old, new = manifest.root.resolve(), folder.resolve()
    if old == new:
        return {}
    local = [entry for entry in manifest.stores if entry.path is not None and not entry.is_remote]
    if new in old.parents:
        below = old.relative_to(new).as_posix()
        return {entry.id: f"{below}/{entry.path}" for entry in local}
    paths = {e.id: Path(os.path.relpath(old / str(e.path), new)).as_posix() for e in local}
    if outside := sorted(name for name, path in paths.items() if _leaves(path)):
        raise MisplacedManifest(
            f"{len(outside)} {'store lies' if len(outside) == 1 else 'stores lie'} outside of "
            f"{folder}, {outside[0]} for one; a manifest lies above its stores, so write this one "
            f"to {_nearest_folder([*(new / path for path in paths.values()), new / '_'])}"
        )
    return paths


def _leaves(path: str) -> bool:
    return path == ".." or path.startswith("../")


def _nearest_folder(places: Iterable[Path]) -> str:
    folders = [os.path.normpath(place.parent) for place in places]
    return os.path.commonpath(folders)
