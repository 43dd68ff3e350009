"""The report finds exactly what was planted, says what is missing, and regenerates to the byte."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from reelrl.zoo.benchmark.report.claims import CLAIMS, Claim, Condition, examine
from reelrl.zoo.benchmark.report.compare import (
    against_baseline,
    control_state,
    overall,
    pairs,
    predictions,
    ranks,
)
from reelrl.zoo.benchmark.report.markdown import headlines, results_page
from reelrl.zoo.benchmark.report.numbers import measure
from reelrl.zoo.benchmark.report.reading import read_results
from reelrl.zoo.benchmark.report.statistics import verdict
from reelrl.zoo.benchmark.report.table import said
from reelrl.zoo.benchmark.report.tables import (
    missing_table,
    scenario_table,
)
from reelrl.zoo.benchmark.report.write import RESULTS
from reelrl.zoo.cli import main

ROOT = Path(__file__).resolve().parents[4]
PROXY, KL = "equal proxy gain", "equal KL"


@pytest.fixture(scope="module")
def results(planted):
    return measure(read_results(planted))


def words(results, scenario, terms):
    methods = ("gdpo", "taros", "random_sign")
    found = {m: against_baseline(results, scenario, m, terms) for m in methods}
    return {m: verdict(f, results.suite.margin) for m, f in found.items()}


def test_the_better_the_same_and_the_null_are_found(results):
    assert words(results, "honest", "equal iterations") == {
        "gdpo": "better", "taros": "no difference", "random_sign": "worse",
    }  # fmt: skip
    assert ranks(results, "honest")["gdpo"].estimate == 1


def test_moving_less_is_no_merit_on_equal_terms(results):
    """Planted: taros walks the path of grpo at half speed."""
    extreme = "goodhart_extreme"
    assert words(results, extreme, "equal iterations")["taros"] == "better"
    assert words(results, extreme, PROXY)["taros"] == "no difference"
    assert words(results, extreme, KL)["taros"] == "no difference"
    # The null gained no proxy, so there is no equal gain to compare at.
    assert np.isnan(against_baseline(results, extreme, "random_sign", PROXY).estimate)


def test_the_hacked_are_found(results):
    drop = results.get("goodhart_extreme", "grpo", "drop")
    onset = results.get("goodhart_extreme", "grpo", "onset")
    assert (drop > 0.2).all() and (onset >= 3).all() and (onset <= 12).all()
    assert (results.get("goodhart_extreme", "grpo", "gap") > 2).all()
    assert (np.abs(results.get("honest", "random_sign", "gap")) < 0.3).all()
    table = scenario_table(results, results.suite.scenario("goodhart_extreme"))
    place = list(table.header).index("onset")
    onsets = {row[0]: row[place] for row in table.rows}
    assert onsets["random_sign"] == "none" and onsets["grpo"] != "none"


def test_predictions_meet_their_fate(results):
    found = [p for s in results.suite.scenarios for p in predictions(results, s)]
    assert {(p.scenario, p.text): p.found for p in found} == {
        ("honest", "gdpo > grpo"): "holds",
        ("honest", "taros = grpo"): "holds",
        ("honest", "gdpo rises"): "holds",
        ("honest", "gdpo falls"): "does not hold",
        ("goodhart_extreme", "gdpo > grpo"): "does not hold",
        ("goodhart_extreme", "taros = grpo"): "does not hold",
        ("goodhart_extreme", "gdpo rises"): "does not hold",
        ("goodhart_extreme", "gdpo falls"): "holds",
    }


def test_pairs_are_symmetric_and_adjusted(results):
    found = {(p.first, p.second): p for p in pairs(results, "honest")}
    assert len(found) == 6
    assert found["grpo", "gdpo"].verdict == "worse" and found["grpo", "gdpo"].p < 0.01
    assert found["grpo", "taros"].verdict == "no difference" and found["grpo", "taros"].p > 0.05


def test_over_all_scenarios_is_the_iqm_of_all_runs(results, planter, effects, tmp_path):
    from scipy.stats import trim_mean

    assert overall(results) == []  # two scenarios are not "all"
    # The control has a third scenario less; it is held against the baseline on the others.
    methods = ("grpo", "gdpo", "taros")
    effects |= {("third", m): effects["honest", m] for m in methods}
    folder = planter(tmp_path / "three", effects)
    results = measure(read_results(folder))
    rows = {o.method: o for o in overall(results)}
    gains = [results.get(s.name, "gdpo", "gold_gain") for s in results.suite.scenarios]
    assert rows["gdpo"].gain.estimate == pytest.approx(trim_mean(np.concatenate(gains), 0.25))
    assert rows["gdpo"].mean == pytest.approx(np.mean(gains))
    assert rows["grpo"].improvement is None and rows["gdpo"].improvement.estimate > 0.5
    assert [rows[m].scenarios for m in ("grpo", "random_sign")] == [3, 2]
    assert rows["random_sign"].mean_baseline < rows["grpo"].mean == rows["grpo"].mean_baseline
    few = measure(read_results(planter(tmp_path / "few", effects, seeds=(0, 1, 2, 3))))
    assert all(np.isinf(o.gain.low) for o in overall(few))
    assert all(np.isinf(rank.low) for rank in ranks(few, "honest").values())


def test_equal_proxy_is_not_asked_where_proxies_do_not_compare(planter, effects, tmp_path):
    def compared(folder, **changes):
        meta = json.loads((folder / "suite.json").read_text())
        meta["methods"]["taros"]["set"] = changes
        (folder / "suite.json").write_text(json.dumps(meta))
        found = measure(read_results(folder))
        return {t: np.isfinite(against_baseline(found, "honest", "taros", t).estimate)
                for t in (PROXY, KL)}  # fmt: skip

    folder = planter(tmp_path / "own", effects)
    assert compared(folder) == {PROXY: True, KL: True}
    assert compared(folder, **{"env_args.rewards": ["gold"]}) == {PROXY: False, KL: True}
    noisy = folder / "honest.csv"
    noisy.write_text(noisy.read_text().replace("proxy_mq", "coin"))
    meta = json.loads((folder / "suite.json").read_text())
    meta["scenarios"]["honest"]["rewards"] = ["proxy_vq", "coin", "proxy_ta"]
    (folder / "suite.json").write_text(json.dumps(meta))
    assert compared(folder) == {PROXY: False, KL: True}


def test_a_method_is_not_slower_for_what_else_the_machine_did(planter, effects, tmp_path):
    folder = planter(tmp_path / "busy", effects)
    before = measure(read_results(folder)).get("honest", "gdpo", "auc_wall")
    path = folder / "honest.csv"
    header, *lines = path.read_text().splitlines()
    place = header.split(",").index("wall_s")
    slowed = []
    for line in lines:
        cells = line.split(",")
        if cells[:2] == ["gdpo", "0"]:
            cells[place] = str(9 * float(cells[place]))
        slowed.append(",".join(cells))
    path.write_text("\n".join([header, *slowed]) + "\n")
    found = measure(read_results(folder))
    assert (found.get("honest", "gdpo", "seconds") == 2).all()
    np.testing.assert_allclose(found.get("honest", "gdpo", "auc_wall"), before)


def test_runs_that_start_apart_are_reported(results, planter, effects, tmp_path):
    assert not any("Runs start" in line or "differs" in line for line in headlines(results))
    folder = planter(tmp_path / "apart", effects)
    path = folder / "honest.csv"
    header, *lines = path.read_text().splitlines()
    for column, words in (("eval_unseen/proxy", "differs between seeds** of honest/gdpo"),
                          ("eval_unseen/gold", "start from different GOLD")):  # fmt: skip
        place = header.split(",").index(column)
        moved = []
        for line in lines:
            cells = line.split(",")
            if cells[:2] == ["gdpo", "0"]:
                cells[place] = str(float(cells[place]) + 0.1) if cells[place] else ""
            moved.append(",".join(cells))
        path.write_text("\n".join([header, *moved]) + "\n")
        assert any(words in line for line in headlines(measure(read_results(folder)))), column


def test_a_shared_floor_is_no_agreement_in_the_headline(planter, effects, tmp_path):
    for method in ("grpo", "taros"):
        effects["goodhart_extreme", method] = (lambda t: -0.45 * t, lambda t: t)
    found = headlines(measure(read_results(planter(tmp_path / "floor", effects))))
    assert any("equal iterations" in line and "both lost all gold: 1" in line for line in found)


def test_claims_hold_and_fall(results):
    verdicts = {f.claim.text: f.verdict for f in (examine(results, c) for c in CLAIMS)}
    assert verdicts["optimising a hackable score raises it and lowers the truth"] == "holds"
    assert verdicts["TaRoS ends where the raw sum ends"] == "not tested"
    condition = Condition("grpo", "gold_gain", "above the margin")
    finding = examine(results, Claim("nobody", "hacking pays", ("goodhart_extreme",), (condition,)))
    assert finding.verdict == "does not hold"
    # No group was without spread at any time: the claim that they become more frequent is open.
    rise = Condition("grpo", "zero_std_rise", "above 0")
    assert examine(results, Claim("", "", ("honest",), (rise,))).verdict == "cannot tell"


def test_a_passing_control_and_a_broken_benchmark(results, planter, effects, tmp_path):
    assert control_state(results, "honest")[0] == "passed"
    assert not any("BROKEN" in line for line in headlines(results))
    effects["honest", "random_sign"] = effects["honest", "gdpo"]
    broken = measure(read_results(planter(tmp_path / "broken", effects)))
    assert control_state(broken, "honest")[0] == "BROKEN"
    assert "THE BENCHMARK IS BROKEN" in headlines(broken)[0] and "honest" in headlines(broken)[0]


def test_one_seed_never_decides(planter, effects, tmp_path):
    results = measure(read_results(planter(tmp_path / "one", effects, seeds=(0,))))
    assert set(words(results, "honest", "equal iterations").values()) == {"cannot tell"}
    assert "[?]" in results_page(results)


def cut(folder, keep):
    """Rewrite honest.csv with the lines that ``keep`` accepts."""
    path = folder / "honest.csv"
    header, *lines = path.read_text().splitlines(keepends=True)
    path.write_text(header + "".join(line for line in lines if keep(line.split(","))))


def test_what_is_missing_is_listed_and_left_out(planter, effects, tmp_path):
    folder = planter(tmp_path / "partial", effects)
    # gdpo seed 1 is cut short, taros seed 2 was never run, and one run failed.
    cut(folder, lambda c: not (c[:2] == ["gdpo", "1"] and int(c[2]) > 12))
    cut(folder, lambda c: c[:2] != ["taros", "2"])
    meta = json.loads((folder / "suite.json").read_text())
    failure = {"scenario": "honest", "method": "taros", "seed": 4, "error": "boom"}
    (folder / "suite.json").write_text(json.dumps(meta | {"failed": [failure]}))
    cut(folder, lambda c: c[:2] != ["taros", "4"])
    results = measure(read_results(folder))
    assert [list(row) for row in missing_table(results.suite).rows] == [
        ["honest", "gdpo", "1", "unfinished"],
        ["honest", "taros", "2", "not run"],
        ["honest", "taros", "4", "failed: boom"],
    ]
    assert np.isfinite(results.get("honest", "gdpo", "gold_gain")).tolist() == [1, 0, 1, 1, 1]
    assert any("partial" in line for line in headlines(results))
    assert words(results, "honest", "equal iterations")["gdpo"] == "better"


def test_whole_seeds_that_are_missing_take_one_line(planter, effects, tmp_path):
    folder = planter(tmp_path / "early", effects, seeds=(0, 1))
    meta = json.loads((folder / "suite.json").read_text())
    (folder / "suite.json").write_text(json.dumps(meta | {"seeds": [0, 1, 2, 3]}))
    cut(folder, lambda c: c[:2] not in (["gdpo", "1"], ["taros", "1"]))
    path = folder / "goodhart_extreme.csv"
    header, *lines = path.read_text().splitlines(keepends=True)
    path.write_text(header + "".join(line for line in lines if line.split(",")[1] != "1"))
    assert [list(row) for row in missing_table(read_results(folder)).rows] == [
        ["honest", "gdpo, taros", "1", "not run"],
        ["goodhart_extreme", "all", "1", "not run"],
        ["all", "all", "2, 3", "not run"],
    ]


def test_missing_columns_and_methods_are_no_error(planter, effects, tmp_path):
    """No baseline, no KL, no proxy, no diversity: a report all the same."""
    folder = planter(tmp_path / "bare", effects)
    for path in folder.glob("*.csv"):
        if path.stem == "best_of_n":
            path.unlink()
            continue
        header, *lines = path.read_text().splitlines()
        names = header.split(",")
        kept = [i for i, n in enumerate(names) if n in ("method", "seed", "iteration")
                or n.startswith("eval_seen/gold")]  # fmt: skip
        lines = [line.split(",") for line in lines if not line.startswith("grpo,")]
        text = [[names[i] for i in kept], *([c[i] for i in kept] for c in lines)]
        path.write_text("\n".join(",".join(row) for row in text) + "\n")
    results = measure(read_results(folder))
    page = results_page(results)
    assert results.split == "seen" and "nan" not in page.lower().replace("nanmean", "")
    assert "| gdpo |" in page


def test_results_regenerate_to_the_byte(results):
    page = results_page(results)
    code = (
        "import sys; from pathlib import Path; "
        "from reelrl.zoo.benchmark.report.numbers import measure; "
        "from reelrl.zoo.benchmark.report.markdown import results_page; "
        "from reelrl.zoo.benchmark.report.reading import read_results; "
        "sys.stdout.write(results_page(measure(read_results(Path(sys.argv[1])))))"
    )
    # Another process: neither hash seeds nor global generators may show.
    again = subprocess.run(
        [sys.executable, "-c", code, str(results.suite.folder)],
        check=True, capture_output=True, cwd="/",
    )  # fmt: skip
    assert again.stdout.decode() == page
    assert "nan" not in page and "-0.000" not in page


def test_tables_are_rectangular(results):
    rows = [line for line in results_page(results).splitlines() if line.startswith("|")]
    assert rows
    width = None
    for line in results_page(results).splitlines():
        if not line.startswith("|"):
            width = None
            continue
        cells = line.count(" | ")
        assert width in (None, cells), line
        width = cells


def test_committed_results_regenerate_without_a_diff():
    folders = sorted(p.parent for p in (ROOT / "zoo" / "results").glob("*/suite.json"))
    if not folders:
        pytest.skip("no committed results")
    for folder in folders:
        page = results_page(measure(read_results(folder)))
        assert page == (folder / RESULTS).read_text(encoding="utf-8"), folder.name


def test_the_table_of_the_readme_is_the_table_of_the_results():
    found = (ROOT / "zoo/results/standard/RESULTS.md").read_text().splitlines()
    shown = (ROOT / "README.md").read_text().splitlines()
    head = next(place for place, line in enumerate(found) if line.startswith("| scenario | grpo |"))
    table = found[head : found.index("", head)]
    assert len(table) == 2 + 11
    start = shown.index(table[0])
    assert shown[start : start + len(table)] == table


def test_the_open_verdict_says_on_which_side_of_zero():
    from reelrl.zoo.benchmark.report.statistics import Interval

    assert said(Interval(0.08, 0.04, 0.12), 0.05) == "cannot tell (above 0)"
    assert said(Interval(-0.08, -0.12, -0.04), 0.05) == "cannot tell (below 0)"
    assert said(Interval(0.0, -0.12, 0.04), 0.05) == "cannot tell"
    assert said(None, 0.05) == "-"


def test_command_line_takes_a_folder_or_a_name(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["report", "no-such-thing"])
    assert "taros-saturation" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path)])
    assert "suite.json" in capsys.readouterr().err
    main(["report", "taros-saturation", "--out", str(tmp_path)])
    assert (tmp_path / "taros_saturation.md").exists()


def test_a_tie_at_the_floor_is_called_one(planter, effects, tmp_path):
    """Two methods that both lost all gold cannot be told apart, and that is no finding."""
    for method in ("grpo", "taros"):
        effects["goodhart_extreme", method] = (lambda t: -0.45 * t, lambda t: t)
    results = measure(read_results(planter(tmp_path / "floor", effects)))
    scenario = results.suite.scenario("goodhart_extreme")
    rows = {row[0]: row for row in scenario_table(results, scenario).rows}
    assert "no difference (both at 0)" in rows["taros"] and "(both" not in str(rows["gdpo"])
    tie = next(p for p in predictions(results, scenario) if p.text == "taros = grpo")
    assert tie.found == "holds" and tie.collapsed
    gao = next(c for c in CLAIMS if c.source.startswith("Gao"))
    # Gold that only falls has no peak, however noisy the training curve, at the examined
    # iterations; it may have had one in between.
    assert examine(results, gao).verdict == "cannot tell"
