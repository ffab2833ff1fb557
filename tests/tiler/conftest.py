"""What the tests of cutting tiles share: a painted slide, painted once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiler.synthetic import paint, write_slide


@pytest.fixture(scope="session")
def painted_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stained section of 1024 x 768 px at 0.5 µm/px with three levels; not to be written to."""
    path = tmp_path_factory.mktemp("slides") / "painted.tif"
    write_slide(path, paint("he", 1024, 768, 3), 0.5)
    return path
