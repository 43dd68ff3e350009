"""Why the numbers of a results folder may be believed: row counts and digests in ``suite.json``.

Each run has the number of its rows and a digest of them, the baseline without training has the same
of its own, and the file has a digest of itself. Whatever does not agree is named, and its run is
not done. Folders from before there were seals are taken as they are, with a remark;
``python -m reelrl.zoo.benchmark.seals FOLDER`` seals one as it is now.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from reelrl.zoo.benchmark.columns import BEST_OF_N, SUITE, read_rows, read_runs, write_text
from reelrl.zoo.benchmark.names import NAME, check_name

SEAL = "seal"
LENGTH = 16
"""Hexadecimal digits of a digest."""


def seal_of(rows: Iterable[Mapping[str, str]]) -> dict[str, Any]:
    """Number of rows, and a digest of them in any order; empty cells do not count.

    Args:
        rows: as text.
    """
    texts = sorted(_canonical({k: v for k, v in row.items() if v}) for row in rows)
    return {"rows": len(texts), "content": _digest("\n".join(texts))}


def sealed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``suite.json``, with a digest of it as the last key."""
    bare = {key: value for key, value in facts.items() if key != SEAL}
    return {**bare, SEAL: _digest(_canonical(bare))}


def read_facts(folder: Path) -> dict[str, Any]:
    """The content of the ``suite.json`` of a folder of results holds.

    Raises:
        ValueError: in one line that names the file, if it is damaged, or holds something else.
        OSError: if it cannot be read.
    """
    path = folder / SUITE
    try:
        facts = json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {' '.join(str(error).split())}") from error
    if not isinstance(facts, dict):
        raise ValueError(f"{path} must hold keys and values, got a {type(facts).__name__}")
    runs = facts.get("runs")
    has_seals = isinstance(runs, dict) and any("rows" in r for r in runs.values() if r)
    if SEAL in facts or has_seals:
        expected, actual = facts.get(SEAL), sealed(facts)[SEAL]
        if expected != actual:
            raise ValueError(
                f"{path} is damaged: expected the digest {expected}, got {actual}. Restore it; if "
                "the change is wanted, python -m reelrl.zoo.benchmark.seals accepts it"
            )
    _check_shape(facts, path)
    return facts


def _check_shape(facts: Mapping[str, Any], path: Path) -> None:
    """Refuse values that no writer makes: names that are paths, and other kinds of values."""

    def expect(right: bool, key: str, wanted: str) -> None:
        if not right:
            raise ValueError(f"{path}: {key} must be {wanted}, got {facts.get(key)!r:.80}")

    for key in ("scenarios", "methods", "runs", "truth", "versions", "examined"):
        value = facts.get(key) or {}
        expect(isinstance(value, dict), key, "keys and values")
        if key in ("scenarios", "methods", "runs"):
            expect(all(isinstance(v, dict) for v in value.values()), key, "keys and values of such")
        for name in value if key in ("scenarios", "methods") else ():
            check_name(name, f"{path}: {key}")
    for run in facts.get("runs") or {}:
        parts = run.split("/")
        right = len(parts) == 3 and all(NAME.fullmatch(part) for part in parts)
        expect(right and parts[2].removeprefix("seed_").isdigit(), "runs", "paths of runs")
    seeds = facts.get("seeds") or []
    expect(isinstance(seeds, list) and all(type(s) is int for s in seeds), "seeds", "numbers")
    for key in ("margin", "iterations"):
        value = facts.get(key, 0)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        expect(number and 0 <= value < float("inf"), key, "a number of at least 0")
    for key in ("suite", "title", "command", "baseline", "control"):
        expect(isinstance(facts.get(key), str | None), key, "a text")
    failed = facts.get("failed") or []
    keys = {"scenario", "method", "seed"}
    whole = isinstance(failed, list) and all(isinstance(f, dict) and keys <= set(f) for f in failed)
    expect(whole, "failed", "a list of runs")
    for scenario in (facts.get("scenarios") or {}).values():
        lists = [scenario.get(key) or [] for key in ("methods", "rewards")]
        expect(all(isinstance(found, list) for found in lists), "scenarios", "lists of names")
        expect(isinstance(scenario.get("expect") or {}, dict), "scenarios", "with keys in expect")


@dataclass(frozen=True)
class Damage:
    """Parts of a results folder that differ from the written ones.

    Attributes:
        runs: path of a run, as in ``suite.json`` -> the fault of its rows.
        best_of_n: fault of the baseline without training; empty if there is none.
        unsealed: True if the folder is from before there were seals.
    """

    runs: Mapping[str, str] = field(default_factory=dict)
    best_of_n: str = ""
    unsealed: bool = False

    def lines(self, folder: Path) -> list[str]:
        """One line for each of them."""
        found = [f"damaged: {folder}: {path}: {why}" for path, why in self.runs.items()]
        return found + ([f"damaged: {folder}: {self.best_of_n}"] if self.best_of_n else [])

    def remark(self, folder: Path) -> str:
        """A line for a folder whose numbers cannot be checked; empty for others."""
        if not self.unsealed:
            return ""
        return f"{folder} has no digests of its rows, which cannot be checked"


def find_damage(folder: Path, facts: Mapping[str, Any]) -> Damage:
    """Compare the rows of a results folder with its ``suite.json``.

    Args:
        folder: of the results.
        facts: from :func:`read_facts`.
    """
    recorded: Mapping[str, Mapping[str, Any]] = facts.get("runs") or {}
    tables = {scenario: _table(folder, scenario) for scenario in _scenarios(recorded)}
    wrong = {path: _fault(*tables[path.split("/")[0]], path, recorded[path]) for path in recorded}
    best = _best_of_n_fault(folder / f"{BEST_OF_N}.csv", facts.get(BEST_OF_N))
    unsealed = SEAL not in facts
    return Damage({path: why for path, why in wrong.items() if why}, best, unsealed)


def _scenarios(paths: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(path.split("/")[0] for path in paths))


Table = Mapping[tuple[str, int], list[dict[str, str]]]


def _table(folder: Path, scenario: str) -> tuple[Table, str]:
    """Rows of a scenario by run, and the faults of the whole file."""
    path = folder / f"{scenario}.csv"
    if not path.is_file():
        return {}, f"there is no {path.name}"
    try:
        return read_runs(path), ""
    except (ValueError, OSError) as error:
        return {}, str(error).removeprefix(f"{folder}/")


def _fault(table: Table, broken: str, path: str, recorded: Mapping[str, Any]) -> str:
    """Fault of the rows of one run; empty if there is none."""
    if broken:
        return broken
    scenario, method, seed = path.split("/")
    rows = table.get((method, int(seed.removeprefix("seed_"))), [])
    return _difference(rows, recorded, f"{scenario}.csv")


def _difference(rows: list[dict[str, str]], recorded: Mapping[str, Any], file: str) -> str:
    found = seal_of(rows)
    wanted = recorded.get("rows")
    if wanted is None:  # from before there were seals
        return "" if rows else f"{file} holds no row of it"
    if found["rows"] != wanted:
        return f"{file} holds {found['rows']} of its rows, expected {wanted}"
    if found["content"] != recorded.get("content"):
        return f"{file} holds other numbers than were written"
    return ""


def _best_of_n_fault(path: Path, recorded: Any) -> str:
    try:
        rows = read_rows(path)
    except (ValueError, OSError) as error:
        return str(error).removeprefix(f"{path.parent}/")
    return "" if not isinstance(recorded, dict) else _difference(rows, recorded, path.name)


def seal(folder: Annotated[Path, tyro.conf.Positional]) -> None:
    """Seal a results folder as it is: write counts and digests of its rows into ``suite.json``.

    Args:
        folder: holds ``suite.json`` and one CSV per scenario.

    Raises:
        ValueError: if a file is no table, or a run has no rows.
    """
    path = folder / SUITE
    facts = json.loads(path.read_bytes().decode("utf-8"))
    facts.pop(SEAL, None)
    runs = {name: {k: v for k, v in run.items() if k not in ("rows", "content")}
            for name, run in facts.get("runs", {}).items()}  # fmt: skip
    _check_shape({**facts, "runs": runs}, path)
    for name, run in runs.items():
        scenario, method, seed_ = name.split("/")
        rows = read_runs(folder / f"{scenario}.csv").get((method, int(seed_[5:])), [])
        if not rows:
            raise ValueError(f"{folder / scenario}.csv holds no row of {name}")
        run |= seal_of(rows)
    facts["runs"] = runs
    facts[BEST_OF_N] = seal_of(read_rows(folder / f"{BEST_OF_N}.csv"))
    write_text(path, json.dumps(sealed(facts), indent=1) + "\n")


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


if __name__ == "__main__":
    from reelrl.zoo.door import door

    with door("seals"):
        tyro.cli(seal)
