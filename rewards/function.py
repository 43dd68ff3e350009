"""A plain function as a reward component: its name, and whether it can be called."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

Scoring = Callable[..., Any]
"""``(videos, prompts, infos) -> scores``, as :meth:`reelrl.rewards.Reward.score` is."""
ARGUMENTS = ("videos", "prompts", "infos")


def described(
    function: Scoring, name: str, bounds: tuple[float, float] | None, higher_is_better: bool | None
) -> dict[str, Any]:
    """Attributes of a reward class that is made of a function.

    Args:
        function: called as a reward is.
        name: of the component.
        bounds: (low, high) of the scores; None means unknown.
        higher_is_better: False for a penalty.

    Raises:
        ValueError: for a function that cannot be called as a reward is, or bounds that are none.
    """
    check_scoring(function)
    try:
        low, high = (float(end) for end in bounds or (-math.inf, math.inf))
    except (TypeError, ValueError) as error:
        raise ValueError(f"bounds must be (low, high), got {bounds!r}") from error
    if not low < high:
        raise ValueError(f"bounds must be (low, high) with low < high, got {bounds!r}")
    return {
        "__doc__": inspect.getdoc(function) or f"The function {function_name(function)}.",
        "__module__": getattr(function, "__module__", __name__),
        "__qualname__": getattr(function, "__qualname__", name),
        "name": name,
        "bounds": (low, high),
        "higher_is_better": higher_is_better is not False,
        "scoring": staticmethod(function),
    }


def function_name(function: Scoring) -> str:
    """Name of a function, of the function inside a partial, or of a callable's class."""
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
