"""Video models: the interface, the families it opens, and the two nano models that ship.

A family registers itself (:func:`~reelrl.envs.models.base.register_model`) by being a file here:
all modules of this package are imported when a folder is first opened.
"""

from reelrl.envs.models.base import VideoModel, register_model
from reelrl.envs.models.folders import SHIPPED, resolve_model
from reelrl.envs.models.wan import WanVideoModel

__all__ = ["SHIPPED", "VideoModel", "WanVideoModel", "register_model", "resolve_model"]
