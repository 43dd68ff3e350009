"""The list of registered estimators, transforms and post steps."""

from __future__ import annotations

from pathlib import Path

from reelrl.algos.advantages import (
    estimator_class,
    list_estimators,
    list_posts,
    list_transforms,
    make_estimator,
)


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


def main(out: Path | None) -> None:
    """Print the list; with a folder, write it there."""
    text = "\n".join(
        [
            table(),
            "",
            f"transforms: {', '.join(list_transforms())}",
            f"post steps: {', '.join(list_posts())}",
        ]
    )
    print(text)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "estimators.txt").write_text(text + "\n")
