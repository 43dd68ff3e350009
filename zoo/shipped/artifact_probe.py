"""Trains the probe of the reward ``artifact_free``.

Run ``python -m reelrl.zoo.shipped.artifact_probe MODEL``.

Clean MovingShapes clips against the same clips under the attacks that show in a single frame, by
logistic regression on a frozen encoder's features. Some of those attacks are kept out of training:
the probe's answers on them are the only evidence about artifacts it has not seen.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor

from reelrl.rewards.image.artifact import HEAD_FILE, PictureEncoder
from reelrl.rewards.moving_shapes.attacks import ATTACKS
from reelrl.rewards.moving_shapes.world import sample_clips
from reelrl.zoo.door import door

TRAINED = (
    "+noise 30 dB",
    "+smooth error 26 dB",
    "blur",
    "over-saturated",
    "noise σ=.25",
    "static checkerboard",
    "colour flood",
    "ghost trail",
    "faint grid",
    "noisy object",
)
HELD_OUT = ("two objects", "big object", "half transparent", "hollow", "bright ground")
BATCH = 64
STEPS = 200


@dataclass(frozen=True)
class Probe:
    """A probability of features, sigma(w·e + b).

    Attributes:
        weight: (D,) float32.
        bias: () float32.
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Logits (M,) of features (M, D)."""
        return features @ self.weight + self.bias


def features_of(encoder: PictureEncoder, attack: str, count: int, seed: int) -> Tensor:
    """Features (M, D) of all frames of ``count`` clips, drawn from the seed, under an attack."""
    clips = sample_clips(count, torch.Generator().manual_seed(seed))
    videos = ATTACKS[attack].generate(clips, torch.Generator().manual_seed(seed))
    frames = videos.clamp(0, 1).mul(255).round().div(255).flatten(0, 1)
    with torch.no_grad():
        return torch.cat([encoder(part) for part in torch.split(frames, BATCH)])


def fit(clean: Tensor, spoilt: Tensor, decay: float) -> Probe:
    """Logistic regression, both classes of equal weight, on standardised features.

    Args:
        clean: (M, D) features that should have probability 1.
        spoilt: (M', D) features that should have 0.
        decay: weight of the squared norm of the standardised weights.
    """
    features = torch.cat([clean, spoilt]).double()
    mean, std = features.mean(dim=0), features.std(dim=0).clamp_min(1e-8)
    groups = [((part.double() - mean) / std) for part in (clean, spoilt)]
    weight = torch.zeros(clean.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    solver: torch.optim.Optimizer = torch.optim.LBFGS(
        [weight], max_iter=STEPS, line_search_fn="strong_wolfe"
    )

    def loss() -> float:
        solver.zero_grad()
        logits = [group @ weight[:-1] + weight[-1] for group in groups]
        softplus = torch.nn.functional.softplus
        value = (softplus(-logits[0]).mean() + softplus(logits[1]).mean()) / 2
        value = value + decay * weight[:-1].square().sum()
        torch.autograd.backward(value)
        return value.item()

    solver.step(loss)
    solved = weight.detach()
    slope = solved[:-1] / std
    return Probe(slope.float(), (solved[-1] - slope @ mean).float())


def separation(clean: Tensor, spoilt: Tensor) -> float:
    """Probability that a clean frame scores above a spoilt one, ties half: the area under ROC."""
    ordered = spoilt.sort().values
    below = torch.searchsorted(ordered, clean).double()
    up_to = torch.searchsorted(ordered, clean, right=True).double()
    return float((below + up_to).mean() / (2 * len(ordered)))


def train(folder: Path, clips: int, seed: int, decay: float) -> tuple[Probe, dict[str, Any]]:
    """A probe on the encoder of a folder, and how it does on clips of another seed.

    Returns:
        The probe, and its record: settings, and :func:`separation` by attack.
    """
    encoder = PictureEncoder(folder, torch.float32)

    def seen(attacks: Sequence[str], draw: int) -> dict[str, Tensor]:
        return {attack: features_of(encoder, attack, clips, draw) for attack in attacks}

    spoilt = seen(TRAINED, seed)
    probe = fit(seen(["clean"], seed)["clean"], torch.cat(list(spoilt.values())), decay)
    fresh = seen(["clean", *TRAINED, *HELD_OUT], seed + 1)
    scores = {attack: probe(features) for attack, features in fresh.items()}
    tell = {a: separation(scores["clean"], s) for a, s in scores.items() if a != "clean"}
    return probe, {
        "clips": clips,
        "seed": seed,
        "decay": decay,
        "trained": {attack: tell[attack] for attack in TRAINED},
        "held_out": {attack: tell[attack] for attack in HELD_OUT},
    }


def main(
    model: Annotated[Path, tyro.conf.Positional],
    out: Path | None = None,
    clips: int = 192,
    seed: int = 0,
    decay: float = 1e-3,
) -> None:
    """Train the probe of ``artifact_free`` and say which artifacts it tells.

    Args:
        model: folder of a CLIPModel or Dinov2Model.
        out: file of the probe, by default ``artifact_head.safetensors`` in the model's folder; its
            record goes beside it, with the ending ``.json``.
        clips: MovingShapes clips per attack.
        seed: of the clips.
        decay: weight of the squared norm of the probe.
    """
    from safetensors.torch import save_file

    file = model / HEAD_FILE if out is None else out
    probe, record = train(model, clips, seed, decay)
    save_file({"weight": probe.weight, "bias": probe.bias}, file)
    file.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for kind in ("trained", "held_out"):
        for attack, value in record[kind].items():
            print(f"{kind:9} {attack:22} {value:.3f}")
    print(f"wrote {file}; the numbers are areas under the ROC curve on fresh clips, 0.5 is chance")


if __name__ == "__main__":
    with door("artifact_probe"):
        tyro.cli(main)
