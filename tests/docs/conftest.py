"""Registries as the library has them, whatever pages and other tests have registered."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from reelrl.algos.advantages import list_estimators, registry
from reelrl.rewards import base

# The code of the site is in no package: it does not ship.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs" / "build"))


def own(entries):
    return {name: made for name, made in entries.items() if made.__module__.startswith("reelrl.")}


@pytest.fixture(autouse=True)
def library_registries(monkeypatch):
    list_estimators()  # estimators register when they are first asked for
    monkeypatch.setattr(base, "_REGISTRY", own(base._REGISTRY))
    monkeypatch.setattr(registry, "_REGISTRY", own(registry._REGISTRY))
