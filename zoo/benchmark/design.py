"""What a benchmark runs: scenarios (reward configurations) by methods by paired seeds.

A suite is a yaml file in ``presets/bench``. It names scenarios of ``scenarios.yaml`` and methods of
``methods.yaml``; a method that is not there is the estimator of that name. All runs share one base
configuration, so that methods differ in what their line says and in nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from reelrl.algos.advantages import list_estimators
from reelrl.naming import nearest
from reelrl.zoo.benchmark.columns import DEFAULT_TRUTH
from reelrl.zoo.benchmark.truth import TruthSpec
from reelrl.zoo.settings import PRESETS, TrainConfig, build, override

SUITES = PRESETS / "bench"
LIBRARIES = ("scenarios", "methods")
"""Files in the folder of suites that are none."""


@dataclass(frozen=True)
class Method:
    """One way to learn.

    Attributes:
        estimator: name, with a preset after ``@`` if wanted; empty is the method's own name.
        set: dotted settings of a training run that differ from the base.
    """

    estimator: str = ""
    set: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scenario:
    """One reward configuration.

    Attributes:
        title: a few words.
        about: what is isolated.
        rewards: the trained components, as an environment takes them.
        prediction: what theory says, written before the runs.
        expect: the same for programs, on the gain in gold and against the suite's margin:
            ``better`` and ``same`` hold pairs of methods, ``rises`` and ``falls`` methods.
        methods: of this scenario; those of the suite if none are given.
    """

    title: str
    about: str
    rewards: tuple[Any, ...]
    prediction: str
    expect: dict[str, Any] = field(default_factory=dict)
    methods: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExaminationConfig:
    """The fixed examination of every run.

    Attributes:
        clips: per split.
        unseen: of the split that gains are read from, at least ``clips``; None is ``clips`` too.
            More of them take the examination's own noise out of every comparison.
        every: iterations between two examinations.
        seed: of the noise.
    """

    clips: int = 48
    unseen: int | None = None
    every: int = 10
    seed: int = 20_000_000

    def __post_init__(self) -> None:
        if self.unseen is not None and self.unseen < self.clips:
            raise ValueError(
                f"expected examined.unseen of at least examined.clips = {self.clips}, got "
                f"{self.unseen}"
            )

    def noise_seeds(self, split: str) -> range:
        """One per clip of a split, and no two splits share one."""
        counts = {"seen": self.clips, "unseen": self.unseen or self.clips, "open": self.clips}
        splits = list(counts)
        start = self.seed + sum(counts[s] for s in splits[: splits.index(split)])
        return range(start, start + counts[split])


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        scenario: name.
        method: name.
        seed: of prompts, sampling noise and order; methods of one seed see the same.
        values: the settings as given, which is what results are remembered by.
        truth: what is measured, as the suite names it.
    """

    scenario: str
    method: str
    seed: int
    values: dict[str, Any]
    truth: TruthSpec = DEFAULT_TRUTH

    @cached_property
    def config(self) -> TrainConfig:
        """The settings in full.

        Raises:
            ValueError: if they do not make a training run.
        """
        return build(TrainConfig, self.values)

    @property
    def path(self) -> Path:
        """Folder below that of the suite."""
        return Path(self.scenario) / self.method / f"seed_{self.seed}"

    @property
    def digest(self) -> str:
        """Of settings and truth: results of others are not this run's."""
        # Results are older than the choice of a truth: the default one leaves no trace in a digest.
        truth = {} if self.truth == DEFAULT_TRUTH else {"truth": self.truth}
        text = json.dumps(self.values | truth, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Suite:
    """A benchmark.

    Attributes:
        name: of the file.
        title: a few words.
        seeds: paired over methods.
        scenarios: by name, in order.
        methods: by name, in order.
        base: keys of a training preset.
        margin: difference in gold below which two methods are called equal, fixed before the runs.
        baseline: method that the others are compared with.
        control: method that must not gain anything, if there is one.
        examined: the examination.
        best_of: clips per prompt of the baseline without training; 0 leaves it out.
        truth: what is measured, as :func:`~reelrl.zoo.benchmark.truth.build_truth` takes it.
    """

    name: str
    title: str
    seeds: tuple[int, ...]
    scenarios: dict[str, Scenario]
    methods: dict[str, Method]
    base: dict[str, Any]
    margin: float
    baseline: str
    control: str | None
    examined: ExaminationConfig
    best_of: int
    truth: TruthSpec

    @property
    def iterations(self) -> int:
        """Of every run."""
        return build(TrainConfig, self.base).iterations

    def runs(self) -> Iterator[Run]:
        """All runs, seed by seed, so that a benchmark cut short has every cell."""
        for seed in self.seeds:
            for scenario, described in self.scenarios.items():
                for method in described.methods:
                    yield self.run(scenario, method, seed)

    def run(self, scenario: str, method: str, seed: int) -> Run:
        """One of them."""
        wanted = self.methods[method]
        values = self.base | {"estimator": wanted.estimator or method}
        values["env_args"] = values.get("env_args", {}) | {
            "rewards": list(self.scenarios[scenario].rewards)
        }
        settings = [f"{key}={json.dumps(value)}" for key, value in wanted.set.items()]
        values = override(values, [*settings, f"learner.seed={seed}"])
        return Run(scenario, method, seed, values, self.truth)


def list_suites() -> list[str]:
    """Names of the suites that ship."""
    return sorted(path.stem for path in SUITES.glob("*.yaml") if path.stem not in LIBRARIES)


def read_suite(name_or_path: str) -> Suite:
    """A suite that ships, or one in a yaml file.

    Raises:
        ValueError: for an unknown suite, scenario, method or key.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = SUITES / f"{name_or_path}.yaml"
    if not path.is_file():
        known = list_suites()
        raise ValueError(f"unknown suite {name_or_path!r}{nearest(name_or_path, known)}")
    values = yaml.safe_load(path.read_text())
    library = {kind: yaml.safe_load((SUITES / f"{kind}.yaml").read_text()) for kind in LIBRARIES}
    names = dict(_named(values.pop("methods")))
    scenarios = {
        name: _scenario(library["scenarios"], name, {"methods": list(names)} | (given or {}))
        for name, given in _named(values.pop("scenarios"))
    }
    for scenario in scenarios.values():
        names |= {name: None for name in scenario.methods if name not in names}
    methods = {name: _method(library["methods"], name, given) for name, given in names.items()}
    examined = build(ExaminationConfig, values.pop("examined", {}), "examined.")
    defaults = {
        "margin": 0.05, "baseline": "grpo", "control": None, "best_of": 0, "truth": DEFAULT_TRUTH
    }  # fmt: skip
    plain = build(_Plain, defaults | values)
    suite = Suite(path.stem, **vars(plain), scenarios=scenarios, methods=methods, examined=examined)
    for run in suite.runs():
        assert run.config  # raises for an unknown key; what the values name is looked up by check
    return suite


@dataclass(frozen=True)
class _Plain:
    title: str
    seeds: tuple[int, ...]
    base: dict[str, Any]
    margin: float
    baseline: str
    control: str | None
    best_of: int
    truth: str | dict[str, Any]


def _named(given: Any) -> list[tuple[str, Any]]:
    """Names with what is said of them: a list names, a mapping names and says."""
    return [(name, None) for name in given] if isinstance(given, list) else list(given.items())


def _scenario(library: Mapping[str, Any], name: str, given: Mapping[str, Any]) -> Scenario:
    if name not in library and "rewards" not in given:
        raise ValueError(f"unknown scenario {name!r}{nearest(name, list(library))}")
    return build(Scenario, library.get(name, {}) | given, f"scenarios.{name}.")


def _method(library: Mapping[str, Any], name: str, given: Any) -> Method:
    estimators = list_estimators()
    if name not in library and given is None and name.partition("@")[0] not in estimators:
        known = [*library, *estimators]
        raise ValueError(f"unknown method {name!r}{nearest(name, known)}")
    return build(Method, library.get(name, {}) | (given or {}), f"methods.{name}.")
