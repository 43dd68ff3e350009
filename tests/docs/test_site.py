"""The built site: no warning, no dead link, nothing fetched from anywhere, pages that render."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from environments import ids

from reelrl.algos.advantages import list_estimators
from reelrl.zoo.benchmark.design import list_suites

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
"""Elements that make a browser fetch something, and where they say what."""
NAMESPACES = ("http://www.w3.org/",)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    # Not --quiet, which keeps warnings from --strict too.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    # Whoever builds may have no network: behind a proxy that nobody answers on, this one has not.
    dead = {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https")}
    dead |= {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | dead, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


class Page(HTMLParser):
    """Links, loads and anchors of one page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loads, self.anchors = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag in LOADS and given.get(LOADS[tag]) and given.get("rel") != "canonical":
            self.loads.append(given[LOADS[tag]])

    handle_startendtag = handle_starttag


@cache
def read(path):
    return Page(path.read_text(encoding="utf-8"))


def pages_of(site):
    return [path for path in sorted(site.rglob("*.html")) if path.name != "404.html"]


def dead_ends(site):
    """Links and loads that lead to no file, or to no anchor in it."""
    for path in pages_of(site):
        for link in read(path).links + read(path).loads:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file() or (
                parts.fragment and unquote(parts.fragment) not in read(target).anchors
            ):
                yield path.name, link


def foreign(text, is_css):
    """Addresses of other hosts that a style sheet or a page makes a browser fetch."""
    if is_css:
        return re.findall(r"(?:url\(|@import)\s*['\"]?((?:https?:)?//[^'\")]*)", text)
    return [load for load in Page(text).loads if urlsplit(load).netloc]


def test_every_link_leads_somewhere(site):
    assert list(dead_ends(site)) == []


def test_nothing_is_fetched_from_another_host(site):
    found = {
        str(path.relative_to(site)): foreign(
            path.read_text(encoding="utf-8"), path.suffix == ".css"
        )
        for path in site.rglob("*")
        if path.suffix in (".html", ".css")
    }
    assert {path: where for path, where in found.items() if where} == {}


def test_planted_faults_are_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="b.html">b</a><a href="#no">x</a><a href="a.html">a</a>'
    )
    assert list(dead_ends(tmp_path)) == [("a.html", "b.html"), ("a.html", "#no")]
    assert foreign('<link rel="stylesheet" href="https://fonts.example/a.css">', False)
    assert foreign('<script src="//cdn.example/a.js"></script>', False)
    assert foreign("@import 'https://fonts.example/a.css'; p { color: red }", True)
    assert not foreign("p { background: url(a.png) }", True)


def test_everything_that_is_registered_has_a_page(site):
    wanted = [f"estimators/{name}" for name in list_estimators()]
    wanted += [f"environments/{name.removeprefix('reelrl/')}" for name in ids()]
    wanted += [f"presets/bench-{name}" for name in list_suites()] + ["presets/nano-quick"]
    wanted += ["components/gold", "components/proxy_vq", "api/envs", "api/algos.advantages"]
    assert [page for page in wanted if not (site / f"{page}.html").is_file()] == []


def test_no_sphinx_role_and_no_raw_formula_is_left(site):
    for path in pages_of(site):
        if path.is_relative_to(site / "source") or path.is_relative_to(site / "examples"):
            continue
        text = path.read_text(encoding="utf-8")
        assert not re.search(r":(class|func|meth|mod|attr|data|math):", text), path
        assert 'class="arithmatex"' not in text, path


def browse(address, tmp_path):
    """The page after its scripts ran, and what they wrote to the console."""
    done = subprocess.run(
        [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--enable-logging=stderr", "--log-level=0",
            f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=8000", "--dump-dom",
            address,
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.stdout, re.findall(r"CONSOLE.*", done.stderr)


def chromium_or_skip():
    if CHROMIUM is None:
        pytest.skip("no Chromium here")


@pytest.mark.parametrize(
    "page, words",
    [
        ("index.html", "Which of the three are you?"),
        ("tutorial.html", "Best of n"),
        ("estimators/gdpo.html", "Differences between implementations"),
        ("api/envs.html", "<math"),
    ],
)
def test_pages_render_without_an_error(page, words, site, tmp_path):
    chromium_or_skip()
    dom, console = browse((site / page).as_uri(), tmp_path)
    assert words in dom
    # What the theme's script does first and last.
    assert re.search(r'<html[^>]*class="js', dom) and "data-md-color-scheme" in dom
    assert console == []


def test_search_works_from_a_folder(site, tmp_path):
    chromium_or_skip()
    dom, console = browse((site / "index.html").as_uri() + "?q=saturated+component", tmp_path)
    results = re.search(r'<ol class="md-search-result__list".*?</ol>', dom, re.DOTALL)
    assert results and "estimators/taros.html" in results[0]
    assert console == []


def test_a_script_that_fails_is_seen(tmp_path):
    chromium_or_skip()
    (tmp_path / "bad.html").write_text("<script>nothing()</script>")
    _, console = browse((tmp_path / "bad.html").as_uri(), tmp_path)
    assert any("nothing is not defined" in line for line in console)
