"""The page of the rewards: ``reelrl report rewards --out docs``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from reelrl.rewards import GroupReward, Reward, list_rewards, make_reward, reward_class
from reelrl.rewards.moving_shapes.attacks import ATTACKS
from reelrl.rewards.moving_shapes.gold import gold_axes_of_prompts
from reelrl.rewards.moving_shapes.world import Clips, sample_clips
from reelrl.rewards.vbench import DIMENSIONS, QUALITY
from reelrl.zoo.documents.reward_list import escape, flags, table, value_range, what

CLIPS = 48
SEED = 0
GROUP = 8
"""Clips per set for the components that compare the clips of a prompt."""
PROGRAMMATIC = ("pixel", "motion", "movement", "jpeg", "group")
"""Modules of components that need no weights and no caption, the columns of the hack table."""
COLUMNS = 9
"""Components per part of the hack table."""

_TEXT = """# Rewards

Every registered component with its formula, its range, where it is from and its licence.
`make_reward(name)` builds one, `make_reward(name, model=folder)` one with weights; nothing is ever
downloaded unless `download=True` says so. x_t are the frames in [0, 1], c the caption. Three
marks name properties of a component:

- *fps*: the score changes when the same scene is sampled at another frame rate.
- *gradient*: `score` lets gradients reach the pixels.
- *group*: the score depends on the other clips of a prompt.

## Without weights

{without}

Clips with fewer frames than the formula needs have no number: `nan`, and masked. Flow and phase
correlation work on grey frames of a short side of about 64 pixels. JPEG sizes count the bytes that
a frame adds to the file of a flat clip, since the tables of the format weigh more than a frame of
32x32.

A clip whose first or last frame has pixels below -0.5 or above 1.5, as bytes kept as floats do, is
refused: the call raises.

`ensemble` and `ctrl_u` go around other components, whose bounds, direction, weights and licence
become theirs.

`pairwise_distance` and `vendi` score a set: all clips of a batch with one `infos[i]["group_id"]`,
else one `prompt_id`, else one caption. A clip earns the loss of its set without that clip. All
clips of a set must be in one batch, so let `num_envs` be a multiple of the group size. z_i is the
clip at 16 frames of 16x16 cells, less its mean colour; override `embed` of a `GroupReward` for
other features, and `utility` for another worth. Clips without texture have nothing to compare: they
count as equal to each other and unlike all others.

## With weights

{with_weights}

*GB* counts the weights in bfloat16. The default of `model=` is the column *weights*, looked for in
the local cache of the hub. Pictures are resized and normalised in torch as the model's own image
processor has it, up to Pillow's rounding to bytes.

- `pick_score` and `hpsv2` take tokenizer and image processor from `processor=`, by default
  `laion/CLIP-ViT-H-14-laion2B-s32B-b79K`, unless they lie beside the weights.
- `hpsv2` renames the tensors of the published open_clip checkpoint; neither open_clip nor the
  `hpsv2` package is needed. As in that package, a frame is fitted by its long side and padded with
  black; CLIP crops instead.
- The licence of `aesthetic` is CLIP's licence and the one its head is commonly said to have; its
  repository holds no licence file that we know of.
- `aesthetic` takes the head from `head=` or a file with "linear" in its name beside the model. All
  published heads are affine on unit embeddings, so the bounds are b ± ‖w‖ of the head that is
  loaded.
- `image_reward` reads the published `ImageReward.pt` into transformers' BLIP, without the
  `image-reward` package. Its tokenizer comes from `google-bert/bert-base-uncased`, or `processor=`.
- `adversarial` learns along with the policy, from real clips against the clips of every rollout:
  [a reward that learns along](howto/reward.md#a-reward-that-learns-along).
- `artifact_free` needs a probe trained on your copy of the encoder:
  `python -m reelrl.zoo.shipped.artifact_probe MODEL` trains it on MovingShapes and says which
  artifacts it tells.
- `siglip_score` needs the package `sentencepiece` for the tokenizers of the first SigLIP.
- `raft_dynamic_degree` needs torchvision (in the checkout: `pip install -e '.[raft]'`).

Frame-wise components score every frame by default. `segments=4, lambda_per_frame=1,
normalise=False, seed=0` is InstructVideo's sampling and attenuation.

## MovingShapes

{moving_shapes}

[The attacks](attacks.md) are the evidence for both.

## Attacks that fool each reward

Mean over {count} clean training clips (seed {seed}) and over the same clips under
[every attack](attacks.md); for the two set components the worth U(S) of sets of {group}, since a
clip's share says nothing about the whole set. The column *gold* is the true quality. **Bold** marks
a component that scores the attacked clips above the clean ones by more than a tenth of the spread
of the clean clips: an optimiser of it is drawn to that attack. ↓ marks penalties.

{hacks}

## VBench

`reelrl.rewards.vbench.aggregate` is VBench's own aggregation. Dimensions that were not measured are
named and left out, and without all sixteen there is no total. `python -m reelrl.zoo.vbench` writes
clips in the folder layout that VBench's scripts read; `--num-frames`, `--height` and `--width` say
their size.

{vbench}

Speeds are in [rewards-speed.md](rewards-speed.md). Regenerate this page with
`reelrl report rewards --out docs`.
"""


def room(name: str) -> str:
    """The module of a component below ``reelrl.rewards``."""
    return reward_class(name).__module__.removeprefix("reelrl.rewards.")


def programmatic() -> list[str]:
    """Names of the components of the hack table, by module."""
    names = [name for name in list_rewards() if room(name) in PROGRAMMATIC]
    return sorted(names, key=lambda name: (PROGRAMMATIC.index(room(name)), name))


def _section(names: Sequence[str], weights: bool = False) -> str:
    header = ["name", "meaning", "formula", "range", "better", "gradient", "fps", "source"]
    rows = []
    for name in names:
        reward: Any = reward_class(name)
        cells = [f"`{name}`", what(reward), f"`{escape(reward.formula)}`", value_range(reward)]
        cells += [*flags(reward), escape(reward.source)]
        if weights:
            cells += [reward.weights, f"{reward.memory_gb:g}" if reward.memory_gb else ""]
        rows.append([*cells, reward.license])
    return table([*header, *(["weights", "GB"] if weights else []), "licence"], rows)


def measure(names: Sequence[str], clips: Clips) -> dict[str, dict[str, torch.Tensor]]:
    """(N,) scores of the clips under every attack, by attack and component; and gold."""
    infos = [{"group_id": row // GROUP} for row in range(len(clips.captions))]
    rewards = [make_reward(name) for name in names]
    measured = {}
    for attack, entry in ATTACKS.items():
        videos = entry.generate(clips, torch.Generator().manual_seed(SEED))
        scores = {r.name: _scores(r, videos, clips.captions, infos) for r in rewards}
        measured[attack] = {"gold": gold_axes_of_prompts(videos, clips.captions).gold, **scores}
    return measured


def _scores(reward: Reward, videos: torch.Tensor, prompts: Any, infos: Any) -> torch.Tensor:
    if isinstance(reward, GroupReward):
        return reward.worth(videos, prompts, infos)
    return reward(videos, prompts, infos).values


def _cell(reward: Any, attacked: torch.Tensor, clean: torch.Tensor) -> str:
    sign = 1 if reward.higher_is_better else -1
    gain = sign * float(attacked.mean() - clean.mean())
    mean = float(attacked.mean())
    # A rest below this is rounding, which no two machines share.
    text = f"{mean if abs(mean) > 5e-7 else 0.0:.2g}"
    return f"**{text}**" if gain > max(0.1 * float(clean.std()), 1e-6) else text


def hack_table(count: int = CLIPS) -> str:
    """Every programmatic component under every attack, in parts that fit a page."""
    names = programmatic()
    measured = measure(names, sample_clips(count, torch.Generator().manual_seed(SEED)))
    parts = []
    for start in range(0, len(names), COLUMNS):
        part = names[start : start + COLUMNS]
        cards: list[Any] = [reward_class(name) for name in part]
        arrows = ["" if card.higher_is_better else " ↓" for card in cards]
        header = ["clip", "gold", *(f"{n}{a}" for n, a in zip(part, arrows, strict=True))]
        rows = []
        for attack, scores in measured.items():
            cells = [_cell(reward_class(n), scores[n], measured["clean"][n]) for n in part]
            rows.append([attack, f"{float(scores['gold'].mean()):.2f}", *cells])
        parts.append(table(header, rows))
    return "\n\n".join(parts)


def _vbench() -> str:
    rows = []
    for name, entry in DIMENSIONS.items():
        ours = ", ".join(f"`{reward}`" for reward in entry.rewards) or "not measured"
        group = "quality" if name in QUALITY else "semantic"
        bounds = f"{entry.low:g} to {entry.high:g}"
        rows.append([name, group, f"{entry.weight:g}", bounds, ours, entry.note])
    return table(["dimension", "group", "weight", "normalised from", "ours", "note"], rows)


def page(count: int = CLIPS) -> str:
    """``docs/rewards.md``, the hack table from ``count`` clips."""
    names = list_rewards()
    has_weights = [name for name in names if _weights(name) and _ours(name)]
    world = [name for name in names if room(name).startswith("moving_shapes")]
    without = [*programmatic()]
    without += [n for n in names if n not in {*has_weights, *world, *without} and _ours(n)]
    return _TEXT.format(
        without=_section(without),
        with_weights=_section(has_weights, weights=True),
        moving_shapes=_section(world),
        hacks=hack_table(count),
        vbench=_vbench(),
        count=count,
        seed=SEED,
        group=GROUP,
    )


def _weights(name: str) -> str:
    reward: Any = reward_class(name)
    weights: str = reward.weights
    return weights


def _ours(name: str) -> bool:
    """Whether a component ships here; examples and users register theirs by the same way."""
    return reward_class(name).__module__.startswith("reelrl.")


def main(out: Path | None = None) -> None:
    """Print the page; with ``out``, also write it to ``out/rewards.md``."""
    text = page()
    print(text)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "rewards.md").write_text(text, encoding="utf-8")
