"""Inputs of a component: clips in any array type, and facts that tell whether groups are whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reelrl.rewards.returned import RewardMisuse

GROUP_SIZE = "group_size"
"""Key of the infos under which a caller says how many clips a group has."""


def check_whole(name: str, infos: Sequence[Mapping[str, Any]]) -> None:
    """See that a batch holds whole groups, as far as its infos tell the groups.

    Args:
        name: of the component that compares clips.
        infos: of N clips; ``group_size`` where known says how many have their ``group_id``.

    Raises:
        RewardMisuse: for a group of which more or fewer clips are there.
    """
    sizes: dict[Any, int] = {}
    counts: dict[Any, int] = {}
    for info in infos:
        group, size = info.get("group_id"), info.get(GROUP_SIZE)
        if group is not None and size is not None:
            sizes[group] = int(size)
            counts[group] = counts.get(group, 0) + 1
    for group, size in sizes.items():
        if counts[group] != size:
            raise RewardMisuse(
                f"reward {name!r} compares the {size} clips of a group, got {counts[group]} of "
                f"group {group}: make the batch a multiple of the group size"
            )


def as_tensor(videos: Any) -> Tensor:
    """Clips as a tensor; a NumPy array is not copied unless torch cannot share its memory."""
    if not isinstance(videos, np.ndarray):
        return videos  # type: ignore[no-any-return]  # a tensor, by the signature
    if videos.dtype.kind not in "biuf" or not videos.dtype.isnative:
        raise ValueError(f"expected float videos in [0, 1], got an array of {videos.dtype}")
    shared = videos.flags.writeable and all(stride >= 0 for stride in videos.strides)
    return torch.from_numpy(videos if shared else videos.copy())


class ReadOnly(dict[Any, Any]):
    """A dict that nobody can write into; a copy of it, also by pickle, is an ordinary one."""

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        """Raise TypeError."""
        raise TypeError("the facts of a clip are read-only: work on a copy, dict(info)")

    __setitem__ = __delitem__ = __ior__ = _refuse
    update = pop = popitem = clear = setdefault = _refuse

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


def frozen(value: Any) -> Any:
    """A value whose dicts and lists, all the way down, nobody can write into."""
    if isinstance(value, Mapping):
        return ReadOnly({key: frozen(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return tuple(frozen(item) for item in value)
    return value
