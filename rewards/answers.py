"""Captions inside instructions, and numbers inside answers.

A caption is data of unknown origin and a clip may show text: neither may speak for the judge. So a
caption cannot close the block it stands in nor spell a control token, and a score is read from the
end of an answer, where the model stands by it, and is refused rather than clamped out of range.

A judge may write anything and a server may send a megabyte of it, so reading takes time in
proportion to the length: only the last few kilobytes of an answer are searched, and every pattern
is bounded.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

INERT = str.maketrans("<>", "‹›")
"""Control tokens and tags of every model we know begin with one of these."""
KEPT = 4096
"""Characters at the end of an answer in which a score is looked for."""
EFFORT = 4 * KEPT
"""Characters read in search of JSON objects."""
SHORT = 64
"""An answer without any label is a number if it is no longer than this."""
KEY = "score"

# Possessive and bounded: a run of digits is read once, whatever follows it. ASCII digits only.
_DIGITS = r"[0-9]{1,20}+"
_NUMBER = (
    rf"[-+]?(?:{_DIGITS}(?:\.{_DIGITS})?|\.{_DIGITS})(?:[eE][-+]?[0-9]{{1,3}}+)?"
    r"(?!_?[0-9A-Za-z]|\.[0-9])"
)
_BLANKS, _GAP = r"[ \t*_]{0,9}", r"[\s*_]{0,99}"
_WORDS = {
    word: float(number)
    for number, word in enumerate(
        ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"], start=1
    )
} | {"twenty": 20.0, "hundred": 100.0}
_TOP = rf"(?P<top>{_NUMBER}|(?:{'|'.join(_WORDS)})\b)"
_BETWEEN = r"(?:-|–|—|~|…|±|\+/?-|\.{2,3}|\bto\b|\bor\b|\band\b|&)"
_TO = rf"(?P<low>{_NUMBER}){_BLANKS}(?:-|–|—|\bto\b){_BLANKS}{_TOP}"

NUMBER = re.compile(_NUMBER)
JSON_KEY = re.compile(rf'"{KEY}"\s{{0,99}}:\s{{0,99}}"?(?={_NUMBER})', re.IGNORECASE)
TAG = re.compile(rf"<{KEY}>{_GAP}(?={_NUMBER})", re.IGNORECASE)
END_TAG = re.compile(rf"{_GAP}</{KEY}>", re.IGNORECASE)
_LABEL = rf"\b{KEY}\b(?:(?!\b{KEY}\b)[^:\n<]){{0,200}}:{_GAP}(?={_NUMBER})"
LABEL = re.compile(_LABEL, re.IGNORECASE)
"""From the last "score" of a line to its colon."""
LABEL_TOP = re.compile(rf"(?:/|\b(?:out )?of\b){_BLANKS}{_TOP}", re.IGNORECASE)
LABEL_RANGE = re.compile(_TO, re.IGNORECASE)
"""The scale in "Score (1-5): x", "Score/5: x" and "Score (out of 5): x"."""

ANOTHER = re.compile(
    rf"{_BLANKS}{_BETWEEN}{_BLANKS}\.?[0-9]|[ \t]{{0,9}}%|,[0-9]|[ \t*_]{{1,9}}[0-9]", re.IGNORECASE
)
"""Signs next to a number that make it one end of a range, a share, or one of two numbers."""
UNIT = re.compile(r"[ \t*_]{0,9}(?:points?|stars?|marks?|pts)\b", re.IGNORECASE)
# After a full stop "out of" begins another sentence, so nothing but blanks may stand between.
OUT_OF = re.compile(
    rf"[ \t*_(\[]{{0,9}}(?P<by>/|\b(?:out )?of\b|\bmax(?:imum)?\b:?){_BLANKS}"
    rf"(?:a (?:possible|maximum|total)(?: of)? )?(?:{_TOP})?",
    re.IGNORECASE,
)
ON_SCALE = re.compile(
    rf"[ \t*_,]{{0,9}}(?:[(\[][ \t]{{0,9}}|(?=(?:on|in) (?:a|the) scale))(?:(?:on|in) (?:a|the) )?"
    rf"(?:scale|range)?(?: of| from)?[ \t:]{{0,4}}{_TO}",
    re.IGNORECASE,
)


def inert(caption: str) -> str:
    """A caption that is no more than text: its angle brackets become ‹ and ›."""
    return caption.translate(INERT)


def fill(template: str, caption: str) -> str:
    """A template with an inert caption in place of ``{prompt}``; other braces stay."""
    return template.replace("{prompt}", inert(caption))


def after_thinking(answer: str) -> str:
    """The text after the last ``</think>``; nothing if thinking never ended."""
    if "<think>" in answer and "</think>" not in answer:
        return ""
    return answer.rsplit("</think>", 1)[-1]


def last_score(answer: str, low: float, high: float) -> float:
    """The score an answer ends on, or ``nan`` if there is none in [low, high].

    A JSON object with the key ``score`` that begins the answer, or a line of it, is the answer:
    the words in it and after it do not count. Elsewhere the last one counts of
    ``"score": x``, ``<Score>x</Score>`` and ``Score: x`` with any words before the colon. After
    an object in the middle of a line, only a label that begins a line counts. An answer
    without these may be nothing but a number.

    A range of scores is none, and an ``x/n``, ``x of n`` or ``x (m to n)`` counts only on the scale
    asked for: 4 of 10 is no 4 of 5.
    """
    said = after_thinking(answer).strip()
    whole = _long_object(said) if len(said) > KEPT else None
    if whole is not None:
        return _of_value(whole[0], low, high)
    if len(said) <= SHORT and NUMBER.match(said):
        value, end = _read(said, 0, low, high)
        if not said[end:].strip().strip("."):
            return value
    said = said[-KEPT:]
    labels = _labelled(said)
    for start, end, value in _objects(said):
        later = [label for label in labels if label[0] >= end and _opens_line(said, label[1])]
        if _opens_line(said, start) or not later:
            return _of_value(value, low, high)
        break
    if not labels:
        return math.nan
    place, _, label = max(labels)
    return _of_label(said, place, label, low, high)


def named_score(answer: str, name: str, low: float, high: float) -> float:
    """The last ``<name> Score (1-5): x`` of an answer, or ``nan`` if none lies in [low, high].

    Ranges and other scales are no scores, as in :func:`last_score`.
    """
    said = after_thinking(answer)[-KEPT:]
    pattern = rf"\b{re.escape(name)}\s{{1,99}}{_LABEL}"
    found = list(re.finditer(pattern, said, flags=re.IGNORECASE))
    if not found:
        return math.nan
    return _of_label(said, found[-1].end(), found[-1][0], low, high)


def stands_alone(text: str, place: int, low: float, high: float) -> bool:
    """Whether the text at a place is one score in [low, high], judged by the text after it."""
    return not math.isnan(_read(text, place, low, high)[0])


def in_range(value: float, low: float, high: float) -> float:
    """The value, or ``nan`` outside [low, high]."""
    return value if low <= value <= high else math.nan


def _labelled(said: str) -> list[tuple[int, int, str]]:
    """Where the number of each label begins, where the label does, and the label."""
    matches = [m for pattern in (JSON_KEY, LABEL) for m in pattern.finditer(said)]
    found = [(match.end(), match.start(), match[0]) for match in matches]
    for match in TAG.finditer(said):
        # The number itself is short, and so is "/5" behind it.
        if END_TAG.search(said, match.end(), match.end() + SHORT):
            found.append((match.end(), match.start(), ""))
    return found


def _opens_line(said: str, place: int) -> bool:
    """Whether nothing but marks of markdown stands before a place in its line."""
    before = said[said.rfind("\n", 0, place) + 1 : place]
    return before.strip(" \t`*#->") in ("", "json")


def _of_label(said: str, place: int, label: str, low: float, high: float) -> float:
    """The number behind a label, or ``nan`` if either names another scale."""
    for match in LABEL_TOP.finditer(label):
        if _number(match["top"]) != high:
            return math.nan
    for match in LABEL_RANGE.finditer(label):
        if (_number(match["low"]), _number(match["top"])) != (low, high):
            return math.nan
    return _read(said, place, low, high)[0]


def _read(text: str, place: int, low: float, high: float) -> tuple[float, int]:
    """The number at ``place``, ``nan`` if it is no score in [low, high], and where it ends."""
    match = NUMBER.match(text, place)
    if match is None:
        return math.nan, place
    end = match.end()
    if ANOTHER.match(text, end):
        return math.nan, end
    unit = UNIT.match(text, end)
    end = unit.end() if unit else end
    scale = ON_SCALE.match(text, end)
    of = None if scale else OUT_OF.match(text, end)
    value = in_range(float(match[0]), low, high)
    if scale:
        end = scale.end()
        if (_number(scale["low"]), _number(scale["top"])) != (low, high):
            value = math.nan
    elif of and (of["top"] or of["by"] == "/"):
        end = of.end()
        if of["top"] is None or _number(of["top"]) != high:
            value = math.nan
    while end < len(text) and text[end] in " \t*_)]":
        end += 1
    return value, end


def _number(text: str) -> float:
    found = _WORDS.get(text.lower())
    return float(text) if found is None else found


def _of_value(value: Any, low: float, high: float) -> float:
    """The score that a JSON value is."""
    if isinstance(value, str):
        value = value.strip()
        return _read(value, 0, low, high)[0]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return in_range(float(value), low, high)


_DECODER = json.JSONDecoder(parse_int=float)  # an integer of thousands of digits is no error


def _long_object(said: str) -> tuple[Any] | None:
    """The score of the object that a long answer begins with and ends in, in a 1-tuple.

    Its explanation may be longer than the text that is kept, and may be cut off.
    """
    opened = said[:16].find("{")
    if opened < 0 or said[:opened].strip("` \njson"):
        return None
    found, end = _decoded(said, opened)
    if found is None:
        cut = JSON_KEY.search(said, 0, KEPT)
        return None if cut is None else (said[cut.end() : cut.end() + SHORT],)
    return None if "{" in said[end:] else _score_of(found)


def _score_of(found: Any) -> tuple[Any] | None:
    """The value of the key in an object, in a 1-tuple."""
    if isinstance(found, dict):
        for key, value in found.items():
            if key.lower() == KEY:
                return (value,)
    return None


def _objects(said: str) -> Iterator[tuple[int, int, Any]]:
    """Start, end and score of the objects in a text that have the key, the last one first."""
    found, place, effort = [], said.find("{"), 0
    # Objects in objects that never end would be read again from each of them.
    while place >= 0 and effort < EFFORT:
        value, end = _decoded(said, place)
        effort += end - place
        score = _score_of(value)
        if score is not None:
            found.append((place, end, score[0]))
        place = said.find("{", place + 1 if score is None else end)
    return iter(reversed(found))


def _decoded(said: str, place: int) -> tuple[Any, int]:
    """The JSON value at a place, None if it is none, and where reading it ended."""
    try:
        return _DECODER.raw_decode(said, place)
    except json.JSONDecodeError as error:
        return None, max(error.pos, place + 1)
    except RecursionError:
        return None, len(said)
