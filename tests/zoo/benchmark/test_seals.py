"""Results are believed if they are what was written, to the bit."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from pathlib import Path

import pytest

from reelrl.zoo.benchmark.columns import read_rows
from reelrl.zoo.benchmark.design import read_suite
from reelrl.zoo.benchmark.report.markdown import results_page
from reelrl.zoo.benchmark.report.numbers import measure
from reelrl.zoo.benchmark.report.reading import read_results
from reelrl.zoo.benchmark.seals import find_damage, read_facts, seal, seal_of, sealed
from reelrl.zoo.benchmark.store import Store
from reelrl.zoo.cli import main

QUICK = Path(__file__).resolve().parents[3] / "zoo" / "results" / "quick"
FIRST = "goodhart/grpo/seed_0"


@pytest.fixture
def quick(tmp_path):
    """A copy of the committed results of ``quick``, which are sealed."""
    folder = tmp_path / "quick"
    shutil.copytree(QUICK, folder, ignore=shutil.ignore_patterns("*.html", "clips", "*.png"))
    return folder


def lines_of(folder, name="goodhart.csv"):
    return (folder / name).read_text(encoding="utf-8").splitlines(keepends=True)


def write(folder, lines, name="goodhart.csv"):
    (folder / name).write_text("".join(lines), encoding="utf-8", newline="")


def damage(folder):
    return find_damage(folder, read_facts(folder))


def change(folder, **changes):
    path = folder / "suite.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(sealed(facts | changes)), encoding="utf-8")


def test_the_digest_of_rows_is_that_of_their_sorted_canonical_texts():
    rows = [{"b": "2", "a": "1", "c": ""}, {"a": "0", "b": "2"}]
    text = '{"a": "0", "b": "2"}\n{"a": "1", "b": "2"}'
    expected = {"rows": 2, "content": hashlib.sha256(text.encode()).hexdigest()[:16]}
    assert seal_of(rows) == seal_of(rows[::-1]) == expected


def test_committed_results_are_sealed_and_whole():
    folders = [path.parent for path in QUICK.parent.glob("*/suite.json")]
    assert len(folders) == 5
    for folder in folders:
        found = damage(folder)
        assert found.lines(folder) == [] and found.remark(folder) == ""


def edit_row(lines):
    cells = lines[1].split(",")
    place = next(i for i, cell in enumerate(cells) if cell.startswith("0."))
    cells[place] = "9" + cells[place][1:]
    return [lines[0], ",".join(cells), *lines[2:]]


ROWS = {
    "one row removed": (lambda lines: lines[:1] + lines[2:], "holds 20 of its rows, expected 21"),
    "a row doubled": (lambda lines: [*lines, lines[1]], "holds 22 of its rows, expected 21"),
    "one digit changed": (edit_row, "holds other numbers than were written"),
    "a run renamed": (lambda lines: [line.replace("grpo,0,", "grp0,0,") for line in lines],
                      "holds 0 of its rows, expected 21"),
    "cut at two thirds": (lambda lines: ["".join(lines)[: 2 * len("".join(lines)) // 3]],
                          "row 85: the file ends in the middle of a row"),
    "a row shortened": (lambda lines: [*lines[:4], lines[4].partition(",")[0] + "\n", *lines[5:]],
                        "row 5: expected 55 cells, got 1"),
    "a NUL": (lambda lines: [*lines[:3], "\0" + lines[3], *lines[4:]],
              "row 4: expected text in UTF-8, got byte 0x00"),
    "a negative iteration": (lambda lines: [*lines[:1], lines[1].replace("grpo,0,0", "grpo,0,-1"),
                                            *lines[2:]], "column iteration: expected a whole num"),
    "a seed that is none": (lambda lines: [*lines[:1], lines[1].replace("grpo,0,0", "grpo,x,0"),
                                           *lines[2:]], "row 2, column seed: expected a who"),
    "empty": (lambda lines: [], "row 1: the file is empty"),
    "a column twice": (lambda lines: [lines[0].replace("iteration", "seed"), *lines[1:]],
                       "row 1: expected different names of columns"),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_rows_that_are_not_as_written_are_named_and_left_out(name, quick, capsys):
    spoil, message = ROWS[name]
    whole = results_page(measure(read_results(quick)))
    write(quick, spoil(lines_of(quick)))
    found = damage(quick)
    assert message in found.runs[FIRST]
    others = len(read_facts(quick)["runs"]) - len(found.runs)
    with pytest.raises(SystemExit) as stop:
        main(["report", str(quick)])
    said = capsys.readouterr().err
    assert stop.value.code == (1 if others else 2)
    assert f"damaged: {quick}: {FIRST}: goodhart.csv" in said and "Traceback" not in said
    if others:
        page = (quick / "RESULTS.md").read_text(encoding="utf-8")
        assert page != whole and "| goodhart | grpo | 0 | damaged: " in page
    # bench measures them again, and only them.
    store = Store(quick, read_suite("quick"))
    assert {str(run.path) for run in store.missing()} == set(found.runs)


def test_a_table_that_is_gone_is_measured_again(quick, capsys):
    (quick / "goodhart.csv").unlink()
    store = Store(quick, read_suite("quick"))
    assert len(store.missing()) == 6
    with pytest.raises(SystemExit) as stop:
        main(["report", str(quick)])
    assert stop.value.code == 2
    assert "there is no goodhart.csv" in capsys.readouterr().err


def test_a_baseline_that_is_not_as_written_is_left_out_and_made_again(quick):
    write(quick, lines_of(quick, "best_of_n.csv")[:-1], "best_of_n.csv")
    found = damage(quick)
    assert found.runs == {} and "best_of_n.csv holds" in found.best_of_n
    assert read_results(quick).best_of_n == () and read_results(QUICK).best_of_n != ()
    assert Store(quick, read_suite("quick")).best_of_n == ()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace('"margin": 0.05', '"margin": 0.06'),
        lambda text: text.replace('"rows": 21', '"rows": 20', 1),
        lambda text: text.replace('"seal"', '"sea1"'),
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "[" * 100_000,
        lambda text: text.replace("quick", "qu\0ck", 1),
    ],
)
def test_a_suite_json_that_is_not_as_written_is_refused(spoil, quick, capsys):
    path = quick / "suite.json"
    path.write_text(spoil(path.read_text(encoding="utf-8")), encoding="utf-8")
    for command in (["report", str(quick)], ["bench", "quick", "--results", str(quick)]):
        with pytest.raises(SystemExit) as stop:
            main(command)
        said = capsys.readouterr().err
        assert stop.value.code == 2 and str(path) in said and len(said.splitlines()) == 1


def test_every_flipped_bit_is_seen(quick):
    """Of all files, at random places; what is refused or named is seen."""
    rng = random.Random(0)
    page = results_page(measure(read_results(quick)))
    for name in ("suite.json", "goodhart.csv", "best_of_n.csv") * 40:
        raw = (quick / name).read_bytes()
        place = rng.randrange(len(raw))
        bad = bytes([*raw[:place], raw[place] ^ (1 << rng.randrange(8)), *raw[place + 1 :]])
        (quick / name).write_bytes(bad)
        try:
            seen = bool(damage(quick).lines(quick))
            seen = seen or results_page(measure(read_results(quick))) == page
        except ValueError as error:
            seen = len(str(error).splitlines()) == 1
        assert seen, (name, place)
        (quick / name).write_bytes(raw)


def test_results_from_before_there_were_seals_are_taken_with_a_remark(quick, capsys):
    path = quick / "suite.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    del facts["seal"], facts["best_of_n"]
    for run in facts["runs"].values():
        del run["rows"], run["content"]
    path.write_text(json.dumps(facts), encoding="utf-8")
    main(["report", str(quick)])
    said = capsys.readouterr()
    assert said.err == f"{quick} has no digests of its rows, which cannot be checked\n"
    whole = (QUICK / "RESULTS.md").read_text(encoding="utf-8")
    assert (quick / "RESULTS.md").read_text(encoding="utf-8") == whole
    assert Store(quick, read_suite("quick")).missing() == []
    # But a run without any row is none.
    write(quick, [line for line in lines_of(quick) if not line.startswith("grpo,0,")])
    assert [str(run.path) for run in Store(quick, read_suite("quick")).missing()] == [FIRST]
    write(quick, lines_of(QUICK))
    seal(quick)
    assert read_facts(quick)["seal"] == read_facts(QUICK)["seal"]


@pytest.mark.parametrize(
    "changes",
    [
        {"scenarios": {"../../x": {}}}, {"scenarios": {"suite": {}}}, {"methods": {"a/b": {}}},
        {"runs": {"../../x/seed_0": {}}}, {"runs": {"a/../seed_0": {}}}, {"runs": {"a/b/0x": {}}},
        {"scenarios": 5}, {"scenarios": {"goodhart": 5}}, {"seeds": ["a"]}, {"margin": -1},
        {"margin": "wide"}, {"title": ["a"]}, {"failed": [{}]}, {"truth": 5}, {"runs": [1]},
    ],
    ids=repr,
)  # fmt: skip
def test_a_suite_json_that_nobody_wrote_is_refused(changes, quick):
    change(quick, **changes)
    with pytest.raises(ValueError) as error:
        read_results(quick)
    message = str(error.value)
    assert message.startswith(f"{quick / 'suite.json'}: ") and len(message.splitlines()) == 1


HOSTILE = "<img src=x onerror=alert(1)> [click](http://x) `code` <script>alert(2)</script>"


def test_what_pages_quote_is_neither_html_nor_a_link(quick):
    facts = read_facts(quick)
    scenario = facts["scenarios"]["goodhart"] | {"title": HOSTILE, "about": f"# {HOSTILE}"}
    change(
        quick, title=HOSTILE, command=HOSTILE, suite=HOSTILE, scenarios={"goodhart": scenario},
        failed=[{"scenario": "goodhart", "method": "x", "seed": 0, "error": HOSTILE}],
        versions={HOSTILE: HOSTILE},
    )  # fmt: skip
    page = results_page(measure(read_results(quick)))
    shown = re.sub(r"`[^`\n]*`", "", page)
    assert "<" not in shown and "](" not in shown.replace("\\](", "")
    assert "\n# &lt;" not in page and "\n\\# &lt;img" in page


def test_numbers_come_back_as_they_were_written(quick):
    assert len(read_rows(quick / "goodhart.csv")) == 6 * 21
