"""Ablations: every cell once, nothing twice, and a page that says what the table says."""

import csv
import json
from pathlib import Path

import pytest

from reelrl.zoo.cli import main
from reelrl.zoo.shipped.soli.ablation import (
    ABLATIONS,
    KEYS,
    SETTINGS,
    TABLE,
    VALUES,
    Plan,
    add_rows,
    read_table,
    run_ablation,
)
from reelrl.zoo.shipped.soli.ablation_page import RESULTS, report, results_page

ROOT = Path(__file__).resolve().parents[4]


def quiet(text):
    pass


def test_both_ablations_share_the_reference(tiny):
    runs = list(Plan(seeds=(0, 1), dimensions=("phys",)).runs(tiny()))
    assert len(runs) == len({run.name for run in runs}) == 2 * (4 + 4 - 1)
    assert [run.seed for run in runs] == [0] * 7 + [1] * 7
    assert {(r.head, r.loss) for r in runs} == {*ABLATIONS["heads"], *ABLATIONS["losses"]}


@pytest.mark.slow
def test_rows_are_made_once(tiny, cache, tmp_path):
    config, out = tiny("epochs=1"), tmp_path / "models"
    plan = Plan(("losses",), (10,), ("phys",))
    assert run_ablation(config, plan, out, tmp_path, cache=cache, report=quiet) == 4
    rows = read_table(tmp_path)
    assert len(rows) == 8 and list(rows[0]) == [*KEYS, *VALUES, "digest"]
    assert run_ablation(config, plan, out, tmp_path, cache=cache, report=quiet) == 0
    # Rows of other settings are not taken for these, and the folders neither.
    other = tiny("epochs=2")
    with pytest.raises(ValueError, match="other settings"):
        run_ablation(other, plan, out, tmp_path, cache=cache, report=quiet)
    more = Plan(("losses",), (9, 10), ("phys",))
    assert run_ablation(config, more, out, tmp_path, cache=cache, report=quiet) == 4
    seeds = [int(row["seed"]) for row in read_table(tmp_path) if row["loss"] == "bt"]
    assert seeds == [9, 9, 10, 10]
    main(["report", str(tmp_path)])
    assert "over 2 seeds" in (tmp_path / RESULTS).read_text()


def plant(folder, gain=0.05, seeds=5):
    """A table where code beats paper on id pairs by ``gain`` on every seed, and is equal else."""
    for seed in range(seeds):
        for loss in ("bt", "paper", "code", "btt"):
            for split in ("id", "ood"):
                pairs = 0.8 + 0.01 * seed + (gain if (loss, split) == ("code", "id") else 0)
                pairs += 0.002 * (seed % 2) * (loss == "code")
                values = dict.fromkeys(VALUES, "0.5") | {"pairwise": f"{pairs:.5g}"}
                keys = ("phys", "hpqa", loss, str(seed), split)
                add_rows(folder, [dict(zip(KEYS, keys, strict=True)) | values | {"digest": "x"}])
    config = {"noise": 0.13, "epochs": 5, "thresholds": {"phys": 0.65}}
    (folder / SETTINGS).write_text(json.dumps({"config": config, "seeds": list(range(seeds))}))


def test_the_page_finds_what_was_planted(tmp_path):
    plant(tmp_path)
    page = results_page(tmp_path)
    line = next(row for row in page.splitlines() if row.startswith("| `code` − `paper`"))
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[3].startswith("**+0.051 (+0.0") and not any("**" in c for c in cells[4:])
    assert "| `paper` | 5 |" in page and "0.820 (0.800 to 0.840)" in page
    assert "13%" in page and "0.65 (phys)" in page and "nan" not in page


def test_one_seed_decides_nothing(tmp_path):
    plant(tmp_path, seeds=1)
    assert "**+" not in results_page(tmp_path) and "inf" not in results_page(tmp_path)


def test_a_folder_without_a_table_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no rows"):
        report(tmp_path)


def test_committed_results_regenerate_without_a_diff():
    folders = sorted(path.parent for path in (ROOT / "zoo" / "results").glob(f"*/{TABLE}"))
    if not folders:
        pytest.skip("no committed results")
    for folder in folders:
        assert results_page(folder) == (folder / RESULTS).read_text(encoding="utf-8"), folder.name
        with (folder / TABLE).open(newline="") as file:
            assert {len(row) for row in csv.reader(file)} == {len(KEYS) + len(VALUES) + 1}
