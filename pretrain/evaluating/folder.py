"""The folder that an evaluation is written to: `evaluation.json` and `report.html`.

Only what an evaluation wrote is ever written over. Each file is put in place by one rename, and a
page never lies beside the JSON of another evaluation.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from manifests.files import pretty_json, write_atomic
from pretrain.errors import ConfigError
from pretrain.page.report import Extras, write_report
from pretrain.results.result import FORMAT, Evaluation

JSON_FILE = "evaluation.json"
PAGE_FILE = "report.html"


def check_folder(folder: Path) -> None:
    """Refuse, before any work, a folder that nothing can be written to.

    Raises:
        ConfigError: it is a file, is not ours to write to, or has files of these names from
            somebody else.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file: give -o a folder")
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise ConfigError(f"{folder} lies below a file, {there.name}: give -o another folder")
    if not os.access(there, os.W_OK):
        raise ConfigError(f"{there} cannot be written to: give -o another folder")
    taken = [name for name in (JSON_FILE, PAGE_FILE) if (folder / name).exists()]
    if taken and not _is_ours(folder / JSON_FILE):
        raise ConfigError(
            f"{folder / taken[0]} was not written by histopretrain evaluate: give -o another folder"
        )


def write_folder(folder: Path, evaluation: Evaluation, extras: Extras) -> None:
    """Write an evaluation and its page.

    Raises:
        OSError: the disk is full, ...; each file is then whole, old or new.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PAGE_FILE).unlink(missing_ok=True)
    write_atomic(folder / JSON_FILE, pretty_json(evaluation.to_json()))
    write_report(folder / PAGE_FILE, evaluation, extras)


def _is_ours(file: Path) -> bool:
    try:
        said = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(said, dict) and said.get("format") == FORMAT
