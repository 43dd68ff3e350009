"""Callbacks: what looks at a run as it goes, adds numbers to its log, and may end it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from reelrl.algos.advantages import AdvantageOutput
    from reelrl.algos.collect.rollout import Rollout


class Callback:
    """Base of all callbacks; each method does nothing until it is overridden.

    ```python
    class Prune(Callback):
        def on_evaluation(self, trainer, metrics):
            return metrics["eval/gold"] > 0.2  # False ends the run after this iteration
    ```

    With several processes every process calls its own callbacks, and the run ends on all of them as
    soon as it ends on one.
    """

    def on_rollout(
        self, trainer: Any, rollout: Rollout, output: AdvantageOutput
    ) -> Mapping[str, float] | None:
        """Called before the update of an iteration.

        Args:
            trainer: the trainer; ``trainer.iteration`` counts the iterations done before this one.
            rollout: clips and rewards.
            output: their advantages.

        Returns:
            numbers for the log, by name; None for none.
        """
        return None

    def on_update(self, trainer: Any, metrics: Mapping[str, float]) -> bool | None:
        """Called when an iteration is done and logged.

        Args:
            trainer: the trainer; ``trainer.iteration`` counts this iteration as done.
            metrics: all numbers of the iteration.

        Returns:
            False to save and end the run.
        """
        return None

    def on_evaluation(self, trainer: Any, metrics: Mapping[str, float]) -> bool | None:
        """Called after an evaluation, before the rollout of the same iteration.

        Args:
            trainer: the trainer.
            metrics: numbers of the evaluation, named ``eval/...``.

        Returns:
            False to save and end the run after this iteration.
        """
        return None


class WandbCallback(Callback):
    """Logs every iteration to Weights & Biases, which must be installed.

    Args:
        **settings: of ``wandb.init``, such as ``project`` and ``name``.

    Raises:
        ImportError: if ``wandb`` is not installed.
    """

    def __init__(self, **settings: Any) -> None:
        try:
            import wandb  # type: ignore[import-not-found,unused-ignore]
        except ImportError as error:
            raise ImportError(
                "tracking with wandb needs the package wandb: pip install wandb"
            ) from error
        self.run = wandb.init(**{"project": "reelrl", **settings})

    def on_update(self, trainer: Any, metrics: Mapping[str, float]) -> None:
        """Log the finite numbers of the iteration."""
        finite = {name: value for name, value in metrics.items() if np.isfinite(value)}
        self.run.log(finite, step=trainer.iteration - 1)


class OptunaPruning(Callback):
    """Reports a metric of every evaluation to an Optuna trial, and ends a run that is pruned.

    After ``learn``, raise ``optuna.TrialPruned`` if :attr:`pruned` is set.

    Args:
        trial: an ``optuna.Trial``.
        metric: name of the reported number, such as ``"eval/gold"``.

    Attributes:
        pruned: whether the trial asked to stop.
    """

    def __init__(self, trial: Any, metric: str) -> None:
        self.trial, self.metric, self.pruned = trial, metric, False

    def on_evaluation(self, trainer: Any, metrics: Mapping[str, float]) -> bool | None:
        """Report, and ask whether to stop.

        Raises:
            KeyError: if the evaluation has no such number.
        """
        if self.metric not in metrics:
            raise KeyError(f"no metric {self.metric!r}; there are {', '.join(sorted(metrics))}")
        self.trial.report(metrics[self.metric], trainer.iteration)
        self.pruned = bool(self.trial.should_prune())
        return not self.pruned


def read_numbers(measured: Mapping[str, Any] | None) -> dict[str, float]:
    """Numbers that a callback measured.

    Raises:
        TypeError: for a value that is no number.
    """
    if measured is not None and not isinstance(measured, Mapping):
        raise TypeError(f"on_rollout must return a mapping of numbers or None, got {measured!r}")
    for name, value in (measured or {}).items():
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            raise TypeError(f"on_rollout must return numbers, got {value!r} for {name!r}")
    return {name: float(value) for name, value in (measured or {}).items()}


def wants_to_end(answers: Iterable[Any]) -> bool:
    """Whether one of the callbacks returned False; None goes on."""
    return any(answer is not None and not answer for answer in answers)
