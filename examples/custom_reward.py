"""A reward of your own in ten lines, beside the ones that ship.

Run ``python examples/custom_reward.py``. A component is a class with a name, bounds and a ``score``
of a batch of clips; registering it makes its name work wherever a reward is named.
"""

from __future__ import annotations

import gymnasium as gym

from reelrl.envs.wrappers import AddReward
from reelrl.rewards import Reward, register_reward


@register_reward("stillness")
class Stillness(Reward):
    """Minus the mean change between neighbouring frames: 0 for a clip that does not move."""

    name = "stillness"
    bounds = (-1.0, 0.0)

    def score(self, videos, prompts, infos):
        """Score clips (N, F, H, W, 3) in [0, 1]; return (N,)."""
        return -videos.diff(dim=1).abs().flatten(1).mean(dim=1)


def main() -> None:
    """Play one episode and print the reward vector, the new component last."""
    env = AddReward(gym.make("reelrl:reelrl/MovingShapes-v0"), "stillness")
    observation, info = env.reset(seed=0)
    print(f"prompt: {env.unwrapped.prompts[info['prompt_id']]}")
    finished = False
    while not finished:
        action = 0.9 * observation["latent"]
        observation, reward, finished, _, info = env.step(action)
    for name, value in zip(env.unwrapped.reward_names, reward, strict=True):
        print(f"{name:12} {value:+.4f}")


if __name__ == "__main__":
    main()
