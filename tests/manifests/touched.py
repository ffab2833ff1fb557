"""Which files a piece of code touches: every open, listing, change and look-up, by path.

Opens, listings and changes are what the interpreter's audit events report. `stat` has none, so its
function is wrapped. Looking up a link itself (`lstat`, `readlink`) is how one finds out where it
leads, and does not count. Paths of the interpreter's own modules do not count either.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

_PREFIXES = ("os.", "shutil.", "pathlib.", "tempfile.", "glob.", "subprocess.", "socket.")
_OWN = tuple({os.path.realpath(p) for p in (sys.prefix, sys.base_prefix, *sys.path) if p})

_watching: list[list[str]] = []
_installed: list[bool] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if not _watching or not (event == "open" or event.startswith(_PREFIXES)):
        return
    paths = [a for a in arguments if isinstance(a, (str, bytes, os.PathLike))]
    if event.startswith(("subprocess.", "socket.")):
        _watching[-1].append(f"{event} {arguments!r}")
    elif paths and not isinstance(arguments[0], int):
        _watching[-1].append(os.fsdecode(paths[0]))


@contextlib.contextmanager
def touched_outside(root: Path) -> Iterator[list[str]]:
    """A list that holds, once the block has ended, what was touched that lies not below `root`."""
    if not _installed:
        sys.addaudithook(_hook)  # there is no way to take it off again
        _installed.append(True)
    seen: list[str] = []
    outside: list[str] = []
    real_stat = os.stat

    def stat(path: object, *arguments: object, **settings: object) -> os.stat_result:
        if not isinstance(path, int):
            seen.append(os.fsdecode(path))  # type: ignore[arg-type]
        return real_stat(path, *arguments, **settings)  # type: ignore[arg-type]

    _watching.append(seen)
    try:
        with mock.patch.object(os, "stat", stat):
            yield outside
    finally:
        _watching.pop()
        inside = os.path.realpath(root)
        for path in dict.fromkeys(seen):
            found = os.path.realpath(path) if "\0" not in path else path
            if found != inside and not found.startswith((f"{inside}/", *_OWN)):
                outside.append(path)
