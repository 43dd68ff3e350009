"""Captions stay captions, and a score is read where the judge stands by it."""

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelrl.rewards.answers import after_thinking, fill, inert, last_score, named_score
from reelrl.rewards.judges.transport import Reply
from reelrl.rewards.vlm.videoscore2 import digit_place

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
        # An object with the key is the answer. Text inside and after it is not.
        ('{"score": 4, "reason": "score: 1 would be too low"}', 4),
        ('{"score": 4}\nA score: 1 would be too low.', 4),
        ('{"score": 4}\nScore: 1 would be harsh', 4),
        ('Sure! {"score": 4} because a score: 1 is too low', 4),
        ('```json\n{"score": 2}\n```\nA score: 5 would be kind', 2),
        ('{"score": 1}\n{"score": 4}', 4),
        ('{"score": 1, "why": "' + "x" * 5000 + '"}\n{"score": 4}', 4),
        ('{"result": {"score": 4}}', 4),
        ('{"Score": 3}', 3),
        ('{"score": 4, "reason": "' + "score: 1 " * 2000 + '"}', 4),
        ('{"score": 4, "reason": "' + "score: 1 " * 2000, 4),
        ("x " * 9000 + "Score: 3", 3),
        ("Score: 4 (1-5)", 4),
        ("Score: 4 on a scale from 1 to 5", 4),
        ("4 stars out of five", 4),
        ("Score: __4__", 4),
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
        "Score: 4 of 10",
        "Score: 4 out of ten",
        "Score: 4 points out of 10",
        "Score: 4 (1-10)",
        "Score (0-5): 4",
        "Score (1-10): 4",
        "Score: 4 on a scale of 1 to 10",
        "Score: 80%",
        "Score: 4%",
        # A range, or two numbers, is no score.
        "Score: 4-5",
        "Score: 4 - 5",
        "Score: 4–5",
        "Score: 4 to 5",
        "Score: 4 or 5",
        "Score: 4 ± 1",
        "Score: 4 +/- 1",
        "Score: 4 (range 3-5)",
        "Score: 4,5",
        "Score: 4.5.1",
        "Score: 4th",
        '{"score": "4-5"}',
        '{"score": [4]}',
        '{"score": true}',
        '{"score": null, "reason": "score: 4"}',
        '{"score": ' + "9" * 5000 + "}",
        "1" * 5000,
        "Score: ٤",
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


PATTERNS = [
    *("1", "1x", " ", "\n", "5 ", "<score>", "<score>1", "[", "{", '{"a":', '{"score":', "[{"),
    *('{"score":1,', '{"a":{},', '{"x":1}', "\\", '"', '"score":', "score", "score:", "score: "),
    *("٣", "4-", "4/", "(", "*", ".1", "1.", "1e", "-", "to ", "</think>", "<think>"),
    *("Alignment ", "Alignment Score", "Alignment Score ", "visual quality", "visual quality:"),
]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("before", ["", "5", "<score>", '{"score": ', '{"a":[', "Score: "])
def test_a_megabyte_of_anything_is_read_in_no_time(pattern, before):
    """Regular expressions hold the lock of the interpreter: no deadline can cut them short."""
    answer = before + pattern * (1_000_000 // len(pattern)) + "x"
    readers = (
        lambda: last_score(answer, 1, 5),
        lambda: named_score(answer, "alignment", 1, 5),
        lambda: digit_place(answer, "visual quality"),
        lambda: Reply(200, answer.encode()).message("secret"),
    )
    for read in readers:
        read()  # what is compiled and warmed up once is not what is asked
        began = time.process_time()
        read()
        assert time.process_time() - began < 0.5


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
    assert math.isnan(named_score("Alignment Score (1-10): 4", "alignment", 1, 5))
    assert math.isnan(named_score("Alignment Score: 4-5", "alignment", 1, 5))


def test_digits_of_a_range_or_another_scale_are_no_place():
    assert digit_place("visual quality: 4", "visual quality") == 16
    long = "x" * 9000 + "\nvisual quality (sharp): **3**"
    assert long[digit_place(long, "visual quality")] == "3"
    for answer in ("4-5", "4/10", "4 of 10", "4 to 5", "4.5", "45"):
        assert digit_place(f"visual quality: {answer}", "visual quality") is None
