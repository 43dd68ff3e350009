"""``reelrl report FOLDER``: the pages of a benchmark from its numbers; nothing is run again."""

from __future__ import annotations

from pathlib import Path

from reelrl.zoo.reporting.measures import measure
from reelrl.zoo.reporting.results import results_page
from reelrl.zoo.reporting.suite import read_suite

RESULTS = "RESULTS.md"


def report(folder: Path) -> list[Path]:
    """Write ``RESULTS.md`` into a results folder.

    Args:
        folder: holds ``suite.json`` and one CSV per scenario.

    Returns:
        The files written.

    Raises:
        ValueError: if it is no results folder or holds no finished run.
    """
    results = measure(read_suite(folder))
    path = folder / RESULTS
    path.write_text(results_page(results), encoding="utf-8")
    return [path]
