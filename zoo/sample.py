"""``reelrl sample``: a clip from a model, and the gold axes of a clip of MovingShapes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from reelrl.rewards.moving_shapes.gold import gold_axes
from reelrl.rewards.moving_shapes.world import caption_to_factors
from reelrl.zoo.folders import writable
from reelrl.zoo.generate import generate
from reelrl.zoo.pictures import save_gif, save_sheet
from reelrl.zoo.trained import open_trained


def sample(
    prompt: str,
    *,
    model: str = "nano",
    out: Path = Path("clip.gif"),
    num_steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    base: str | None = None,
) -> None:
    """Write one clip as GIF and PNG strip and print its gold axes.

    Args:
        prompt: a MovingShapes caption; checked before anything is loaded or written.
        model: see :func:`~reelrl.zoo.trained.open_trained`.
        out: the GIF; the strip goes beside it as PNG.
        num_steps: denoising steps; None means as in the run, or 10.
        guidance_scale: classifier-free guidance, 1 for none; None means the run's, or 1.
        seed: of the initial noise, 0 or more.
        base: folder of the base model of a run, where it is not where it was.

    Raises:
        ValueError: for a caption outside the grammar, an unknown model, an ``out`` not ending in
            ``.gif``, or a number out of range.
        OSError: if ``out`` cannot be written, before a model is loaded.
    """
    if out.suffix != ".gif":
        raise ValueError(f"out must end in .gif, got {str(out)!r}")
    for name, value, low in (("num_steps", num_steps, 1), ("seed", seed, 0)):
        if value is not None and value < low:
            raise ValueError(f"{name} must be at least {low}, got {value}")
    if guidance_scale is not None and not math.isfinite(guidance_scale):
        raise ValueError(f"guidance_scale must be finite, got {guidance_scale}")
    factors = caption_to_factors(prompt)
    with writable(out.parent):
        opened = open_trained(model, base=base)
        given = {"num_steps": num_steps, "guidance_scale": guidance_scale}
        sampling: dict[str, Any] = {"num_steps": 10, "guidance_scale": 1.0, **opened.sampling}
        sampling |= {key: value for key, value in given.items() if value is not None}
        videos = next(generate(opened.model, [prompt], [seed], **sampling))
        scores = gold_axes(videos, [factors])
        save_gif(out, videos[0])
        save_sheet(out.with_suffix(".png"), videos, scale=4)
    steps, scale = sampling["num_steps"], sampling["guidance_scale"]
    print(f"{prompt}  ({opened.title}, seed {seed}, {steps} steps, guidance {scale:g})")
    for name, meaning in (
        ("align", "shows what the caption says"),
        ("phys", "one steady shape at constant velocity"),
        ("fid", "looks like a clean clip"),
        ("gold", "product of the three"),
    ):
        print(f"  {name:<6}{float(getattr(scores, name)):.3f}  {meaning}")
    print(f"wrote {out} and {out.with_suffix('.png')}")
