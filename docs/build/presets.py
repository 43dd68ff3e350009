"""Pages of the presets: what a training run or a benchmark of that name is, value by value."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from reelrl.algos.advantages import list_estimators
from reelrl.zoo.benchmark.design import LIBRARIES, SUITES, Suite, list_suites, read_suite
from reelrl.zoo.plain_yaml import read_yaml
from reelrl.zoo.settings import PRESETS, TrainConfig, build, read_preset


def pages() -> dict[str, str]:
    """Site path -> Markdown."""
    made = {f"presets/{name}.md": training_page(name) for name in training_presets()}
    made |= {f"presets/bench-{name}.md": suite_page(name) for name in list_suites()}
    made["presets/scenarios.md"] = scenarios_page()
    made["presets/methods.md"] = methods_page()
    return {"presets/index.md": index(), **made}


def training_presets() -> list[str]:
    """Names that ``reelrl train --preset`` knows."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def index() -> str:
    """What there is."""
    lines = ["# Presets", "", "## Training runs", "", "| preset | what |", "|---|---|"]
    for name in training_presets():
        lines.append(f"| [`{name}`]({name}.md) | {comment(PRESETS / f'{name}.yaml')} |")
    lines += ["", "## Benchmarks", "", "| suite | what | runs |", "|---|---|---|"]
    for name in list_suites():
        suite = known_suite(name)
        lines.append(f"| [`{name}`](bench-{name}.md) | {suite.title} | {runs_of(suite)} |")
    lines += [
        "",
        "Suites name [scenarios](scenarios.md) and [methods](methods.md). A file of your own takes "
        "the place of a name anywhere: [A benchmark of your own](../howto/benchmark.md).",
    ]
    return "\n".join(lines) + "\n"


def comment(path: Path) -> str:
    """The comment at the head of a yaml file, as one line."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


def training_page(name: str) -> str:
    """One training preset: its file, and every value it leads to."""
    path = PRESETS / f"{name}.yaml"
    values = read_preset(name)
    given = flat(values)
    lines = [f"# `{name}`", "", comment(path), "", "```bash", f"reelrl train --preset {name}"]
    lines += ["```", "", "## All values", "", "Those that the preset sets are bold.", ""]
    lines += ["| setting | value |", "|---|---|"]
    for key, value in flat(dataclasses.asdict(build(TrainConfig, values))).items():
        mark = "**" if key in given else ""
        lines.append(f"| {mark}`{key}`{mark} | `{value}` |")
    lines += ["", "## The file", "", *yaml_block(path.read_text(encoding="utf-8"))]
    return "\n".join(lines) + "\n"


@cache
def known_suite(name: str) -> Suite:
    """A suite that ships, read once: reading builds all of its runs, thousands in a large one."""
    return read_suite(name)


def runs_of(suite: Suite) -> int:
    """How many there are, without building them."""
    return len(suite.seeds) * sum(len(scenario.methods) for scenario in suite.scenarios.values())


def suite_page(name: str) -> str:
    """One benchmark: its grid, its base and its file."""
    suite, path = known_suite(name), SUITES / f"{name}.yaml"
    lines = [f"# `bench {name}`", "", f"**{suite.title}.** {comment(path)}", "", "```bash"]
    lines += [f"reelrl bench {name}", "```", "", *_facts(suite), "", "## Scenarios", ""]
    lines += ["| scenario | what | methods |", "|---|---|---|"]
    for key, scenario in suite.scenarios.items():
        methods = ", ".join(method_link(method) for method in scenario.methods)
        known = key in library("scenarios")
        link = f"[`{key}`](scenarios.md#{key})" if known else f"`{key}`"
        lines.append(f"| {link} | {scenario.title} | {methods} |")
    lines += ["", "## The file", "", *yaml_block(path.read_text(encoding="utf-8"))]
    return "\n".join(lines) + "\n"


def _facts(suite: Suite) -> list[str]:
    facts = {
        "runs": runs_of(suite),
        "iterations each": suite.iterations,
        "seeds": ", ".join(map(str, suite.seeds)),
        "baseline": method_link(suite.baseline),
        "control": method_link(suite.control) if suite.control else "none",
        "examined": f"{suite.examined.clips} clips per split, every {suite.examined.every} "
        "iterations",
        "equal below": f"a difference of {suite.margin:g} in gold",
    }
    return ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts.items())]


def method_link(name: str) -> str:
    """A method of the library or an estimator leads to its page; the suite's own has none."""
    if name in library("methods"):
        return f"[`{name}`](methods.md)"
    estimator = name.partition("@")[0]
    return (
        f"[`{name}`](../estimators/{estimator}.md)"
        if estimator in list_estimators()
        else f"`{name}`"
    )


def scenarios_page() -> str:
    """Every scenario of the library: what it isolates, its rewards and the prediction."""
    path = SUITES / "scenarios.yaml"
    lines = ["# Scenarios", "", comment(path), ""]
    for name, given in library("scenarios").items():
        lines += [f"## {name}", "", f"**{given['title']}.** {given['about'].strip()}", ""]
        lines += yaml_block(yaml.safe_dump({"rewards": given["rewards"]}, sort_keys=False))
        lines += ["", f"*Prediction:* {given['prediction'].strip()}", ""]
    return "\n".join(lines)


def methods_page() -> str:
    """Every method that is more than the name of an estimator."""
    path = SUITES / "methods.yaml"
    lines = ["# Methods", "", comment(path), "", "| method | estimator | set |", "|---|---|---|"]
    for name, given in library("methods").items():
        estimator = given.get("estimator", name)
        changed = "<br>".join(f"`{key}: {value}`" for key, value in given.get("set", {}).items())
        link = f"[`{estimator}`](../estimators/{estimator.partition('@')[0]}.md)"
        lines.append(f"| `{name}` | {link} | {changed} |")
    return "\n".join(lines) + "\n"


def library(kind: str) -> dict[str, Any]:
    """Scenarios or methods by name."""
    assert kind in LIBRARIES, kind
    return read_yaml(SUITES / f"{kind}.yaml")


def flat(values: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Dotted keys; environment arguments, which are free, count as keys of their own."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, dict) and value
        found |= flat(value, f"{path}{key}.") if inner else {path + str(key): value}
    return found


def yaml_block(text: str) -> list[str]:
    """A fenced block."""
    return ["```yaml", *text.strip().splitlines(), "```"]
