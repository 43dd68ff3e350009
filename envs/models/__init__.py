"""Video models: the interface, the families it opens, and the two nano models that ship.

Every module of this package is imported here, so that a family registers itself
(:func:`~reelrl.envs.models.base.register_model`) by being a file.
"""

import importlib
import pkgutil

from reelrl.envs.models.base import VideoModel, register_model
from reelrl.envs.models.folders import SHIPPED, resolve_model
from reelrl.envs.models.wan import WanVideoModel

__all__ = ["SHIPPED", "VideoModel", "WanVideoModel", "register_model", "resolve_model"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
