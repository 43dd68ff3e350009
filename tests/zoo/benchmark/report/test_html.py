"""The page in a real browser: every plot and clip renders, nothing complains or calls out."""

import json
import re
import sys
from pathlib import Path

import pytest

from reelrl.zoo.benchmark.report.html import report_page
from reelrl.zoo.benchmark.report.numbers import measure
from reelrl.zoo.benchmark.report.reading import read_results
from reelrl.zoo.benchmark.report.write import PAGE, STORY, report

sys.path.insert(0, str(Path(__file__).parent))
from chromium import Chromium, find_chromium

VISIBLE = (
    "[...document.querySelectorAll('.chart')].map(c => ({id: c.id, "
    "means: [...c.querySelectorAll('.mean')].map(p => p.getAttribute('d')), "
    "runs: c.querySelectorAll('.run').length, bands: c.querySelectorAll('.band').length}))"
)


@pytest.fixture(scope="module")
def page(planted, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / PAGE
    path.write_text(report_page(measure(read_results(planted))), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser():
    if find_chromium() is None:
        pytest.skip("no Chromium on this machine")
    with Chromium() as chromium:
        yield chromium


def wide_enough(browser):
    """No sideways scrolling of the page: what is wide scrolls in its own box."""
    return browser.run("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_every_plot_and_clip_renders_without_a_complaint(browser, page, width, dark):
    browser.open(page, width=width, dark=dark)
    charts = browser.run(VISIBLE)
    assert len(charts) == 2 * 5 + 1
    for chart in charts:
        assert chart["means"], chart["id"]
        for path in chart["means"]:
            assert path.startswith("M") and "NaN" not in path, (chart["id"], path)
    learning = next(c for c in charts if c["id"] == "honest-learning")
    assert len(learning["means"]) == 4 and learning["runs"] == 4 * 5 and learning["bands"] == 4
    clips = browser.run("[...document.querySelectorAll('img.clip')].map(i => i.naturalWidth)")
    assert len(clips) == 2 * 5 and min(clips) > 0
    assert wide_enough(browser)
    assert browser.complaints() == []


def test_all_views_of_all_charts_draw(browser, page):
    browser.open(page)
    count = browser.run("""(() => { let count = 0;
        for (const select of document.querySelectorAll('.chart select'))
            for (const option of select.options) {
                select.value = option.value; select.dispatchEvent(new Event('change'));
                const paths = select.closest('.chart').querySelectorAll('.mean');
                if (!paths.length) throw new Error(option.text);
                for (const p of paths)
                    if (!/^M/.test(p.getAttribute('d')) || /NaN/.test(p.getAttribute('d')))
                        throw new Error(option.text);
                count++;
            }
        return count; })()""")
    assert count > 40
    assert browser.complaints() == []


def test_a_method_can_be_hidden_and_comes_back(browser, page):
    browser.open(page)
    before = browser.run(VISIBLE)
    browser.run("document.querySelector('[data-toggle=\"1\"]').click()")
    after = browser.run(VISIBLE)
    assert all(len(b["means"]) > len(a["means"]) for b, a in zip(before, after, strict=True))
    cell = "document.querySelector('td[data-method=\"1\"]')"
    assert browser.run(f"getComputedStyle({cell}).display") == "none"
    browser.run("document.querySelector('[data-toggle=\"1\"]').click()")
    assert browser.run(VISIBLE) == before


def test_a_drag_zooms_and_the_button_undoes_it(browser, page):
    browser.open(page)
    before = browser.run(VISIBLE)
    browser.run("document.getElementById('honest-learning').scrollIntoView({behavior: 'instant', "
                "block: 'center'})")  # fmt: skip
    box = browser.run("(({x, y, width, height}) => ({x, y, width, height}))(document.querySelector("
                      "'#honest-learning svg').getBoundingClientRect())")  # fmt: skip

    def at(across, down):
        return box["x"] + across * box["width"], box["y"] + down * box["height"]

    browser.drag(at(0.3, 0.3), at(0.7, 0.7))
    zoomed = browser.run(VISIBLE)
    changed = {b["id"] for b, z in zip(before, zoomed, strict=True) if b != z}
    assert changed == {"honest-learning"}
    browser.run("document.querySelector('#honest-learning .reset').click()")
    assert browser.run(VISIBLE) == before
    assert browser.complaints() == []


def test_a_planted_fault_is_noticed(browser, tmp_path):
    """The checks above can fail: a page that errs, and one that calls out."""
    (tmp_path / "bad.html").write_text("<script>throw new Error('planted')</script>")
    browser.open(tmp_path / "bad.html")
    assert browser.complaints()
    (tmp_path / "out.html").write_text('<img src="http://localhost:9/x.png">')
    browser.open(tmp_path / "out.html")
    assert any("localhost" in str(c) for c in browser.complaints())


def test_the_page_holds_all_it_needs(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)
    assert "http://www.w3.org" in text and text.count("http") == text.count("http://www.w3.org")
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text).group(1)
    assert {c["id"] for c in json.loads(data)["charts"]} >= {"honest-learning", "honest-kl"}


def test_text_of_the_suite_cannot_become_markup(planter, effects, tmp_path):
    folder = planter(tmp_path / "markup", effects, seeds=(0,))
    path = folder / "suite.json"
    path.write_text(path.read_text().replace("Planted.", "</script><script>alert(1)</script>"))
    text = report_page(measure(read_results(folder)))
    assert "<script>alert(1)" not in text


def test_the_command_writes_three_files(planter, effects, tmp_path):
    from PIL import Image

    folder = planter(tmp_path / "files", effects, seeds=(0, 1))
    written = report(folder)
    assert [p.name for p in written] == ["RESULTS.md", PAGE, STORY]
    with Image.open(folder / STORY) as picture:
        assert picture.width > 800 and len(picture.getcolors(1 << 24)) > 10
