"""BranchGRPO: advantages of the nodes of a denoising tree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from reelrl.algos.advantages.batch import Signal, Work, expect_shape, total_score
from reelrl.algos.advantages.masked import Masked, group_top, safe_divide, to_tensor
from reelrl.algos.advantages.norm import NormSpec, is_noise
from reelrl.algos.advantages.pipeline import Estimator, EstimatorConfig
from reelrl.algos.advantages.registry import register_estimator
from reelrl.algos.advantages.types import State

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@register_estimator("branch_grpo")
class BranchGRPO(Estimator):
    """Node value = mean of its leaves (eq. 3), normalised over the nodes of its depth (eq. 4).

    Leaf g at depth d gets the advantage of the node it passes there: (P, G, D), one column per edge
    from the root to the leaves. A depth without a branch repeats the values of its parents.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(EstimatorConfig):
        """Settings of BranchGRPO.

        Attributes:
            fusion: "uniform" leaf mean, or "path": leaves weighted by softmax(beta * log-prob.
                of the path from the node), which needs ``edge_logp``.
            beta: 0 is uniform, 1 weights by path probability.
            group: ddof, epsilon and clip over the nodes of a depth; a std below ``zero_tol`` (times
                the largest value) gives zeros. The released code takes it as it is, in units of
                the reward.
        """

        fusion: Literal["uniform", "path"] = "uniform"
        beta: float = 1.0
        group: NormSpec = field(default=NormSpec(eps=1e-8, zero_tol=1e-6, clip=5.0))

        def __post_init__(self) -> None:
            super().__post_init__()
            if (self.group.baseline, self.group.scale, self.group.eps_mode) != (
                "mean",
                "group",
                "add",
            ):
                raise ValueError(
                    f"branch_grpo centres and scales by depth with std + eps, got {self.group}"
                )

    source: ClassVar[str] = "arXiv 2509.06040 v5"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "code": {},
        "path_weighted": {"fusion": "path"},
    }

    @property
    def requires(self) -> frozenset[str]:
        """The tree, and edge log-probabilities for path fusion."""
        path = {"edge_logp"} if self.config.fusion == "path" else set()
        return super().requires | {"tree_parent"} | path

    def estimate(self, work: Work, state: State) -> tuple[Signal, State]:
        """Fuse leaf rewards upwards, then normalise by depth."""
        if work.dense:
            raise ValueError("branch_grpo takes the rewards of the leaves, (P, G, K)")
        leaves = total_score(work.scores, work.weights, work.gather)
        # Where it lies: a tree on the host is read without a wait for the rewards' device.
        parent = to_tensor(work.batch.extras["tree_parent"]).to(torch.int64)
        expect_shape("tree_parent", tuple(parent.shape), (work.shape[0], None))
        path = ancestors(parent, work.shape[1]).to(work.device, non_blocking=True)
        same = path.unsqueeze(2) == path.unsqueeze(1)  # (P, G, G, D): do two leaves share a node
        weight = same.to(leaves.values.dtype)
        if self.config.fusion == "path":
            counted = same & leaves.present[:, None, :, None]
            weight = weight * self._path_weights(work, path, counted)
        value, count = _fuse(leaves, weight, same)
        advantage = _by_depth(value, count, self.config.group)
        return Signal(advantage, work.scores, work.weights, value), state

    def _path_weights(
        self, work: Work, path: Int[Tensor, "P G D"], counted: Bool[Tensor, "P G G D"]
    ) -> Float[Tensor, "P G G D"]:
        """exp(beta * log-probability of the path from the node to each of its ``counted`` leaves).

        Over the largest of them: log-probabilities of whole latents are thousands of nats apart.
        """
        prompts = work.shape[0]
        nodes = work.batch.extras["tree_parent"].shape[1]
        edges = work.extra("edge_logp", prompts, nodes).values
        taken = edges.gather(1, path.flatten(1)).reshape(path.shape)
        # Log-probability of the edges after depth d only.
        below = taken.flip(-1).cumsum(-1).flip(-1) - taken
        logits = self.config.beta * below.unsqueeze(1).expand(counted.shape)
        logits = torch.where(counted, logits, -torch.inf)
        top = logits.amax(2, keepdim=True) if logits.numel() else logits
        # A node without a leaf that counts has no top.
        return (logits - torch.where(top.isfinite(), top, 0.0)).exp()


def ancestors(parent: Int[Tensor, "P N"], leaves: int) -> Int[Tensor, "P G D"]:
    """Node that each leaf passes at each depth: (P, N) parents -> (P, G, D).

    The tree is small metadata that the sampler made: how deep it is decides the shape of the
    result, so give it on the host.

    Args:
        parent: (P, N) parent of each node, -1 for a root; the last G nodes are the leaves.
        leaves: G.

    Raises:
        ValueError: if a parent is out of range or after its child, or leaves differ in depth.
    """
    prompts, nodes = parent.shape
    if nodes < leaves:
        raise ValueError(f"tree_parent must name at least the {leaves} leaves, got {nodes} nodes")
    here = torch.arange(nodes, dtype=torch.int64, device=parent.device)
    if not bool(((parent >= -1) & (parent < here)).all()):
        raise ValueError("tree_parent must be -1 or the index of an earlier node")
    node = here[nodes - leaves :].expand(prompts, leaves)
    path: list[Tensor] = []
    while node.numel() and bool((up := parent.gather(1, node)).ge(0).any()):
        if not bool((up >= 0).all()):
            raise ValueError("all leaves must lie at the same depth of their trees")
        path.append(node)
        node = up
    if not path:
        return parent.new_zeros(prompts, leaves, 0)
    return torch.stack(path[::-1], -1)


def _fuse(
    leaves: Masked, weight: Float[Tensor, "P G G D"], same: Bool[Tensor, "P G G D"]
) -> tuple[Masked, Float[Tensor, "P G D"]]:
    """Value of each leaf's node at each depth, and how many valid leaves share that node."""
    valid = leaves.present.to(weight.dtype).unsqueeze(1).unsqueeze(-1)  # (P, 1, G, 1)
    mass = (weight * valid).sum(2)
    value = safe_divide((weight * (leaves.values.unsqueeze(1).unsqueeze(-1) * valid)).sum(2), mass)
    count = (same * valid).sum(2)
    present = leaves.present.unsqueeze(-1).expand_as(value)
    # A node is worth a mean of leaves, so it is as large as they were before they were summed.
    size = group_top(leaves.sizes).unsqueeze(-1).expand_as(value)
    fused = Masked.of(value, None if leaves.mask is None else present)
    return replace(fused, size=size), count


def _by_depth(value: Masked, count: Float[Tensor, "P G D"], spec: NormSpec) -> Masked:
    """z-score over the distinct nodes of each depth; each leaf counts 1 / (leaves of its node)."""
    present = value.present.to(count.dtype)
    share = safe_divide(present, count)
    nodes = share.sum(1, keepdim=True)
    mean = safe_divide((share * value.values).sum(1, keepdim=True), nodes)
    centred = (value.values - mean) * present
    m2 = (share * centred.square()).sum(1, keepdim=True)
    # 1/3 + 1/3 + 1/3 is not 1; counts of nodes are whole numbers.
    nodes = nodes.round()
    left = nodes - spec.ddof
    std = torch.where(left > 0, m2 / torch.where(left > 0, left, 1.0), 0.0).sqrt()
    tol = 1e-6 if spec.zero_tol is None else spec.zero_tol
    dead = (nodes < 2) | is_noise(std, group_top(value.sizes * present), tol)
    factor = torch.where(dead, 0.0, 1 / torch.where(dead, 1.0, std + spec.eps))
    values = centred * factor
    values = values if spec.clip is None else values.clamp(-spec.clip, spec.clip)
    return Masked(values, value.mask)
