"""What the annotations of a dataclass state is what it refuses."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from reelrl.algos.advantages import NormSpec, estimator_class, list_estimators
from reelrl.algos.advantages.post import POSTS
from reelrl.algos.advantages.thresholds import Calibration
from reelrl.algos.advantages.transforms import TRANSFORMS
from reelrl.algos.collect.plan import RolloutConfig
from reelrl.algos.config import TrainerConfig
from reelrl.algos.grpo import GRPOConfig, LossConfig
from reelrl.algos.policies import FlowPolicyConfig
from reelrl.checks import Ge, Gt, OneOf, Within, _stated, check_fields
from reelrl.rewards.soli.loss import WinTieLoss
from reelrl.zoo.settings import EvaluationConfig, TrainConfig

COLOURS = ["red", "blue"]


@dataclass(frozen=True)
class Sample:
    mode: Literal["a", "b"] = "a"
    count: Annotated[int, Ge(1)] = 1
    rate: Annotated[float, Gt(0)] = 1.0
    over: Annotated[float, Gt(2)] = 3.0
    share: Annotated[float, Within(0, 0.5)] = 0.0
    part: Annotated[float, Within(0, 1, closed=True)] = 1.0
    colour: Annotated[str, OneOf(COLOURS)] = "red"
    maybe: Annotated[int, Ge(2)] | None = None
    picked: Literal["x"] | None = None
    pair: tuple[float, float] = (0.0, 1.0)
    many: tuple[int, ...] | None = None
    mixed: float | tuple[float, ...] = 0.0
    free: int = 0

    def __post_init__(self):
        check_fields(self, "sample.")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mode": "c"}, "sample.mode must be one of a, b, got 'c'"),
        ({"mode": None}, "sample.mode must be one of a, b, got None"),
        ({"count": 0}, "sample.count must be at least 1, got 0"),
        ({"rate": 0.0}, "sample.rate must be positive, got 0.0"),
        ({"rate": math.nan}, "sample.rate must be finite, got nan"),
        ({"rate": math.inf}, "sample.rate must be finite, got inf"),
        ({"rate": "fast"}, "sample.rate must be positive, got 'fast'"),
        ({"pair": [1.0, -math.inf]}, "sample.pair must be finite, got (1.0, -inf)"),
        ({"over": 2.0}, "sample.over must be above 2, got 2.0"),
        ({"share": 0.5}, "sample.share must be in [0, 0.5), got 0.5"),
        ({"share": -0.1}, "sample.share must be in [0, 0.5), got -0.1"),
        ({"part": 1.1}, "sample.part must be in [0, 1], got 1.1"),
        ({"part": math.nan}, "sample.part must be finite, got nan"),
        ({"colour": "green"}, "sample.colour must be one of red, blue, got 'green'"),
        ({"maybe": 1}, "sample.maybe must be at least 2, got 1"),
        ({"picked": "y"}, "sample.picked must be one of x, got 'y'"),
        ({"pair": [1.0]}, "sample.pair must hold 2 values, got (1.0,)"),
    ],
)
def test_a_value_outside_its_annotation_is_refused(given, message):
    with pytest.raises(ValueError) as error:
        Sample(**given)
    assert str(error.value) == message


def test_values_inside_are_kept_and_lists_become_tuples():
    sample = Sample(
        count=1, share=0.0, part=0.0, maybe=2, pair=[2, 3], many=[1, 2, 3], mixed=[0.5], free=-1
    )
    assert sample == Sample(
        count=1, share=0.0, part=0.0, maybe=2, pair=(2, 3), many=(1, 2, 3), mixed=(0.5,), free=-1
    )
    assert hash(sample) and Sample(mixed=2.0).mixed == 2.0 and Sample().many is None


def test_a_collection_may_grow_after_the_class_was_made():
    with pytest.raises(ValueError, match="green"):
        Sample(colour="green")
    COLOURS.append("green")
    try:
        assert Sample(colour="green").colour == "green"
    finally:
        COLOURS.remove("green")


def of_defaults(kinds):
    """Those of the classes that can be made without arguments."""
    missing = dataclasses.MISSING
    return [
        kind
        for kind in kinds
        if all(f.default is not missing or f.default_factory is not missing for f in fields(kind))
    ]


def fields(kind):
    return [field for field in dataclasses.fields(kind) if field.init]


SETTINGS = of_defaults([
    NormSpec, Calibration, TrainerConfig, GRPOConfig, LossConfig, FlowPolicyConfig, WinTieLoss,
    EvaluationConfig, TrainConfig, RolloutConfig,
    # Before the steps: some of them are registered beside an estimator.
    *(estimator_class(name).Config for name in list_estimators()),
    *POSTS.values(), *TRANSFORMS.values(),
])  # fmt: skip


def beyond(limit):
    """A value that the limit does not accept."""
    match limit:
        case Ge(low) | Within(low):
            return low - 1
        case Gt(low):
            return low
        case _:
            return "no such choice"


LIMITS = {
    f"{kind.__qualname__}.{stated.name}-{limit}": (kind, stated.name, limit)
    for kind in SETTINGS
    for stated in _stated(kind)
    for limit in stated.limits
}


def test_the_sweep_has_settings():
    assert len(LIMITS) > 60


@pytest.mark.parametrize(("kind", "name", "limit"), LIMITS.values(), ids=LIMITS)
def test_every_limit_of_the_library_s_settings_is_checked(kind, name, limit):
    with pytest.raises(ValueError, match=f"{name} must be"):
        kind(**{name: beyond(limit)})
