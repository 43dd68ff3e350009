"""``reelrl eval``: scores of a model on fixed clips of prompts that nothing was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reelrl.envs.models import VideoModel
from reelrl.envs.prompts import resolve_prompts
from reelrl.envs.scoring import RewardList
from reelrl.zoo.benchmark.report.statistics import mean_interval
from reelrl.zoo.generate import generate
from reelrl.zoo.trained import open_trained


@dataclass(frozen=True)
class Scores:
    """Scores of N clips.

    Attributes:
        names: of K rewards.
        values: (N, K) float64; ``nan`` where a reward could not score a clip.
    """

    names: tuple[str, ...]
    values: Tensor


def evaluate(
    model: str,
    *,
    rewards: Sequence[Any] = ("gold",),
    prompts: str = "moving_shapes/compositional",
    clips: int = 64,
    seed: int = 0,
    num_steps: int | None = None,
    guidance_scale: float | None = None,
    base: str | None = None,
    device: str = "cpu",
) -> list[str]:
    """Lines that say how a model scores, with 95 % intervals, and a trained one beside its base.

    Clip i starts from noise of seed ``seed + i``, so two models are compared clip by clip.

    Args:
        model: see :func:`~reelrl.zoo.trained.open_trained`.
        rewards: components, by name or as a preset has them.
        prompts: name of a prompt set.
        clips: N.
        seed: of the first clip.
        num_steps: denoising steps; None means as in the run, or 10.
        guidance_scale: None means the run's, or 1.
        base: see :func:`~reelrl.zoo.trained.open_trained`.
        device: where the model goes.

    Raises:
        ValueError: for an unknown model, reward or prompt set, or fewer than two clips.
    """
    if clips < 2:
        raise ValueError(f"clips must be at least 2 for an interval, got {clips}")
    texts = resolve_prompts(prompts)
    components = RewardList(rewards)
    opened = open_trained(model, base=base, device=device)
    given = {"num_steps": num_steps, "guidance_scale": guidance_scale}
    sampling = {**opened.sampling, **{k: v for k, v in given.items() if v is not None}}
    places = [i * len(texts) // clips for i in range(clips)]
    asked = [texts[place] for place in places]
    seeds = [seed + i for i in range(clips)]
    after = _scores(opened.model, components, asked, places, seeds, sampling)
    lines = [f"{opened.title}: {clips} clips of {prompts}"]
    if not opened.sampling:
        return lines + [f"{name}  {line}" for name, line in _alone(after)]
    untrained = VideoModel.from_pretrained(opened.base, device=device)
    before = _scores(untrained, components, asked, places, seeds, sampling)
    return lines + [f"{name}  {line}" for name, line in _beside(before, after)]


def _scores(
    model: VideoModel,
    components: RewardList,
    prompts: Sequence[str],
    places: Sequence[int],
    seeds: Sequence[int],
    sampling: dict[str, Any],
) -> Scores:
    videos = torch.cat(list(generate(model, prompts, seeds, **sampling)))
    infos = [{"prompt_id": place, "group_id": place} for place in places]
    values, _ = components(videos, list(prompts), infos)
    return Scores(tuple(components.names), values.double())


def _alone(scores: Scores) -> list[tuple[str, str]]:
    """Name, and mean with its interval, of every reward."""
    width = max(map(len, scores.names))
    columns = zip(scores.names, scores.values.T, strict=True)
    return [(f"{name:<{width}}", _mean(column)) for name, column in columns]


def _beside(before: Scores, after: Scores) -> list[tuple[str, str]]:
    """The same of two models, and of the difference clip by clip."""
    width = max(map(len, after.names))
    lines = []
    for k, name in enumerate(after.names):
        first, second = before.values[:, k], after.values[:, k]
        change = _mean(second - first, signed=True)
        lines.append((f"{name:<{width}}", f"{_mean(first)} -> {_mean(second)}, change {change}"))
    return lines


def _mean(values: Tensor, *, signed: bool = False) -> str:
    """Mean and Student's 95 % interval of all values but ``nan``, as text."""
    known = values[values.isfinite()]
    if len(known) < 2:
        return f"not scored ({len(known)} of {len(values)} clips)"
    found, sign = mean_interval(known.numpy()), "+" if signed else ""
    missing = "" if len(known) == len(values) else f" on {len(known)} clips"
    return f"{found.estimate:{sign}.2f} [{found.low:{sign}.2f}, {found.high:{sign}.2f}]{missing}"
