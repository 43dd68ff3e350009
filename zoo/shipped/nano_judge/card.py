"""The model card of a judge, written from its record: no number in it is typed by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from reelrl.rewards.judges.rubric import RUBRICS
from reelrl.zoo.shipped.nano_judge.judged_clips import MILD
from reelrl.zoo.shipped.nano_judge.questions import CLEAN, KINDS, PASS

RECORD = "record.json"
"""Measurements of a judge and its training; ships beside the weights."""
RUBRIC_KINDS = KINDS[-4:]
FOOLED = 0.3
"""Mean gold of an attack up to which a judge that calls most of its clips good is fooled."""


def write_card(folder: Path) -> None:
    """Write ``README.md`` from ``record.json``."""
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    (folder / "README.md").write_text("\n".join(card(record)) + "\n", encoding="utf-8")


def card(record: dict[str, Any]) -> Iterator[str]:
    """The lines of the card."""
    found = record["evaluation"]
    yield from introduction(found)
    yield from training(record["training"])
    yield from held_out(found["answers"])
    yield from groups(found["groups"])
    yield from attacks(found["attacks"])
    yield from speed(found["speed"])


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """A markdown table with a blank line behind it; floats with three decimals."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows:
        cells = [f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def introduction(found: dict[str, Any]) -> list[str]:
    """Introduction and use of the judge."""
    return [
        "# NanoJudge",
        "",
        f"A `Qwen2_5_VLForConditionalGeneration` of {found['parameters']:,} parameters that judges "
        "MovingShapes clips: 4 language layers and 3 vision layers of width 96, 9 frames of 32x32 "
        "as 80 tokens, the judge's wording as one token a phrase. It was trained from nothing on "
        "clips of the world, mild corruptions of them and clips of the two shipped video models, "
        "and on nothing else. It is a learned reward whose truth is known, and it can be hacked: "
        "see below where.",
        "",
        "```python",
        'judge = make_reward("vlm_judge", model="nano-judge", rubric="motion", num_frames=9)',
        "```",
        "",
        f"The rubrics ask whether a gold axis is at least {PASS}: "
        + ", ".join(f"`{kind}` ({RUBRICS[kind].good})" for kind in RUBRIC_KINDS)
        + ' stand for gold, fidelity, physics and alignment. A `Rubric` such as "the object is '
        'red", "the object is a circle", "the object moves left", "the object moves at middle '
        f'speed", "the picture is clean" (fidelity at least {CLEAN}) or "the motion is continuous" '
        "asks for one fact; it was trained with an empty caption. The system message is not read. "
        "A word outside its vocabulary of words is `<unk>`.",
        "",
        f"All numbers: `{found['command']}` (`record.json`). Licence Apache-2.0.",
        "",
    ]


def training(record: dict[str, Any]) -> list[str]:
    """How it was made."""
    made = ", ".join(f"`{make.__name__}`" for make in MILD)
    config, machine = record["config"], record["machine"]
    return [
        "## Training",
        "",
        f"`{record['command']}`: {config['steps']} updates of {config['batch']} clips with about "
        f"{record['questions_per_clip']:.0f} questions each, {record['minutes']:.0f} minutes on "
        f"one core of a busy machine ({machine['processor']}, {machine['cores']} cores, torch "
        f"{machine['torch']}). AdamW, peak learning rate {config['lr']}, averaged weights.",
        "",
        "Each batch is three eighths clean clips of the train captions, three eighths mildly "
        f"broken ({made}), and a quarter decoded clips of `nano` and `nano-early` "
        f"({config['clips_per_model']} of each, train captions, labelled by the gold axes like all "
        "others). Yes and no count for half of each kind of question, so P(yes) is a probability "
        "under even odds, not under the odds of any one policy. The loss is on the one token that "
        'answers. Open questions ("the object is" ... "red") were asked in training besides: '
        "a first run without them, from the stock initialisation, was at chance after 800 updates.",
        "",
    ]


def share(cell: dict[str, Any]) -> str:
    """A share with its interval and count."""
    if not cell["n"]:
        return "–"
    estimate, low, high = cell["right"]
    return f"{estimate:.3f} ({low:.3f}–{high:.3f}), {cell['n']}"


def held_out(found: dict[str, Any]) -> Iterator[str]:
    """Accuracy per question, mass and calibration."""
    yield from (
        "## Held-out questions",
        "",
        "Share of right answers, 95 % Wilson interval and number of questions, by the true answer. "
        "`compositional` is the captions of colour-shape pairs never trained on, `train` the "
        "others; positions, sizes and noise are new in both. Half of the drawn clips are mildly "
        "broken. Of a video model they are decoded samples (10 Euler steps). Balanced: mean of "
        "the two shares, 0.5 for a judge that does not look.",
        "",
    )
    names = list(found["sets"])
    yield "Balanced accuracy:"
    yield ""
    rows = [
        [kind, *(found["sets"][name][kind]["balanced"] or "–" for name in names)] for kind in KINDS
    ]
    yield from table(["question", *names], rows)
    for name in names:
        yield f"{name[0].upper()}{name[1:]}:"
        yield ""
        rows = [
            [kind, share(cells["yes"]), share(cells["no"])]
            for kind, cells in found["sets"][name].items()
        ]
        yield from table(["question", "truth is yes", "truth is no"], rows)
    mass, odds = found["mass"], found["calibration"]
    yield (
        f"Mass p(yes) + p(no) over all {found['questions']} questions: mean {mass['mean']:.4f}, "
        f"least {mass['least']:.4f}; {found['masked']} masked. Brier score {odds['brier']:.3f}, "
        f"expected calibration error {odds['ece']:.3f}:"
    )
    yield ""
    yield from table(["mean P(yes)", "truth is yes", "questions"], odds["bins"])


def groups(found: dict[str, Any]) -> Iterator[str]:
    """Scores that a policy sees which starts where the benchmark does."""
    yield from (
        "## As a reward",
        "",
        f"{found['clips']} clips of `nano-early`, all captions alike. Rank correlation of P(yes) "
        "with the gold axis over all clips and within a caption (mean over captions), mean "
        "standard deviation within a caption, and the variation over clusters of captions, one "
        f"per colour and shape ({found['clusters']}): standard deviation over mean of the "
        "clusters' mean scores, as TaRoS (arXiv 2511.19356, figure 4) reports it for judges: 3.4 % "
        "for a 72B judge, 55.8 % for a video reward model. The "
        "last column is the gold axis's own variation, which is real.",
        "",
    )
    rows = [
        [
            kind, r["mean"], r["gold"], r["spearman"], r["spearman_within"], r["std_within"],
            f"{100 * r['variation']:.1f} %", f"{100 * r['variation_of_gold']:.1f} %",
        ]
        for kind, r in found["rubrics"].items()
    ]  # fmt: skip
    header = ["rubric", "mean P", "mean gold axis", "rank corr.", "within caption"]
    yield from table([*header, "std within", "variation", "of gold axis"], rows)


def attacks(found: dict[str, Any]) -> Iterator[str]:
    """Where it is fooled."""
    fooled = [
        name
        for name, row in found["rows"].items()
        if row["judge"]["overall"] > 0.5 and row["gold"]["overall"] <= FOOLED
    ]
    yield from (
        "## How it is hacked",
        "",
        f"Mean P(yes) of each rubric / mean of its gold axis on the world's attacks, "
        f"{found['clips']} clips each, their own captions. An attack that is not marked as trained "
        "on was never seen in training, on purpose: nothing holds the judge to the truth there. "
        "It calls good on average (overall above 0.5) these attacks, whose gold is at most "
        f"{FOOLED}: {', '.join(fooled) or 'none of them'}.",
        "",
    )
    rows = [
        [
            name,
            "yes" if row["trained"] else "",
            *(f"{row['judge'][kind]:.2f} / {row['gold'][kind]:.2f}" for kind in RUBRIC_KINDS),
        ]
        for name, row in found["rows"].items()
    ]
    yield from table(["clips", "trained on", *RUBRIC_KINDS], rows)


def speed(found: dict[str, Any]) -> list[str]:
    """Cost of a batch."""
    return [
        "## Cost",
        "",
        f"One question about {found['clips']} clips through `vlm_judge` (batch size 16): "
        f"{found['seconds']:.2f} processor seconds on one thread ({found['processor']}, torch "
        f"{found['torch']}), best of three.",
    ]
