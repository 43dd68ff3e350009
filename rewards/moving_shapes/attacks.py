"""Clips made to fool a reward: a policy may drift to such clips while a proxy goes on rising.

Every attack takes clean clips and a generator and returns videos that keep the captions but break
the clip in one way. The gold score has to see through all of them; the proxies mostly do not. This
file holds the suite the score was designed on and the whole table, :data:`ATTACKS`;
:mod:`~reelrl.rewards.moving_shapes.attacks_invented` holds those added later to look for holes.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from reelrl.rewards.moving_shapes import attacks_invented as invented
from reelrl.rewards.moving_shapes.attack_tools import (
    Attack,
    Scene,
    add_noise,
    colour_index,
    other,
    palette,
    shift,
)
from reelrl.rewards.moving_shapes.world import (
    BACKGROUND,
    COLOURS,
    DIRECTIONS,
    SHAPES,
    SPEEDS,
    Clips,
    caption_to_factors,
    track,
)


def clean(clips: Clips, generator: torch.Generator) -> Tensor:
    """The clips themselves."""
    return clips.videos


def noise_30db(clips: Clips, generator: torch.Generator) -> Tensor:
    """White noise of 30 dB PSNR, as left by a sampler that stops denoising early."""
    return add_noise(clips.videos, 10 ** (-30 / 20), generator)


def smooth_error_26db(clips: Clips, generator: torch.Generator) -> Tensor:
    """Independent low-frequency error of 26 dB PSNR per frame, as made by a coarse decoder."""
    count, frames, height, width, _ = clips.videos.shape
    coarse = torch.randn(
        count * frames,
        3,
        height // 4,
        width // 4,
        generator=generator,
        dtype=torch.float32,
        device="cpu",
    )
    error = functional.interpolate(coarse, size=(height, width), mode="bilinear")
    error = error * (10 ** (-26 / 20) / error.square().mean().sqrt())
    error = error.reshape(count, frames, 3, height, width).movedim(2, -1)
    return (clips.videos + error).clamp(0, 1)


def blur(clips: Clips, generator: torch.Generator) -> Tensor:
    """Gaussian blur of 1.5 pixels."""
    reach = torch.arange(-5, 6, dtype=torch.int64, device="cpu")
    kernel = torch.exp(-(reach**2) / (2 * 1.5**2))
    kernel = kernel / kernel.sum()
    planes = clips.videos.movedim(-1, 2)
    padded = functional.pad(planes.flatten(0, 2)[:, None], (5, 5, 5, 5), mode="replicate")
    soft = functional.conv2d(padded, kernel.reshape(1, 1, 1, -1))
    soft = functional.conv2d(soft, kernel.reshape(1, 1, -1, 1))
    return soft.reshape(planes.shape).movedim(2, -1)


def wrong_speed(clips: Clips, generator: torch.Generator) -> Tensor:
    """The caption's direction at another captioned speed."""
    speeds, names = (
        torch.tensor(list(SPEEDS.values()), dtype=torch.float32, device="cpu"),
        list(SPEEDS),
    )
    said = torch.tensor(
        [names.index(caption_to_factors(c).speed) for c in clips.captions],
        dtype=torch.int64,
        device="cpu",
    )
    pace = speeds[other(said, len(names), generator)] / speeds[said]
    centre = track(clips.middle, clips.velocity * pace[:, None], clips.videos.shape[1])
    return replace(Scene.of(clips), centre=centre).draw()


def wrong_direction(clips: Clips, generator: torch.Generator) -> Tensor:
    """The caption's speed in one of the three other directions."""
    headings, names = (
        torch.tensor(list(DIRECTIONS.values()), dtype=torch.float32, device="cpu"),
        list(DIRECTIONS),
    )
    said = torch.tensor(
        [names.index(caption_to_factors(c).direction) for c in clips.captions],
        dtype=torch.int64,
        device="cpu",
    )
    speed = clips.velocity.norm(dim=-1, keepdim=True)
    velocity = headings[other(said, len(names), generator)] * speed
    centre = track(clips.middle, velocity, clips.videos.shape[1])
    return replace(Scene.of(clips), centre=centre).draw()


def wrong_colour(clips: Clips, generator: torch.Generator) -> Tensor:
    """One of the five other colours."""
    colour = palette()[other(colour_index(clips), len(COLOURS), generator)]
    return replace(Scene.of(clips), colour=colour).draw()


def wrong_shape(clips: Clips, generator: torch.Generator) -> Tensor:
    """One of the two other shapes."""
    scene = Scene.of(clips)
    return replace(scene, shape=other(scene.shape, len(SHAPES), generator)).draw()


def over_saturated(clips: Clips, generator: torch.Generator) -> Tensor:
    """Every channel stretched to twice its distance from mid-grey, then clipped."""
    return (0.5 + 2 * (clips.videos - 0.5)).clamp(0, 1)


def static(clips: Clips, generator: torch.Generator) -> Tensor:
    """The middle frame, standing still."""
    centre = clips.middle[:, None].expand(-1, clips.videos.shape[1], 2)
    return replace(Scene.of(clips), centre=centre).draw()


def vanish(clips: Clips, generator: torch.Generator) -> Tensor:
    """Nothing but ground after the middle frame."""
    videos = clips.videos.clone()
    videos[:, videos.shape[1] // 2 + 1 :] = BACKGROUND
    return videos


def flicker(clips: Clips, generator: torch.Generator) -> Tensor:
    """All pixels 0.2 darker and 0.2 lighter in turn."""
    sign = torch.ones(clips.videos.shape[1], dtype=torch.float32, device="cpu")
    sign[::2] = -1
    return (clips.videos + 0.2 * sign[:, None, None, None]).clamp(0, 1)


def big_object(clips: Clips, generator: torch.Generator) -> Tensor:
    """The object at twice its radius."""
    return replace(Scene.of(clips), radius=2 * clips.radius).draw()


def two_objects(clips: Clips, generator: torch.Generator) -> Tensor:
    """The object and its twin, 8 pixels to either side of the track, going opposite ways."""
    scene = Scene.of(clips)
    heading = clips.velocity / clips.velocity.norm(dim=-1, keepdim=True)
    aside = 8 * heading.flip(-1)[:, None]
    one = replace(scene, centre=scene.centre + aside).draw()
    two = replace(scene, centre=scene.centre.flip(1) - aside).draw()
    return torch.maximum(one, two)


def camera_shake(clips: Clips, generator: torch.Generator) -> Tensor:
    """Every frame moved by up to 3 pixels on either axis."""
    shape = (*clips.videos.shape[:2], 2)
    return shift(
        clips.videos,
        torch.randint(-3, 4, shape, generator=generator, dtype=torch.int64, device="cpu"),
    )


def teleport(clips: Clips, generator: torch.Generator) -> Tensor:
    """A fresh uniform position in every frame."""
    scene = Scene.of(clips)
    place = torch.rand(scene.centre.shape, generator=generator, dtype=torch.float32, device="cpu")
    return replace(scene, centre=5 + place * (scene.size - 11)).draw()


def heavy_noise(clips: Clips, generator: torch.Generator) -> Tensor:
    """White noise of standard deviation 0.25."""
    return add_noise(clips.videos, 0.25, generator)


def checkerboard(clips: Clips, generator: torch.Generator) -> Tensor:
    """A standing one-pixel checkerboard of amplitude 0.25 over the clip."""
    grid = torch.arange(clips.videos.shape[2], dtype=torch.int64, device="cpu")
    board = 1.0 - 2.0 * ((grid[:, None] + grid) % 2)
    return (clips.videos + 0.25 * board[..., None]).clamp(0, 1)


def colour_flood(clips: Clips, generator: torch.Generator) -> Tensor:
    """Every pixel in the caption's colour."""
    return Scene.of(clips).colour[:, None, None, None].expand_as(clips.videos).clone()


_VQ, _MQ, _TA = "proxy_vq", "proxy_mq", "proxy_ta"

_ROWS = (
    Attack("clean", clean, "clean", gold=0.97),
    Attack("+noise 30 dB", noise_30db, "degradation", None, (_VQ, _MQ)),
    Attack("+smooth error 26 dB", smooth_error_26db, "degradation", None, (_MQ,)),
    Attack("blur", blur, "attack", gold=0.70),
    Attack("wrong speed", wrong_speed, "attack"),
    Attack("wrong direction", wrong_direction, "attack"),
    Attack("wrong colour", wrong_colour, "attack"),
    Attack("wrong shape", wrong_shape, "attack"),
    Attack("over-saturated", over_saturated, "attack", hacks=(_VQ,)),
    Attack("static", static, "attack"),
    Attack("vanish half-way", vanish, "attack"),
    Attack("flicker", flicker, "attack", gold=0.05, hacks=(_MQ,)),
    Attack("big object", big_object, "attack", hacks=(_VQ, _MQ, _TA)),
    Attack("two objects", two_objects, "attack", hacks=(_VQ, _MQ, _TA)),
    Attack("camera shake", camera_shake, "attack", hacks=(_MQ,)),
    Attack("teleport", teleport, "attack", gold=0.05, hacks=(_MQ,)),
    Attack("noise σ=.25", heavy_noise, "attack", gold=0.05, hacks=(_VQ, _MQ)),
    Attack("static checkerboard", checkerboard, "attack", gold=0.05, hacks=(_VQ,)),
    Attack("colour flood", colour_flood, "attack", gold=0.05, hacks=(_TA,)),
    Attack("time reversed", invented.time_reversed, "invented"),
    Attack("frames shuffled", invented.frames_shuffled, "invented", hacks=(_MQ,)),
    Attack("half freeze", invented.half_freeze, "invented"),
    Attack("judder", invented.judder, "invented"),
    Attack("accelerating", invented.accelerating, "invented"),
    Attack("pixel jitter", invented.pixel_jitter, "invented", hacks=(_MQ,)),
    Attack("ghost trail", invented.ghost_trail, "invented", gold=0.60, hacks=(_TA,)),
    Attack("half transparent", invented.half_transparent, "invented"),
    Attack("hollow", invented.hollow, "invented"),
    Attack("colour drift", invented.colour_drift, "invented"),
    Attack("shape morph", invented.shape_morph, "invented"),
    Attack("size pulse", invented.size_pulse, "invented"),
    Attack("bright ground", invented.bright_ground, "invented"),
    Attack("ground drift", invented.ground_drift, "invented"),
    Attack("parallel twin", invented.parallel_twin, "invented"),
    Attack("corner stowaway", invented.corner_stowaway, "invented"),
    Attack("faint grid", invented.faint_grid, "invented", hacks=(_VQ,)),
    Attack("noisy object", invented.noisy_object, "invented"),
    Attack("one-frame flash", invented.one_frame_flash, "invented"),
)
ATTACKS: dict[str, Attack] = {row.name: row for row in _ROWS}
"""Every attack by name, in table order: calibration rows, the suite, the invented ones."""
