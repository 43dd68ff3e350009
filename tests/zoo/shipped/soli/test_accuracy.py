"""The numbers against counting by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelrl.zoo.shipped.soli.accuracy import best_threshold, measure, pairwise_accuracy

labelled = st.lists(
    st.tuples(st.integers(-4, 4).map(float), st.booleans()), min_size=1, max_size=12
)


def split(batch):
    return torch.tensor([s for s, _ in batch]), torch.tensor([label for _, label in batch])


@given(labelled)
def test_no_threshold_errs_less(batch):
    scores, labels = split(batch)
    found = best_threshold(scores, labels)
    right = ((scores >= found) == labels).sum()
    tried = [x / 2 - 5 for x in range(0, 21)]
    assert right == max(((scores >= t) == labels).sum() for t in tried)


@given(labelled)
def test_pairs_are_counted(batch):
    wins = [s for s, label in batch if label]
    losses = [s for s, label in batch if not label]
    found = pairwise_accuracy(*split(batch))
    if not wins or not losses:
        assert math.isnan(found)
        return
    points = [(w > x) + 0.5 * (w == x) for w in wins for x in losses]
    assert found == pytest.approx(sum(points) / len(points))


def test_numbers_in_closed_form():
    scores = torch.tensor([3.0, 1.0, 0.0, -4.0])
    truth = torch.tensor([True, True, False, False])
    found = measure(scores, truth, 2.0)
    assert found["clips"] == 4 and found["passes"] == 0.5
    assert found["accuracy"] == 0.75 and found["pairwise"] == 1
    assert found["spread_raw"] == 1 and found["gap"] == 4
    assert found["spread"] == pytest.approx(1 / math.sqrt(6.5))
    # The scale and the level of a score are arbitrary.
    again = measure(2 * scores + 5, truth, 9.0)
    assert again["spread"] == found["spread"] and again["pairwise"] == found["pairwise"]
