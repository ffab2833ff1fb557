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
from manifests.model import Manifest


class MisplacedManifest(ManifestError):
    """A manifest would have to point out of the folder that it is to lie in."""

    exit_code = EXIT_USAGE


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
