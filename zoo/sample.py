"""``reelrl sample``: a clip from a shipped model and what gold says of it."""

from __future__ import annotations

import math
from pathlib import Path

from reelrl.envs.models import VideoModel
from reelrl.rewards.moving_shapes.gold import gold_axes
from reelrl.rewards.moving_shapes.world import caption_to_factors
from reelrl.zoo.folders import writable
from reelrl.zoo.generate import generate
from reelrl.zoo.pictures import save_gif, save_sheet


def sample(
    prompt: str,
    *,
    model: str = "nano",
    out: Path = Path("clip.gif"),
    num_steps: int = 10,
    guidance_scale: float = 1.0,
    seed: int = 0,
) -> None:
    """Write one clip as GIF and PNG strip and print its gold axes.

    Args:
        prompt: a MovingShapes caption; checked before anything is loaded or written.
        model: shipped name or the folder of a Wan pipeline made for this world.
        out: the GIF; the strip goes beside it as PNG.
        num_steps: denoising steps.
        guidance_scale: classifier-free guidance, 1 for none.
        seed: of the initial noise, 0 or more.

    Raises:
        ValueError: for a caption outside the grammar, an unknown model, an ``out`` not ending in
            ``.gif``, or a number out of range.
        OSError: if ``out`` cannot be written, before a model is loaded.
    """
    if out.suffix != ".gif":
        raise ValueError(f"out must end in .gif, got {str(out)!r}")
    for name, value, low in (("num_steps", num_steps, 1), ("seed", seed, 0)):
        if value < low:
            raise ValueError(f"{name} must be at least {low}, got {value}")
    if not math.isfinite(guidance_scale):
        raise ValueError(f"guidance_scale must be finite, got {guidance_scale}")
    factors = caption_to_factors(prompt)
    with writable(out.parent):
        video_model = VideoModel.from_pretrained(model)
        clips = generate(
            video_model, [prompt], [seed], num_steps=num_steps, guidance_scale=guidance_scale
        )
        videos = next(clips)
        scores = gold_axes(videos, [factors])
        save_gif(out, videos[0])
        save_sheet(out.with_suffix(".png"), videos, scale=4)
    print(f"{prompt}  ({model}, seed {seed}, {num_steps} steps, guidance {guidance_scale:g})")
    for name, meaning in (
        ("align", "shows what the caption says"),
        ("phys", "one steady shape at constant velocity"),
        ("fid", "looks like a clean clip"),
        ("gold", "product of the three"),
    ):
        print(f"  {name:<6}{float(getattr(scores, name)):.3f}  {meaning}")
    print(f"wrote {out} and {out.with_suffix('.png')}")
