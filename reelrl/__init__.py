"""ReelRL: text-to-video generation as a Gymnasium environment with vector rewards.

Four packages, and imports only ever go down a floor:

* :mod:`reelrl.rewards` -- scores for clips
* :mod:`reelrl.envs` -- the denoising MDP and the video models that live in it
* :mod:`reelrl.algos` -- policies, advantage estimators, learners
* :mod:`reelrl.zoo` -- presets, benchmark, reports, command line

Importing this package registers the environments and loads neither torch nor diffusers, so
``gymnasium.make("reelrl:reelrl/MovingShapes-v0")`` works without importing anything first.
"""

from typing import Any

import gymnasium

__version__ = "0.1.0"

_PROXIES = ["proxy_vq", "proxy_mq", "proxy_ta"]
_GOLD = ["gold_align", "gold_phys", "gold_fid"]


_LATENTS = "reelrl.envs.text_to_video:TextToVideoEnv", "reelrl.envs.vector:TextToVideoVectorEnv"
_GUIDANCE = "reelrl.envs.guidance:GuidanceEnv", "reelrl.envs.guidance:GuidanceVectorEnv"


def _register(name: str, entry_points: tuple[str, str] = _LATENTS, **kwargs: Any) -> None:
    """Register ``reelrl/<name>-v0``, single and batched."""
    gymnasium.register(
        id=f"reelrl/{name}-v0",
        entry_point=entry_points[0],
        vector_entry_point=entry_points[1],
        # Gymnasium's passive checker warns about every vector reward.
        disable_env_checker=True,
        kwargs=kwargs,
    )


_register("TextToVideo")
_register("MovingShapes", model="nano", prompts="moving_shapes", rewards=_PROXIES)
_register("MovingShapesEarly", model="nano-early", prompts="moving_shapes", rewards=_PROXIES)
_register("MovingShapesGold", model="nano", prompts="moving_shapes", rewards=_GOLD)
_register("MovingShapesFlat", model="nano", prompts="moving_shapes", rewards=_PROXIES, flat=True)
_register(
    "MovingShapesGuidance", _GUIDANCE, model="nano", prompts="moving_shapes", rewards=_PROXIES
)
