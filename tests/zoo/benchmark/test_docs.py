"""The page of the benchmark: its suite runs as it stands, its lists are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from reelrl.zoo.benchmark.design import SUITES, list_suites, read_suite

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "benchmark.md").read_text()


def test_the_suite_on_the_page_can_start(tmp_path):
    (source,) = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.S)
    (tmp_path / "mine.yaml").write_text(source)
    suite = read_suite(str(tmp_path / "mine.yaml"))
    assert len(list(suite.runs())) == 3 * 2 * 2
    assert suite.run("mine", "grpo_long", 0).config.learner.group_size == 32


UNUSED = {"gold", "proxies"}
"""Scenarios of the learning suite."""


def test_scenarios_and_suites_of_the_page_are_those_that_ship():
    known = set(yaml.safe_load((SUITES / "scenarios.yaml").read_text())) - UNUSED
    table = TEXT.split("## Scenarios")[1].split("## Methods")[0]
    named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", table, flags=re.M))))
    assert named == known == set(read_suite("standard").scenarios)
    commands = set(re.findall(r"reelrl bench (\w+) ", TEXT)) - {"mine"}
    assert commands <= set(list_suites())
