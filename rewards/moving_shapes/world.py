r"""MovingShapes-v0: captioned clips of one moving shape, drawn from known factors.

A clip is 9 frames of 32x32 pixels. One shape of one colour moves at constant velocity over a dark
grey ground; the caption names colour, shape, direction and speed, so what a clip *should* show is
known exactly. In the line of captioned Moving Shapes (TFGAN, Balaji et al. 2019), with the
in-distribution / out-of-distribution ranges of speed and radius that PhyWorld made usual.

Shapes have equal area (:math:`\pi R^2` for all three), so size tells nothing about shape, and
tracks are centred on the middle frame, so speed tells nothing about where a clip starts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from reelrl.naming import nearest

NUM_FRAMES = 9
SIZE = 32
BACKGROUND = 0.1
"""Grey level of the ground, all three channels."""

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.15, 0.15),
    "green": (0.15, 0.80, 0.20),
    "blue": (0.20, 0.30, 0.95),
    "yellow": (0.95, 0.90, 0.20),
    "purple": (0.65, 0.20, 0.80),
    "white": (0.95, 0.95, 0.95),
}
SHAPES = ("circle", "square", "triangle")
DIRECTIONS: dict[str, tuple[float, float]] = {
    "right": (1.0, 0.0),
    "left": (-1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
}
"""Unit (x, y) steps in image coordinates: y grows downward."""
SPEEDS: dict[str, float] = {"slowly": 0.7, "": 1.4, "fast": 2.1}
"""Pixels per frame by the caption's last word; no word means the middle speed."""

RADIUS_RANGE = (4.0, 6.0)
JITTER = 3.0
"""Half-width in pixels of the uniform offset of the track's mid-frame position."""
OOD_SPEED = 1.05
OOD_RADIUS = 7.0
HELD_OUT_PAIRS = (("purple", "triangle"), ("white", "circle"))
"""Colour-shape pairs never trained on: 2 pairs x 4 directions x 3 speeds = 24 captions."""

VOCABULARY = tuple(
    sorted({"a", "moving", *COLOURS, *SHAPES, *DIRECTIONS, *(word for word in SPEEDS if word)})
)
SPLITS = ("train", "compositional", "ood_speed", "ood_radius")


@dataclass(frozen=True)
class Factors:
    """The facts that a caption states about a clip.

    Attributes:
        colour: key of :data:`COLOURS`.
        shape: one of :data:`SHAPES`.
        direction: key of :data:`DIRECTIONS`.
        speed: key of :data:`SPEEDS`; "" is the middle speed.
    """

    colour: str
    shape: str
    direction: str
    speed: str


def all_factors() -> list[Factors]:
    """The 216 factor combinations, in a fixed order (colour, shape, direction, speed)."""
    return [Factors(*values) for values in product(COLOURS, SHAPES, DIRECTIONS, SPEEDS)]


def factors_to_caption(factors: Factors) -> str:
    """The one caption of these factors, such as ``"a red circle moving right fast"``."""
    sentence = f"a {factors.colour} {factors.shape} moving {factors.direction} {factors.speed}"
    return sentence.rstrip()


def caption_to_factors(caption: str) -> Factors:
    """Exact inverse of :func:`factors_to_caption`.

    Raises:
        ValueError: for a word outside :data:`VOCABULARY` (named, with the vocabulary), or known
            words in an order the grammar does not have.
    """
    words = caption.split()
    for word in words:
        if word not in VOCABULARY:
            raise ValueError(
                f"unknown word {word!r} in caption {caption!r}; "
                f"the vocabulary is: {', '.join(VOCABULARY)}"
            )
    factors = _CAPTIONS.get(" ".join(words))
    if factors is None:
        raise ValueError(
            f"caption {caption!r} is not of the form "
            "'a COLOUR SHAPE moving DIRECTION [slowly|fast]', such as "
            "'a red circle moving right fast'"
        )
    return factors


_CAPTIONS = {factors_to_caption(factors): factors for factors in all_factors()}


def captions(split: str = "train") -> list[str]:
    """Captions of a split, in a fixed order.

    ``train`` has 192, ``compositional`` the 24 of :data:`HELD_OUT_PAIRS`. ``ood_speed`` and
    ``ood_radius`` speak of the train captions; their clips differ (:func:`sample_clips`).

    Raises:
        ValueError: for an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}{nearest(split, SPLITS)}")
    held_out = split == "compositional"
    return [
        caption
        for caption, factors in _CAPTIONS.items()
        if ((factors.colour, factors.shape) in HELD_OUT_PAIRS) == held_out
    ]


def signed_distance(shape: int | Tensor, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    r"""Signed distance in pixels to the edge of a shape of area :math:`\pi R^2`, inside positive.

    The square has half side :math:`R\sqrt{\pi}/2`. The triangle is equilateral, point up, centred
    on its centroid, with inradius :math:`R\sqrt{\pi/(3\sqrt 3)}`; its distance is the smallest of
    the three edge distances, exact inside and a lower bound outside the corners.

    Args:
        shape: index into :data:`SHAPES`, broadcastable against the rest if a tensor.
        x: horizontal offset from the centre, pixels.
        y: vertical offset from the centre, pixels, downward.
        radius: R in pixels.
    """
    # Not torch.hypot: its vector and scalar paths differ in the last bit, so that a pixel would
    # depend on where in the batch it lies.
    circle = radius - (x * x + y * y).sqrt()
    half = radius * (math.sqrt(math.pi) / 2)
    square = half - torch.maximum(x.abs(), y.abs())
    inradius = radius * math.sqrt(math.pi / (3 * math.sqrt(3)))
    slope = math.sqrt(3) / 2
    triangle = inradius - torch.maximum(y, slope * x.abs() - 0.5 * y)
    if isinstance(shape, int):
        return (circle, square, triangle)[shape]
    return torch.where(shape == 0, circle, torch.where(shape == 1, square, triangle))


def shape_masks(shape: int | Tensor, centre: Tensor, radius: Tensor, size: int = SIZE) -> Tensor:
    """Anti-aliased coverage of one shape per frame: ``clip(distance + 1/2, 0, 1)``.

    Args:
        shape: index into :data:`SHAPES`, or an (N,) tensor of indices.
        centre: (N, F, 2) pixel coordinates (x, y); the middle of the first pixel is 0.
        radius: (N,) pixels.
        size: height and width.

    Returns:
        (N, F, size, size) in [0, 1].
    """
    grid = torch.arange(size, dtype=centre.dtype, device=centre.device)
    x = grid[None, None, None, :] - centre[..., 0, None, None]
    y = grid[None, None, :, None] - centre[..., 1, None, None]
    index = shape if isinstance(shape, int) else shape[:, None, None, None]
    distance = signed_distance(index, x, y, radius[:, None, None, None])
    return (distance + 0.5).clamp_(0, 1)


def track(middle: Tensor, velocity: Tensor, num_frames: int = NUM_FRAMES) -> Tensor:
    """Positions (N, F, 2) of a constant velocity (N, 2) through ``middle`` (N, 2) at mid-clip."""
    steps = torch.arange(num_frames, dtype=middle.dtype, device=middle.device)
    steps = steps - (num_frames - 1) / 2
    return middle[:, None] + velocity[:, None] * steps[None, :, None]


def composite(mask: Tensor, colour: Tensor, background: float = BACKGROUND) -> Tensor:
    """Lay colour (N, 3) over grey ground with coverage (N, F, H, W): (N, F, H, W, 3) in [0, 1]."""
    videos = mask.new_empty((*mask.shape, 3))
    for channel in range(3):
        contrast = (colour[:, channel] - background)[:, None, None, None]
        videos[..., channel] = (mask * contrast).add_(background)
    return videos


def draw(shape: Tensor, colour: Tensor, centre: Tensor, radius: Tensor, size: int = SIZE) -> Tensor:
    """Draw N clips of one shape each over the world's ground.

    Args:
        shape: (N,) indices into :data:`SHAPES`.
        colour: (N, 3) in [0, 1].
        centre: (N, F, 2) pixel coordinates (x, y) per frame.
        radius: (N,) pixels.
        size: height and width.

    Returns:
        (N, F, size, size, 3) in [0, 1].
    """
    videos = centre.new_empty((*centre.shape[:2], size, size, 3))
    for start in range(0, len(centre), _CHUNK):
        part = slice(start, start + _CHUNK)
        mask = shape_masks(shape[part], centre[part], radius[part], size)
        videos[part] = composite(mask, colour[part])
    return videos


_CHUNK = 64
"""Clips drawn at once: their masks stay in the cache, and 10,000 clips need no 10 GB."""


@dataclass(frozen=True)
class Clips:
    """A batch of rendered clips with everything they were drawn from.

    Attributes:
        videos: (N, F, H, W, 3) float32 in [0, 1].
        captions: N captions.
        middle: (N, 2) centre at mid-clip, pixels (x, y).
        velocity: (N, 2) pixels per frame.
        radius: (N,) pixels.
    """

    videos: Tensor
    captions: list[str]
    middle: Tensor
    velocity: Tensor
    radius: Tensor

    def __len__(self) -> int:
        return len(self.captions)


def render(
    factors: Sequence[Factors],
    generator: torch.Generator,
    *,
    speed: float | None = None,
    radius: float | None = None,
    num_frames: int = NUM_FRAMES,
    size: int = SIZE,
) -> Clips:
    """Draw one clip per entry of ``factors``; radius and position come from the generator.

    Args:
        factors: the factors of each clip.
        generator: the only source of randomness, on the CPU.
        speed: pixels per frame for every clip, in place of the captioned one.
        radius: pixels for every clip, in place of a draw from :data:`RADIUS_RANGE`.
        num_frames: frames per clip, 4k+1.
        size: height and width in pixels.

    Raises:
        ValueError: if ``num_frames`` is not 4k+1 or ``size`` is not a positive multiple of 4.
    """
    check_clip_size(num_frames, size, size)
    count = len(factors)
    low, high = RADIUS_RANGE
    uniform = torch.rand(count, 3, generator=generator, dtype=torch.float32, device="cpu")
    radii = (
        low + (high - low) * uniform[:, 0]
        if radius is None
        else torch.full((count,), radius, dtype=torch.float32, device="cpu")
    )
    middle = (size - 1) / 2 + JITTER * (2 * uniform[:, 1:] - 1)
    rates = torch.tensor(
        [SPEEDS[f.speed] if speed is None else speed for f in factors],
        dtype=torch.float32,
        device="cpu",
    )
    heading = torch.tensor(
        [DIRECTIONS[f.direction] for f in factors], dtype=torch.float32, device="cpu"
    ).reshape(count, 2)
    velocity = heading * rates[:, None]
    shape = torch.tensor([SHAPES.index(f.shape) for f in factors], dtype=torch.long, device="cpu")
    colour = torch.tensor(
        [COLOURS[f.colour] for f in factors], dtype=torch.float32, device="cpu"
    ).reshape(count, 3)
    videos = draw(shape, colour, track(middle, velocity, num_frames), radii, size)
    return Clips(videos, [factors_to_caption(f) for f in factors], middle, velocity, radii)


def sample_clips(count: int, generator: torch.Generator, split: str = "train") -> Clips:
    """Draw ``count`` clips of a split, captions uniform.

    ``ood_speed`` clips move at :data:`OOD_SPEED` and ``ood_radius`` clips have :data:`OOD_RADIUS`,
    both outside the range of the other splits.

    Raises:
        ValueError: for an unknown split or a negative count.
    """
    if count < 0:
        raise ValueError(f"count must be 0 or more, got {count}")
    choices = captions(split)
    picks = torch.randint(
        len(choices), (count,), generator=generator, dtype=torch.int64, device="cpu"
    )
    factors = [_CAPTIONS[choices[i]] for i in picks.tolist()]
    return render(
        factors,
        generator,
        speed=OOD_SPEED if split == "ood_speed" else None,
        radius=OOD_RADIUS if split == "ood_radius" else None,
    )


def check_clip_size(num_frames: int, height: int, width: int, multiple: int = 4) -> None:
    """Raise ValueError unless frames are 4k+1 and both sides are positive multiples."""
    if num_frames < 1 or num_frames % 4 != 1:
        near = max(1, 4 * round((num_frames - 1) / 4) + 1)
        raise ValueError(f"num_frames must be 4k+1, got {num_frames}; the nearest is {near}")
    for name, value in (("height", height), ("width", width)):
        if value < multiple or value % multiple:
            raise ValueError(f"{name} must be a positive multiple of {multiple}, got {value}")
