"""The learner's interface: it sees a rollout and the estimator's answer, and moves the weights.

The trainer (:mod:`reelrl.algos.trainer`) collects, estimates, adapts, logs and saves. All of that
is the same for every learner.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from torch import Tensor

from reelrl.algos.advantages import AdvantageEstimator, AdvantageOutput
from reelrl.algos.collect.plan import RolloutConfig
from reelrl.algos.collect.rollout import Rollout
from reelrl.algos.policies.flow import FlowPolicy
from reelrl.naming import Registry

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Numbers = dict[str, Tensor]
"""Detached numbers of some items, (M,) each."""


class Objective(Protocol):
    """The loss of an iteration as a sum over items, such as transitions or clips.

    Attributes:
        num_items: items of the iteration, of all processes.
        components: K losses that can be asked for one by one; 0 if the loss is one.
        has_penalty: True if part of the loss belongs to no component.
    """

    @property
    def num_items(self) -> int:
        """See above."""

    @property
    def components(self) -> int:
        """See above."""

    @property
    def has_penalty(self) -> bool:
        """See above."""

    def active(self) -> Int[Tensor, " A"]:
        """(A,) int64 on the host: items that have a gradient; the others cost no forward pass."""

    def own(self, index: Int[Tensor, " M"]) -> Int[Tensor, " own"]:
        """The items of ``index`` that this process can replay."""

    def weight(self) -> Float[Tensor, ""]:
        """Sum of the weights of all items, the divisor of the sum of their losses."""

    def __call__(
        self,
        index: Int[Tensor, " M"],
        total: float | Float[Tensor, ""],
        only: int | None = None,
        kl: bool = True,
    ) -> tuple[Float[Tensor, ""], Numbers]:
        """Loss of some items, to be summed over all parts of an update.

        Args:
            index: (M,) items, sorted, on the host.
            total: divisor of the sum over the update.
            only: the loss of this component alone; -1 is no component at all.
            kl: add the penalty.
        """

    def metrics(self, parts: Sequence[Numbers], first: Sequence[Numbers]) -> dict[str, float]:
        """Facts about the updates in an iteration's log.

        Args:
            parts: numbers of all updates.
            first: numbers of the first update, before which nothing had moved.
        """


class Learner(ABC):
    """A way to move the weights of a policy.

    Args:
        config: its settings; None means the defaults.

    Attributes:
        name: registry name.
        source: paper, or project and file.
        Config: frozen dataclass of the settings.
        signals: kinds of signal it can use: ``"clip"`` (P, G), ``"step"`` (P, G, T),
            ``"component"`` (one loss per reward component).

    Raises:
        TypeError: for settings of another learner.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    Config: ClassVar[type]
    signals: ClassVar[frozenset[str]] = frozenset({"clip"})

    def __init__(self, config: Any = None) -> None:
        self.config = self.Config() if config is None else config
        if not isinstance(self.config, self.Config):
            raise TypeError(
                f"learner {self.name!r} has the settings {self.Config.__name__}, got "
                f"{type(config).__name__}"
            )

    def check(self, estimator: AdvantageEstimator, rollout: RolloutConfig) -> None:
        """Refuse an estimator or a kind of rollout that makes no sense with this learner.

        Raises:
            ValueError: in a sentence that says why.
        """
        for signal, asked in signals_of(estimator).items():
            if asked and signal not in self.signals:
                raise ValueError(
                    f"learner {self.name!r} learns from a signal per "
                    f"{' or '.join(sorted(self.signals))}, got {estimator.name!r} with one per "
                    f"{signal}"
                )

    def rollout(self, config: RolloutConfig) -> RolloutConfig:
        """The rollout settings with all switched on that this learner needs of a rollout."""
        return config

    def begin(self, policy: FlowPolicy) -> None:
        """Before the first iteration: the place to keep a reference of the weights."""
        return

    def sampling(self, policy: FlowPolicy) -> AbstractContextManager[Any]:
        """Context in which clips are drawn; by default with the weights as they are."""
        return nullcontext()

    @abstractmethod
    def objective(
        self,
        policy: FlowPolicy,
        rollout: Rollout,
        output: AdvantageOutput,
        estimator: AdvantageEstimator,
        *,
        seed: Sequence[int],
    ) -> Objective:
        """The loss of an iteration.

        Args:
            policy: bound to the environment.
            rollout: the clips.
            output: the estimator's answer to them.
            estimator: whose answer it is.
            seed: of all that the objective draws; different in every iteration.
        """

    def after_update(self, policy: FlowPolicy) -> None:
        """After every optimizer step."""
        return

    def after_iteration(self, policy: FlowPolicy) -> None:
        """After the last optimizer step of an iteration."""
        return

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that a checkpoint needs: tensors by name, and plain values."""
        return {}, {}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Go on from the result of :meth:`state`."""
        return


def signals_of(estimator: AdvantageEstimator) -> dict[str, bool]:
    """Kind of signal -> whether the estimator gives it; a plain one gives one per clip."""
    return {
        "step": bool({"ode_rewards", "tree_parent", "dense"} & estimator.requires),
        "component": estimator.loss_mode == "per_component",
    }


L = TypeVar("L", bound=type[Learner])
LEARNERS: Registry[type[Learner]] = Registry("learner", "reelrl.algos.learners")


def register_learner(name: str) -> Callable[[L], L]:
    """Class decorator that makes ``make_learner(name)`` build the class.

    Raises:
        ValueError: if the name is taken by another class.
        TypeError: if its ``Config`` is no dataclass.
    """

    def register(cls: L) -> L:
        if not dataclasses.is_dataclass(getattr(cls, "Config", None)):
            raise TypeError(f"{cls.__name__}.Config must be a dataclass of its settings")
        cls.name = name
        return LEARNERS.register(name)(cls)

    return register


def make_learner(name: str, config: Any = None) -> Learner:
    """Build a learner.

    Args:
        name: one of :func:`list_learners`.
        config: of the learner's ``Config``; None means its defaults.

    Raises:
        ValueError: for an unknown name; the message names the nearest known one.
        TypeError: for settings of another learner.
    """
    return LEARNERS.find(name)(config)


def list_learners() -> list[str]:
    """Names of all registered learners, sorted."""
    return list(LEARNERS)
