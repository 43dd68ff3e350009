"""A video model as the policy of Stable-Baselines3's on-policy algorithms."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor

from reelrl.algos.interop.denoising import DenoisingTask, check_bounds, density
from reelrl.algos.policies.weights import Weights

if TYPE_CHECKING:
    from jaxtyping import Float


class DenoisingPolicy(ActorCriticPolicy):
    """SB3's face of :class:`~reelrl.algos.policies.flow.FlowPolicy`; there is no critic.

    ```python
    task = DenoisingTask.of(venv)
    model = PPO(DenoisingPolicy, venv, policy_kwargs={"task": task, "eta": 0.7}, ...)
    ```

    Log-probabilities are means over the latent (see ``reduction`` of
    :class:`~reelrl.algos.policies.FlowPolicyConfig`), where SB3 sums: with many dimensions the
    ratio of sums overflows. Steps without noise have log-probability 0 and no gradient. Values are
    zeros. Noise comes from torch's global generator, the one that SB3's ``seed`` seeds.

    Saving writes the trainable weights alone. A loaded learner opens the model's folder again and
    keeps the task it was saved with; :func:`shared_task` gives it the environment's.

    Args:
        observation_space: the environment's ``Dict``.
        action_space: of latents.
        lr_schedule: learning rate by progress.
        use_sde: SB3 passes it; must be False.
        task: of the environment, which shares its model.
        optimizer_class: of the trainable weights.
        optimizer_kwargs: its settings beside the learning rate; the default is our learner's.
        **flow: settings of the flow policy, such as ``eta`` or ``lora_rank``.

    Attributes:
        flow: the flow policy.

    Raises:
        ValueError: for state-dependent exploration, or a setting out of range.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        use_sde: bool = False,
        *,
        task: DenoisingTask,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.AdamW,
        optimizer_kwargs: dict[str, Any] | None = None,
        **flow: Any,
    ) -> None:
        if use_sde:
            raise ValueError("the noise of a denoising step is its kernel's: use_sde must be False")
        if optimizer_kwargs is None:
            optimizer_kwargs = {"betas": (0.9, 0.99), "weight_decay": 0.0}
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=[],
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )
        self.task = task
        self.flow = task.policy(**flow)
        # By their names, so that the library finds the weights of its policy.
        for name, expert in self.flow.experts.items():
            self.add_module(name, expert)
        # SB3 types the class by its base, which takes no learning rate.
        self.optimizer = optimizer_class(
            self.flow.trainable(),
            lr=lr_schedule(1),  # type: ignore[call-arg]
            **optimizer_kwargs,
        )

    def _build(self, lr_schedule: Schedule) -> None:
        """Nothing: the video model is the network."""

    def forward(
        self, obs: PyTorchObs, deterministic: bool = False
    ) -> tuple[Float[Tensor, "N C t h w"], Float[Tensor, "N 1"], Float[Tensor, " N"]]:
        """Draw N actions.

        Returns:
            latents (N, C, T', H', W'), values (N, 1) and log-probabilities (N,).

        Raises:
            ValueError: if a latent is beyond the action bounds, where SB3 would step with the
                clipped latent and store the unclipped one; for a noise level of another schedule.
        """
        seen = self._seen(obs)
        latent, log_prob = self.flow.act(seen)
        if deterministic:
            latent = self.flow.predict(seen, True)
            log_prob = self.flow.log_prob(seen, latent)
        check_bounds(latent, self.task.action_bound)
        return latent, self.predict_values(obs), density(log_prob)

    def evaluate_actions(
        self, obs: PyTorchObs, actions: Float[Tensor, "N ..."]
    ) -> tuple[Float[Tensor, "N 1"], Float[Tensor, " N"], Tensor | None]:
        """Score actions (N, ...), also flattened as SB3 stores them; the entropy is None."""
        latent = actions.reshape(-1, *(self.action_space.shape or ()))
        log_prob = self.flow.log_prob(_dict(obs), latent)
        return self.predict_values(obs), density(log_prob), None

    def predict_values(self, obs: PyTorchObs) -> Float[Tensor, "N 1"]:
        """Zeros (N, 1)."""
        latent = _dict(obs)["latent"]
        return latent.new_zeros(len(latent), 1)

    def _predict(
        self, observation: PyTorchObs, deterministic: bool = False
    ) -> Float[Tensor, "N C t h w"]:
        latent: Tensor = self.flow.predict(self._seen(observation), deterministic)
        return latent

    def _seen(self, obs: PyTorchObs) -> dict[str, Tensor]:
        """An observation to act on.

        Raises:
            ValueError: if it is no dict, or at a noise level that the task does not have.
        """
        seen = _dict(obs)
        self.task.check_sigma(seen["sigma"])
        return seen

    def to(self, *args: Any, **kwargs: Any) -> DenoisingPolicy:
        """Move, to where the model is.

        Raises:
            ValueError: for another device than the model's, whose other parts would stay behind.
        """
        moved = super().to(*args, **kwargs)
        here, there = moved.device, self.task.model.device
        if here.type != there.type:
            raise ValueError(f"the model is on {there}: pass device='{there}', got '{here}'")
        return moved

    # With adapters nearly all of a transformer is untrained, and in its folder already.
    def state_dict(self, *args: Any, **kwargs: Any) -> Weights:  # type: ignore[override]
        """A copy of the trainable weights."""
        return self.flow.state_dict()

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> None:
        """Set the trainable weights.

        Raises:
            ValueError: if names or shapes differ.
        """
        self.flow.load_state_dict(state_dict)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": self._dummy_schedule,
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
            "task": self.task,
            **self.flow.settings(),
        }


def shared_task(path: str | Path, env: Any) -> dict[str, Any]:
    """``custom_objects`` by which the ``load`` of a saved learner shares the environment's model.

    ```python
    again = PPO.load(path, env=venv, custom_objects=shared_task(path, venv))
    ```

    All other settings of the policy, such as ``kernel``, ``eta`` and ``guidance_scale``, are those
    it was saved with.

    Args:
        path: the zip file of a learner whose policy is a :class:`DenoisingPolicy`.
        env: native batch or adapter, wrapped or not, with the schedule and the prompts of the
            saved task.

    Raises:
        ValueError: if the learner has no task, or the environment is another task.
        TypeError: if the environment is not ours.
    """
    data, _, _ = load_from_zip_file(path, device="cpu")
    saved = (data or {}).get("policy_kwargs", {})
    if "task" not in saved:
        raise ValueError(f"expected the policy_kwargs of {path} to hold a task, got {saved}")
    saved["task"].check_env(env)
    return {"policy_kwargs": {**saved, "task": DenoisingTask.of(env)}}


def _dict(obs: PyTorchObs) -> dict[str, Tensor]:
    if not isinstance(obs, dict):
        raise ValueError(f"a denoising policy needs dict observations, got {type(obs).__name__}")
    return obs
