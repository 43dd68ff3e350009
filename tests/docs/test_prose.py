"""The counted phrases are seen where they are planted, and the repository has hardly any."""

from __future__ import annotations

import sys

import prose
import pytest

PLANTED = {
    "that of, those of": [
        "The dtype is that of the rewards.",
        "Clips, those of the seed.",
        "The tests are those that run.",
    ],
    "What as a noun": ["What a clip is worth.", "A row. What is left is zero."],
    "what as a noun": ["Factor of what is summed.", "The seed and what follows from it."],
    "None is": ["weights: K weights; None is ones."],
    "a number without its 0": ["A mean of .95 is high.", "It gains +.005.", "| grpo | .28 |"],
}
PLAIN = (
    "What is the score of a clip?",
    "It says what fits.",
    "None means 1 / K each.",
    "A mean of 0.95, version 3.1.4, a file report.1",
)
ELSEWHERE = ()


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_phrase_is_counted_under_its_kind(kind):
    for text in PLANTED[kind]:
        assert [k for k, _ in prose.found(text)] == [kind], text


def test_every_kind_is_planted():
    assert list(prose.PATTERNS) == list(PLANTED)


@pytest.mark.parametrize("text", PLAIN)
def test_a_plain_sentence_is_not_counted(text):
    assert not list(prose.found(text))


def test_a_page_is_read_without_its_code(tmp_path, monkeypatch):
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("# A\n\n```\nNone is\n```\n\nA mean\nof .5 and `None is`.\n", encoding="utf-8")
    found = [(line, k) for _, line, text in prose.of_page(page) for k, _ in prose.found(text)]
    assert found == [(7, "a number without its 0")]


def test_a_source_is_read_with_its_docstrings_and_messages(tmp_path, monkeypatch):
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    source = tmp_path / "module.py"
    source.write_text(
        '"""What it is."""\n'
        "# None is a comment, which is not counted\n"
        "def f(x):\n"
        '    """A number; ``None is`` code."""\n'
        '    raise ValueError(f"the shape is {x:.2f} and that of {x} differs")\n'
        'TEXT = "a share of {noise:.0%} in all"\n',
        encoding="utf-8",
    )
    found = [(line, k) for _, line, text in prose.of_source(source) for k, _ in prose.found(text)]
    assert found == [(1, "What as a noun"), (5, "that of, those of")]


def test_the_repository_has_hardly_any():
    hits = [hit for hit in prose.hits() if hit.name not in ELSEWHERE]
    assert len(hits) <= prose.LIMIT, "\n".join(f"{h.name}:{h.line}: {h.near}" for h in hits)


def test_the_command_fails_above_its_limit(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["prose.py", "--list"])
    three = [prose.Hit("README.md", 1, "None is", "a"), *[prose.Hit("b.py", 2, "None is", "b")] * 2]
    monkeypatch.setattr(prose, "hits", lambda: iter(three))
    monkeypatch.setattr(prose, "LIMIT", 3)
    assert prose.main() == 0
    monkeypatch.setattr(prose, "LIMIT", 2)
    assert prose.main() == 1
    out = capsys.readouterr().out
    assert "b.py:2: None is: ...b..." in out
    assert "3  in all, expected at most 2; 1 of them in README.md" in out
