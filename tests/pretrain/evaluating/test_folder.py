"""An evaluation writes over evaluations and over nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("sklearn")

from pretrain.errors import ConfigError
from pretrain.evaluating.folder import check_folder


def test_an_evaluation_is_written_over(tmp_path: Path) -> None:
    check_folder(tmp_path / "new" / "folder")
    (tmp_path / "evaluation.json").write_text(json.dumps({"format": "histotile-evaluation"}))
    (tmp_path / "report.html").write_text("page")
    (tmp_path / "notes.txt").write_text("mine")
    check_folder(tmp_path)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("content", ["{}", "[]", "no JSON", '{"format": "other"}'])
def test_what_others_wrote_is_not(tmp_path: Path, content: str) -> None:
    (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(ConfigError, match=r"evaluation\.json was not written by"):
        check_folder(tmp_path)


def test_a_page_of_somebody_else_stays(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("page")
    with pytest.raises(ConfigError, match=r"report\.html was not written by"):
        check_folder(tmp_path)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ConfigError, match="is a file: give -o a folder"):
        check_folder(tmp_path / "out")
    with pytest.raises(ConfigError, match="lies below a file, out: give -o another"):
        check_folder(tmp_path / "out" / "deep" / "er")
