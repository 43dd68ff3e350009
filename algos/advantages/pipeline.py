"""Steps that all estimators share: open a batch, compose the steps, close the result.

An estimator is ``Transform* -> estimate -> Post*``, where ``estimate`` is mostly one of the two
pipelines of this file: sum the components and normalise the sum, or normalise each and sum those.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from reelrl.algos.advantages.batch import (
    Signal,
    Work,
    open_batch,
    total_score,
    valid_mask,
    weighted_sum,
)
from reelrl.algos.advantages.diagnostics import Diagnostics, diagnose
from reelrl.algos.advantages.masked import Array, Masked, like, output_dtype, to_tensor
from reelrl.algos.advantages.norm import NormSpec, make_norm, normalise
from reelrl.algos.advantages.post import Post, make_post
from reelrl.algos.advantages.transforms import Transform, make_transform
from reelrl.algos.advantages.types import AdvantageOutput, Gather, RewardBatch, State
from reelrl.checks import Ge, check_fields

if TYPE_CHECKING:
    from jaxtyping import Float

STATE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class EstimatorConfig:
    """Settings every estimator has.

    Attributes:
        transforms: applied to the rewards first, in order; instances, names, or dicts such as
            ``{"name": "par", "k": 2.0}``.
        post: applied to the advantages last, given likewise.
        credit: meaning of per-step rewards: each step's own reward ("instant"), the discounted sum
            from there on ("return_to_go"), or the sum over all steps ("trajectory"). No effect on
            terminal rewards.
        gamma: discount of "return_to_go".
    """

    transforms: tuple[Any, ...] = ()
    post: tuple[Any, ...] = ()
    credit: Literal["instant", "return_to_go", "trajectory"] = "instant"
    gamma: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "transforms", tuple(make_transform(t) for t in self.transforms))
        object.__setattr__(self, "post", tuple(make_post(p) for p in self.post))
        for own in fields(self):
            given = getattr(self, own.name)
            if isinstance(own.default, NormSpec) and given is not None:
                object.__setattr__(self, own.name, make_norm(given, own.default))


@dataclass(frozen=True, kw_only=True)
class GroupBatchConfig(EstimatorConfig):
    """Settings of estimators that normalise in the group and, if asked to, over the batch.

    Attributes:
        group: normalisation within the group.
        batch: a second normalisation over the batch; None for none.
        tokens: equal tokens each sample stands for in batch statistics (language trainers whiten
            over tokens, which changes the ddof term).
    """

    group: NormSpec = field(default=NormSpec())
    batch: NormSpec | None = None
    tokens: Annotated[int, Ge(1)] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch is None:
            return
        over = make_norm(self.batch, NormSpec("batch", "batch"))
        object.__setattr__(self, "batch", over)
        if not {over.baseline, over.scale} <= {"batch", "none"}:
            raise ValueError(
                "batch is a normalisation over the batch, with baseline and scale 'batch' or "
                f"'none', got {over}"
            )


class Estimator(ABC):
    """Base of all estimators; a subclass sets the class attributes and writes :meth:`estimate`.

    Calling an instance is pure: it changes neither the batch nor the state it is given.

    Attributes:
        name: registry name, set by ``register_estimator``.
        source: where the formula is from.
        needs: parts that a batch must have: "bounds", "dense", or keys of ``extras``.
        presets: preset name -> keyword arguments of the config.
        Config: the config class.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    needs_component_gradients: ClassVar[bool] = False
    loss_mode: ClassVar[str] = "summed"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    Config: ClassVar[type] = EstimatorConfig

    def __init__(self, config: Any = None) -> None:
        self.config = self.Config() if config is None else config
        lost = [post.name for post in self.config.post if not post.drops_only]
        if lost and self.loss_mode == "per_component":
            raise ValueError(
                f"{self.name!r} has one loss per component, which post steps that change the "
                f"summed advantage never reach: {lost}; only steps that drop samples do"
            )

    @abstractmethod
    def estimate(self, work: Work, state: State) -> tuple[Signal, State]:
        """The estimator itself, on opened and transformed rewards; returns a new state."""

    @property
    def requires(self) -> frozenset[str]:
        """Needs of this instance on a batch, with the needs of its transforms and post steps."""
        steps: tuple[Transform | Post, ...] = (*self.config.transforms, *self.config.post)
        return self.needs.union(*(step.needs for step in steps))

    @property
    def discount(self) -> float:
        """Of "return_to_go"."""
        return float(self.config.gamma)

    @property
    def needs_feedback(self) -> str:
        """The argument that a trainer must hand to ``feedback`` for the estimator to be itself.

        Empty if there is none. Gradients of the components are asked for by
        ``needs_component_gradients`` instead.
        """
        return ""

    def init_state(self, names: Sequence[str]) -> State:
        """The state before the first batch of components ``names``."""
        return {"version": torch.tensor(STATE_VERSION, dtype=torch.int64, device="cpu")}

    def reset(self, state: State, names: Sequence[str], components: Sequence[str]) -> State:
        """The state without its knowledge of the scale of some components.

        Called when their reward model has been retrained. By default everything is forgotten; an
        estimator overrides this where it can tell components apart, or learns of no scale.
        """
        return self.init_state(names) if components else state

    def state_dict(self, state: State) -> dict[str, np.ndarray]:
        """The state as NumPy arrays, to save with a checkpoint."""
        return {key: value.detach().cpu().numpy() for key, value in state.items()}

    def load_state_dict(self, saved: Mapping[str, Array], names: Sequence[str]) -> State:
        """The state back from :meth:`state_dict`.

        Raises:
            ValueError: if the version, the entries or a shape do not belong to this estimator.
        """
        state = {key: torch.from_numpy(np.array(value)) for key, value in saved.items()}
        self._check_state(state, names)
        if int(state["version"]) != STATE_VERSION:
            raise ValueError(
                f"state of {self.name!r} must be version {STATE_VERSION}, got {state['version']}"
            )
        return state

    def _check_state(self, state: State, names: Sequence[str]) -> None:
        """Check that entries and shapes belong to this estimator; values are not read."""
        shapes = {key: tuple(value.shape) for key, value in state.items()}
        wanted = {key: tuple(value.shape) for key, value in self.init_state(names).items()}
        if shapes != wanted:
            raise ValueError(
                f"state of {self.name!r} for components {tuple(names)} must have the shapes "
                f"{wanted}, got {shapes}; make it by init_state({tuple(names)})"
            )

    def check(self, batch: RewardBatch) -> None:
        """Check that the batch meets this estimator's needs.

        Raises:
            ValueError: naming the missing parts.
        """
        have = {*batch.extras, *(["bounds"] if batch.bounds is not None else [])}
        if len(batch.rewards.shape) == 4:
            have.add("dense")
        missing = sorted(self.requires - have)
        if missing:
            raise ValueError(
                f"estimator {self.name!r} needs {missing}; the batch has {sorted(have)} "
                "('dense' means rewards of shape (P, G, T, K))"
            )

    def __call__(
        self, batch: RewardBatch, state: State | None = None, *, gather: Gather | None = None
    ) -> tuple[AdvantageOutput, State]:
        """Advantages of one batch.

        Args:
            batch: the global batch, or whole groups of this rank's if ``gather`` is given.
            state: from :meth:`init_state` or the last call; None starts afresh. Behind transforms
                that change the components it is the state of those they make.
            gather: concatenates a tensor over ranks along axis 0; batch statistics then are
                taken over all ranks.

        Returns:
            The advantages with their diagnostics, and the next state.

        Raises:
            ValueError: for missing requirements, infinite rewards, or the state of something else.
        """
        self.check(batch)
        work, signal, state = self.run(open_batch(batch, gather), state)
        return _close(work, signal), state

    def run(self, work: Work, state: State | None) -> tuple[Work, Signal, State]:
        """Transforms, credit, the estimator and post steps, on an opened batch."""
        for transform in self.config.transforms:
            work = transform(work)
        # After the transforms, which may need the rewards of single steps.
        work = assign_credit(work, self.config.credit, self.discount)
        if state is None:
            state = self.init_state(work.names)
        else:
            self._check_state(state, work.names)
        # A state from a checkpoint is on the host.
        state = {key: value.to(work.device, non_blocking=True) for key, value in state.items()}
        signal, state = self.estimate(work, state)
        for post in self.config.post:
            signal = post(work, signal)
        return work, signal, state

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config!r})"


def sum_first(
    work: Work,
    weights: Float[Tensor, "*P K"],
    group: NormSpec,
    batch: NormSpec | None = None,
    tokens: int = 1,
    *,
    nan: Literal["skip", "zero"] = "skip",
) -> Signal:
    """Normalise s = sum_k w_k r_k: GRPO and its scalar relatives.

    Args:
        work: the opened batch.
        weights: (K,), (P, K) or (P, T, K).
        group: normalisation of s within its group.
        batch: a second one, over the batch.
        tokens: see :class:`~reelrl.algos.advantages.methods.group_relative.ScalarConfig`.
        nan: a score that is missing pulls nowhere ("skip", see
            :func:`~reelrl.algos.advantages.batch.total_score`) or counts as 0 ("zero").
    """
    if nan == "zero":
        total = weighted_sum(work.scores, weights)
    else:
        total = total_score(work.scores, weights, work.gather)
    return _normalise_sum(work, Signal(total, work.scores, weights, total), group, batch, tokens)


def normalise_first(
    work: Work,
    weights: Float[Tensor, "*P K"],
    group: NormSpec,
    batch: NormSpec | None = None,
    tokens: int = 1,
) -> Signal:
    """Normalise each r_k in its group, sum with weights, normalise over the batch: GDPO."""
    parts = normalise(work.scores, group, tol=work.tol, per_component=True, gather=work.gather)
    total = weighted_sum(parts.out, weights)
    signal = Signal(total, parts.out, weights, total, are_components=True)
    if parts.clipped is not None:
        signal = signal.noting(frac_clipped=parts.out.share(parts.clipped))
    return _normalise_sum(work, signal, None, batch, tokens)


def _normalise_sum(
    work: Work, signal: Signal, group: NormSpec | None, batch: NormSpec | None, tokens: int
) -> Signal:
    weight = work.tokens(tokens)
    for spec, note in ((group, "group_norm_scale"), (batch, "batch_norm_scale")):
        if spec is None:
            continue
        done = normalise(signal.advantages, spec, tol=work.tol, tokens=weight, gather=work.gather)
        signal = replace(signal, advantages=done.out)
        if done.scale is not None:
            signal = signal.noting(**{note: done.scale.mean()})
        if done.clipped is not None:
            signal = signal.noting(frac_clipped=done.out.share(done.clipped))
    return signal


def assign_credit(work: Work, credit: str, gamma: float = 1.0) -> Work:
    """Replace per-step rewards by the credit of their step; see :class:`EstimatorConfig`.

    A missing step adds nothing to the sums, and is credited like any other unless ``valid`` or
    ``step_mask`` rules it out; of "return_to_go" only where a later reward is known. Terminal
    rewards are returned as they are.
    """
    if not work.dense or credit == "instant":
        return work
    values, mask = work.scores.values, work.scores.mask
    if credit == "trajectory":
        credited = values.sum(2, keepdim=True).expand_as(values)
        some = None if mask is None else mask.any(2, keepdim=True).expand_as(values)
    else:
        credited = return_to_go(values, gamma)
        # True where this step or a later one is known.
        some = None if mask is None else mask.flip(2).cummax(2).values.flip(2)
    counted = valid_mask(work.batch, values)
    some = some if some is None or counted is None else some & counted
    return work.with_scores(Masked.of(credited, some))


def return_to_go(values: Float[Tensor, "P G T K"], gamma: float) -> Float[Tensor, "P G T K"]:
    """R_t = sum_{t' >= t} gamma^(t' - t) r_t' along axis 2 of (P, G, T, K)."""
    steps, total = [], torch.zeros_like(values[:, :, :1])
    # Backwards, so that each sum is made from the next one.
    for t in reversed(range(values.shape[2])):
        total = values[:, :, t : t + 1] + gamma * total
        steps.append(total)
    return torch.cat(steps[::-1], 2) if steps else values


def _close(work: Work, signal: Signal) -> AdvantageOutput:
    """Cast to the caller's kind and dtype; anything missing gets advantage zero."""
    original = work.batch.rewards
    dtype = output_dtype(original)

    def out(tensor: Tensor | None) -> Array | None:
        return None if tensor is None else like(tensor, original, dtype)

    thunks = diagnose(work, signal)
    return AdvantageOutput(
        advantages=_owned(out(signal.advantages.values), original),
        component_advantages=out(signal.terms.with_nan()) if signal.are_components else None,
        component_weights=out(signal.weights),
        aggregated_reward=None if signal.aggregated is None else out(signal.aggregated.values),
        sample_weight=out(signal.sample_weight),
        kl_gate=out(signal.kl_gate),
        diagnostics=Diagnostics(thunks, lambda tensor: like(tensor, original, dtype)),
    )


def _owned(array: Array, original: Array) -> Array:
    """Never hand out the caller's own memory, as a pipeline without any step would."""
    if to_tensor(array).data_ptr() == to_tensor(original).data_ptr():
        return array.clone() if isinstance(array, Tensor) else array.copy()
    return array
