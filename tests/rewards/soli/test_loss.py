"""The win-tie loss against closed forms, the published slopes, and a slow loop."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelrl.rewards.soli.loss import LOSSES, WinTieLoss, make_loss, tie_term, win_lose_term


def slope(term, difference, margin):
    x = torch.tensor(difference, dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(term(x, margin), x)[0].item()


@pytest.mark.parametrize(
    ("difference", "summed", "released"),
    [(0.1, 0.050, 0.009), (1.0, 0.462, 0.101), (3.0, 0.905, 0.498), (6.0, 0.995, 0.952)],
)
def test_the_slopes_of_a_tie(difference, summed, released):
    """At margin 0 twice the paper's; at the code's margin nearly flat up to a difference of 1."""
    assert slope(tie_term, difference, 0.0) == pytest.approx(summed, abs=6e-4)
    assert slope(tie_term, difference, 3.0) == pytest.approx(released, abs=6e-4)
    half = 1 / (1 + math.exp(-difference)) - 0.5
    assert slope(tie_term, difference, 0.0) / 2 == pytest.approx(half)
    assert slope(tie_term, -difference, 3.0) == -slope(tie_term, difference, 3.0)


def test_terms_in_closed_form():
    zero = torch.zeros(())
    assert win_lose_term(zero, 0.0).item() == pytest.approx(math.log(2))
    assert tie_term(zero, 0.0).item() == pytest.approx(2 * math.log(2))
    assert tie_term(zero, 3.0).item() == pytest.approx(2 * math.log1p(math.exp(3)))
    assert slope(win_lose_term, 3.0, 3.0) == pytest.approx(-0.5)
    # Far from everything it is linear, and never overflows.
    assert win_lose_term(torch.tensor(-1e4), 3.0).item() == 10_003


def test_the_presets_are_the_published_ones():
    values = {name: tuple(vars(loss).values()) for name, loss in LOSSES.items()}
    assert values == {
        "bt": (0, 1, 0, 0), "paper": (0, 1, 0.5, 0), "code": (3, 1, 1, 0), "btt": (0, 1, 0.5, 0.5),
    }  # fmt: skip
    assert make_loss("code") == WinTieLoss(3.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="unknown loss 'papr'; did you mean 'paper'"):
        make_loss("papr")


def slow(scores, passed, loss):
    """Pair by pair as the paper writes it: mu is 1 for (win, lose) and one half for a tie."""
    terms = []
    for i, x in enumerate(scores):
        for j, y in enumerate(scores):
            if i == j:
                continue
            log_win = -math.log1p(math.exp(loss.margin - (x - y)))
            log_lose = -math.log1p(math.exp(loss.margin + (x - y)))
            if passed[i] and not passed[j]:
                terms.append(-loss.win_lose * log_win)
            elif passed[i] and passed[j] and loss.win_tie:
                terms.append(-loss.win_tie * (log_win + log_lose))
            elif not passed[i] and not passed[j] and loss.lose_tie:
                terms.append(-loss.lose_tie * (log_win + log_lose))
    return sum(terms) / max(1, len(terms))


batches = st.lists(
    st.tuples(st.floats(-8, 8, allow_subnormal=False), st.booleans()), min_size=1, max_size=9
)
presets = st.sampled_from(sorted(LOSSES))


def tensors(batch):
    scores = torch.tensor([score for score, _ in batch], dtype=torch.float64)
    return scores.requires_grad_(), torch.tensor([label for _, label in batch])


@given(batches, presets)
def test_it_is_the_mean_over_pairs(batch, name):
    scores, passed = tensors(batch)
    found = make_loss(name)(scores, passed).item()
    expected = slow(scores.tolist(), passed.tolist(), make_loss(name))
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(batches, presets, st.randoms(use_true_random=False), st.floats(-5, 5))
def test_neither_order_nor_level_matters(batch, name, random, level):
    scores, passed = tensors(batch)
    order = list(range(len(batch)))
    random.shuffle(order)
    loss = make_loss(name)
    moved = loss(scores[order] + level, passed[order])
    torch.testing.assert_close(moved, loss(scores, passed), rtol=1e-6, atol=1e-9)
    (gradient,) = torch.autograd.grad(loss(scores, passed), scores)
    assert gradient.sum().abs() < 1e-9


@given(batches, presets)
def test_passes_are_pushed_over_fails(batch, name):
    """Raising every pass by one step lowers the loss, as long as there is someone to beat."""
    scores, passed = tensors(batch)
    loss = make_loss(name)
    raised = loss(scores + 0.5 * passed, passed)
    if passed.any() and not passed.all():
        assert raised < loss(scores, passed)
    else:
        assert raised.item() == pytest.approx(loss(scores, passed).item(), abs=1e-9)


@given(st.floats(0.05, 8), st.sampled_from(["paper", "code", "btt"]))
def test_a_tie_pulls_two_passes_together_evenly(gap, name):
    scores = torch.tensor([gap, 0.0], dtype=torch.float64, requires_grad=True)
    both = torch.tensor([True, True])
    (gradient,) = torch.autograd.grad(make_loss(name)(scores, both), scores)
    assert gradient[0] > 0 and gradient[0] == -gradient[1]
    (apart,) = torch.autograd.grad(make_loss("bt")(scores, both), scores)
    assert apart.tolist() == [0, 0]


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("labels", [[], [True], [False], [True] * 3, [False] * 3])
def test_one_sided_batches_are_well_defined(name, labels):
    scores = torch.arange(len(labels), dtype=torch.float64).requires_grad_()
    passed = torch.tensor(labels, dtype=torch.bool)
    loss = make_loss(name)(scores, passed)
    loss.backward()
    assert loss.isfinite() and scores.grad.isfinite().all()
    tied = (all(labels) and LOSSES[name].win_tie) or (not any(labels) and LOSSES[name].lose_tie)
    if len(labels) < 2 or not tied:
        assert loss == 0 and not scores.grad.any()


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"a score per label, got \(3,\) and \(2,\)"):
        make_loss("bt")(torch.zeros(3), torch.tensor([True, False]))
    with pytest.raises(ValueError, match=r"margin must be at least 0, got -1.0"):
        WinTieLoss(margin=-1.0)
    with pytest.raises(ValueError, match="a weight above 0"):
        WinTieLoss(win_lose=0.0, win_tie=0.0)
