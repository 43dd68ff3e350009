"""Captions inside instructions, and numbers inside answers.

A caption is data of unknown origin and a clip may show text: neither may speak for the judge. So a
caption cannot close the block it stands in nor spell a control token, and a score is read from the
end of an answer, where the model stands by it, and is refused rather than clamped out of range.
"""

from __future__ import annotations

import math
import re

INERT = str.maketrans("<>", "‹›")
"""Control tokens and tags of every model we know begin with one of these."""
NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
SCALE = rf"(?:/|\bout of\b)[ \t*]*{NUMBER}"
"""The n of "4/n" and "4 out of n"."""
# After a full stop "out of" begins another sentence.
TAIL = rf"(?:(?:[ \t*(]*(?=/)|(?<!\.)[ \t*(]+){SCALE})?"
LABEL = r"\bscore\b(?:(?!\bscore\b)[^:\n<])*:[\s*]*"
"""From the last "score" of a line to its colon."""


def inert(caption: str) -> str:
    """A caption that is no more than text: its angle brackets become ‹ and ›."""
    return caption.translate(INERT)


def fill(template: str, caption: str) -> str:
    """A template with an inert caption in place of ``{prompt}``; other braces stay."""
    return template.replace("{prompt}", inert(caption))


def after_thinking(answer: str) -> str:
    """What follows the last ``</think>``; nothing if thinking never ended."""
    if "<think>" in answer and "</think>" not in answer:
        return ""
    return answer.rsplit("</think>", 1)[-1]


def last_score(answer: str, low: float, high: float) -> float:
    """The score an answer ends on, or ``nan`` if there is none in [low, high].

    Read is what stands last of ``"score": x`` (JSON), ``<Score>x</Score>`` and ``Score: x`` with
    any words before the colon; an answer without these may be nothing but a number. An ``x/n`` or
    ``x out of n`` counts only if n is ``high``: 4 of 10 is no 4 of 5.
    """
    said = after_thinking(answer)
    labelled = [
        rf'"score"\s*:\s*"?{NUMBER}{TAIL}',
        rf"<score>\s*{NUMBER}{TAIL}\s*</score>",
        rf"{LABEL}{NUMBER}{TAIL}",
    ]
    bare = rf"^\s*{NUMBER}{TAIL}\s*\.?\s*$"
    found = [m for pattern in labelled for m in re.finditer(pattern, said, flags=re.IGNORECASE)]
    found = found or list(re.finditer(bare, said, flags=re.IGNORECASE))
    if not found:
        return math.nan
    return on_scale(max(found, key=lambda m: m.start(1)), low, high)


def named_score(answer: str, name: str, low: float, high: float) -> float:
    """The last ``<name> Score (1-5): x`` of an answer, or ``nan`` if none lies in [low, high].

    An ``x/n`` or ``x out of n`` counts only if n is ``high``.
    """
    pattern = rf"\b{re.escape(name)}\s+{LABEL}{NUMBER}{TAIL}"
    found = list(re.finditer(pattern, after_thinking(answer), flags=re.IGNORECASE))
    return on_scale(found[-1], low, high) if found else math.nan


def on_scale(match: re.Match[str], low: float, high: float) -> float:
    """The number of a match, or ``nan`` outside [low, high] or if the match names another top."""
    tops = re.findall(SCALE, match[0], flags=re.IGNORECASE)
    if any(float(top) != high for top in tops):
        return math.nan
    return in_range(float(match[1]), low, high)


def in_range(value: float, low: float, high: float) -> float:
    """The value, or ``nan`` outside [low, high]."""
    return value if low <= value <= high else math.nan
