"""MovingShapes: a world whose video quality is known, its gold score and its hackable proxies.

Its components are ``gold``, ``gold_align``, ``gold_phys``, ``gold_fid``, ``proxy_vq``, ``proxy_mq``
and ``proxy_ta``.
"""

from reelrl.rewards.moving_shapes.gold import GoldAxes, gold_axes
from reelrl.rewards.moving_shapes.parser import Parsed, parse
from reelrl.rewards.moving_shapes.proxies import ProxyMQ, ProxyTA, ProxyVQ
from reelrl.rewards.moving_shapes.world import (
    Clips,
    Factors,
    caption_to_factors,
    captions,
    factors_to_caption,
    render,
    sample_clips,
)

__all__ = [
    "Clips",
    "Factors",
    "GoldAxes",
    "Parsed",
    "ProxyMQ",
    "ProxyTA",
    "ProxyVQ",
    "caption_to_factors",
    "captions",
    "factors_to_caption",
    "gold_axes",
    "parse",
    "render",
    "sample_clips",
]
