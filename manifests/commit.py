"""The commit record of a store, `commit.json`: which files it has, how long, and their sha256.

A store without a valid record does not exist for readers. A store may come from anyone: no file
that its record names lies outside of its folder, whatever names and symbolic links say.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manifests import layout
from manifests.checks import check_count, check_name, check_text, short
from manifests.errors import ManifestError, StoreError
from manifests.files import Json, sha256, stays_inside

_FILE_NAME = re.compile(r"(?!\.)[^/\\:\0\n]+(/(?!\.)[^/\\:\0\n]+)*")
"""Relative, and no component begins with a dot: such files are never committed."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_BYTES = 2**28


def read_commit(store: Path) -> dict[str, Any]:
    """The commit record of a store, checked against its own checksum.

    Raises:
        StoreError: there is no store, it is not committed, or the record is damaged.
    """
    file = store / layout.COMMIT_FILE
    try:
        if not store.is_dir():
            raise StoreError(f"there is no store at {store}")
        _, size = own_file(store, layout.COMMIT_FILE)
        if size > _MAX_BYTES:
            raise StoreError(f"{file} has {size:,} bytes, more than any commit record")
        data = file.read_bytes()
        commit = json.loads(data)
        own = commit.get("sha256")
        # What was hashed is the text without this line; so the text may have no other form.
        body = data.replace(f' "sha256": "{own}",\n'.encode(), b"", 1)
    except FileNotFoundError as error:
        raise StoreError(
            f"{store} is not committed: its run was interrupted; run it again"
        ) from error
    except OSError as error:
        raise StoreError(f"{file} cannot be read ({error.strerror})") from error
    except (ValueError, AttributeError, RecursionError) as error:
        raise StoreError(f"{file} is not a JSON object ({error})") from error
    if commit.get("format") != layout.COMMIT_FORMAT:
        raise StoreError(f"{file} is not a commit record of a histotile store")
    if commit.get("version") != layout.FORMAT_VERSION:
        raise StoreError(
            f"{store} has store format {short(commit.get('version'))}; "
            f"this version of histotile reads {layout.FORMAT_VERSION}"
        )
    if len(body) == len(data) or own != sha256(body):
        raise StoreError(f"{file} fails its own checksum")
    if not {"uuid", "groups", "files", "totals"} <= commit.keys():
        raise StoreError(f"{file} lacks one of uuid, groups, files and totals")
    _check(commit, file)
    return dict(commit)


def _check(commit: Mapping[str, Json], file: Path) -> None:
    """Refuse a record that was made to mislead: its checksum is right, its content is not."""
    groups, files, totals = commit["groups"], commit["files"], commit["totals"]
    try:
        check_text(commit["uuid"], "uuid")
        if not (isinstance(groups, list) and isinstance(files, dict) and isinstance(totals, dict)):
            raise ManifestError("groups, files or totals are of another type")
        for group in groups:
            check_name(group, "groups")
        for key in ("tiles", "bytes"):
            check_count(totals.get(key), f"totals.{key}")
        for name, found in files.items():
            if not _FILE_NAME.fullmatch(name):
                raise ManifestError(f"{short(name)} is no name of a file of a store")
            if not isinstance(found, list) or len(found) != 2:
                raise ManifestError(f"files: {short(found)} must be bytes and sha256")
            check_count(found[0], "files: bytes")
            if not isinstance(found[1], str) or not _SHA256.fullmatch(found[1]):
                raise ManifestError(f"files: {short(found[1])} is no sha256")
    except ManifestError as error:
        raise StoreError(f"{file} says what no commit record says ({error})") from error


def own_file(store: Path, name: str) -> tuple[Path, int]:
    """Path and bytes of a store's file, once it is sure to be a plain file in the store.

    Args:
        name: relative to the store, as a commit record has it.

    Raises:
        StoreError: a symbolic link leads out of the store, or it is no plain file.
        OSError: it is missing, or cannot be looked up.
    """
    path = store / name
    if not stays_inside(store, name):
        raise StoreError(f"{path} is a symbolic link that leads out of the store")
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        # A pipe would never end, a device may do anything.
        raise StoreError(f"{path} is not a plain file")
    return path, found.st_size


def read_committed(store: Path, name: str, committed: tuple[int, str]) -> bytes:
    """The bytes of a store's file, which must be as long as committed and have that sha256.

    Raises:
        StoreError: they are not, or the file cannot be read.
    """
    try:
        path, size = own_file(store, name)
        # Of another length it is not read at all: it may be of any.
        data = path.read_bytes() if size == committed[0] else b""
    except OSError as error:
        raise StoreError(f"{store / name} cannot be read ({error.strerror})") from error
    if (len(data), sha256(data)) != committed:
        raise StoreError(f"{path} was changed after the store was committed")
    return data


def json_object(data: bytes, file: Path) -> dict[str, Json]:
    """The JSON object in the bytes of a file; anything else raises `StoreError`."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{file} is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise StoreError(f"{file} is not a JSON object")
    return found


def is_committed(path: Path) -> bool:
    """Whether a store is there and whole, as far as its commit record tells."""
    try:
        read_commit(path)
    except StoreError:
        return False
    return True


def is_complete(path: Path) -> bool:
    """Whether a store is committed and all its files are there, each as long as committed.

    What is in the files is checked when it is read.
    """
    try:
        files = read_commit(path)["files"]
        return all((path / name).stat().st_size == size for name, (size, _) in files.items())
    except (StoreError, OSError):
        return False


__all__ = [
    "is_committed",
    "is_complete",
    "json_object",
    "own_file",
    "read_commit",
    "read_committed",
]
