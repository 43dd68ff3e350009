"""Measure a judge and write its record and its card.

Run ``python -m reelrl.zoo.shipped.nano_judge.evaluate_judge``.

Everything is asked of clips and captions the training never drew: the held-out colour-shape pairs,
new positions and sizes, new noise of the video models. Answers come from the packed forward, whose
numbers equal the numbers of ``vlm_judge`` (``tests/zoo/nano_judge`` holds it to that).
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
import tyro
from scipy.stats import spearmanr
from torch import Tensor

from reelrl.envs.models.wan import WanVideoModel
from reelrl.rewards.judges import VLMJudge
from reelrl.rewards.judges.yes_no import NO, YES, yes_of_logits
from reelrl.rewards.moving_shapes import attacks
from reelrl.rewards.moving_shapes.attacks import ATTACKS
from reelrl.rewards.moving_shapes.gold import GoldAxes, gold_axes
from reelrl.rewards.moving_shapes.world import (
    COLOURS,
    SHAPES,
    caption_to_factors,
    captions,
    sample_clips,
)
from reelrl.rewards.vlm.model import QwenVL, model_folder
from reelrl.zoo.benchmark.report.statistics import wilson
from reelrl.zoo.benchmark.truth import evaluation_captions
from reelrl.zoo.door import door
from reelrl.zoo.generate import generate
from reelrl.zoo.shipped.nano_judge.card import RECORD, write_card
from reelrl.zoo.shipped.nano_judge.judged_clips import MILD, MODELS, drawn_clips
from reelrl.zoo.shipped.nano_judge.packing import pack, packed_logits
from reelrl.zoo.shipped.nano_judge.questions import KINDS, Question, ask_about, rubric_questions

SEED = 30_000_000
"""Of every evaluation clip; training and model clips of it lie elsewhere."""
AXIS = {"overall": "gold", "visual": "fid", "motion": "phys", "alignment": "align"}
"""Rubric -> the gold axis that its answer is about."""
TRAINED = {make.__name__ for make in (*MILD, attacks.clean, attacks.noise_30db, attacks.blur)}
"""Rows of the world's table that training has shown, noise and blur in its own strengths."""
CHUNK = 16


@dataclass(frozen=True)
class EvaluationConfig:
    """Choice and number of the measured clips."""

    model: str = "nano-judge"
    """Shipped name or folder of the judge; its record and card are written there."""
    clips: int = 128
    """Clips per set of questions."""
    attack_clips: int = 32
    """Clips per attack."""
    captions_clips: int = 4
    """Clips of nano-early per caption, for the judge's scores within a group."""


@torch.no_grad()
def answers(judge: QwenVL, videos: Tensor, questions: Sequence[Question]) -> tuple[Tensor, Tensor]:
    """P(yes), ``nan`` without mass, and the mass p(yes) + p(no) of each question, (M,) each."""
    yes, no = judge.single_tokens(YES), judge.single_tokens(NO)
    values, mass = torch.zeros(len(questions)), torch.zeros(len(questions))
    for start in range(0, len(videos), CHUNK):
        rows = [j for j, q in enumerate(questions) if start <= q.clip < start + CHUNK]
        texts, owners = [questions[j].text for j in rows], [questions[j].clip - start for j in rows]
        packed = pack(judge, videos[0], texts, owners)
        logits = packed_logits(judge, videos[start : start + CHUNK], packed)
        order = torch.tensor(rows)[packed.order]
        values[order], mass[order] = yes_of_logits(logits, yes, no)
    return values, mass


def stream(number: int) -> torch.Generator:
    """An own generator of the evaluation."""
    return torch.Generator().manual_seed(SEED + number)


def model_videos(model: str, split: str, count: int) -> tuple[Tensor, list[str]]:
    """``count`` clips of a shipped model under a split's captions, with the evaluation's noise."""
    prompts = evaluation_captions(split, count)
    seeds = [SEED + i for i in range(count)]
    return torch.cat(list(generate(WanVideoModel.from_pretrained(model), prompts, seeds))), prompts


def question_sets(count: int) -> dict[str, Callable[[], tuple[Tensor, list[str]]]]:
    """Name -> functions that make clips and captions: origin of the clip, and of its caption."""
    sets: dict[str, Callable[[], tuple[Tensor, list[str]]]] = {}
    for place, split in enumerate(("train", "compositional")):
        sets[f"drawn, {split}"] = partial(drawn_clips, count, stream(place), split)
    for model, split in product(MODELS, ("train", "compositional")):
        sets[f"{model}, {split}"] = partial(model_videos, model, split, count)
    return sets


def accuracy(questions: Sequence[Question], p: Tensor) -> dict[str, Any]:
    """Per kind and true answer: questions, and the share answered right with Wilson's interval.

    ``balanced`` is the mean of the two shares, a half for a judge that does not look.
    """
    hits: dict[str, dict[str, list[bool]]] = {kind: {"yes": [], "no": []} for kind in KINDS}
    for question, value in zip(questions, p.tolist(), strict=True):
        hits[question.kind][question.answer].append((value > 0.5) == question.yes)
    table: dict[str, Any] = {}
    for kind, sides in hits.items():
        table[kind] = {
            side: {"n": len(right), "right": wilson(sum(right), len(right))}
            for side, right in sides.items()
        }
        shares = [sum(right) / len(right) for right in sides.values() if right]
        table[kind]["balanced"] = sum(shares) / len(shares) if len(shares) == 2 else None
    return table


def calibration(p: Tensor, yes: Tensor, bins: int = 10) -> dict[str, Any]:
    """Brier score, expected calibration error, and the bins (mean P, share of yes, questions)."""
    place = (p * bins).long().clamp_max(bins - 1)
    rows = []
    for b in sorted(set(place.tolist())):
        inside = place == b
        rows.append([float(p[inside].mean()), float(yes[inside].mean()), int(inside.sum())])
    gap = sum(n * abs(mean - share) for mean, share, n in rows) / len(p)
    return {"brier": float((p - yes).square().mean()), "ece": gap, "bins": rows}


def question_report(judge: QwenVL, count: int) -> dict[str, Any]:
    """Accuracy per set; mass and calibration over all of them."""
    sets, p_all, yes_all, mass_all = {}, [], [], []
    for place, (name, make) in enumerate(question_sets(count).items()):
        videos, prompts = make()
        questions = ask_about(videos, prompts, stream(100 + place), held_out=True)
        p, mass = answers(judge, videos, questions)
        sets[name] = accuracy(questions, p)
        p_all.append(p)
        mass_all.append(mass)
        yes_all.append(torch.tensor([float(q.yes) for q in questions]))
    p, yes, mass = torch.cat(p_all), torch.cat(yes_all), torch.cat(mass_all)
    held = p.isfinite()
    return {
        "sets": sets,
        "questions": len(p),
        "masked": int((~held).sum()),
        "mass": {"mean": float(mass.mean()), "least": float(mass.min())},
        "calibration": calibration(p[held], yes[held]),
    }


def rubric_values(judge: QwenVL, videos: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
    """P(yes) of each rubric for each clip under its own caption, (N,)."""
    questions = rubric_questions(prompts)
    p, _ = answers(judge, videos, questions)
    rows = {kind: [j for j, q in enumerate(questions) if q.kind == kind] for kind in AXIS}
    return {kind: p[row] for kind, row in rows.items()}


def axes_of(videos: Tensor, prompts: Sequence[str]) -> GoldAxes:
    """The gold axes of clips under their captions."""
    return gold_axes(videos, [caption_to_factors(caption) for caption in prompts])


def attack_report(judge: QwenVL, count: int) -> dict[str, Any]:
    """Per attack of the world: mean P(yes) of each rubric beside the mean of its gold axis."""
    clips = sample_clips(count, stream(200))
    table = {}
    for place, attack in enumerate(ATTACKS.values()):
        videos = attack.generate(clips, stream(300 + place))
        said = rubric_values(judge, videos, clips.captions)
        gold = axes_of(videos, clips.captions)
        table[attack.name] = {
            "trained": attack.generate.__name__ in TRAINED,
            "judge": {kind: float(said[kind].nanmean()) for kind in AXIS},
            "gold": {kind: float(getattr(gold, axis).mean()) for kind, axis in AXIS.items()},
        }
    return table


def group_report(judge: QwenVL, per_caption: int) -> dict[str, Any]:
    """Scores that a policy which starts at nano-early would see.

    Rank correlation of P(yes) and gold axis over all clips and, as the mean over captions, within
    a caption; and the coefficient of variation over the 18 clusters of captions of one colour and
    shape, of the judge's mean and of the gold axis's own.
    """
    prompts = captions("train") + captions("compositional")
    asked = [caption for caption in prompts for _ in range(per_caption)]
    seeds = [SEED + 1_000_000 + i for i in range(len(asked))]
    model = WanVideoModel.from_pretrained("nano-early")
    videos = torch.cat(list(generate(model, asked, seeds)))
    said, gold = rubric_values(judge, videos, asked), axes_of(videos, asked)
    factors = [caption_to_factors(caption) for caption in asked]
    clusters: dict[tuple[str, str], list[int]] = {pair: [] for pair in product(COLOURS, SHAPES)}
    for i, f in enumerate(factors):
        clusters[f.colour, f.shape].append(i)
    report = {}
    for kind, axis in AXIS.items():
        p, truth = said[kind], getattr(gold, axis)
        report[kind] = {
            "mean": float(p.mean()),
            "gold": float(truth.mean()),
            "spearman": float(spearmanr(p, truth).statistic),
            "spearman_within": within_groups(p, truth, per_caption),
            "std_within": float(p.reshape(-1, per_caption).std(dim=1).mean()),
            "variation": variation(p, list(clusters.values())),
            "variation_of_gold": variation(truth, list(clusters.values())),
        }
    return {"clips": len(asked), "clusters": len(clusters), "rubrics": report}


def within_groups(p: Tensor, truth: Tensor, size: int) -> float:
    """Mean over groups of ``size`` of the rank correlation; groups of one value are left out."""
    rows = zip(p.reshape(-1, size), truth.reshape(-1, size), strict=True)
    found = [float(spearmanr(a, b).statistic) for a, b in rows if a.std() > 0 and b.std() > 0]
    return sum(found) / len(found)


def variation(values: Tensor, clusters: Sequence[Sequence[int]]) -> float:
    """Standard deviation over mean of the clusters' means (TaRoS figure 4 reports this)."""
    means = torch.stack([values[list(rows)].mean() for rows in clusters])
    return float(means.std() / means.mean())


def speed_report(folder: Path, count: int = 64) -> dict[str, Any]:
    """Processor seconds of one question about 64 clips through ``vlm_judge``, one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    judge = VLMJudge(folder, rubric="visual", num_frames=9, batch_size=16)
    clips = sample_clips(count, stream(400))
    judge(clips.videos[:4], clips.captions[:4])
    spent = []
    for _ in range(3):
        began = time.process_time()
        judge(clips.videos, clips.captions)
        spent.append(time.process_time() - began)
    torch.set_num_threads(threads)
    return {"clips": count, "seconds": min(spent), "cores": os.cpu_count(),
            "processor": platform.machine(), "torch": torch.__version__}  # fmt: skip


def evaluate(config: EvaluationConfig) -> dict[str, Any]:
    """Everything the card says, except the part that training left in the record."""
    folder = model_folder(config.model)
    judge = QwenVL.from_pretrained(folder)
    return {
        "command": "python -m reelrl.zoo.shipped.nano_judge.evaluate_judge",
        "parameters": sum(p.numel() for p in judge.model.parameters()),
        "answers": question_report(judge, config.clips),
        "attacks": {
            "clips": config.attack_clips,
            "rows": attack_report(judge, config.attack_clips),
        },
        "groups": group_report(judge, config.captions_clips),
        "speed": speed_report(folder),
    }


def main(config: EvaluationConfig) -> None:
    """Measure, and write record and card beside the weights."""
    path = model_folder(config.model) / RECORD
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    record["evaluation"] = evaluate(config)
    path.write_text(json.dumps(rounded(record), indent=1) + "\n", encoding="utf-8")
    write_card(path.parent)


def rounded(value: Any) -> Any:
    """The same with floats of four decimals, and None for ``nan``, which JSON does not know."""
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    with door("evaluate_judge"):
        main(tyro.cli(EvaluationConfig, description=__doc__))
