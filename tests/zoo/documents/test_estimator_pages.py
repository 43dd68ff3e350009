"""Every estimator has a page built from the template, true to the registry, with code that runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reelrl.algos.advantages import estimator_class, list_estimators
from reelrl.zoo.documents.estimator_pages import SECTIONS, drafted, generated, main, refresh

PAGES = Path(__file__).resolve().parents[3] / "docs" / "estimators"


WRITTEN = sorted(path.stem for path in PAGES.glob("*.md") if path.stem != "README")


def test_every_written_page_is_of_an_estimator() -> None:
    assert set(WRITTEN) <= set(list_estimators()) and len(WRITTEN) >= 26


@pytest.mark.parametrize("name", WRITTEN)
def test_page_follows_the_template_and_the_registry(name: str) -> None:
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# `{name}`: ")
    assert tuple(re.findall(r"^## (.*)$", page, re.MULTILINE)) == SECTIONS
    assert refresh(page, name) == page, "run: reelrl report estimator-pages --out docs/estimators"


@pytest.mark.parametrize("name", WRITTEN)
def test_example_of_the_page_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 1 and f'"{name}"' in blocks[0]
    exec(compile(blocks[0], f"{name}.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_a_stale_page_is_refreshed(tmp_path: Path) -> None:
    for name in WRITTEN:
        text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
        stale = text.replace("Needs besides", "Stale")
        (tmp_path / f"{name}.md").write_text(stale, encoding="utf-8")
    main(tmp_path)
    for name in WRITTEN:
        assert (tmp_path / f"{name}.md").read_text(encoding="utf-8") == (
            PAGES / f"{name}.md"
        ).read_text(encoding="utf-8")


def test_an_estimator_without_a_written_page_is_shown_by_its_docstring() -> None:
    page = drafted("gdpo")
    doc = (estimator_class("gdpo").__doc__ or "").strip().split("\n")[0]
    assert page.startswith(f"# `gdpo`: {doc}\n") and estimator_class("gdpo").source in page
    assert generated("gdpo") in page and refresh(page, "gdpo") == page


def test_a_page_without_markers_is_an_error() -> None:
    with pytest.raises(ValueError, match="must have one"):
        refresh("# page", "grpo")
