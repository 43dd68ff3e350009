"""The list of registered estimators, transforms and post steps."""

from __future__ import annotations

from reelrl.algos.advantages import (
    estimator_class,
    list_estimators,
    list_posts,
    list_transforms,
    make_estimator,
)
from reelrl.zoo.documents.settings_list import listing


def table() -> str:
    """Name, source, requirements and presets of every estimator, one line each."""
    rows = [("estimator", "source", "needs", "presets")]
    for name in list_estimators():
        cls = estimator_class(name)
        needs = ", ".join(sorted(make_estimator(name).requires)) or "-"
        rows.append((name, cls.source, needs, ", ".join(cls.presets) or "-"))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [
        "  ".join([*(cell.ljust(w) for cell, w in zip(row[:3], widths, strict=True)), row[3]])
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def main() -> None:
    """Print the list."""
    print(f"{table()}\n")
    print(f"transforms: {', '.join(list_transforms())}")
    print(f"post steps: {', '.join(list_posts())}")


def detail(name: str) -> None:
    """Print the settings of one estimator, with the values of a preset after ``@``.

    Raises:
        ValueError: for an unknown name or preset.
    """
    estimator = make_estimator(name)
    print(f"settings of {name}, {estimator.source}:\n\n{listing(estimator.config)}")
