"""What all tests share: the folder of real slides, where a person has one, and no deadlines."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# No test fails for being slow: machines have other things to do, too.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real slides; a file missing in it is a failure, the folder unset a skip."""
    folder = os.environ.get("HISTOTILE_TEST_DATA")
    if not folder:
        pytest.skip("set HISTOTILE_TEST_DATA to the folder of real slides")
    assert Path(folder).is_dir(), "HISTOTILE_TEST_DATA must name a folder"
    return Path(folder)
