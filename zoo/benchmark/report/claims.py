"""Claims of the literature that can be tested at this scale, each with our measurement and verdict.

A claim is a list of conditions. A condition is a number per seed (paired where two methods are in
it) and the open region that the claim says its mean lies in. It holds if the 95 % interval of the
mean is inside the region, does not hold if it is outside, and cannot be told otherwise. A claim
holds if all of its conditions do, and does not if any does not. Signs and orders are tested, never
absolute values: the models here are a thousand times smaller than the papers' models. An effect
that no examined iteration shows may have happened between them, so it cannot be told either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from reelrl.zoo.benchmark.report.numbers import Results
from reelrl.zoo.benchmark.report.statistics import FAILS, HOLDS, UNKNOWN, Interval, mean_interval
from reelrl.zoo.benchmark.report.table import Table, interval

INF = np.inf
REGIONS: dict[str, Callable[[float], tuple[float, float]]] = {
    "above the margin": lambda margin: (margin, INF),
    "below minus the margin": lambda margin: (-INF, -margin),
    "not below minus the margin": lambda margin: (-margin, INF),
    "within the margin": lambda margin: (-margin, margin),
    "not above the margin": lambda margin: (-INF, margin),
    "above 0": lambda _: (0.0, INF),
    "below 0": lambda _: (-INF, 0.0),
    "below 0.9": lambda _: (-INF, 0.9),
}
"""Where a claim says that a mean lies -> the region, given the registered margin."""


AT_LEAST_ZERO = ("peak_gain", "eval_drop", "zero_std_rise")
"""Measures that are 0 where nothing was seen."""
NAMES = {
    "gain": "gain in",
    "late_influence": "late influence of",
    "proxy_gain_z": "proxy gain (std)",
    "peak_gain": "gold at its peak, over the base model's",
    "eval_drop": "gold lost from the peak to the end",
    "late_std": "late spread of the proxy",
    "gold_at_equal_proxy": "gold at equal proxy gain, over the baseline's",
    "zero_std_rise": "rise in groups without spread",
}
"""Measures whose names do not read as words."""


@dataclass(frozen=True)
class Condition:
    """One number of one method, or its difference to another method's.

    Attributes:
        method: name; ``*`` is the baseline.
        measure: name of a measure; ``{hardest}`` is the component with the lowest mean under the
            base model, ``{last}`` the last declared one.
        region: key of :data:`REGIONS`.
        minus: the method to subtract, seed by seed.
        log: difference of logarithms instead, of a positive measure.
    """

    method: str
    measure: str
    region: str
    minus: str | None = None
    log: bool = False


@dataclass(frozen=True)
class Claim:
    """The claim of a source, and the place where it is tested.

    Attributes:
        source: paper and table or figure.
        text: the claim, in our terms.
        scenarios: names to test on; the first that exists is taken.
        conditions: all must hold.
    """

    source: str
    text: str
    scenarios: tuple[str, ...]
    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class Finding:
    """A claim with the measurements on it."""

    claim: Claim
    scenario: str | None
    measured: tuple[tuple[str, Interval], ...]
    verdict: str


ABOVE, BELOW, NOT_BELOW, WITHIN, NOT_ABOVE, POSITIVE, NEGATIVE, NOT_KEPT = REGIONS
GOODHART, EXTREME = ("goodhart",), ("goodhart_extreme", "proxies")
GOLD, ALIGN, PHYS, FID = "gold_gain", "gain/gold_align", "gain/gold_phys", "gain/gold_fid"

CLAIMS = (
    Claim(
        "DanceGRPO (arXiv 2505.07818), FLUX with one reward: HPS up 22 %, CLIP and GenEval down",
        "optimising a hackable score raises it and lowers the truth",
        EXTREME,
        (Condition("*", "proxy_gain_z", POSITIVE), Condition("*", GOLD, BELOW)),
    ),
    Claim(
        "Gao et al. 2023 (arXiv 2210.10760), figure 1",
        "under a hackable score gold first rises, then falls, both by more than the margin",
        EXTREME,
        (Condition("*", "peak_gain", ABOVE), Condition("*", "eval_drop", ABOVE)),
    ),
    Claim(
        "DanceGRPO, SD 1.4: HPS, CLIP and GenEval all up",
        "an honest reward raises every gold axis",
        ("honest",),
        tuple(Condition("*", axis, POSITIVE) for axis in (ALIGN, PHYS, FID)),
    ),
    Claim(
        "DanceGRPO, section on binary rewards: learning works from them",
        "Pass/Fail rewards raise gold by more than the margin",
        ("binary",),
        (Condition("*", GOLD, ABOVE),),
    ),
    Claim(
        "TaRoS (arXiv 2511.19356), table 1: VBench semantic up, quality down under GRPO",
        "plain GRPO on proxies raises alignment and lowers fidelity",
        GOODHART,
        (Condition("*", ALIGN, ABOVE), Condition("*", FID, BELOW)),
    ),
    Claim(
        "TaRoS, tables 1 and 3: no axis below the base model",
        "TaRoS keeps every gold axis at the base model's or above",
        GOODHART,
        tuple(Condition("taros", axis, NOT_BELOW) for axis in (ALIGN, PHYS, FID)),
    ),
    Claim(
        "TaRoS, table 1: above a DanceGRPO that sums the rewards",
        "TaRoS ends with more gold than the raw sum",
        GOODHART,
        (Condition("taros", GOLD, ABOVE, "grpo"),),
    ),
    Claim(
        "TaRoS, table 1, if its baseline was DanceGRPO as released",
        "TaRoS ends with more gold than normalising each reward first",
        GOODHART,
        (Condition("taros", GOLD, ABOVE, "dancegrpo"),),
    ),
    Claim(
        "TaRoS, abstract: mitigates reward hacking",
        "TaRoS keeps more gold than GRPO where both have gained as much proxy",
        GOODHART,
        (Condition("taros", "gold_at_equal_proxy", ABOVE),),
    ),
    Claim(
        "TaRoS, table 4: 1.6 times the gain in text alignment",
        "TaRoS gains more of the last proxy (text alignment) than the raw sum",
        GOODHART,
        (Condition("taros", "gain/{last}", POSITIVE, "grpo"),),
    ),
    Claim(
        "TaRoS, figure 2: reward spread stays above DanceGRPO's",
        "late in training the spread of the summed reward is larger under TaRoS (log ratio)",
        GOODHART,
        (Condition("taros", "late_std", POSITIVE, "grpo", log=True),),
    ),
    Claim(
        "TaRoS, abstract: weighs a saturated component down",
        "a saturated component has less influence under TaRoS than in the raw sum",
        ("saturating",),
        (Condition("taros", "late_influence/fid_saturated", NEGATIVE, "grpo"),),
    ),
    Claim(
        "TaRoS, figure 4: judges that drift between clusters of prompts",
        "with such judges TaRoS loses no more than the margin to the raw sum",
        ("miscalibrated", "judge"),
        (Condition("taros", GOLD, NOT_BELOW, "grpo"),),
    ),
    Claim(
        "TaRoS, equations 4 to 9, at the published settings: weights of 0.32 to 0.36",
        "TaRoS ends where the raw sum ends",
        GOODHART,
        (Condition("taros", GOLD, WITHIN, "grpo"),),
    ),
    Claim(
        "GDPO (arXiv 2601.05242), section 3: a sum makes different reward vectors collide",
        "fewer pairs of different reward vectors share an advantage under GDPO",
        ("binary",),
        (Condition("gdpo", "late_collisions", NEGATIVE, "grpo"),),
    ),
    Claim(
        "GDPO, tables 1 and 3: more of the harder reward",
        "GDPO gains more than GRPO of the component that the base model passes least",
        ("binary",),
        (Condition("gdpo", "gain/{hardest}", POSITIVE, "grpo"),),
    ),
    Claim(
        "GDPO, tables 1, 3 and 4",
        "GDPO ends with more gold than GRPO on Pass/Fail rewards",
        ("binary",),
        (Condition("gdpo", GOLD, ABOVE, "grpo"),),
    ),
    Claim(
        "GDPO, table 5: three rewards, pass rates of GRPO and GDPO within noise",
        "GDPO and GRPO end with the same gold on three graded rewards",
        GOODHART,
        (Condition("gdpo", GOLD, WITHIN, "grpo"),),
    ),
    Claim(
        "GDPO, table 2: GRPO without the std loses a reward altogether (0 %)",
        "without the std the component that the base model passes least gains nothing",
        ("binary",),
        (Condition("dr_grpo", "gain/{hardest}", NOT_ABOVE),),
    ),
    Claim(
        "Flow-GRPO, Pref-GRPO (arXiv 2508.20751): the share of groups without spread rises",
        "groups without an advantage become more frequent under GRPO",
        ("binary",),
        (Condition("*", "zero_std_rise", POSITIVE),),
    ),
    Claim(
        "D2-Align, DivGenBench (arXiv 2512.24146): diversity collapses under RL",
        "factor coverage for an open prompt falls below 90 % of the base model's",
        GOODHART,
        (Condition("*", "coverage_kept", NOT_KEPT),),
    ),
)
"""In the order of the report."""


def _resolved(results: Results, scenario: str, condition: Condition) -> str:
    """The measure with its placeholder filled in."""
    found = results.suite.scenario(scenario)
    rewards = found.rewards if found else []
    if not rewards:
        return condition.measure
    base = {
        name: mean_interval(results.get(scenario, results.suite.baseline, f"base/{name}")).estimate
        for name in rewards
    }
    return condition.measure.format(hardest=min(rewards, key=base.__getitem__), last=rewards[-1])


def _named(measure: str) -> str:
    """A measure in words."""
    kind, _, component = measure.partition("/")
    words = NAMES.get(kind, kind.replace("_", " "))
    return f"{words} {component}" if component else words


def _measured(results: Results, scenario: str, condition: Condition) -> tuple[str, Interval]:
    measure = _resolved(results, scenario, condition)
    method = results.suite.baseline if condition.method == "*" else condition.method
    values = results.get(scenario, method, measure)
    name = _named(measure)
    label = f"{method} {name}"
    if condition.minus is not None:
        other = results.get(scenario, condition.minus, measure)
        values = np.log(values) - np.log(other) if condition.log else values - other
        label = f"{method} - {condition.minus}, {'log ' if condition.log else ''}{name}"
    return label, mean_interval(values)


def examine(results: Results, claim: Claim) -> Finding:
    """Measure a claim; "not tested" where a scenario, method or measure is missing."""
    for scenario in claim.scenarios:
        if not any(results.has(scenario, m) for m in results.suite.methods):
            continue
        measured = tuple(_measured(results, scenario, c) for c in claim.conditions)
        if any(np.isnan(found.estimate) for _, found in measured):
            continue
        margin = results.suite.margin
        inside = [
            None
            if c.measure in AT_LEAST_ZERO and found.low == found.high == 0
            else found.within(REGIONS[c.region](margin))
            for c, (_, found) in zip(claim.conditions, measured, strict=True)
        ]
        verdict = FAILS if False in inside else UNKNOWN if None in inside else HOLDS
        return Finding(claim, scenario, measured, verdict)
    return Finding(claim, None, (), "not tested")


def examine_all(results: Results) -> list[Finding]:
    """Every claim, if the suite asks for them."""
    if not results.suite.claims:
        return []
    return [examine(results, claim) for claim in CLAIMS]


def claims_table(results: Results) -> Table:
    """Claims that this suite can test, and below them how many it cannot."""
    findings = examine_all(results)
    rows = [
        [
            f.claim.source,
            f.claim.text,
            f.scenario or "",
            "; ".join(
                f"{label} {interval(found, 2)}, claimed {c.region}"
                for c, (label, found) in zip(f.claim.conditions, f.measured, strict=True)
            ),
            f.verdict,
        ]
        for f in findings
        if f.scenario
    ]
    left = len(findings) - len(rows)
    note = f"{left} further claims need scenarios or methods that this suite lacks." if left else ""
    header = ["source", "claim", "scenario", "measured [95 %]", "verdict"]
    return Table(header, rows, note)
