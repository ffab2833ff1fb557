"""Tests of the manifests room do not wait for the disk."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip fsync, which only a power cut could tell; `test_files` checks when it is called."""

    def fsync(_descriptor: int) -> None:
        return

    monkeypatch.setattr(os, "fsync", fsync)
