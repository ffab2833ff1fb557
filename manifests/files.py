"""Files that are either whole or not there: atomic writing, checksums, links, canonical JSON.

Every file that histotile writes goes through `atomic_file`: a temporary file in the same folder,
fsync, rename, fsync of the folder. Temporary names start with a dot and end in `.tmp`, so that
`remove_temporaries` finds what a killed process left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import stat
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import google_crc32c

from manifests.errors import FileChanged

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Json = Any
"""A parsed JSON value; checked where it is read, so `Any` stops at the loaders."""

_BUFFER_BYTES = 1 << 20


@contextlib.contextmanager
def atomic_file(path: Path, *, sync: bool = True) -> Iterator[BinaryIO]:
    """A file to write to, which takes the name `path` when the block ends without an error.

    Readers see the old file or the new one, never a part. Survives a power cut: the data reach the
    disk before the name does.

    Args:
        sync: without it, a power cut may leave an empty or a broken file; a killed process not.

    Raises:
        OSError: the disk is full, read-only, ...; the old file is then untouched.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with temporary.open("xb", buffering=_BUFFER_BYTES) as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(path)  # a full disk does not say which
        raise
    if sync:
        sync_folder(path.parent)


def write_atomic(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write `data` to `path` through `atomic_file`."""
    with atomic_file(path, sync=sync) as file:
        file.write(data)


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes; the empty string if there is no such file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


@contextlib.contextmanager
def unchanged(path: Path, digest: str) -> Iterator[None]:
    """Hold a file that is about to be replaced, and be sure that it is the one that was read.

    The lock lies on the file itself: whoever comes later finds that another file has its name.

    Args:
        digest: of `file_digest`, when the work began.

    Raises:
        FileChanged: the file has another content now, or another process is replacing it.
    """
    changed = FileChanged(
        f"{path} was changed by someone else in the meantime and is left as it is: run this again"
    )
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        if digest:
            raise changed from error
        yield
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise changed from error
        except OSError:
            pass  # a file system without locks: only the check is left
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
            raise changed
        yield


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporaries(folder: Path) -> int:
    """Delete what killed writers left in `folder` and below; return how many files that were."""
    leftovers = [path for path in folder.rglob(".*.tmp") if path.is_file()]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


def stays_inside(root: Path, relative: str) -> bool:
    """Whether a path below `root` stays there when symbolic links are followed; opens nothing.

    Args:
        relative: POSIX, without `..`; it need not exist.

    Raises:
        OSError: a part cannot be looked up, or is a ring of symbolic links.
    """
    here = os.fspath(root)
    for part in relative.split("/"):
        here = f"{here}/{part}"
        try:
            mode = os.lstat(here).st_mode
        except FileNotFoundError:
            return True
        if stat.S_ISLNK(mode):
            try:
                found = os.path.realpath(f"{os.fspath(root)}/{relative}", strict=True)
            except FileNotFoundError:
                found = os.path.realpath(f"{os.fspath(root)}/{relative}")
            return Path(found).is_relative_to(os.path.realpath(root))
    return True


def crc32c(data: bytes | memoryview) -> int:
    """CRC-32C (Castagnoli) of `data`, as Zarr's `crc32c` codec computes it.

    Of no use for a file that ends in its own crc32c: those of equal length share one value.
    """
    return int(google_crc32c.value(bytes(data)))


def crc32c_of(data: npt.NDArray[np.uint8], before: int = 0) -> int:
    """`crc32c` of an array of shape (N,), which is not copied, behind what gave `before`."""
    return int(google_crc32c.extend(before, data))


def sha256(data: bytes) -> str:
    """sha256 of a file's content, 64 hexadecimal digits: what `sha256sum` prints."""
    return hashlib.sha256(data).hexdigest()


def canonical_json(value: Json) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, UTF-8, no NaN."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def pretty_json(value: Json) -> bytes:
    """JSON for people and diffs: sorted keys, one item a line, UTF-8, a final newline."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def spec_hash(spec: Mapping[str, Json]) -> str:
    """sha256 of the canonical JSON of a spec, as 64 hexadecimal digits."""
    return sha256(canonical_json(spec))
