"""``reelrl list models``: the shipped models, their sizes and their clips."""

from __future__ import annotations

from reelrl.envs.models import SHIPPED, WanVideoModel
from reelrl.rewards.moving_shapes.world import NUM_FRAMES, SIZE


def main() -> None:
    """Print the table."""
    print("| name | folder | MB | latent of a 9x32x32 clip | prompt tokens |")
    print("|---|---|---|---|---|")
    for name, folder in SHIPPED.items():
        model = WanVideoModel.from_pretrained(name)
        size = sum(p.stat().st_size for p in model.folder.rglob("*") if p.is_file()) / 1e6
        shape = "x".join(map(str, model.latent_shape(NUM_FRAMES, SIZE, SIZE)))
        cells = (name, f"envs/checkpoints/{folder}", f"{size:.1f}", shape, model.max_prompt_tokens)
        print("| " + " | ".join(map(str, cells)) + " |")
