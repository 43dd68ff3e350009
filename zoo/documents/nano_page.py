"""The model card of the two shipped models, measured: ``reelrl report nano --out docs``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from reelrl.envs.models import SHIPPED, WanVideoModel
from reelrl.rewards.moving_shapes.gold import gold_axes
from reelrl.rewards.moving_shapes.parser import parse
from reelrl.rewards.moving_shapes.world import (
    COLOURS,
    DIRECTIONS,
    SHAPES,
    SPEEDS,
    SPLITS,
    VOCABULARY,
    Clips,
    Factors,
    caption_to_factors,
    sample_clips,
)
from reelrl.zoo.generate import CHUNK
from reelrl.zoo.pictures import save_sheet
from reelrl.zoo.shipped.nano.measurement import ScoredClips, scored_clips
from reelrl.zoo.shipped.nano.record import RECORD

AXES = ("gold", "align", "phys", "fid")
GENERATED_SPLITS = SPLITS[:2]
"""The other two splits differ from ``train`` in their clips, not in their captions."""
SHEET_CLIPS = 16


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A markdown table; floats with three decimals."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows:
        cells = [f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


@torch.no_grad()
def round_trip(model: WanVideoModel, clips: Clips) -> tuple[Tensor, float]:
    """Clips after encoding and decoding, and the PSNR in dB for pixels in [0, 1]."""
    parts = torch.split(clips.videos, CHUNK)
    videos = torch.cat([model.decode(model.encode_video(part)) for part in parts])
    error = (videos - clips.videos).square().mean()
    return videos, float(-10 * torch.log10(error))


def vae_table(model: WanVideoModel, count: int) -> str:
    """Loss by the VAE alone, per split: the ceiling of every generated clip."""
    rows: list[list[object]] = []
    for split in SPLITS:
        clips = sample_clips(count, torch.Generator().manual_seed(1), split)
        videos, decibel = round_trip(model, clips)
        scores = gold_axes(videos, [caption_to_factors(c) for c in clips.captions])
        means = [float(getattr(scores, axis).mean()) for axis in AXES]
        rows.append([split, f"{decibel:.1f}", *means])
    return table(["clips", "PSNR dB", "GOLD", *AXES[1:]], rows)


def hits(result: ScoredClips) -> dict[str, Tensor]:
    """Per clip, whether the parser sees each captioned factor, (N,) bool each."""
    factors = [caption_to_factors(caption) for caption in result.captions]
    parsed = parse(result.videos)
    heading = torch.tensor([DIRECTIONS[f.direction] for f in factors], dtype=torch.float64)
    asked = torch.tensor([SPEEDS[f.speed] for f in factors], dtype=torch.float64)
    measured = parsed.velocity.norm(dim=-1)
    choices = torch.tensor(list(SPEEDS.values()), dtype=torch.float64)
    nearest = choices[(measured[:, None] - choices).abs().argmin(-1)]
    cosine = (parsed.velocity * heading).sum(-1) / measured.clamp_min(1e-6)
    return {
        "colour": parsed.found & (parsed.colour == index_of(COLOURS, factors, "colour")),
        "shape": parsed.found & (parsed.shape == index_of(SHAPES, factors, "shape")),
        "direction": parsed.found & (cosine > 0.5**0.5),
        "speed": parsed.found & (nearest == asked),
    }


def index_of(names: Iterable[str], factors: list[Factors], key: str) -> Tensor:
    """Index of each clip's captioned value of one factor."""
    order = list(names)
    return torch.tensor([order.index(getattr(f, key)) for f in factors])


def factor_table(result: ScoredClips) -> str:
    """GOLD and how often the factor is right, per value of each factor."""
    factors = [caption_to_factors(caption) for caption in result.captions]
    right = hits(result)
    rows: list[list[object]] = []
    for key, values in (
        ("colour", COLOURS),
        ("shape", SHAPES),
        ("direction", DIRECTIONS),
        ("speed", SPEEDS),
    ):
        for value in values:
            chosen = torch.tensor([getattr(f, key) == value for f in factors])
            gold = float(result.scores.gold[chosen].mean())
            share = float(right[key][chosen].float().mean())
            rows.append([key, value or "(no word)", int(chosen.sum()), share, gold])
    return table(["factor", "value", "clips", "factor right", "GOLD"], rows)


def split_rows(
    name: str, model: WanVideoModel, count: int
) -> tuple[list[list[object]], ScoredClips]:
    """One row of means per split and sampler setting, and the train evaluation."""
    rows: list[list[object]] = []
    kept: ScoredClips | None = None
    for split in GENERATED_SPLITS:
        for steps, guidance in ((10, 1.0), (20, 1.0), (10, 2.0)):
            result = scored_clips(model, split, count, num_steps=steps, guidance_scale=guidance)
            kept = kept or result
            means = [result.axes()[axis] for axis in AXES]
            rows.append([name, split, steps, f"{guidance:g}", *means])
    assert kept is not None
    return rows, kept


def size_row(name: str, model: WanVideoModel) -> list[object]:
    """Parameters per component and size on disk."""
    parts = (model.transformer, model.text_encoder, model.vae)
    counts = [f"{sum(p.numel() for p in part.parameters()) / 1e6:.2f} M" for part in parts]
    size = sum(p.stat().st_size for p in model.folder.rglob("*") if p.is_file()) / 1e6
    return [name, *counts, f"{size:.1f} MB"]


def main(out: Path | None = None, count: int = 384) -> None:
    """Measure both models and print the card; with ``out`` write ``nano.md`` and contact sheets.

    Args:
        out: documentation folder; pictures go to its ``pictures``.
        count: clips per measured row.
    """
    models = {name: WanVideoModel.from_pretrained(name) for name in SHIPPED}
    rows: list[list[object]] = []
    train: dict[str, ScoredClips] = {}
    for name, model in models.items():
        more, train[name] = split_rows(name, model, count)
        rows += more
        if out is not None:
            shown = slice(0, SHEET_CLIPS)
            videos, labels = train[name].videos[shown], train[name].captions[shown]
            gold = train[name].scores.gold[shown].tolist()
            labels = [f"{text}   gold {g:.2f}" for text, g in zip(labels, gold, strict=True)]
            save_sheet(out / "pictures" / f"{name}.png", videos, labels, columns=2)
    nano = models["nano"]
    record = json.loads((nano.folder / RECORD).read_text(encoding="utf-8"))
    card = CARD.format(
        count=count,
        words=len(VOCABULARY),
        sizes=table(
            ["model", "transformer", "text encoder", "VAE", "folder"],
            [size_row(name, model) for name, model in models.items()],
        ),
        splits=table(["model", "captions", "steps", "guidance", "GOLD", *AXES[1:]], rows),
        vae=vae_table(nano, count),
        factors="\n\n".join(f"`{n}`\n\n{factor_table(r)}" for n, r in train.items()),
        config=json.dumps(record["config"], indent=1),
        minutes=", ".join(f"{m:g} min {stage}" for stage, m in record["minutes"].items()),
        machine=", ".join(f"{key} {value}" for key, value in record["machine"].items()),
    )
    print(card)
    if out is not None:
        (out / "nano.md").write_text(card, encoding="utf-8")


CARD = """# nano-Wan model card

Two text-to-video models small enough to post-train on a laptop, in stock diffusers format: UMT5
encoder, `WanTransformer3DModel`, `AutoencoderKLWan`, `FlowMatchEulerDiscreteScheduler`. They draw
MovingShapes clips (9 frames of 32x32) from captions such as "a red circle moving right fast".
`nano` is trained to the end; `nano-early` is a snapshot of the same run taken long before, with
quality to gain and quality to lose. Licence: Apache-2.0, weights and code. They know the {words}
words of that world and nothing else.

Every number below is printed by `reelrl report nano --out docs`, which also writes this file.

{sizes}

## Samples

Captions and noise are the same in both sheets; each row is one clip, frame by frame.

`nano`

![clips of nano](pictures/nano.png)

`nano-early`

![clips of nano-early](pictures/nano-early.png)

## Quality

GOLD is the product of three axes, each in [0, 1]: `align` (shows the captioned factors), `phys`
(one steady shape at constant velocity) and `fid` (looks like a clean clip). Means over {count}
clips, fixed captions and noise, Euler ODE, shift 3. The `compositional` captions (purple triangles,
white circles) were never trained on.

{splits}

The VAE of both models alone, clean clips encoded and decoded: the ceiling of the table above. The
last two splits move or look as no training clip does.

{vae}

## Per factor

Train captions, 10 steps, no guidance. "Factor right" is the share of clips in which the parser sees
the captioned value (direction within 45 degrees, speed nearest to the captioned one).

{factors}

## Training

`python -m reelrl.zoo.shipped.nano.train_nano --install` trains both from nothing and puts them in
place; killed, the same command goes on. With the encoder frozen, decoder and generator are
independent of each other; in this run they trained side by side, one core each, on a machine that
did other work:
{minutes} ({machine}).
Its settings:

```json
{config}
```
"""
