import pytest
import torch

from reelrl.rewards.soli.pairs import pairs_of


def test_pairs_are_every_pass_with_every_other_clip():
    passed = torch.tensor([True, False, True, False, False])
    pairs = pairs_of(passed)
    kinds = {
        kind: {tuple(pair) for pair in getattr(pairs, kind).nonzero().tolist()}
        for kind in ("win_lose", "win_tie", "lose_tie")
    }
    assert kinds["win_lose"] == {(i, j) for i in (0, 2) for j in (1, 3, 4)}
    assert kinds["win_tie"] == {(0, 2), (2, 0)}
    assert kinds["lose_tie"] == {(i, j) for i in (1, 3, 4) for j in (1, 3, 4) if i != j}
    # |W| (N - 1) pairs from N labels, quadratic in N at any share of passes.
    assert len(kinds["win_lose"] | kinds["win_tie"]) == 2 * (5 - 1)


def test_labels_of_another_kind_are_refused():
    with pytest.raises(ValueError, match=r"\(N,\) of bool, got torch.float32"):
        pairs_of(torch.zeros(3))
    with pytest.raises(ValueError, match=r"got torch.bool \(2, 2\)"):
        pairs_of(torch.zeros(2, 2, dtype=torch.bool))
