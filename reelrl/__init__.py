"""ReelRL: text-to-video generation as a Gymnasium environment with vector rewards.

Four packages, and imports only ever go down a floor:

* :mod:`reelrl.rewards` -- what a clip is worth
* :mod:`reelrl.envs` -- the denoising MDP and the video models that live in it
* :mod:`reelrl.algos` -- policies, advantage estimators, learners
* :mod:`reelrl.zoo` -- presets, benchmark, reports, command line

Importing this package loads neither torch nor diffusers.
"""

__version__ = "0.1.0"
