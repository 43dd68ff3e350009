"""Our learner as an algorithm of Stable-Baselines3.

:class:`~reelrl.algos.interop.sb3_buffer.EstimatorRolloutBuffer` and
:class:`~reelrl.algos.interop.sb3_policy.DenoisingPolicy` are its parts, and work in SB3's
own PPO as well.
"""

from __future__ import annotations

import io
import math
import pathlib
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import (
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, is_vecenv_wrapped
from torch import Tensor

from reelrl.algos.advantages import AdvantageEstimator
from reelrl.algos.interop.denoising import DenoisingTask
from reelrl.algos.interop.sb3_buffer import (
    Estimating,
    EstimatorRolloutBuffer,
    FlatEstimatorRolloutBuffer,
    buffer_class,
)
from reelrl.algos.interop.sb3_policy import DenoisingPolicy, shared_task
from reelrl.algos.learners import losses
from reelrl.algos.learners.update import LearnerWarning
from reelrl.algos.metrics import advantage_metrics
from reelrl.envs.interop.sb3 import SB3VecEnv

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = [
    "DenoisingPolicy",
    "DenoisingTask",
    "EstimatorRolloutBuffer",
    "FlatEstimatorRolloutBuffer",
    "GroupPPO",
    "shared_task",
]


class GroupPPO(OnPolicyAlgorithm):
    """The clipped loss of :class:`~reelrl.algos.grpo.GRPO` on whole episodes, without a critic.

    ```python
    envs = gym.make_vec(env_id, num_envs=64, autoreset_mode="Disabled")
    model = GroupPPO("DenoisingPolicy", VectorPromptGroups(envs, 16), "taros")
    model.learn(64_000, callback=CheckpointCallback(...))
    ```

    Callbacks, ``save``, ``load`` and the logger are SB3's: ``rollout/`` has the mean reward and
    every component's mean, ``train/`` the update, ``time/`` the clock. These are left to ``GRPO``:
    windows of steps, trees, dense rewards, the penalty towards a reference, averages of weights.

    Args:
        policy: ``"DenoisingPolicy"``, a policy of SB3's for an environment with other actions, or a
            class.
        env: the native batch, or an :class:`~reelrl.envs.interop.sb3.SB3VecEnv` with any wrappers;
            ``VecMonitor`` is added if there is none.
        estimator: a name for :func:`~reelrl.algos.advantages.make_estimator`, or an instance.
        learning_rate: a number, or a function of the progress left (1 to 0).
        episodes: per sub-environment and update.
        batch_size: transitions per optimizer step; None means all of them.
        n_epochs: passes over a rollout.
        clip_range: for a denoising policy in the units of
            :func:`~reelrl.algos.learners.losses.clip_range_of`, else of the ratio as it is; a
            number or a function of the progress left.
        max_grad_norm: gradients longer than this are shortened.
        stats_window_size: episodes that ``rollout/ep_rew_mean`` averages over.
        tensorboard_log: folder of TensorBoard files.
        policy_kwargs: of the policy; a denoising one is given the environment's ``task``.
        verbose: 1 prints the log.
        seed: of numpy, torch and the environment.
        device: where the policy is; the model's device for a denoising policy.

    Raises:
        ValueError: if the estimator needs more than the rewards of episodes, or the environment is
            not the task of a denoising policy, as where a learner is loaded for another one.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "DenoisingPolicy": DenoisingPolicy,
        "MlpPolicy": ActorCriticPolicy,
        "MultiInputPolicy": MultiInputActorCriticPolicy,
    }
    rollout_buffer: Estimating

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | VectorEnv[Any, Any, Any] | None,
        estimator: str | AdvantageEstimator = "grpo",
        *,
        learning_rate: float | Schedule = 5e-5,
        episodes: int = 1,
        batch_size: int | None = None,
        n_epochs: int = 1,
        clip_range: float | Schedule = 0.025,
        max_grad_norm: float = 1.0,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        policy_kwargs = dict(policy_kwargs or {})
        if env is not None and self._denoises(policy):
            policy_kwargs.setdefault("task", DenoisingTask.of(env))
            device = policy_kwargs["task"].model.device if device == "auto" else device
        super().__init__(
            policy,
            env,  # type: ignore[arg-type]  # _wrap_env makes SB3's kind of a native batch
            learning_rate=learning_rate,
            n_steps=0,
            gamma=1.0,
            gae_lambda=1.0,
            ent_coef=0.0,
            vf_coef=0.0,
            max_grad_norm=max_grad_norm,
            use_sde=False,
            sde_sample_freq=-1,
            rollout_buffer_kwargs={"estimator": estimator},
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            supported_action_spaces=(spaces.Box,),
            _init_setup_model=False,
        )
        self.batch_size, self.n_epochs, self.clip_range = batch_size, n_epochs, clip_range
        self.estimator_state: dict[str, np.ndarray] = {}
        if self.env is not None:
            self.n_steps = episodes * self.env.get_attr("num_steps")[0]
            self.rollout_buffer_class = buffer_class(self.observation_space)
        if _init_setup_model:
            self._setup_model()

    @classmethod
    def _denoises(cls, policy: str | type[BasePolicy]) -> bool:
        kind = cls.policy_aliases.get(policy) if isinstance(policy, str) else policy
        return kind is not None and issubclass(kind, DenoisingPolicy)

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        env = SB3VecEnv(env) if isinstance(env, VectorEnv) else env
        wrapped = OnPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper)
        return wrapped if is_vecenv_wrapped(wrapped, VecMonitor) else VecMonitor(wrapped)

    def set_env(self, env: GymEnv | VectorEnv[Any, Any, Any], force_reset: bool = True) -> None:
        """Go on in another environment; see SB3's ``set_env``.

        Raises:
            ValueError: if it has another noise schedule or other prompts than the policy's task.
        """
        self._check_task(env)
        super().set_env(env, force_reset)  # type: ignore[arg-type]  # see __init__

    def _check_task(self, env: Any) -> None:
        if "task" in self.policy_kwargs:
            self.policy_kwargs["task"].check_env(env)

    def _setup_model(self) -> None:
        if self.env is not None:
            self._check_task(self.env)
        super()._setup_model()
        self.clip_range = FloatSchedule(self.clip_range)
        self.rollout_buffer.signal.load_state_dict(self.estimator_state)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: Any, n_rollout_steps: int
    ) -> bool:
        """SB3's loop; afterwards the means of the components are logged."""
        going_on = super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        if going_on:
            self._log_rollout(rollout_buffer)
        return going_on

    def train(self) -> None:
        """Follow the gradient of the clipped ratio through the rollout."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        clip = self._clip()
        seen: list[Tensor] = []
        losses_seen, norms = [], []
        for _ in range(self.n_epochs):
            for rows in self.rollout_buffer.minibatches(self.batch_size):
                loss, log_ratio = self._loss(rows, clip)
                norms.append(self._step(loss))
                losses_seen.append(float(loss.detach()))
                seen.append(log_ratio)
        self._n_updates += self.n_epochs
        log_ratio = torch.cat(seen)
        outside = ((log_ratio.exp() - 1).abs() > clip).double().mean()
        self.logger.record("train/loss", np.mean(losses_seen))
        self.logger.record("train/approx_kl", float((log_ratio.exp() - 1 - log_ratio).mean()))
        self.logger.record("train/clip_fraction", float(outside))
        self.logger.record("train/clip_range", clip)
        self.logger.record("train/grad_norm", np.mean(norms))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "GroupPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> GroupPPO:
        """Train for at least ``total_timesteps`` denoising steps; see SB3's ``learn``."""
        return super().learn(
            total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar
        )

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """SB3's zip file, with the estimator's memory."""
        self.estimator_state = self.rollout_buffer.signal.state_dict()
        super().save(path, exclude, include)

    def _clip(self) -> float:
        # _setup_model made it a schedule, whatever was given.
        epsilon = self.clip_range(self._current_progress_remaining)  # type: ignore[operator]
        if not isinstance(self.policy, DenoisingPolicy):
            return epsilon
        return self.policy.task.clip_range(epsilon, self.policy.flow.config.reduction)

    def _loss(self, rows: np.ndarray, clip: float) -> tuple[Float[Tensor, ""], Float[Tensor, " M"]]:
        """Mean loss of some transitions, and their log-ratios."""
        data = self.rollout_buffer._get_samples(rows)
        _, log_prob, _ = self.policy.evaluate_actions(data.observations, data.actions)
        log_ratio = log_prob - data.old_log_prob
        if self.rollout_buffer.signal.estimator.loss_mode == "per_component":
            parts = self.rollout_buffer.components(rows)
            return losses.component_loss(log_ratio, *parts, clip).mean(), log_ratio.detach()
        return losses.clipped_loss(log_ratio, data.advantages, clip).mean(), log_ratio.detach()

    def _step(self, loss: Float[Tensor, ""]) -> float:
        """One optimizer step; left out if loss or gradient is not finite."""
        optimizer = self.policy.optimizer
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        norm = float(torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm))
        value = float(loss.detach())
        if math.isfinite(norm) and math.isfinite(value):
            optimizer.step()
        else:
            text = f"update skipped: loss {value}, gradient norm {norm}"
            warnings.warn(text, LearnerWarning, stacklevel=3)
        return norm

    def _log_rollout(self, buffer: Estimating) -> None:
        estimate, facts = buffer.estimate, buffer.facts
        assert estimate is not None
        for name, value in zip(facts.names, np.nanmean(buffer.vectors, axis=0), strict=True):
            self.logger.record(f"rollout/{name}", float(value))
        # For TensorBoard: printed, forty diagnostics would bury the rest.
        for key, value in advantage_metrics(estimate.output, facts.names).items():
            self.logger.record(key, value, exclude=("stdout", "log"))

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []
