"""The runs of a benchmark: scenarios (reward configurations) by methods by paired seeds.

A suite is a yaml file in ``presets/bench``. It names scenarios of ``scenarios.yaml`` and methods of
``methods.yaml``; a method that is not there is the estimator of that name. All runs share one base
configuration, so that methods differ in their own line and in nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from reelrl.algos.advantages import list_estimators
from reelrl.checks import Ge, check_fields
from reelrl.naming import nearest
from reelrl.zoo.benchmark.columns import DEFAULT_TRUTH
from reelrl.zoo.benchmark.names import check_expected, named
from reelrl.zoo.benchmark.truth import TruthSpec
from reelrl.zoo.imports import import_all
from reelrl.zoo.plain_yaml import read_yaml
from reelrl.zoo.settings import PRESETS, TrainConfig, build, find_yaml, override

SUITES = PRESETS / "bench"
LARGEST_SEED = 2**31
"""Seeds below it leave room for the streams that are derived from them."""
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
        about: the isolated mechanism.
        rewards: the trained components, as an environment takes them.
        prediction: the prediction of theory, written before the runs.
        expect: the same for programs, on the gain in gold and against the suite's margin:
            ``better`` and ``same`` hold pairs of methods, ``rises`` and ``falls`` methods.
        methods: of this scenario; the suite's methods if none are given.
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
        clips: per split; two or more, because their variety is measured.
        unseen: clips of the split that gains are read from, at least ``clips``; None means
            ``clips`` too. More of them take the examination's own noise out of every comparison.
        every: iterations between two examinations.
        seed: of the noise.
    """

    clips: Annotated[int, Ge(2)] = 48
    unseen: int | None = None
    every: Annotated[int, Ge(1)] = 10
    seed: Annotated[int, Ge(0)] = 20_000_000

    def __post_init__(self) -> None:
        check_fields(self, "examined.")
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
        values: the settings as given; results are remembered by them.
        truth: the measured truth, as the suite names it.
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
        """Folder below the suite's folder."""
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
        truth: the measured truth, as :func:`~reelrl.zoo.benchmark.truth.build_truth` takes it.
        imports: modules and Python files that register the names in the suite.
        claims: True tests claims of the literature about the methods, too.
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
    imports: tuple[str, ...] = ()
    claims: bool = False

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
    """A suite that ships, or one in a yaml file; its ``imports`` are imported first.

    Raises:
        ValueError: in one line that names file and key, for an unknown suite, scenario, method or
            key, and for values that make no benchmark.
    """
    path = find_yaml(name_or_path, "suite", SUITES, LIBRARIES)
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold keys and values, got {values!r}")
    imports = import_all(values.pop("imports", []), path)
    try:
        return _suite(path.stem, values, imports)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _suite(name: str, values: dict[str, Any], imports: tuple[str, ...]) -> Suite:
    plain = build(_Plain, values)
    library = {kind: read_yaml(SUITES / f"{kind}.yaml") for kind in LIBRARIES}
    names = named(plain.methods, "methods")
    scenarios = {
        name: _scenario(library["scenarios"], name, {"methods": list(names)} | (given or {}))
        for name, given in named(plain.scenarios, "scenarios").items()
    }
    for scenario in scenarios.values():
        names |= {name: None for name in scenario.methods if name not in names}
    methods = {name: _method(library["methods"], name, given) for name, given in names.items()}
    known = {*methods, *library["methods"], *list_estimators()}
    for scenario_name, scenario in scenarios.items():
        check_expected(scenario.expect, known, f"scenarios.{scenario_name}.expect")
    kept = {key: value for key, value in vars(plain).items() if key in Suite.__dataclass_fields__}
    suite = Suite(name, **kept | {"scenarios": scenarios, "methods": methods, "imports": imports})
    for run in suite.runs():
        assert run.config  # raises for an unknown key; check looks up the names in the values
    return suite


@dataclass(frozen=True)
class _Plain:
    """The keys of a suite's file."""

    title: str
    seeds: tuple[int, ...]
    base: dict[str, Any]
    scenarios: Any
    methods: Any
    examined: ExaminationConfig = field(default_factory=ExaminationConfig)
    margin: Annotated[float, Ge(0)] = 0.05
    baseline: str = "grpo"
    control: str | None = None
    best_of: Annotated[int, Ge(0)] = 0
    truth: str | dict[str, Any] = DEFAULT_TRUTH
    claims: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        right = all(0 <= seed < LARGEST_SEED for seed in self.seeds)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or not right:
            raise ValueError(
                f"seeds must be one or more different numbers from 0 to {LARGEST_SEED - 1}, got "
                f"{list(self.seeds)}"
            )
        if not isinstance(self.base.get("env_args", {}), dict):
            raise ValueError(
                f"base.env_args must hold keys and values, got {self.base['env_args']!r}"
            )


def _scenario(library: Mapping[str, Any], name: str, given: Mapping[str, Any]) -> Scenario:
    if name not in library and "rewards" not in given:
        raise ValueError(f"unknown scenario {name!r}{nearest(name, list(library))}")
    path = f"scenarios.{name}"
    described = build(Scenario, library.get(name, {}) | given, f"{path}.")
    named(list(described.methods), f"{path}.methods")
    for reward in described.rewards:
        if not isinstance(reward, str) and not (isinstance(reward, dict) and "name" in reward):
            raise ValueError(
                f"{path}.rewards must hold names, or keys and values with a name, got {reward!r}"
            )
    if not described.rewards:
        raise ValueError(f"{path}.rewards must hold one reward or more, got none")
    return described


def _method(library: Mapping[str, Any], name: str, given: Any) -> Method:
    estimators = list_estimators()
    if name not in library and given is None and name.partition("@")[0] not in estimators:
        known = [*library, *estimators]
        raise ValueError(f"unknown method {name!r}{nearest(name, known)}")
    return build(Method, library.get(name, {}) | (given or {}), f"methods.{name}.")
