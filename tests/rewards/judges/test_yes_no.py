"""P(yes) in closed form, and the mass that it needs."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelrl.rewards.judges.chat import read_yes
from reelrl.rewards.judges.yes_no import NO, YES, yes_of_logits, yes_of_top


def test_spellings():
    assert set(YES) == {"yes", "Yes", "YES", " yes", " Yes", " YES"}
    assert len(NO) == 6


def test_from_logits_in_closed_form():
    shares = torch.tensor([[0.3, 0.1, 0.2, 0.4], [0.2, 0.1, 0.1, 0.6]])
    p, mass = yes_of_logits(shares.log() + 5, [0, 1], [2])
    assert p[0] == pytest.approx(0.4 / 0.6) and p[1].isnan()
    torch.testing.assert_close(mass, torch.tensor([0.6, 0.4]))


def test_from_a_list_in_closed_form():
    top = [("yes", 0.3), (" Yes", 0.1), ("▁no", 0.2), ("ĠNO", 0.1), ("perhaps", 0.05)]
    p, mass = yes_of_top([(token, math.log(share)) for token, share in top])
    assert p == pytest.approx(0.4 / 0.7) and mass == pytest.approx(0.7)


def test_a_word_that_is_not_listed_is_bounded_by_the_last_that_is():
    p, mass = yes_of_top([("yes", math.log(0.8)), ("a", math.log(0.05)), ("b", math.log(0.02))])
    assert p == pytest.approx(0.8 / 0.82) and p < 1
    assert mass == pytest.approx(0.8)
    q, _ = yes_of_top([("no", math.log(0.8)), ("b", math.log(0.02))])
    assert q == pytest.approx(0.02 / 0.82) and q > 0


def test_a_word_that_is_not_listed_has_no_more_than_what_the_listed_leave():
    p, mass = yes_of_top([("yes", math.log(0.99))])
    assert p == pytest.approx(0.99) and mass == pytest.approx(0.99)
    p, _ = yes_of_top([("no", math.log(0.6)), ("maybe", math.log(0.3))])
    assert p == pytest.approx(0.1 / 0.7)
    # Rounding may take a sum above 1; nothing is left then.
    assert yes_of_top([("yes", 1e-7)])[0] == 1


@pytest.mark.parametrize("top", [[], [("yes", math.nan)], [("yes", 0.1)], [("yes", math.inf)]])
def test_what_is_no_log_probability_is_refused(top):
    with pytest.raises(ValueError, match="missing or out of range"):
        yes_of_top(top)


@pytest.mark.parametrize("shares", [(0.9, 0.9), (0.6, 0.45), (1.0, 1e-2 + 1e-3)])
def test_probabilities_of_more_than_one_are_refused(shares):
    top = list(zip(("yes", "no"), map(math.log, shares), strict=True))
    with pytest.raises(ValueError, match="must sum to at most 1"):
        yes_of_top(top)


@pytest.mark.parametrize("entry", [{"token": 5}, {"logprob": "-0.1"}, {"logprob": True}, {}])
def test_a_reply_without_tokens_or_numbers_is_no_score(entry):
    whole = {"token": "yes", "logprob": -0.1}
    listed = [{**whole, **entry} if entry else {"logprob": -0.1}]
    reply = {"choices": [{"logprobs": {"content": [{"top_logprobs": listed}]}}]}
    with pytest.raises(ValueError, match="log-probabilit"):
        read_yes(reply)
    for value in (10**400, -(10**400), math.nan):
        with pytest.raises(ValueError, match="log-probabilit"):
            read_yes(yes_list(value))


def yes_list(value):
    top = [{"token": "yes", "logprob": value}]
    return {"choices": [{"logprobs": {"content": [{"top_logprobs": top}]}}]}


@given(st.floats(0.01, 0.99), st.floats(0.5, 1.0))
def test_both_readings_agree(share, mass):
    yes, no, rest = share * mass, (1 - share) * mass, 1 - mass
    top = [("yes", math.log(yes)), ("no", math.log(no)), ("x", math.log(rest + 1e-12))]
    logits = torch.tensor([[yes, no, rest + 1e-12]], dtype=torch.float64).log()
    p, held = yes_of_top(top)
    if held >= 0.5 + 1e-6:
        assert float(yes_of_logits(logits, [0], [1])[0]) == pytest.approx(p, abs=1e-6)
