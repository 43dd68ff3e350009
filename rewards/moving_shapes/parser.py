"""Read colour, shape and track back from pixels: the analysis half of analysis-by-synthesis.

The parser assumes nothing about the caption. It explains every pixel as a blend of the ground and
one palette colour, keeps the colour that explains most, and measures the blend's area, centroid and
outline. In the line of PhyWorld's colour-threshold position parsing (Kang et al. 2024), extended by
soft masks and shape templates.

Every reduction runs over the contiguous last dimension of one clip, so a clip's numbers do not
depend on the batch it is scored in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reelrl.rewards.moving_shapes.world import COLOURS, SHAPES, shape_masks

COLOUR_TOLERANCE = 0.15
"""Standard deviation, in RGB distance, of a pixel around the line from ground to colour."""
MIN_CONTRAST = 0.05
"""Smallest squared RGB distance to the ground at which a palette colour can be told from it."""
MASK_THRESHOLD = 0.25
"""Coverage below this is taken for noise."""
MIN_AREA = 6.0
"""Pixels of summed coverage above which the shape counts as present in a frame."""
MIN_PRESENT = 4
"""Frames with the shape present below which a clip has no track."""


@dataclass(frozen=True)
class Parsed:
    """The object of each of N clips; clips with ``found`` False have zeros as track and radius.

    Attributes:
        background: (N, 3) median border pixel over all frames.
        colour: (N,) index into the keys of :data:`~reelrl.rewards.moving_shapes.world.COLOURS`.
        shape: (N,) index into :data:`~reelrl.rewards.moving_shapes.world.SHAPES`.
        frame_shapes: (N, F) the same index, read from each frame alone.
        masks: (N, F, H, W) coverage of the colour in [0, 1], zero below :data:`MASK_THRESHOLD`.
        areas: (N, F) float64, summed coverage in pixels.
        present: (N, F) bool, area above :data:`MIN_AREA`.
        found: (N,) bool, present in at least :data:`MIN_PRESENT` frames.
        positions: (N, F, 2) float64 centroids (x, y) in pixels; zero where not present.
        middle: (N, 2) float64 position of the fitted track at mid-clip.
        velocity: (N, 2) float64 pixels per frame of the fitted track.
        rmse: (N,) float64 root mean square distance in pixels of centroids to the fitted track.
        radius: (N,) float64 of the disc with the median area of the present frames, pixels.
    """

    background: Tensor
    colour: Tensor
    shape: Tensor
    frame_shapes: Tensor
    masks: Tensor
    areas: Tensor
    present: Tensor
    found: Tensor
    positions: Tensor
    middle: Tensor
    velocity: Tensor
    rmse: Tensor
    radius: Tensor


def check_videos(videos: Tensor) -> None:
    """Raise ValueError unless ``videos`` are floating point (N, F, S, S, 3)."""
    square = videos.ndim == 5 and videos.shape[2] == videos.shape[3]
    if not square or videos.shape[-1] != 3 or not videos.is_floating_point():
        raise ValueError(
            "expected float videos (N, F, S, S, 3) with square frames, got "
            f"{videos.dtype} {tuple(videos.shape)}"
        )


@torch.no_grad()
def parse(videos: Tensor) -> Parsed:
    """Measure colour, shape and track of every clip.

    Args:
        videos: (N, F, S, S, 3) finite floats in [0, 1].

    Raises:
        ValueError: for another shape or an integer dtype.
    """
    check_videos(videos)
    background = border_median(videos)
    offsets = videos.movedim(-1, 0) - background.T[:, :, None, None, None]
    colour, masks = _segment(offsets, background)
    areas = masks.flatten(2).sum(-1).double()
    present = areas > MIN_AREA
    found = present.sum(-1) >= MIN_PRESENT
    positions = _centroids(masks, areas) * present[..., None]
    middle, velocity, rmse = _fit_track(positions, present & found[:, None])
    radius = _median_radius(areas, present) * found
    shape, frame_shapes = _closest_shape(masks, positions, radius)
    return Parsed(
        background, colour, shape, frame_shapes, masks, areas, present, found,
        positions, middle, velocity, rmse, radius,
    )  # fmt: skip


def border_median(videos: Tensor) -> Tensor:
    """Lower median (N, 3) of the outermost pixels of all frames, per channel."""
    rows = videos[:, :, [0, -1]].flatten(1, 3)
    columns = videos[:, :, 1:-1][:, :, :, [0, -1]].flatten(1, 3)
    border = torch.cat([rows, columns], dim=1).transpose(1, 2).contiguous()
    return border.median(dim=-1).values


def palette(like: Tensor) -> Tensor:
    """The colours of the world as a (6, 3) tensor of the dtype and device of ``like``."""
    return torch.tensor(list(COLOURS.values()), dtype=like.dtype, device=like.device)


def coverage(offsets: Tensor, energy: Tensor, direction: Tensor) -> Tensor:
    r"""How much of one colour each pixel holds: a blend factor, damped off the blend line.

    .. math:: a = \mathrm{clip}(\langle o, u\rangle / \langle u, u\rangle, 0, 1)
              \cdot \exp(-\lVert o - a u\rVert^2 / 2\tau^2)

    Args:
        offsets: (3, N, F, H, W) pixels minus ground, o.
        energy: (N, F, H, W) squared norm of ``offsets``.
        direction: (N, 3) colour minus ground, u. Not contrasting enough
            (:data:`MIN_CONTRAST`) gives zero coverage.

    Returns:
        (N, F, H, W) in [0, 1].
    """
    u = direction.T[:, :, None, None, None]
    square = u[0] * u[0] + u[1] * u[1] + u[2] * u[2]
    # Written out channel by channel: a matmul may sum in another order for another batch size.
    dot = (offsets[0] * u[0]).add_(offsets[1] * u[1]).add_(offsets[2] * u[2])
    blend = (dot / square.clamp_min(MIN_CONTRAST)).clamp_(0, 1)
    distance = (blend * square).sub_(dot, alpha=2).mul_(blend).add_(energy).clamp_min_(0)
    blend *= distance.mul_(-0.5 / COLOUR_TOLERANCE**2).exp_()
    return blend.mul_(square >= MIN_CONTRAST)


def _segment(offsets: Tensor, background: Tensor) -> tuple[Tensor, Tensor]:
    """The palette colour (N,) with most coverage, and its thresholded coverage (N, F, H, W)."""
    offsets = offsets.contiguous()
    colours = palette(background)
    energy = (offsets[0] ** 2).add_(offsets[1] ** 2).add_(offsets[2] ** 2)
    totals = torch.stack(
        [coverage(offsets, energy, c - background).flatten(1).sum(-1) for c in colours], dim=-1
    )
    colour = totals.argmax(-1)
    masks = coverage(offsets, energy, colours[colour] - background)
    return colour, masks.mul_(masks > MASK_THRESHOLD)


def _centroids(masks: Tensor, areas: Tensor) -> Tensor:
    """Coverage-weighted mean pixel (N, F, 2) as (x, y), float64."""
    height, width = masks.shape[-2:]
    x = torch.arange(width, dtype=masks.dtype, device=masks.device)
    y = torch.arange(height, dtype=masks.dtype, device=masks.device)
    moment_x = (masks * x).flatten(2).sum(-1)
    moment_y = (masks.sum(-1) * y).sum(-1)
    moments = torch.stack([moment_x, moment_y], dim=-1).double()
    return moments / areas.clamp_min(1e-6)[..., None]


def _fit_track(positions: Tensor, used: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Least-squares constant velocity through the used frames: middle, velocity, rmse."""
    frames = positions.shape[1]
    time = torch.arange(frames, dtype=positions.dtype, device=positions.device)
    time = time - (frames - 1) / 2
    weight = used.to(positions.dtype)
    weight = weight / weight.sum(-1, keepdim=True).clamp_min(1)
    along = positions.transpose(1, 2).contiguous()
    mean_time = (weight * time).sum(-1, keepdim=True)
    mean_place = (weight[:, None] * along).sum(-1)
    centred = weight * (time - mean_time)
    spread = (centred * (time - mean_time)).sum(-1, keepdim=True)
    velocity = (centred[:, None] * along).sum(-1) / spread.clamp_min(1e-6)
    middle = mean_place - velocity * mean_time
    residual = along - middle[..., None] - velocity[..., None] * time
    square = residual[:, 0] ** 2 + residual[:, 1] ** 2
    return middle, velocity, (weight * square).sum(-1).sqrt()


def _median_radius(areas: Tensor, present: Tensor) -> Tensor:
    """Radius (N,) of the disc with the median area of the present frames; 0 if there are none."""
    median = areas.masked_fill(~present, torch.nan).nanmedian(dim=-1).values
    return (median.nan_to_num(0.0) / math.pi).sqrt()


def _closest_shape(masks: Tensor, positions: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Shape whose template over the centroids has the largest IoU: per clip (N,), frame (N, F)."""
    centre, size = positions.to(masks.dtype), masks.shape[-1]
    clip_scores, frame_scores = [], []
    for shape in range(len(SHAPES)):
        template = shape_masks(shape, centre, radius.to(masks.dtype), size)
        both = torch.minimum(template, masks).flatten(2).sum(-1)
        either = torch.maximum(template, masks).flatten(2).sum(-1)
        clip_scores.append(both.sum(-1) / either.sum(-1).clamp_min(1e-6))
        frame_scores.append(both / either.clamp_min(1e-6))
    return torch.stack(clip_scores, -1).argmax(-1), torch.stack(frame_scores, -1).argmax(-1)
