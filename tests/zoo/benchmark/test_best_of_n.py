"""Best of n: exact expectations against enumeration."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch

from reelrl.zoo.benchmark.best_of_n import divergence, expected_best, rank_weights


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_the_expectation_is_that_over_all_subsets(n):
    generator = torch.Generator().manual_seed(0)
    proxy, gold = torch.rand(2, 7, generator=generator).double(), torch.rand(2, 7).double()
    subsets = list(combinations(range(7), n))
    best = [[max(s, key=lambda i, row=row: proxy[row, i]) for s in subsets] for row in range(2)]
    expected = [
        sum(float(values[row, i]) for row in range(2) for i in best[row]) / (2 * len(subsets))
        for values in (proxy, gold)
    ]
    assert expected_best(proxy, gold, n) == pytest.approx(expected)


def test_weights_are_a_distribution_and_the_ends_are_mean_and_maximum():
    assert float(rank_weights(64, 16).sum()) == pytest.approx(1)
    torch.testing.assert_close(rank_weights(5, 1), torch.full((5,), 0.2).double())
    assert rank_weights(5, 5).tolist() == [1, 0, 0, 0, 0]
    with pytest.raises(ValueError, match=r"n must be in \[1, 5\], got 6"):
        rank_weights(5, 6)


def test_a_clip_that_could_not_be_scored_is_never_chosen_before_one_that_was():
    proxy = torch.tensor([[math.nan, 0.1]]).double()
    best = expected_best(proxy, torch.tensor([[1.0, 0.5]]).double(), 2)
    assert best == pytest.approx((0.1, 0.5))


def test_divergence():
    assert divergence(1) == 0 and divergence(4) == pytest.approx(math.log(4) - 0.75)
