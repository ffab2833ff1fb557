"""Training tests use one thread of torch: tiny models gain nothing from more."""

from __future__ import annotations

import importlib.util

import pytest


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Keep torch from waiting for cores that other processes use."""
    if importlib.util.find_spec("torch") is not None:
        import torch

        torch.set_num_threads(1)
