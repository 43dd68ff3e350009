"""The truths that a benchmark can measure: scores of clips that no learner is ever given.

A truth names its prompts, scores clips in one or more axes, and may know which factors a clip
shows. A suite names the truth it measures (``truth: moving_shapes``, or a mapping with a ``name``
and arguments); :data:`register_truth` adds another one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from reelrl.envs.prompts import resolve_prompts
from reelrl.naming import Registry
from reelrl.rewards.base import Reward
from reelrl.rewards.moving_shapes.gold import gold_axes_of_prompts
from reelrl.rewards.moving_shapes.parser import parse
from reelrl.rewards.moving_shapes.world import COLOURS, DIRECTIONS, SHAPES, SPEEDS, captions
from reelrl.rewards.spec import RewardSpec, build_reward
from reelrl.zoo.benchmark.columns import DEFAULT_TRUTH, GOLD_AXES, SPLITS

TruthSpec = str | Mapping[str, Any]
"""A registered name, or ``{"name": ..., **arguments}``."""
WORLD_SPLITS = {"seen": "train", "unseen": "compositional"}
"""Split of the results -> split of the captions of MovingShapes."""
Factors = tuple[Tensor, tuple[int, ...]]


class Truth(Protocol):
    """Measures clips.

    Attributes:
        axes: names of the scores, which become columns of the results. The first is *the* score:
            gains, margins and verdicts are about it. The others explain it.
    """

    axes: tuple[str, ...]

    def prompts(self, split: str) -> Sequence[str]:
        """Prompts of a split, in the order in which they are examined.

        An examination of more clips than prompts starts again at the first.

        Args:
            split: ``"seen"`` or ``"unseen"`` in training.

        Returns:
            Empty if the truth has no such split.
        """

    def __call__(self, videos: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Score clips.

        Args:
            videos: (N, F, H, W, 3) in [0, 1].
            prompts: N texts.

        Returns:
            Axis -> (N,) scores, higher better; ``nan`` where a clip could not be scored.
        """

    def factors(self, videos: Tensor) -> Factors | None:
        """Read off the factors that clips show, whatever their captions say.

        Args:
            videos: (N, F, H, W, 3) in [0, 1].

        Returns:
            (N, F) int64 values of F factors and the number of values that each factor has; a clip
            in which a factor cannot be read has that number itself. None if this truth knows no
            factors: coverage and Vendi score are then not measured.
        """


TRUTHS: Registry[Callable[..., Truth]] = Registry("truth")
register_truth = TRUTHS.register
"""Decorator that makes a truth known to suites by name."""


def build_truth(spec: TruthSpec) -> Truth:
    """A truth from its description in a suite.

    Raises:
        ValueError: for an unknown name, or arguments that the truth does not take.
    """
    given: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = given.pop("name", None)
    truth = TRUTHS.find(str(name))
    try:
        return truth(**given)
    except TypeError as error:
        raise ValueError(f"truth {name!r}: {error}") from error


def repeated(prompts: Sequence[str], count: int) -> list[str]:
    """``count`` prompts, from the first one again when they run out."""
    return [prompts[i % len(prompts)] for i in range(count)]


@register_truth(DEFAULT_TRUTH)
class MovingShapesTruth:
    """GOLD of MovingShapes: the product of alignment, physics and fidelity."""

    axes: tuple[str, ...] = GOLD_AXES

    def prompts(self, split: str) -> list[str]:
        """All captions of a split of the world, in a fixed shuffled order."""
        return _shuffled_captions(WORLD_SPLITS[split])

    def __call__(self, videos: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """GOLD and its axes, (N,) each."""
        gold = gold_axes_of_prompts(videos, prompts)
        return dict(zip(self.axes, (gold.gold, gold.align, gold.phys, gold.fid), strict=True))

    def factors(self, videos: Tensor) -> Factors:
        """(N, 4) parsed colour, shape, direction and speed, and how many there are of each.

        A clip in which nothing is found has the index after the last one everywhere.
        """
        parsed = parse(videos)
        headings = torch.tensor(list(DIRECTIONS.values()), dtype=parsed.velocity.dtype)
        speeds = torch.tensor(list(SPEEDS.values()), dtype=parsed.velocity.dtype)
        pace = parsed.velocity.norm(dim=1)
        columns = (
            parsed.colour,
            parsed.shape,
            (parsed.velocity @ headings.T).argmax(dim=1),
            (pace[:, None] - speeds).abs().argmin(dim=1),
        )
        sizes = (len(COLOURS), len(SHAPES), len(DIRECTIONS), len(SPEEDS))
        found = [
            torch.where(parsed.found, column, size)
            for column, size in zip(columns, sizes, strict=True)
        ]
        return torch.stack(found, dim=1), sizes


def evaluation_captions(split: str, count: int) -> list[str]:
    """``count`` captions of a split of MovingShapes, in a fixed shuffled order.

    Each occurs as often as the others.
    """
    return repeated(_shuffled_captions(split), count)


def _shuffled_captions(split: str) -> list[str]:
    known = captions(split)
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(0)).tolist()
    return [known[i] for i in order]


@register_truth("held_out")
class HeldOutJudges:
    """An ensemble of reward components that nothing is trained on.

    It is the truth of a world without a known one: the judges share fewer faults with the trained
    rewards than these share with themselves (Coste et al. 2023). The score ``held_out`` is the
    mean of the judges, penalties counted negative; ``held_out_<judge>`` is each judge's own. A clip
    that a judge cannot score has no mean either.

    Args:
        rewards: the judges, as an environment takes its rewards. Their mean counts all of them
            alike, so they should share a scale.
        prompts: ``seen`` and ``unseen``, or one of them -> texts, or the name of a prompt set.

    Raises:
        ValueError: without judges, for two of one name, or for prompts of another split.
    """

    def __init__(
        self, rewards: Sequence[RewardSpec], prompts: Mapping[str, str | Sequence[str]]
    ) -> None:
        self.judges = [build_reward(reward) for reward in rewards]
        names = [judge.name for judge in self.judges]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"expected held-out judges of different names, got {names}")
        if not prompts or not set(prompts) <= set(SPLITS):
            raise ValueError(
                f"expected prompts of the splits {', '.join(SPLITS)}, got {list(prompts)}"
            )
        self.axes = ("held_out", *(f"held_out_{name}" for name in names))
        self._prompts = {split: resolve_prompts(given) for split, given in prompts.items()}

    def prompts(self, split: str) -> Sequence[str]:
        """Texts of a split as given."""
        return self._prompts.get(split, ())

    def __call__(self, videos: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """The judges' mean and each judge's scores, (N,) each."""
        scores = torch.stack([self._scores(judge, videos, prompts) for judge in self.judges])
        return dict(zip(self.axes, (scores.mean(dim=0), *scores), strict=True))

    def factors(self, videos: Tensor) -> None:
        """None: judges know no factors."""

    @staticmethod
    def _scores(judge: Reward, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        output = judge(videos, prompts, [{}] * len(prompts))
        values = torch.where(output.valid, output.values.double(), torch.nan)
        return values.cpu() * (1.0 if judge.higher_is_better else -1.0)
