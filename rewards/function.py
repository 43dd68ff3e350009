"""A plain function as a reward component."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from reelrl.rewards.base import Reward

Scoring = Callable[..., Any]
"""``(videos, prompts, infos) -> scores``, as :meth:`reelrl.rewards.Reward.score` is."""
ARGUMENTS = ("videos", "prompts", "infos")


class FunctionReward(Reward):
    """A function of clips, prompts and infos; its name is the function's.

    Nothing is known of its values unless it was registered with ``bounds``.

    Args:
        function: called with (N, F, H, W, 3) float32 clips in [0, 1], N prompts and N infos;
            returns N numbers.
        name: of the component; by default the function's.

    Raises:
        ValueError: for a function that cannot be called with these three.
    """

    bounds = (-math.inf, math.inf)
    formula = "a function"
    deterministic = False
    function: Scoring

    def __init__(self, function: Scoring, name: str | None = None) -> None:
        check_scoring(function)
        self.function = function
        self.name = name or function_name(function)

    def score(
        self, videos: Tensor, prompts: Sequence[str], infos: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """The function's scores; :meth:`reelrl.rewards.Reward.__call__` reads any usual form."""
        scores: Tensor = self.function(videos, prompts, infos)
        return scores


class RegisteredFunction(FunctionReward):
    """Base of the classes that :func:`~reelrl.rewards.register_reward` makes of functions."""

    scoring: ClassVar[Scoring]

    def __init__(self) -> None:
        super().__init__(type(self).scoring, type(self).name)


REGISTERED: dict[int, type[RegisteredFunction]] = {}
"""Class of a registered function by the function's id; the class keeps the function alive."""


def class_of(
    function: Scoring, name: str, bounds: tuple[float, float], higher_is_better: bool
) -> type[RegisteredFunction]:
    """A reward class that needs no arguments, of a function.

    Args:
        function: see :class:`FunctionReward`.
        name: of the component.
        bounds: (low, high) of the scores.
        higher_is_better: False for a penalty.

    Raises:
        ValueError: for a function that cannot be called as a reward is, or bounds that are none.
    """
    check_scoring(function)
    try:
        low, high = (float(end) for end in bounds)
    except (TypeError, ValueError) as error:
        raise ValueError(f"bounds must be (low, high), got {bounds!r}") from error
    if not low < high:
        raise ValueError(f"bounds must be (low, high) with low < high, got {bounds!r}")
    described = inspect.getdoc(function) or f"The function {function_name(function)}."
    made = type(
        function_name(function),
        (RegisteredFunction,),
        {
            "__doc__": described,
            "__module__": getattr(function, "__module__", __name__),
            "__qualname__": getattr(function, "__qualname__", name),
            "name": name,
            "bounds": (low, high),
            "higher_is_better": higher_is_better,
            "scoring": staticmethod(function),
        },
    )
    REGISTERED[id(function)] = made
    return made


def reward_of(function: Scoring) -> Reward:
    """The component that a function is: as it was registered, or with nothing known of it."""
    registered = REGISTERED.get(id(function))
    return FunctionReward(function) if registered is None else registered()


def function_name(function: Scoring) -> str:
    """Name of a function, of what a partial one calls, or of a callable's class."""
    inner = getattr(function, "func", function)
    name: str = getattr(inner, "__name__", type(inner).__name__)
    return "function" if name == "<lambda>" else name


def check_scoring(function: Scoring) -> None:
    """See that a function can be called as a reward is.

    Raises:
        ValueError: if it takes other arguments.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # written in C, which tells nobody
    try:
        signature.bind(*ARGUMENTS)
    except TypeError as error:
        raise ValueError(
            f"a reward function takes ({', '.join(ARGUMENTS)}), got "
            f"{function_name(function)}{signature}"
        ) from error
