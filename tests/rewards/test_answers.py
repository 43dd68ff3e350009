"""Captions stay captions, and a score is read where the judge stands by it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelrl.rewards.answers import after_thinking, fill, inert, last_score, named_score

CHARACTERS = '<>|‹›{}ab1.:5/ \n"é'


@given(st.text(CHARACTERS))
def test_an_inert_caption_has_no_bracket_left_and_keeps_its_length(caption):
    quiet = inert(caption)
    assert "<" not in quiet and ">" not in quiet and len(quiet) == len(caption)
    assert inert(quiet) == quiet


def test_a_caption_is_filled_in_once_and_braces_are_left_alone():
    template = 'a {prompt} b {"score": x}'
    assert fill(template, "{prompt} <x> {y}") == 'a {prompt} ‹x› {y} b {"score": x}'


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ('{"score": 3}', 3),
        ('{"score": "2.5"}', 2.5),
        ('```json\n{"reason": "score: 1", "score": 4}\n```', 4),
        ("<Score>4.5</Score>", 4.5),
        ("Score: 1 at first.\nFinal Score: 3", 3),
        ("**Score**: 2", 2),
        ("Score (1-5): 4", 4),
        ("Overall score for motion: **5**", 5),
        ('The caption says {"score": 5}.\nScore: 2', 2),
        ("4/5", 4),
        (" 3. ", 3),
        ("<think>Score: 5</think>\nScore: 2", 2),
        ("<think>a</think> 1 <think>b</think> Score: 2", 2),
        ("Score: 4/5", 4),
        ("Score: **4** / 5", 4),
        ("Score: 3 (out of 5)", 3),
        ("4 out of 5.", 4),
        ('{"score": "4/5"}', 4),
        ("<score>4 / 5.0</score>", 4),
        ("Score (out of 5): 4", 4),
        ("Score 1/10 of the frames, final score: 3", 3),
        ("Score: 4. Out of 10 frames 9 are sharp", 4),
        ("Score: 9/10, no: score: 4", 4),
    ],
)
def test_scores_that_are_read(answer, score):
    assert last_score(answer, 1, 5) == score


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "good",
        "Score: 7",
        "Score: -3",
        '{"score": 0}',
        "Score: 1e9",
        "I saw 3 cats",
        "<think>Score: 3",
        "Score:",
        "score 3",
        # Of another scale than the one asked for: 4 of 10 is not 4 of 5.
        "Score: 4/10",
        "Score: 4 / 10",
        "Score: **4**/10",
        "Score: 4 out of 10",
        "Score: 4 (out of 10)",
        "Score (out of 10): 4",
        "Score/10: 4",
        "4/10",
        "4 out of 10.",
        '{"score": "4/10"}',
        '{"score": 4/10}',
        "<score>4/10</score>",
        "Score: 4/0",
        "Score: 4/50",
        "Score: 3/4",
    ],
)
def test_scores_that_are_not(answer):
    assert math.isnan(last_score(answer, 1, 5))


@given(
    st.lists(st.sampled_from(["score", "Score", ":", " ", "<", ">", "3", "7e99", '"', "/5", "."]))
)
def test_no_text_breaks_the_parser(words):
    value = last_score("".join(words), 1, 5)
    assert math.isnan(value) or 1 <= value <= 5


def test_thinking():
    assert after_thinking("<think>a</think>b") == "b"
    assert after_thinking("<think>a") == ""
    assert after_thinking("b") == "b"


def test_named_scores():
    text = "Alignment Score (1-5): 2.4036\nPhysics Score: 3\nAlignment Score (1-5): 4"
    assert named_score(text, "alignment", 1, 5) == 4
    assert named_score(text, "physics", 1, 5) == 3
    assert math.isnan(named_score(text, "style", 1, 5))
    assert math.isnan(named_score("Alignment Score (1-5): 9", "alignment", 1, 5))
    assert named_score("Alignment Score: 4/5", "alignment", 1, 5) == 4
    assert math.isnan(named_score("Alignment Score: 4/10", "alignment", 1, 5))
    assert math.isnan(named_score("Alignment Score (out of 10): 4", "alignment", 1, 5))
