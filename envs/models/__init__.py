"""Video models: the interface, the Wan implementation, and the two nano models that ship."""

from reelrl.envs.models.base import VideoModel
from reelrl.envs.models.wan import SHIPPED, WanVideoModel, resolve_model

__all__ = ["SHIPPED", "VideoModel", "WanVideoModel", "resolve_model"]
