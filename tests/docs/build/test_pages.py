"""Pages made of registries, presets and results say what those hold."""

from __future__ import annotations

import csv
import re
import runpy
import shutil
from pathlib import Path
from typing import ClassVar

import components
import environments
import figures
import presets
import pytest
import reference

import reelrl
from reelrl.rewards import Reward, make_reward, register_reward
from reelrl.zoo.benchmark.design import read_suite


def test_a_component_that_cannot_be_made_has_a_page_all_the_same():
    class Judge(Reward):
        """Asks :class:`~reelrl.rewards.Reward` | nobody.

        More of it.

        Args:
            model: a folder.
        """

        name, bounds = "judge", (float("-inf"), 4.0)
        license: ClassVar[str] = "MIT"

        def __init__(self, model, rubric="plain"):
            raise RuntimeError("no weights here")

        def score(self, videos, prompts, infos):
            raise NotImplementedError

    register_reward("judge")(Judge)
    page = components.page("judge")
    assert page.startswith("# `judge`\n\nAsks [`Reward`][reelrl.rewards.Reward] | nobody.\n")
    assert "| bounds | [−∞, 4] |" in page and "| license | MIT |".replace("se", "ce") in page
    assert "| `model` | required |" in page and "| `rubric` | `'plain'` |" in page
    assert "More of it." in page and "a folder" not in page
    assert "{name: judge, model: ...}" in page and "```python" not in page
    assert "| [`judge`](judge.md) | [−∞, 4] | MIT | Asks `reelrl.rewards.Reward` \\| nobody. |" in (
        components.index()
    )


def test_a_component_with_published_weights_needs_a_folder():
    class Clip(Reward):
        name, bounds = "clip", (0.0, 1.0)
        weights = "someone/clip"

        def __init__(self, model=None):
            raise FileNotFoundError("no local copy")

        def score(self, videos, prompts, infos):
            raise NotImplementedError

    register_reward("clip")(Clip)
    assert "{name: clip, model: ...}" in components.page("clip")


def test_bounds_that_the_constructor_sets_are_read_from_an_instance():
    assert components.declared("coin")["bounds"] == make_reward("coin").bounds


def test_every_declared_attribute_is_on_the_page():
    page = components.page("proxy_vq")
    assert "| bounds | [0, 1] |" in page and "| higher is better | yes |" in page
    assert "| `hackability` | `1.0` |" in page


def test_an_environment_says_what_it_fixes():
    page = environments.page("reelrl/MovingShapesGold-v0")
    assert "Box(-10.0, 10.0, (8, 5, 8, 8), float32)" in page
    assert page.index("gold_align") < page.index("gold_phys") < page.index("gold_fid")
    assert "| steps | 10 |" in page
    assert environments.ids()[0] == "reelrl/TextToVideo-v0"


def test_all_values_of_a_preset_and_which_of_them_it_sets():
    page = presets.training_page("nano-quick")
    assert "| **`iterations`** | `30` |" in page
    assert "| `learner.weight_decay` | `0.0` |" in page
    assert "| **`env_args.num_steps`** | `8` |" in page
    assert presets.comment(presets.PRESETS / "nano-quick.yaml") in page


def test_a_suite_is_described_by_its_own_numbers():
    page, suite = presets.suite_page("standard"), read_suite("standard")
    assert f"| runs | {len(list(suite.runs()))} |" in page
    assert all(f"(scenarios.md#{name})" in page for name in suite.scenarios)
    assert "[`grpo`](../estimators/grpo.md)" in page
    assert presets.method_link("grpo_kl") == "[`grpo_kl`](methods.md)"
    assert presets.method_link("taros@headroom") == "[`taros@headroom`](../estimators/taros.md)"


def test_scenarios_are_all_there():
    headings = re.findall(r"^## (.*)$", presets.scenarios_page(), re.MULTILINE)
    assert headings == list(presets.library("scenarios"))


def test_the_reference_has_a_page_per_package_but_not_of_the_site():
    made = reference.pages()
    assert {"api/rewards.md", "api/envs.models.md", "api/zoo.benchmark.md"} <= set(made)
    assert "api/zoo.site.md" not in made
    assert "::: reelrl.envs.models.wan\n" in made["api/envs.models.md"]


def test_tools_that_read_folders_find_the_packages_where_they_are_imported_from(tmp_path):
    root = Path(reelrl.__file__).resolve().parents[1]
    shutil.copytree(root / "reelrl", tmp_path / "reelrl")
    link_sources = runpy.run_path(str(root / ".ci" / "link_sources.py"))["link_sources"]
    for name in ("one", "two"):
        (tmp_path / "reelrl" / f"{name}.py").touch()
        target = link_sources(tmp_path)
        assert (target / "reelrl" / f"{name}.py").is_file()
        assert (target / "reelrl" / "__init__.py").is_file()
        # The links stand where the packages are imported from, and point to the four folders.
        assert (target / "reelrl" / "envs").readlink() == tmp_path / "envs"


@pytest.mark.parametrize("scenario, method", [run[:2] for run in figures.RUNS])
def test_curves_are_the_rows_of_the_results(scenario, method):
    found = figures.curves(scenario, method, "gold")
    with (figures.RESULTS / f"{scenario}.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == method]
    assert sum(len(values) for _, values in found.values()) == len(rows) > 0
    for row in rows:
        iterations, values = found[row["seed"]]
        assert values[iterations.index(int(row["iteration"]))] == float(row["gold"])


def test_the_picture_is_the_same_each_time():
    assert figures.hacking() == figures.hacking()
