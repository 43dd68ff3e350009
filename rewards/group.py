r"""Rewards of a set of clips, turned into a score per clip.

Diversity is a property of all clips of a prompt together. A clip's share in it is what the set
would lose without it, the leave-one-out marginal :math:`\Delta_i = U(S) - U(S \setminus i)`
(DRAGON, Bai et al. 2025). The members of a set must be scored in one batch: make the number of
environments a multiple of the group size.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from reelrl.rewards.base import Reward, register_reward
from reelrl.rewards.blocks import per_clip


def group_rows(prompts: Sequence[str], infos: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Rows of every group, in order of first appearance.

    A clip belongs to the group of its ``infos[i]["group_id"]``, else of its ``"prompt_id"``, else
    of its prompt's text.
    """
    groups: dict[Any, list[int]] = {}
    for row, (prompt, info) in enumerate(zip(prompts, infos, strict=True)):
        key = info.get("group_id", info.get("prompt_id", prompt))
        groups.setdefault(key, []).append(row)
    return list(groups.values())


class GroupReward(Reward):
    """Leave-one-out credit for a utility of the set of clips that share a prompt.

    Subclasses say what a set is worth (:meth:`utility`) and by what features its clips are compared
    (:meth:`embed`). A clip that cannot be scored is not part of its set; in a set of less than two
    nothing can be compared, and its clip gets ``nan``.
    """

    groupwise, deterministic = True, False

    @abstractmethod
    def utility(self, features: Tensor) -> Tensor:
        """Worth of M sets of n clips, (M, n, D) -> (M,)."""

    def embed(self, videos: Tensor) -> Tensor:
        """Features (N, D) of clips (N, F, H, W, 3); by default :func:`layout`."""
        return layout(videos)

    def score(
        self, videos: Tensor, prompts: Sequence[str], infos: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """Marginal of every clip in its group, (N,); see :func:`group_rows`."""
        features = self.embed(videos)
        scores = features.new_full((len(videos),), torch.nan)
        for rows in group_rows(prompts, infos):
            if len(rows) > 1:
                index = torch.tensor(rows, device=features.device)
                scores = scores.index_copy(0, index, self.marginals(features[index]))
        return scores

    def marginals(self, features: Tensor) -> Tensor:
        """U(S) - U(S without i) for every one of G clips (G, D), (G,)."""
        count = len(features)
        others = ~torch.eye(count, dtype=torch.bool, device=features.device)
        without = features.expand(count, -1, -1)[others].reshape(count, count - 1, -1)
        return self.utility(features[None]) - self.utility(without)

    def _score_finite(
        self,
        videos: Tensor,
        finite: Tensor,
        prompts: Sequence[str],
        infos: Sequence[Mapping[str, Any]],
    ) -> Tensor:
        rows = finite.nonzero().flatten()
        kept = rows.tolist()
        scores = self.score(videos[rows], [prompts[i] for i in kept], [infos[i] for i in kept])
        out = scores.new_full((len(videos),), torch.nan)
        return out.index_copy(0, rows.to(scores.device), scores)


def layout(videos: Tensor, grid: tuple[int, int, int] = (8, 16, 16)) -> Tensor:
    """What is where and when, (N, D): clips averaged to a grid of cells, less their mean colour.

    The cosine of two such vectors is their normalised cross-correlation.

    Args:
        videos: (N, F, H, W, 3).
        grid: frames, rows and columns of cells, at most those of the clip.
    """
    size = tuple(min(a, b) for a, b in zip(grid, videos.shape[1:4], strict=True))

    def cells(clips: Tensor) -> Tensor:
        pooled = functional.adaptive_avg_pool3d(clips.movedim(-1, 1), size)
        return (pooled - pooled.mean(dim=(2, 3, 4), keepdim=True)).flatten(1)

    return per_clip(videos, cells)


def cosines(features: Tensor) -> Tensor:
    """Cosine similarities (..., n, n) of features (..., n, D), exactly 1 on the diagonal."""
    unit = functional.normalize(features, dim=-1)
    kernel = unit @ unit.mT
    eye = torch.eye(kernel.shape[-1], dtype=torch.bool, device=kernel.device)
    return torch.where(eye, 1.0, kernel)


def mean_pairwise_distance(features: Tensor) -> Tensor:
    """Mean over pairs of 1 - cosine, (M, n, D) -> (M,); 0 for a single clip."""
    count = features.shape[-2]
    if count < 2:
        return features.new_zeros(features.shape[:-2])
    return (1 - cosines(features)).sum(dim=(-2, -1)) / (count * (count - 1))


def vendi_score(features: Tensor) -> Tensor:
    r"""Effective number of distinct clips, (M, n, D) -> (M,) in [1, n].

    :math:`\exp(-\sum_i \lambda_i \log \lambda_i)` with the eigenvalues of K/n, K the cosine kernel
    (Friedman and Dieng 2022, eq. 2).
    """
    share = torch.linalg.eigvalsh(cosines(features) / features.shape[-2]).clamp_min(1e-12)
    return torch.exp(-(share * share.log()).sum(dim=-1))


@register_reward("pairwise_distance")
class PairwiseDistance(GroupReward):
    """What a clip adds to the mean distance between the clips of its prompt."""

    name, bounds = "pairwise_distance", (-2.0, 2.0)
    formula = "U(S) - U(S∖i), U = mean_{i<j} 1 - cos(z_i, z_j)"
    source = "leave-one-out of DRAGON, Bai et al. 2025"
    differentiable = True

    def utility(self, features: Tensor) -> Tensor:
        """:func:`mean_pairwise_distance`."""
        return mean_pairwise_distance(features)


@register_reward("vendi")
class Vendi(GroupReward):
    """What a clip adds to the share of distinct clips among those of its prompt."""

    name, bounds = "vendi", (-1.0, 1.0)
    formula = "U(S) - U(S∖i), U = exp(-Σ λ log λ)/n, λ = eig(K/n), K = cos(z_i, z_j)"
    source = "Friedman and Dieng 2022, eq. 2; leave-one-out of DRAGON, Bai et al. 2025"
    differentiable = True

    def utility(self, features: Tensor) -> Tensor:
        """:func:`vendi_score` over the number of clips."""
        return vendi_score(features) / features.shape[-2]
