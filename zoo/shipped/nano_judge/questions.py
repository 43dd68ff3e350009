"""Yes-or-no questions about MovingShapes clips, with answers from the parser and the gold axes.

The content of a clip decides an answer, never its origin: a drawn clip, a corrupted one and one of
a video model are labelled by the same measurement, and a question whose answer the measurement
leaves open is not asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reelrl.rewards.judges.rubric import RUBRICS, Rubric, pointwise_text
from reelrl.rewards.moving_shapes.gold import MIN_SPEED, alignment, fidelity, physics
from reelrl.rewards.moving_shapes.parser import Parsed, parse
from reelrl.rewards.moving_shapes.world import (
    COLOURS,
    DIRECTIONS,
    HELD_OUT_PAIRS,
    SHAPES,
    SPEEDS,
    Factors,
    caption_to_factors,
    factors_to_caption,
)

PASS = 0.5
"""Value of a gold axis, and of gold itself, from which the answer is yes."""
CLEAN = 0.8
"""Fidelity from which a picture is called clean."""
SPEED_MARGIN = 0.2
"""Pixels per frame around a captioned speed within which a clip has that speed."""
MIN_COSINE = 0.9
"""Of velocity and a direction, from which a clip moves that way."""
JUMP = 0.75
"""Pixels of track residual up to which motion is called continuous."""

PACE = {"slowly": "slowly", "": "at middle speed", "fast": "fast"}
"""Speed of a caption -> how a question says it."""
KINDS = (
    "colour", "shape", "direction", "speed", "clean", "continuous",
    "overall", "visual", "motion", "alignment",
)  # fmt: skip
"""The first six ask about the clip alone; the last four are the judge's rubrics, with a caption."""
OPEN = {
    "colour": "the object is",
    "shape": "the object is a",
    "direction": "the object moves",
    "speed": "the object moves at speed",
}
"""Phrases that the judge is to complete with the value itself, in training only: a name is learnt
at once, where yes or no to a name tells little until the name is known."""


@dataclass(frozen=True)
class Question:
    """One question about one clip.

    Attributes:
        kind: one of :data:`KINDS`.
        clip: row of the clip in its batch.
        rubric: the criterion of a good clip; None for an open question.
        caption: of the clip; empty if it does not matter.
        answer: one word.
    """

    kind: str
    clip: int
    rubric: Rubric | None
    caption: str
    answer: str

    @property
    def yes(self) -> bool:
        """Whether that is the answer."""
        return self.answer == "yes"

    @property
    def text(self) -> str:
        """The question as the judge component words it, or the open one."""
        if self.rubric is None:
            return OPEN[self.kind.removeprefix("open ")]
        return pointwise_text(self.rubric, self.caption, written=False)


def yes_no(so: bool | int | Tensor | None) -> str:
    """The answer that says whether it is so."""
    return "yes" if so else "no"


def fact(kind: str, value: str) -> Rubric:
    """The rubric of a question without caption: one fact about the clip."""
    good = {
        "colour": f"the object is {value}",
        "shape": f"the object is a {value}",
        "direction": f"the object moves {value}",
        "speed": f"the object moves {PACE.get(value, value)}",
        "clean": "the picture is clean",
        "continuous": "the motion is continuous",
    }[kind]
    return Rubric(kind, good)


def facts(parsed: Parsed, fidelity: Tensor) -> dict[str, list[int | None]]:
    """Facts about each clip: index into the world's list per kind, None where it is open.

    ``clean`` and ``continuous`` are 1 or 0.
    """
    found = parsed.found.tolist()
    speed = parsed.velocity.norm(dim=-1)
    headings = parsed.velocity.new_tensor(list(DIRECTIONS.values()))
    cosine, direction = (parsed.velocity @ headings.T).div(speed[:, None] + 1e-9).max(-1)
    steps = parsed.velocity.new_tensor(list(SPEEDS.values()))
    off, pace = (speed[:, None] - steps).abs().min(-1)
    steady = parsed.rmse <= JUMP
    open_heading = ~((cosine >= MIN_COSINE) & (speed >= MIN_SPEED) & steady)
    open_pace = ~((off <= SPEED_MARGIN) & steady)
    smooth = steady & parsed.present.all(-1) & (speed >= MIN_SPEED)
    table = {
        "colour": (parsed.colour, None),
        "shape": (parsed.shape, None),
        "direction": (direction, open_heading),
        "speed": (pace, open_pace),
    }
    known: dict[str, list[int | None]] = {
        kind: [
            None if not seen or (skip is not None and skip[i]) else int(value)
            for i, (seen, value) in enumerate(zip(found, values.tolist(), strict=True))
        ]
        for kind, (values, skip) in table.items()
    }
    known["clean"] = [int(value) for value in fidelity >= CLEAN]
    known["continuous"] = [int(value) for value in smooth]
    return known


def values_of(kind: str) -> list[str]:
    """The values that a question of that kind can name, in the world's order."""
    lists = {"colour": COLOURS, "shape": SHAPES, "direction": DIRECTIONS, "speed": SPEEDS}
    return list(lists[kind])


@torch.no_grad()
def ask_about(
    videos: Tensor,
    captions: Sequence[str],
    generator: torch.Generator,
    *,
    held_out: bool = False,
) -> list[Question]:
    """One question of each kind about each clip, and two captions for the rubrics that read one.

    Half of the questions name the true value or the clip's own caption; the others name another
    value, or a caption with one or two factors changed.

    Args:
        videos: (N, F, S, S, 3).
        captions: N captions that the clips were made for.
        generator: of the choices.
        held_out: captions may name the pairs that are never trained on.
    """
    parsed = parse(videos)
    fid, phys = fidelity(videos, parsed), physics(parsed)
    known = facts(parsed, fid)
    asked = []
    for kind in KINDS[:4]:
        asked += _values_asked(kind, known[kind], generator)
    for kind in ("clean", "continuous"):
        asked += [
            Question(kind, i, fact(kind, ""), "", yes_no(v)) for i, v in enumerate(known[kind])
        ]
    own = [caption_to_factors(caption) for caption in captions]
    told = [_changed(f, generator, held_out) for f in own]
    right = (torch.rand(len(own), generator=generator) < 0.7).tolist()
    mixed = [a if keep else b for a, b, keep in zip(own, told, right, strict=True)]
    for kind, factors in (
        ("visual", mixed), ("motion", mixed), ("overall", own), ("overall", mixed),
        ("alignment", own), ("alignment", told),
    ):  # fmt: skip
        align = alignment(parsed, factors)
        axis = {"visual": fid, "motion": phys, "alignment": align}
        score = axis.get(kind, align * fid * phys)
        asked += [
            Question(kind, i, RUBRICS[kind], factors_to_caption(f), yes_no(s >= PASS))
            for i, (f, s) in enumerate(zip(factors, score, strict=True))
        ]
    return asked


def _values_asked(
    kind: str, truth: Sequence[int | None], generator: torch.Generator
) -> list[Question]:
    names = values_of(kind)
    other = torch.randint(1, len(names), (len(truth),), generator=generator).tolist()
    keep = (torch.rand(len(truth), generator=generator) < 0.5).tolist()
    return [
        Question(
            kind, i, fact(kind, names[(t + (0 if yes else off)) % len(names)]), "", yes_no(yes)
        )
        for i, (t, off, yes) in enumerate(zip(truth, other, keep, strict=True))
        if t is not None
    ]


def rubric_questions(captions: Sequence[str]) -> list[Question]:
    """The four rubrics of the judge about each clip under its own caption, answers left blank."""
    kinds = KINDS[-4:]
    return [
        Question(kind, i, RUBRICS[kind], caption, "")
        for i, caption in enumerate(captions)
        for kind in kinds
    ]


@torch.no_grad()
def open_questions(videos: Tensor) -> list[Question]:
    """Colour, shape, direction and speed of each clip, where the parser knows them."""
    parsed = parse(videos)
    known = facts(parsed, torch.zeros(len(videos)))
    return [
        Question(f"open {kind}", i, None, "", word_of(kind, value))
        for kind in OPEN
        for i, value in enumerate(known[kind])
        if value is not None
    ]


def word_of(kind: str, value: int) -> str:
    """The one word for a value of the world; middle speed is called that."""
    return values_of(kind)[value] or "middle"


def _changed(factors: Factors, generator: torch.Generator, held_out: bool) -> Factors:
    """The same factors with one or two of the four replaced by others."""
    while True:
        count = 1 + int(torch.randint(2, (), generator=generator))
        changed = factors
        for place in torch.randperm(4, generator=generator)[:count].tolist():
            kind = KINDS[place]
            names = values_of(kind)
            step = int(torch.randint(1, len(names), (), generator=generator))
            now = names.index(getattr(changed, kind))
            changed = replace(changed, **{kind: names[(now + step) % len(names)]})
        if held_out or (changed.colour, changed.shape) not in HELD_OUT_PAIRS:
            return changed
