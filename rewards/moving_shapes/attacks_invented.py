"""Attacks invented after the gold score was fixed, to look for holes in it.

Each is a fault that a video model or a policy under a proxy is known for, or that one of the
score's own summaries (median ground, least-squares track, most-covered colour) might be blind to.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from reelrl.rewards.moving_shapes.attack_tools import (
    Scene,
    add_noise,
    colour_index,
    other,
    palette,
    shift,
)
from reelrl.rewards.moving_shapes.world import BACKGROUND, COLOURS, SHAPES, Clips, shape_masks


def _ramp(frames: int) -> Tensor:
    """0 to 1 over the frames, shaped (F, 1, 1, 1)."""
    return torch.linspace(0, 1, frames, dtype=torch.float32, device="cpu")[:, None, None, None]


def time_reversed(clips: Clips, generator: torch.Generator) -> Tensor:
    """The clip played backwards: every frame is right."""
    return clips.videos.flip(1)


def frames_shuffled(clips: Clips, generator: torch.Generator) -> Tensor:
    """The right frames in a random order."""
    order = torch.rand(
        clips.videos.shape[:2], generator=generator, dtype=torch.float32, device="cpu"
    ).argsort(-1)
    return clips.videos[torch.arange(len(clips), dtype=torch.int64, device="cpu")[:, None], order]


def half_freeze(clips: Clips, generator: torch.Generator) -> Tensor:
    """The motion stops at the middle frame."""
    frames = clips.videos.shape[1]
    return clips.videos[
        :, torch.arange(frames, dtype=torch.int64, device="cpu").clamp_max(frames // 2)
    ]


def judder(clips: Clips, generator: torch.Generator) -> Tensor:
    """Every third frame only, each shown three times."""
    frames = clips.videos.shape[1]
    return clips.videos[
        :,
        (torch.arange(frames, dtype=torch.int64, device="cpu") // 3 * 3 + 1).clamp_max(frames - 1),
    ]


def accelerating(clips: Clips, generator: torch.Generator) -> Tensor:
    """From standstill to twice the captioned speed: the mean velocity is right."""
    scene = Scene.of(clips)
    frames = scene.centre.shape[1]
    ease = frames * _ramp(frames)[:, 0, 0] ** 2
    step = scene.centre[:, 1:2] - scene.centre[:, :1]
    return replace(scene, centre=scene.centre[:, :1] + step * ease).draw()


def pixel_jitter(clips: Clips, generator: torch.Generator) -> Tensor:
    """Every frame moved by one pixel or none on either axis."""
    shape = (*clips.videos.shape[:2], 2)
    return shift(
        clips.videos,
        torch.randint(-1, 2, shape, generator=generator, dtype=torch.int64, device="cpu"),
    )


def ghost_trail(clips: Clips, generator: torch.Generator) -> Tensor:
    """The object drags fading copies of itself, 70 % per frame.

    The softest spot known: behind a slow object the trail is a faint rim of two pixels, which the
    redrawing half absorbs as a slightly larger radius.
    """
    trail = [clips.videos[:, 0]]
    for frame in clips.videos[:, 1:].unbind(1):
        trail.append(torch.maximum(frame, BACKGROUND + 0.7 * (trail[-1] - BACKGROUND)))
    return torch.stack(trail, dim=1)


def half_transparent(clips: Clips, generator: torch.Generator) -> Tensor:
    """Half the contrast to the ground."""
    return BACKGROUND + 0.5 * (clips.videos - BACKGROUND)


def hollow(clips: Clips, generator: torch.Generator) -> Tensor:
    """Only the rim of the object, the inner half of its radius cut out."""
    scene = Scene.of(clips)
    hole = shape_masks(scene.shape, scene.centre, 0.5 * scene.radius, scene.size)[..., None]
    return clips.videos + hole * (BACKGROUND - clips.videos)


def colour_drift(clips: Clips, generator: torch.Generator) -> Tensor:
    """From the captioned colour in the first frame to another in the last."""
    target = palette()[other(colour_index(clips), len(COLOURS), generator)]
    end = replace(Scene.of(clips), colour=target).draw()
    return torch.lerp(clips.videos, end, _ramp(clips.videos.shape[1]))


def shape_morph(clips: Clips, generator: torch.Generator) -> Tensor:
    """From the captioned shape in the first frame to another in the last."""
    scene = Scene.of(clips)
    end = replace(scene, shape=other(scene.shape, len(SHAPES), generator)).draw()
    return torch.lerp(clips.videos, end, _ramp(clips.videos.shape[1]))


def size_pulse(clips: Clips, generator: torch.Generator) -> Tensor:
    """The radius swings by 30 % with a period of four frames."""
    scene = Scene.of(clips)
    frames = []
    for index in range(scene.centre.shape[1]):
        radius = scene.radius * (1 + 0.3 * math.sin(math.pi * index / 2 + math.pi / 4))
        frames.append(replace(scene, centre=scene.centre[:, index, None], radius=radius).draw())
    return torch.cat(frames, dim=1)


def bright_ground(clips: Clips, generator: torch.Generator) -> Tensor:
    """The ground at 0.3 in place of 0.1, the object untouched."""
    scene = Scene.of(clips)
    mask = shape_masks(scene.shape, scene.centre, scene.radius, scene.size)[..., None]
    return (clips.videos + (1 - mask) * 0.2).clamp(0, 1)


def ground_drift(clips: Clips, generator: torch.Generator) -> Tensor:
    """The ground brightens from 0.1 to 0.4 over the clip, the object untouched."""
    scene = Scene.of(clips)
    mask = shape_masks(scene.shape, scene.centre, scene.radius, scene.size)[..., None]
    return (clips.videos + (1 - mask) * 0.3 * _ramp(clips.videos.shape[1])).clamp(0, 1)


def parallel_twin(clips: Clips, generator: torch.Generator) -> Tensor:
    """A twin beside the object, going the same way: one centroid, one velocity, all correct."""
    scene = Scene.of(clips)
    heading = clips.velocity / clips.velocity.norm(dim=-1, keepdim=True)
    aside = 7 * heading.flip(-1)[:, None]
    one = replace(scene, centre=scene.centre + aside).draw()
    two = replace(scene, centre=scene.centre - aside).draw()
    return torch.maximum(one, two)


def corner_stowaway(clips: Clips, generator: torch.Generator) -> Tensor:
    """A standing disc of another colour, 3 pixels in radius, in a corner."""
    scene = Scene.of(clips)
    colour = palette()[other(colour_index(clips), len(COLOURS), generator)]
    side = torch.randint(
        0, 2, (len(clips), 1, 2), generator=generator, dtype=torch.int64, device="cpu"
    )
    centre = (4 + side * (scene.size - 9.0)).expand_as(scene.centre)
    circle, radius = torch.zeros_like(scene.shape), torch.full_like(scene.radius, 3)
    mask = shape_masks(circle, centre, radius, scene.size)[..., None]
    return clips.videos + mask * (colour[:, None, None, None] - clips.videos)


def faint_grid(clips: Clips, generator: torch.Generator) -> Tensor:
    """Lines 0.2 brighter every fourth pixel: the grid that patch-wise policies drift to."""
    line = (torch.arange(clips.videos.shape[2], dtype=torch.int64, device="cpu") % 4 == 0).float()
    grid = torch.maximum(line[:, None], line[None])[..., None]
    return (clips.videos + 0.2 * grid).clamp(0, 1)


def noisy_object(clips: Clips, generator: torch.Generator) -> Tensor:
    """White noise of standard deviation 0.4 on the object alone."""
    scene = Scene.of(clips)
    mask = shape_masks(scene.shape, scene.centre, scene.radius, scene.size)[..., None]
    return torch.lerp(clips.videos, add_noise(clips.videos, 0.4, generator), mask)


def one_frame_flash(clips: Clips, generator: torch.Generator) -> Tensor:
    """One random frame is white."""
    videos = clips.videos.clone()
    frame = torch.randint(
        videos.shape[1], (len(videos),), generator=generator, dtype=torch.int64, device="cpu"
    )
    videos[torch.arange(len(videos), dtype=torch.int64, device="cpu"), frame] = 1.0
    return videos
