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
from manifests.model import Manifest, StoreEntry


class MisplacedManifest(ManifestError):
    """A manifest would have to point out of the folder that it is to lie in."""

    exit_code = EXIT_USAGE


def rebase(manifest: Manifest, folder: Path) -> Manifest:
    """The same manifest, to be saved in `folder`; URLs stay as they are.

    Raises:
        MisplacedManifest: a store lies outside of `folder`; the message names the nearest folder
            that would do.
    """
    old, new = manifest.root.resolve(), folder.resolve()
    if old == new:
        return replace(manifest, root=folder)
    places = {e.id: _relative(old / e.path, new) for e in manifest.stores if e.path and _local(e)}
    if outside := sorted(name for name, place in places.items() if _leaves(place)):
        tops = [new / place for place in places.values()]
        raise MisplacedManifest(
            f"{len(outside)} {'store lies' if len(outside) == 1 else 'stores lie'} outside of "
            f"{folder}, {outside[0]} for one; a manifest lies above its stores, so write this one "
            f"to {_nearest_folder([*tops, new / '_'])}"
        )
    entries = tuple(
        replace(entry, path=places[entry.id]) if entry.id in places else entry
        for entry in manifest.stores
    )
    return replace(manifest, stores=entries, root=folder)


def _local(entry: StoreEntry) -> bool:
    return entry.path is not None and not entry.is_remote


def _relative(place: Path, folder: Path) -> str:
    return Path(os.path.relpath(place, folder)).as_posix()


def _leaves(path: str) -> bool:
    return path == ".." or path.startswith("../")


def _nearest_folder(places: Iterable[Path]) -> str:
    folders = [os.path.normpath(place.parent) for place in places]
    return os.path.commonpath(folders)
