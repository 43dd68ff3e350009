"""A table as data with two renderings, markdown and HTML, and how numbers are written in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from reelrl.zoo.benchmark.report.statistics import SAME, UNKNOWN, Interval, verdict

NONE = "-"
LONG = 48
"""Characters from which a cell is a sentence."""


@dataclass(frozen=True)
class Table:
    """A header and rows of text; ``note`` is printed below."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        """GitHub's pipe table."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        text = "\n".join("| " + " | ".join(_one_line(c) for c in line) + " |" for line in lines)
        return f"{text}\n\n{self.note}" if self.note else text

    def html(self) -> str:
        """A table in a box that scrolls by itself on a narrow screen."""
        head = "".join(f"<th>{escape(c)}</th>" for c in self.header)
        body = "".join(
            "<tr>" + "".join(f"<td{_class(c)}>{escape(c)}</td>" for c in row) + "</tr>"
            for row in self.rows
        )
        note = f'<p class="note">{escape(self.note)}</p>' if self.note else ""
        return (
            f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>{note}"
        )


def _one_line(cell: str) -> str:
    return quoted(cell.replace("|", "\\|"))


def quoted(text: str) -> str:
    """Text of somebody else in one line of markdown, in which it is neither HTML nor a link."""
    text = " ".join(text.split()).replace("<", "&lt;")
    return re.sub(r"\](?=[(\[])", r"\\]", text)


def paragraph(text: str) -> str:
    """Text of somebody else as a paragraph of markdown, which begins no heading, list or table."""
    return re.sub(r"\]:", r"\\]:", re.sub(r"^(?=[#>|=~`+*-])", r"\\", quoted(text)))


def code(text: str) -> str:
    """Text of somebody else in one line of code, which it cannot end."""
    return f"`{' '.join(text.split()).replace('`', chr(39))}`"


def _class(cell: str) -> str:
    """Class of a cell: a verdict is coloured, a sentence may break into lines."""
    word = cell.split(" (")[0].lower()
    known = {
        "better", "worse", "no difference", "cannot tell", "holds", "does not hold", "broken",
        "passed",
    }  # fmt: skip
    if word in known:
        return f' class="verdict {word.replace(" ", "-")}"'
    return ' class="long"' if len(cell) > LONG else ""


def number(value: float, digits: int = 3, *, sign: bool = False) -> str:
    """Fixed digits, never a negative zero; ``-`` for nan, ``never`` for infinity."""
    if np.isnan(value):
        return NONE
    if np.isinf(value):
        return "never"
    value = round(float(value), digits) + 0.0
    return f"{value:{'+' if sign else ''}.{digits}f}"


def interval(found: Interval, digits: int = 3, *, sign: bool = True) -> str:
    """``estimate [low, high]``; a question mark where one run gives no interval."""
    if np.isnan(found.estimate):
        return NONE
    middle = number(found.estimate, digits, sign=sign)
    if np.isinf(found.low):
        return f"{middle} [?]"
    low, high = (number(b, digits, sign=sign) for b in (found.low, found.high))
    return f"{middle} [{low}, {high}]"


COLLAPSED = "(both at 0)"


def said(difference: Interval | None, margin: float, collapsed: bool = False) -> str:
    """The verdict and a note on it: a side of 0 where it is open, or "(both at 0)"."""
    if difference is None:
        return NONE
    word = verdict(difference, margin)
    if word == SAME and collapsed:
        return f"{word} {COLLAPSED}"
    return word + side(difference) if word == UNKNOWN else word


def side(found: Interval | None) -> str:
    """Which side of 0 the whole interval is on, in brackets; empty if it holds 0."""
    if found is None or found.low <= 0 <= found.high or np.isnan(found.estimate):
        return ""
    return " (above 0)" if found.low > 0 else " (below 0)"
