"""Registries as the library has them, whatever pages and other tests have registered."""

from __future__ import annotations

import pytest

from reelrl.algos.advantages import list_estimators, registry
from reelrl.rewards import base


def own(entries):
    return {name: made for name, made in entries.items() if made.__module__.startswith("reelrl.")}


@pytest.fixture(autouse=True)
def library_registries(monkeypatch):
    list_estimators()  # estimators register when they are first asked for
    monkeypatch.setattr(base, "_REGISTRY", own(base._REGISTRY))
    monkeypatch.setattr(registry, "_REGISTRY", own(registry._REGISTRY))
