r"""Rewards of a set of clips, turned into a score per clip.

Diversity is a property of all clips of a prompt together. A clip's share in it is the loss of
the set without that clip, the leave-one-out marginal :math:`\Delta_i = U(S) - U(S \setminus i)`
(DRAGON, Bai et al. 2025). The members of a set must be scored in one batch: make the number of
environments a multiple of the group size.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from reelrl.rewards.base import Reward, register_reward
from reelrl.rewards.chunked import per_clip, spread_blocks

CELLS = 16
"""Frames, rows and columns that :func:`layout` reduces a clip to."""
FLAT = 1e-4
"""Root mean square below which features are rounding, far less than a level of 8 bits."""


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

    Subclasses define the value of a set (:meth:`utility`) and the features that compare its
    clips (:meth:`embed`). A clip that cannot be scored is not part of its set; in a set of less
    than two nothing can be compared, and its clip gets ``nan``.
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
        return self._by_group(self.marginals, videos, prompts, infos)

    def worth(
        self, videos: Tensor, prompts: Sequence[str], infos: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """Utility of the whole group that every clip is in, (N,): a number to log, not a credit.

        Marginals of a mean over pairs sum to zero in every group, so their average tells nothing.
        """

        def same(features: Tensor) -> Tensor:
            return self.utility(features[None]).expand(len(features))

        return self._by_group(same, videos, prompts, infos)

    def _by_group(
        self,
        credit: Callable[[Tensor], Tensor],
        videos: Tensor,
        prompts: Sequence[str],
        infos: Sequence[Mapping[str, Any]],
    ) -> Tensor:
        features = self.embed(videos)
        scores = features.new_full((len(videos),), torch.nan)
        for rows in group_rows(prompts, infos):
            if len(rows) > 1:
                index = torch.tensor(rows, dtype=torch.int64, device=features.device)
                scores = scores.index_copy(0, index, credit(features[index]))
        return scores

    def marginals(self, features: Tensor) -> Tensor:
        """U(S) - U(S without i) for every one of G clips (G, D), (G,)."""
        count = len(features)
        others = ~torch.eye(count, dtype=torch.bool, device=features.device)
        without = features.expand(count, -1, -1)[others].reshape(count, count - 1, -1)
        return self.utility(features[None]) - self.utility(without)


def layout(videos: Tensor) -> Tensor:
    """Features of place and time, (N, D): frames averaged to cells, less the clip's mean colour.

    Of at most 16 frames, spread evenly, and at most 16x16 cells. The cosine of two such vectors is
    their normalised cross-correlation.

    Args:
        videos: (N, F, H, W, 3).
    """
    height, width = videos.shape[2:4]
    down = _averages(height, videos.device).to(videos)
    across = _averages(width, videos.device).to(videos)

    def cells(clips: Tensor) -> Tensor:
        parts = []
        for block in spread_blocks(clips, CELLS):
            lines = down @ block.flatten(3)
            parts.append(torch.unflatten(lines, -1, (width, 3)).mT @ across.T)
        pooled = torch.cat(parts, dim=1)
        return (pooled - pooled.mean(dim=(1, 2, 4), keepdim=True)).flatten(1)

    return per_clip(videos, cells)


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _averages(size: int, device: torch.device) -> Tensor:
    """(cells, size) matrix that averages a column over cells of equal length."""
    eye = torch.eye(size, dtype=torch.float32, device=device)
    return functional.adaptive_avg_pool1d(eye, min(size, CELLS)).T.contiguous()


def cosines(features: Tensor) -> Tensor:
    """Cosine similarities (..., n, n) of features (..., n, D), exactly 1 on the diagonal.

    Features whose root mean square is below 1e-4 have no direction; flat clips are an example: two
    of them are alike, and unlike any other.
    """
    some = features.square().mean(dim=-1, keepdim=True) > FLAT**2
    unit = functional.normalize(torch.where(some, features, 0.0), dim=-1)
    flat = (~some).to(unit)
    kernel = unit @ unit.mT + flat @ flat.mT
    eye = torch.eye(kernel.shape[-1], dtype=torch.bool, device=kernel.device)
    return torch.where(eye, 1.0, kernel)


def mean_distance(kernel: Tensor) -> Tensor:
    """Mean over pairs of 1 - cosine, (..., n, n) -> (...); 0 for a single clip."""
    count = kernel.shape[-1]
    return (1 - kernel).sum(dim=(-2, -1)) / max(1, count * (count - 1))


def vendi_score(kernel: Tensor) -> Tensor:
    r"""Effective number of distinct clips, (..., n, n) -> (...) in [1, n].

    :math:`\exp(-\sum_i \lambda_i \log \lambda_i)` with the eigenvalues of K/n (Friedman and Dieng
    2022, eq. 2).
    """
    share = torch.linalg.eigvalsh(kernel / kernel.shape[-1]).clamp_min(1e-12)
    return torch.exp(-(share * share.log()).sum(dim=-1))


class KernelReward(GroupReward):
    """A utility that depends on the set's matrix of cosines alone."""

    differentiable = True

    @abstractmethod
    def of_kernel(self, kernel: Tensor) -> Tensor:
        """Worth of sets of n clips by their cosines, (..., n, n) -> (...)."""

    def utility(self, features: Tensor) -> Tensor:
        """:meth:`of_kernel` of M sets of n clips, (M, n, D) -> (M,)."""
        return self.of_kernel(cosines(features))

    def marginals(self, features: Tensor) -> Tensor:
        """As in :class:`GroupReward`, by dropping rows and columns of one matrix."""
        kernel, count = cosines(features), len(features)
        rows = torch.arange(count, dtype=torch.int64, device=features.device)
        kept = rows.expand(count, -1)[rows[:, None] != rows].reshape(count, count - 1)
        without = kernel[kept[:, :, None], kept[:, None, :]]
        return self.of_kernel(kernel) - self.of_kernel(without)


@register_reward("pairwise_distance")
class PairwiseDistance(KernelReward):
    """How much a clip adds to the mean distance between the clips of its prompt."""

    name, bounds = "pairwise_distance", (-2.0, 2.0)
    formula = "U(S) - U(S∖i), U = mean_{i<j} 1 - cos(z_i, z_j)"
    source = "leave-one-out of DRAGON, Bai et al. 2025"

    def of_kernel(self, kernel: Tensor) -> Tensor:
        """:func:`mean_distance`."""
        return mean_distance(kernel)


@register_reward("vendi")
class Vendi(KernelReward):
    """How much a clip adds to the share of distinct clips among its prompt's clips."""

    name, bounds = "vendi", (-1.0, 1.0)
    formula = "U(S) - U(S∖i), U = exp(-Σ λ log λ)/n, λ = eig(K/n), K = cos(z_i, z_j)"
    source = "Friedman and Dieng 2022, eq. 2; leave-one-out of DRAGON, Bai et al. 2025"

    def of_kernel(self, kernel: Tensor) -> Tensor:
        """:func:`vendi_score` over the number of clips."""
        return vendi_score(kernel) / kernel.shape[-1]
