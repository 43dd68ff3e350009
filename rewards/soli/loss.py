r"""The win-tie Bradley-Terry loss, in the paper's form, the released code's, and around them.

With :math:`\Delta = r_i - r_j` and softplus s, a pair (pass, fail) costs :math:`s(m - \Delta)` and
a pair (pass, pass) :math:`s(m - \Delta) + s(m + \Delta)`, each with a weight. The two published
forms differ by more than a constant: with the code's margin of 3 a tie hardly pulls while
:math:`|\Delta| \le 1`, so passes may keep a spread that the paper's form removes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import softplus

from reelrl.checks import Ge, check_fields
from reelrl.naming import Registry
from reelrl.rewards.soli.pairs import pairs_of


def win_lose_term(difference: Tensor, margin: float) -> Tensor:
    r""":math:`-\log\sigma(\Delta - m)` of pairs whose first clip should score higher."""
    return softplus(margin - difference)


def tie_term(difference: Tensor, margin: float) -> Tensor:
    r""":math:`-\log\sigma(\Delta - m) - \log\sigma(-\Delta - m)` of pairs that should score alike.

    Smallest at :math:`\Delta = 0`; its slope is :math:`\sigma(m + \Delta) - \sigma(m - \Delta)`.
    """
    return softplus(margin - difference) + softplus(margin + difference)


@dataclass(frozen=True)
class WinTieLoss:
    """A Bradley-Terry loss with ties on single labels; the mean over the pairs it has.

    Attributes:
        margin: m, in units of the score.
        win_lose: weight of pairs (pass, fail).
        win_tie: weight of pairs (pass, pass); 0 leaves them out of the mean.
        lose_tie: weight of pairs (fail, fail); 0 leaves them out of the mean.

    Raises:
        ValueError: for a negative margin or weight, or weights that are all 0.
    """

    margin: Annotated[float, Ge(0)] = 0.0
    win_lose: Annotated[float, Ge(0)] = 1.0
    win_tie: Annotated[float, Ge(0)] = 0.5
    lose_tie: Annotated[float, Ge(0)] = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not any((self.win_lose, self.win_tie, self.lose_tie)):
            raise ValueError(f"expected a weight above 0, got {self}")

    def __call__(self, scores: Tensor, passed: Tensor) -> Tensor:
        """The loss of a batch, a scalar.

        Exactly 0, with gradient 0, for a batch without a pair of a kind that has weight, such as
        one of losses only.

        Args:
            scores: (N,) floats.
            passed: (N,) bool, of any prompts.

        Raises:
            ValueError: if the two do not go together.
        """
        if scores.shape != passed.shape:
            raise ValueError(
                f"expected a score per label, got {tuple(scores.shape)} and {tuple(passed.shape)}"
            )
        pairs = pairs_of(passed)
        difference = scores[:, None] - scores
        tie = tie_term(difference, self.margin)
        total, count = scores.sum() * 0, passed.new_zeros((), dtype=torch.long)
        for weight, mask, term in (
            (self.win_lose, pairs.win_lose, win_lose_term(difference, self.margin)),
            (self.win_tie, pairs.win_tie, tie),
            (self.lose_tie, pairs.lose_tie, tie),
        ):
            if weight:
                total = total + weight * (term * mask).sum()
                count = count + mask.sum()
        return total / count.clamp_min(1)


LOSSES: Registry[WinTieLoss] = Registry("loss")
"""Presets: no ties; the loss as printed; as released (``compute_bt_loss``, margin 3, both weights
1); the printed one with lose-lose ties, which the paper finds to hurt."""
LOSSES.register("bt")(WinTieLoss(win_tie=0.0))
LOSSES.register("paper")(WinTieLoss())
LOSSES.register("code")(WinTieLoss(margin=3.0, win_tie=1.0))
LOSSES.register("btt")(WinTieLoss(lose_tie=0.5))


def make_loss(name: str) -> WinTieLoss:
    """A preset.

    Raises:
        ValueError: for an unknown name.
    """
    return LOSSES.find(name)
