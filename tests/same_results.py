"""Whether two folders of benchmark results are the same in every cell but the clock.

Run ``python tests/same_results.py A B``. ``reelrl bench quick --results A`` makes A on one commit,
and B comes from another. Use one machine: another processor differs in the fifth digit.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

CLOCK = {"wall_s"}


def differences(first: Path, second: Path) -> list[str]:
    """One line per table that is missing on a side, and per cell that differs."""
    names = sorted({path.name for folder in (first, second) for path in folder.glob("*.csv")})
    if not names:
        return [f"no table in {first} nor in {second}"]
    found = []
    for name in names:
        tables = [rows(folder / name) for folder in (first, second)]
        if None in tables or len(tables[0] or ()) != len(tables[1] or ()):
            found.append(f"{name}: {[None if t is None else len(t) for t in tables]} rows")
            continue
        for number, (a, b) in enumerate(zip(*tables, strict=True)):
            found += [
                f"{name}, row {number}, {key}: {a.get(key)} and {b.get(key)}"
                for key in sorted(a.keys() | b.keys())
                if key not in CLOCK and a.get(key) != b.get(key)
            ]
    return found


def rows(path: Path) -> list[dict[str, str]] | None:
    """Rows of a table, or None if it is not there."""
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    lines = differences(*(Path(argument) for argument in sys.argv[1:3]))
    print("\n".join(lines[:20]) or "the same in every cell but the clock")
    raise SystemExit(bool(lines))
