"""The attack table: ``reelrl report attacks --out docs``.

Mean gold axes and proxies of clean clips under every attack of
:data:`reelrl.rewards.moving_shapes.attacks.ATTACKS`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch

from reelrl.rewards import make_reward
from reelrl.rewards.moving_shapes.attack_tools import Attack, Scene
from reelrl.rewards.moving_shapes.attacks import ATTACKS
from reelrl.rewards.moving_shapes.gold import gold_axes_of_prompts
from reelrl.rewards.moving_shapes.world import BACKGROUND, Clips, sample_clips, track

CLIPS = 96
SEED = 0
AXES = ("align", "phys", "fid", "gold")
PROXIES = ("proxy_vq", "proxy_mq", "proxy_ta")

_TEXT = """# Attacks that the gold score sees and the proxies miss

Mean scores of {count} clean training clips (seed {seed}) and of the same clips under every attack.
Proxies are at hackability 1. **Bold** marks a proxy above its value on clean clips by more than
0.01. The column *asked* is the bound on the mean gold score that `tests/rewards/` holds it to;
degradations calibrate the score and have none.

{table}

## The attacks

{attacks}

## Where the score is soft

{soft}

Nor is it strict about two things that no attack above does:

{beyond}

Regenerate with `reelrl report attacks --out docs`.
"""


def measure(attack: Attack, clips: Clips, seed: int = SEED) -> dict[str, float]:
    """Mean of the gold axes and the proxies over the attacked clips, by name."""
    videos = attack.generate(clips, torch.Generator().manual_seed(seed))
    axes = gold_axes_of_prompts(videos, clips.captions)
    scores = {axis: float(getattr(axes, axis).mean()) for axis in AXES}
    for name in PROXIES:
        scores[name] = float(make_reward(name)(videos, clips.captions).values.mean())
    return scores


def _asked(attack: Attack) -> str:
    if attack.gold is None:
        return ""
    return f"{'≥' if attack.kind == 'clean' else '≤'} {attack.gold:.2f}"


def _row(attack: Attack, scores: dict[str, float], clean: dict[str, float]) -> str:
    cells = [attack.name, attack.kind, *(f"{scores[axis]:.2f}" for axis in AXES), _asked(attack)]
    for name in PROXIES:
        risen = scores[name] > clean[name] + 0.01
        cells.append(f"**{scores[name]:.2f}**" if risen else f"{scores[name]:.2f}")
    return "| " + " | ".join(cells) + " |"


def _soft(measured: dict[str, dict[str, float]]) -> str:
    """The attacks with the highest gold, with all that their docstrings say."""
    attacks = [a for a in ATTACKS.values() if a.kind in ("attack", "invented")]
    worst = sorted(attacks, key=lambda a: -measured[a.name]["gold"])[:3]
    return "\n".join(
        f"- **{a.name}** keeps {measured[a.name]['gold']:.2f}. "
        + " ".join((a.generate.__doc__ or "").split())
        for a in worst
    )


def _beyond(clips: Clips) -> str:
    """Gold of clean clips that head elsewhere by an angle, or lack a frame."""
    gold = make_reward("gold")

    def mean(videos: torch.Tensor) -> str:
        return f"{float(gold(videos, clips.captions).values.mean()):.2f}"

    slanted = []
    for degrees in (15, 30, 45, 60):
        turn = math.radians(degrees)
        cosine, sine = math.cos(turn), math.sin(turn)
        velocity = clips.velocity @ torch.tensor([[cosine, sine], [-sine, cosine]])
        centre = track(clips.middle, velocity, clips.videos.shape[1])
        slanted.append(f"{degrees}°: {mean(replace(Scene.of(clips), centre=centre).draw())}")
    lacking = clips.videos.clone()
    lacking[:, lacking.shape[1] // 2] = BACKGROUND
    return (
        "- **A slanted path.** A clean clip that heads elsewhere than its caption says keeps, by "
        f"the angle, {', '.join(slanted)}. Alignment takes the root of the cosine.\n"
        f"- **A missing frame.** A clean clip without its middle frame keeps {mean(lacking)}."
    )


def report(count: int = CLIPS) -> str:
    """The page as markdown, from ``count`` clips."""
    clips = sample_clips(count, torch.Generator().manual_seed(SEED))
    measured = {name: measure(attack, clips) for name, attack in ATTACKS.items()}
    header = ["clip", "kind", *AXES, "asked", *PROXIES]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += [_row(a, measured[n], measured["clean"]) for n, a in ATTACKS.items()]
    attacks = "\n".join(f"- **{a.name}**: {a.doc}" for a in ATTACKS.values())
    table = "\n".join(lines)
    soft, beyond = _soft(measured), _beyond(clips)
    return _TEXT.format(
        count=count, seed=SEED, table=table, attacks=attacks, soft=soft, beyond=beyond
    )


def main(out: Path | None = None) -> None:
    """Print the page; with ``out``, also write it to ``out/attacks.md``."""
    page = report()
    print(page)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "attacks.md").write_text(page, encoding="utf-8")
