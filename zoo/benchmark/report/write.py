"""``reelrl report FOLDER``: the pages of a benchmark from its numbers; nothing is run again."""

from __future__ import annotations

import sys
from pathlib import Path

from reelrl.zoo.benchmark.report.html import report_page
from reelrl.zoo.benchmark.report.markdown import results_page
from reelrl.zoo.benchmark.report.numbers import measure
from reelrl.zoo.benchmark.report.reading import read_results
from reelrl.zoo.benchmark.report.story import story

RESULTS, PAGE, STORY = "RESULTS.md", "report.html", "story.png"


def summary(folder: Path) -> list[str]:
    """The headlines of ``RESULTS.md``, for people at a terminal."""
    text = (folder / RESULTS).read_text(encoding="utf-8")
    return [line for line in text.split("\n\n")[1].splitlines() if line.startswith("- ")]


def report(folder: Path) -> list[Path]:
    """Write ``RESULTS.md``, ``report.html`` and ``story.png`` into a results folder.

    Standard error names each part of the folder that is damaged or cannot be checked. The first
    page regenerates to the byte from equal numbers; the second is for reading, and needs neither
    network nor server.

    Args:
        folder: holds ``suite.json`` and one CSV per scenario.

    Returns:
        The files written.

    Raises:
        ValueError: if it is no results folder or holds no finished run.
    """
    suite = read_results(folder)
    for line in (*suite.damage.lines(folder), suite.damage.remark(folder)):
        if line:
            print(line, file=sys.stderr)
    results = measure(suite)
    paths = [folder / name for name in (RESULTS, PAGE, STORY)]
    paths[0].write_text(results_page(results), encoding="utf-8", newline="")
    paths[1].write_text(report_page(results), encoding="utf-8", newline="")
    story(results, paths[2])
    return paths
