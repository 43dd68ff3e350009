"""What all tests of the adapters share."""

from __future__ import annotations

import warnings

import pytest


@pytest.fixture(autouse=True)
def quiet():
    """Without Stable-Baselines3's advice about spaces and policies."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="stable_baselines3")
        yield
