"""Any estimator of the zoo as an on-policy algorithm of Tianshou 2, and a policy for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import gymnasium as gym
import numpy as np
import torch
from tianshou.algorithm.algorithm_base import OnPolicyAlgorithm, Policy
from tianshou.algorithm.modelfree.reinforce import LossSequenceTrainingStats
from tianshou.algorithm.optim import OptimizerFactory
from tianshou.data import Batch, ReplayBuffer, SequenceSummaryStats, to_torch_as
from torch import Tensor

from reelrl.algos.advantages import AdvantageEstimator
from reelrl.algos.interop.denoising import DenoisingTask, check_bounds, density
from reelrl.algos.interop.episodes import EpisodeEstimator, Estimate
from reelrl.algos.learners import losses
from reelrl.envs.scoring import RewardFacts

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["DenoisingPolicy", "DenoisingTask", "EstimatorPG"]

CHUNK = 64
"""Transitions per forward pass where log-probabilities are made outside of an update."""


# Tianshou is read without types, so that the library is checked where it is not installed.
class DenoisingPolicy(Policy):  # type: ignore[misc]
    """Tianshou's face of :class:`~reelrl.algos.policies.flow.FlowPolicy`.

    Actions are neither clipped nor scaled on their way to the environment: Tianshou's default clips
    every box action to [-1, 1]. It gives no distribution, so that collecting keeps no statistics
    per latent dimension; the log-probability of an action, a mean over the latent, is stored with
    it as ``policy.log_prob``, 0 where the step is deterministic. Noise comes from torch's global
    generator, as with Tianshou's own policies.

    Args:
        task: of the environment, which shares its model.
        action_space: of latents.
        observation_space: of the environment.
        deterministic_eval: take the Euler step of the probability flow outside of training.
        **flow: settings of the flow policy, such as ``eta`` or ``lora_rank``.

    Attributes:
        flow: the flow policy.
    """

    def __init__(
        self,
        *,
        task: DenoisingTask,
        action_space: gym.Space[Any],
        observation_space: gym.Space[Any] | None = None,
        deterministic_eval: bool = False,
        **flow: Any,
    ) -> None:
        super().__init__(
            action_space=action_space,
            observation_space=observation_space,
            action_scaling=False,
            action_bound_method=None,
        )
        self.task = task
        self.deterministic_eval = deterministic_eval
        self.flow = task.policy(**flow)
        # By their names, so that the library finds the weights of its policy.
        for name, expert in self.flow.experts.items():
            self.add_module(name, expert)

    def forward(self, batch: Any, state: Any = None, **kwargs: Any) -> Batch:
        """Draw one action per observation of ``batch.obs``.

        Raises:
            ValueError: if a latent is beyond the action bounds, or for a noise level of another
                schedule than the task's.
        """
        obs = _observation(batch)
        self.task.check_sigma(obs["sigma"])
        if self.deterministic_eval and not self.is_within_training_step:
            latent = torch.as_tensor(self.flow.predict(obs, deterministic=True))
            log_prob = torch.zeros(len(latent), dtype=torch.float64, device="cpu")
        else:
            latent, log_prob = self.flow.act(obs)
        check_bounds(latent, self.task.action_bound)
        stored = Batch(log_prob=density(log_prob).cpu().numpy())
        return Batch(act=latent, state=None, dist=None, policy=stored)

    def log_prob(self, batch: Any) -> Float[Tensor, " M"]:
        """(M,) float64 of the stored actions, with gradients where enabled."""
        return density(self.flow.log_prob(_observation(batch), batch.act))


class EstimatorPG(OnPolicyAlgorithm[Policy]):  # type: ignore[misc]  # likewise
    """The clipped policy gradient on whole episodes, advantages by any estimator of the zoo.

    ```python
    algorithm = EstimatorPG(
        policy=policy, optim=AdamOptimizerFactory(lr=1e-5), estimator="gdpo", facts=venv.facts
    )
    ```

    Collect whole episodes, ``collection_step_num_episodes`` a multiple of the number of
    sub-environments, into a buffer that holds them all. Transitions that teach nothing, as of
    deterministic steps and unscored clips, are left out of an update.

    Args:
        policy: a :class:`DenoisingPolicy`, or one of Tianshou's whose output has a ``dist``.
        optim: factory of the optimizer.
        facts: meaning of the reward vector's numbers, from the environment's adapter.
        estimator: a name for :func:`~reelrl.algos.advantages.make_estimator`, or an instance.
        clip_range: for a denoising policy in the units of
            :func:`~reelrl.algos.learners.losses.clip_range_of`, else of the ratio as it is.
        max_grad_norm: gradients longer than this are shortened; None leaves them.

    Attributes:
        signal: the estimator with its memory; saved with ``state_dict``.

    Raises:
        ValueError: if the estimator needs more than the rewards of episodes.
    """

    _ESTIMATOR = "_estimator"

    def __init__(
        self,
        *,
        policy: Policy,
        optim: OptimizerFactory,
        facts: RewardFacts,
        estimator: str | AdvantageEstimator = "grpo",
        clip_range: float = 0.025,
        max_grad_norm: float | None = 1.0,
    ) -> None:
        super().__init__(policy=policy)
        self.facts = facts
        self.signal = EpisodeEstimator(estimator)
        self.clip = clip_range
        if isinstance(policy, DenoisingPolicy):
            self.clip = policy.task.clip_range(clip_range, policy.flow.config.reduction)
        self.optim = self._create_optimizer(self.policy, optim, max_grad_norm=max_grad_norm)

    def _preprocess_batch(self, batch: Any, buffer: ReplayBuffer, indices: np.ndarray) -> Any:
        done = np.logical_or(batch.terminated, batch.truncated)
        _check_whole(done, buffer)
        info = batch.info[done]
        vectors = np.where(info.reward_valid, info.vector_reward, np.nan).astype(np.float32)
        estimate = self.signal(vectors, info.prompt_id, self.facts)
        # Tianshou's samples are in order: an episode ends before the next one of its row begins.
        episode = np.cumsum(done) - done
        _hand_out(batch, estimate, episode)
        batch.logp_old = self._old_log_prob(batch)
        batch.counted = estimate.counted[episode] & (batch.logp_old != 0)
        return batch

    def _update_with_batch(
        self, batch: Any, batch_size: int | None, repeat: int
    ) -> LossSequenceTrainingStats:
        kept = np.flatnonzero(batch.counted)
        if not len(kept):
            raise RuntimeError("no step of this rollout has a density and a reward to learn from")
        seen = []
        for _ in range(repeat):
            for part in batch[kept].split(batch_size or -1, merge_last=True):
                loss = self._loss(part)
                self.optim.step(loss)
                seen.append(loss.item())
        return LossSequenceTrainingStats(loss=SequenceSummaryStats.from_sequence(seen))

    def _loss(self, batch: Any) -> Float[Tensor, ""]:
        log_prob = self._log_prob(batch)
        log_ratio = log_prob - to_torch_as(batch.logp_old, log_prob)
        if self.signal.estimator.loss_mode == "per_component":
            parts = to_torch_as(batch.parts, log_prob)
            weights = to_torch_as(batch.part_weights, log_prob)
            return losses.component_loss(log_ratio, parts, weights, self.clip).mean()
        return losses.clipped_loss(log_ratio, to_torch_as(batch.adv, log_prob), self.clip).mean()

    def _log_prob(self, batch: Any) -> Float[Tensor, " M"]:
        if isinstance(self.policy, DenoisingPolicy):
            return self.policy.log_prob(batch)
        dist = self.policy(batch).dist
        value: Tensor = dist.log_prob(to_torch_as(batch.act, dist.mean))
        return value.flatten(1).sum(dim=1) if value.ndim > 1 else value

    def _old_log_prob(self, batch: Any) -> np.ndarray:
        if isinstance(self.policy, DenoisingPolicy):
            stored: np.ndarray = batch.policy.log_prob
            return stored
        with torch.no_grad():
            parts = [self._log_prob(part) for part in batch.split(CHUNK, shuffle=False)]
        return torch.cat(parts).cpu().numpy()

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Weights, optimizer, and the estimator's memory."""
        state = super().state_dict(*args, **kwargs)
        arrays = self.signal.state_dict()
        return {
            **state,
            self._ESTIMATOR: {key: torch.from_numpy(np.array(v)) for key, v in arrays.items()},
        }

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Go on from the result of :meth:`state_dict`."""
        state = dict(state_dict)
        saved = cast(dict[str, Tensor], state.pop(self._ESTIMATOR, {}))
        self.signal.load_state_dict({key: value.numpy() for key, value in saved.items()})
        return super().load_state_dict(state, strict=strict, assign=assign)


def _observation(batch: Any) -> dict[str, Any]:
    """Tianshou's batch of observations as a mapping.

    Raises:
        ValueError: for observations that are no dicts.
    """
    if not isinstance(batch.obs, Batch):
        raise ValueError(
            f"a denoising policy needs dict observations, got {type(batch.obs).__name__}"
        )
    return {key: batch.obs[key] for key in batch.obs.get_keys()}


def _hand_out(batch: Any, estimate: Estimate, episode: np.ndarray) -> None:
    """Give every transition the advantage of its episode."""
    batch.adv = estimate.advantages[episode]
    if estimate.components is not None and estimate.component_weights is not None:
        batch.parts = estimate.components[episode]
        batch.part_weights = estimate.component_weights[episode]


def _check_whole(done: np.ndarray, buffer: ReplayBuffer) -> None:
    """Refuse a batch with parts of episodes.

    Raises:
        ValueError: if an episode is unfinished, or its beginning was overwritten.
    """
    ends = np.flatnonzero(done)
    lengths = np.diff(ends, prepend=-1)
    if len(buffer.unfinished_index()) or not len(ends) or (lengths != lengths[0]).any():
        raise ValueError(
            f"an update needs whole episodes, got {len(ends)} that ended, {sorted(set(lengths))} "
            f"steps long, in a buffer of {buffer.maxsize}: collect by episodes and make the buffer "
            "hold them all"
        )
