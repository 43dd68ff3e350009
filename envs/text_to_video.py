"""The single environment: one episode of denoising one clip."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.error import ResetNeeded
from gymnasium.utils import EzPickle

from reelrl.ambient import undisturbed
from reelrl.envs import mdp
from reelrl.envs.base_env import RENDER_FPS, RENDER_MODES, BaseEnv, read_seed
from reelrl.envs.scoring import scalarise
from reelrl.envs.task import row_of


class TextToVideoEnv(BaseEnv, gym.Env[Any, Any]):
    r"""Denoise a latent into a clip, earn a vector of rewards for it.

    ## Description

    A text-to-video model turns noise into a clip in T denoising steps. Here each step is an action:
    the agent sees the noisy latent, the noise level and the prompt, and answers with the latent at
    the next, lower noise level. After T actions the latent is decoded into a clip and scored by K
    reward components at once. The environment holds decoder and rewards; how to denoise is the
    agent's business, and the natural agent is a policy over the same model
    (``env.unwrapped.model``). Agents that are no generators act through
    :class:`~reelrl.envs.wrappers.VelocityAction` or :class:`~reelrl.envs.wrappers.GuidanceAction`.

    ```python
    >>> import gymnasium as gym
    >>> env = gym.make("reelrl:reelrl/MovingShapes-v0", num_steps=3)
    >>> observation, info = env.reset(seed=0)
    >>> env.unwrapped.prompts[info["prompt_id"]]
    'a purple square moving up'
    >>> done = False
    >>> while not done:
    ...     noisy = observation["latent"]
    ...     observation, reward, done, _, info = env.step(0.9 * noisy)
    >>> reward.shape, env.unwrapped.reward_names
    ((3,), ['proxy_vq', 'proxy_mq', 'proxy_ta'])
    >>> info["video"].shape, info["video"].dtype
    ((9, 32, 32, 3), dtype('uint8'))

    ```

    Registered ids (all also as ``gym.make_vec(id, num_envs=n)``, one decode and one call per reward
    for all sub-environments that finish together):

    | id | model | reward vector |
    |---|---|---|
    | `reelrl/MovingShapes-v0` | `nano` | `proxy_vq`, `proxy_mq`, `proxy_ta` |
    | `reelrl/MovingShapesEarly-v0` | `nano-early`, stopped early in training | the same |
    | `reelrl/MovingShapesGold-v0` | `nano` | `gold_align`, `gold_phys`, `gold_fid` |
    | `reelrl/MovingShapesGuidance-v0` | `nano` | their mean; actions are two numbers in [-1, 1] |
    | `reelrl/MovingShapesFlat-v0` | `nano` | proxies; observation and action are vectors |
    | `reelrl/TextToVideo-v0` | given by you | given by you |

    ## Action Space

    The latent at the next noise level: `Box(-10, 10, (C, T', H', W'), float32)`, where the latent
    of a nano clip of 9 frames of 32x32 pixels is (8, 5, 8, 8). The bounds are there for agents that
    need finite ones; they are not enforced.

    ## Observation Space

    A `Dict`:

    | key | space | meaning |
    |---|---|---|
    | `latent` | `Box(-inf, inf, (C, T', H', W'), float32)` | the latent now |
    | `sigma` | `Box(0, 1, (1,), float32)` | noise level: 1 is pure noise, 0 the clip |
    | `prompt_id` | `Box(0, P - 1, (1,), int64)` | row of the prompt in `env.unwrapped.prompts` |
    | `prompt_embedding` | `Box(-inf, inf, (L, D), float32)` | only with `observe_embedding=True` |

    With `flat=True` it is one float32 vector, the entries in the order of the `Dict` space.

    ## Reward Space

    A float32 vector (K,) in `env.unwrapped.reward_space`, named by `env.unwrapped.reward_names`:
    zeros until the last step, then the scores of the clip. A component that could not be scored is
    `nan` there, and False in `info["reward_valid"]`. With `scalar_weights` the reward is the
    weighted sum and the vector is in `info["vector_reward"]`.

    ## Starting State

    A prompt drawn uniformly and a standard normal latent. `reset(options=...)` takes `prompt_id`
    and `noise_seed`, which fixes the latent whatever else differs. `info` holds both. Noise is
    drawn on the CPU from the environment's own generator, so it depends on neither device nor
    batch.

    ## Episode End

    Terminates after `num_steps` actions and never truncates. The last step's `info` holds `video`
    (F, H, W, 3) uint8, `prompt_id` and `reward_valid` (K,) bool.

    ## Arguments

    Args:
        model: name of a shipped model (`nano`, `nano-early`), a local diffusers Wan 2.1 folder, or
            a :class:`~reelrl.envs.models.VideoModel`.
        prompts: list of texts, or the name of a set (`moving_shapes`,
            `moving_shapes/compositional`).
        rewards: list of components: a registered name, `{"name": ..., **config}`, a
            :class:`~reelrl.rewards.Reward`, or a function (videos, prompts, infos) -> scores.
        num_steps: T.
        shift: of the noise schedule (:func:`~reelrl.envs.schedule.sigma_schedule`); None means the
            model's own, 3 for the shipped ones.
        num_frames: frames of a clip; Wan needs 4k + 1.
        height: pixels; Wan needs a multiple of 16.
        width: pixels; Wan needs a multiple of 16.
        observe_embedding: put the prompt's embedding into the observation. Loads the text encoder
            and encodes all prompts at construction.
        flat: one-dimensional observation and action.
        scalar_weights: K weights that make the reward a float, in order or by name
            (`{"proxy_vq": 1.0}`, the others 0); `mean` is the mean of the components with
            penalties negative; None leaves the vector.
        output: `numpy`, or `torch` for tensors on the model's device: no value is copied to the
            host before the episode ends, and the observed latent *is* the action you passed, so
            treat both as read-only.
        device: where a model given by name or folder is put; default the CPU.
        on_reward_error: a component that fails, times out or cannot score a clip is masked with a
            warning (`mask`) or stops the run (`raise`). A bug in a component always stops the run.
        reward_timeout: seconds a component may take for one batch; None means no limit.
        render_mode: `rgb_array`, a contact sheet of the current estimate of the clean clip where
            whoever acts knows one and of the decoded latent elsewhere; `rgb_array_list`, its
            frames.

    ## Version History

    * v0: first version.
    """

    # Gymnasium declares it a plain instance-or-class dict, so ClassVar would contradict the base.
    metadata = {"render_modes": list(RENDER_MODES), "render_fps": RENDER_FPS}  # noqa: RUF012

    EPISODE = (*BaseEnv.EPISODE, "_np_random", "_np_random_seed")

    def __init__(self, *, render_mode: str | None = None, **task: Any) -> None:
        EzPickle.__init__(self, render_mode=render_mode, **task)
        self._set_task(render_mode, **task)
        self.observation_space = self.task.observation_space
        self.action_space = self.task.action_space

    @undisturbed
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: of the environment's generator; None goes on with it.
            options: `prompt_id` (int), `noise_seed` (int), `group_id` (int).

        Returns:
            observation and `info` with `prompt_id`, `noise_seed` and `group_id`.

        Raises:
            ValueError: for an unknown option or a value out of range.
        """
        # First: options that are refused must leave the generator where it was.
        chosen = self.task.read_options(options, 1, ("prompt_id", "noise_seed", "group_id"))
        super().reset(seed=read_seed(seed))
        state = self.task.begin([self.np_random], chosen)
        self._state, self.clean_estimate = state, None
        numbers = ("prompt_id", "noise_seed", "group_id")
        info = {name: int(getattr(state, name)[0]) for name in numbers}
        return row_of(self.task.observe(state), 0), info

    @undisturbed
    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Set the latent at the next noise level; decode and score it if that level is 0.

        Args:
            action: (C, T', H', W') floating point array or tensor; (D,) if the environment is flat.

        Raises:
            ValueError: for a wrong shape or dtype, or an entry that is not finite.
            gymnasium.error.ResetNeeded: after the last step.
        """
        if mdp.terminal(self.state, self.num_steps)[0]:
            raise ResetNeeded(f"the episode ended after {self.num_steps} steps: call reset()")
        latent = self.task.read_actions(action, ())
        state = mdp.transition(self.state, latent)
        ended = bool(mdp.terminal(state, self.num_steps)[0])
        self.task.refuse_nonfinite(state, ended)
        rewards = latent.new_zeros(1, self.reward_dim)
        info: dict[str, Any] = {}
        if ended:
            clips = self.task.finish(state.latent, state.prompt_id, state.group_id)
            rewards, valid = clips.scores.result()
            info = {
                "video": row_of(self.task.export(clips.videos), 0),
                "prompt_id": int(state.prompt_id[0]),
                "group_id": int(state.group_id[0]),
                "reward_valid": row_of(self.task.export(valid), 0),
            }
        # Only now: a reward that stops the run leaves the episode where it was.
        self._state, self.clean_estimate = state, None
        reward = row_of(self.task.export(rewards), 0)
        if self.task.weights is not None:
            info["vector_reward"] = reward
            reward = scalarise(reward, self.task.weights)
            reward = float(reward) if self.output == "numpy" else reward
        return row_of(self.task.observe(state), 0), reward, ended, False, info

    def render(self) -> Any:
        """A picture (H, W, 3) or a list of frames, by `render_mode`; None without one."""
        rows = self._render_rows()
        return None if rows is None else rows[0]
