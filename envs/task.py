"""Shared parts of both environments: model, prompts, schedule, rewards, spaces."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Space
from numpy.typing import NDArray
from torch import Tensor

from reelrl.ambient import undisturbed
from reelrl.envs import mdp
from reelrl.envs.models.base import VideoModel
from reelrl.envs.prompts import resolve_prompts
from reelrl.envs.sampling import NOISE_SEEDS
from reelrl.envs.scoring import OnRewardError, RewardList, Scores, Weights, read_weights
from reelrl.envs.spaces import UniformBox
from reelrl.naming import nearest
from reelrl.rewards.spec import RewardSpec

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, UInt8

ACTION_BOUND = 10.0
"""Latents have unit variance, so nothing a sampler makes comes near; agents need finite bounds."""
ENCODE_CHUNK = 64
"""Prompts per forward of the text encoder."""


@dataclass(frozen=True)
class Clips:
    """M finished episodes.

    Attributes:
        videos: (M, F, H, W, 3) uint8.
        scores: of the K components, some of which may still be at work.
    """

    videos: UInt8[Tensor, "M F H W 3"]
    scores: Scores


@dataclass(frozen=True)
class Chosen:
    """Reset options of N episodes; None where an option is left open.

    Attributes:
        prompt_id: (N,).
        noise_seed: (N,).
        group_id: (N,).
    """

    prompt_id: Int[NDArray[np.int64], " N"] | None = None
    noise_seed: Int[NDArray[np.int64], " N"] | None = None
    group_id: Int[NDArray[np.int64], " N"] | None = None

    def at(self, rows: NDArray[np.int64]) -> Chosen:
        """The choices for the episodes ``rows``."""
        return Chosen(*(None if v is None else v[rows] for v in vars(self).values()))


class Task:
    """A denoising task, made from the arguments of both environments.

    They are described in :class:`~reelrl.envs.text_to_video.TextToVideoEnv`.

    Attributes:
        shift: of the noise schedule, as given or the model's own.

    Raises:
        ValueError: for an argument out of its range; names the expected and the actual value.
    """

    def __init__(
        self,
        *,
        model: str | Path | VideoModel,
        prompts: str | Sequence[str],
        rewards: Sequence[RewardSpec],
        num_steps: int = 10,
        shift: float | None = None,
        num_frames: int = 9,
        height: int = 32,
        width: int = 32,
        observe_embedding: bool = False,
        flat: bool = False,
        scalar_weights: Weights | Literal["mean"] | None = None,
        output: Literal["numpy", "torch"] = "numpy",
        device: str | torch.device | None = None,
        on_reward_error: OnRewardError = "mask",
        reward_timeout: float | None = None,
    ) -> None:
        if output not in ("numpy", "torch"):
            raise ValueError(f"output must be 'numpy' or 'torch', got {output!r}")
        if shift is not None and (isinstance(shift, bool) or not isinstance(shift, int | float)):
            raise ValueError(f"shift must be a number or None, got {shift!r}")
        for name, flag in (("observe_embedding", observe_embedding), ("flat", flat)):
            if not isinstance(flag, bool):
                raise ValueError(f"{name} must be True or False, got {flag!r}")
        sizes = {"num_steps": num_steps, "num_frames": num_frames, "height": height, "width": width}
        for name, value in sizes.items():
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise ValueError(f"{name} must be an integer, got {value!r}")
        self.model = open_model(model, device)
        self.device = self.model.device
        self.prompts = resolve_prompts(prompts)
        self.model.check_prompts(self.prompts)
        self.rewards = RewardList(rewards, on_reward_error, reward_timeout)
        self.clip_size = (num_frames, height, width)
        self.latent_shape = self.model.latent_shape(num_frames, height, width)
        self.shift = self.model.default_shift if shift is None else shift
        self.sigmas = self.model.schedule(num_steps, self.shift, self.latent_shape)
        self.sigmas_seen = self.sigmas.to(self.device, torch.float32)
        self.num_steps = num_steps
        self.observe_embedding = observe_embedding
        self.flat = flat
        self.output = output
        self.weights = self._read_weights(scalar_weights)
        self._structured_space = self._observation_space()
        self.observation_space = self._flat_space() if flat else self._structured_space
        shape = (math.prod(self.latent_shape),) if flat else self.latent_shape
        self.action_space = UniformBox(-ACTION_BOUND, ACTION_BOUND, shape)

    def _read_weights(self, weights: Any) -> Float[np.ndarray, " K"] | None:
        if weights is None:
            return None
        if isinstance(weights, str) and weights == "mean":
            signs = self.rewards.facts().signs
            return np.array(signs) / len(signs)
        return read_weights(weights, self.rewards.names)

    @cached_property
    def embeddings(self) -> Float[Tensor, "P ..."]:
        """(P, ...) embeddings of all prompts on the model's device, encoded when first used."""
        return encode_prompts(self.model, self.prompts)

    @cached_property
    def empty_embedding(self) -> Float[Tensor, "1 ..."]:
        """(1, ...) embedding of the model's negative prompt, for classifier-free guidance."""
        return encode_prompts(self.model, [self.model.negative_prompt])

    def _observation_space(self) -> Dict:
        spaces: dict[str, Space[Any]] = {
            "latent": UniformBox(-np.inf, np.inf, self.latent_shape),
            "sigma": Box(0.0, 1.0, (1,), np.float32),
            "prompt_id": Box(0, len(self.prompts) - 1, (1,), np.int64),
        }
        if self.observe_embedding:
            shape = tuple(self.embeddings.shape[1:])
            spaces["prompt_embedding"] = UniformBox(-np.inf, np.inf, shape)
        return Dict(spaces)

    def _flat_space(self) -> UniformBox:
        size = sum(math.prod(space.shape or ()) for space in self._structured_space.values())
        return UniformBox(-np.inf, np.inf, (size,))

    def observe(self, state: mdp.State) -> Any:
        """The batched observation of a state, as the environment hands it out."""
        embeddings = self.embeddings if self.observe_embedding else None
        seen = mdp.observation(state, self.sigmas_seen, embeddings)
        if not self.flat:
            return {key: self.export(value) for key, value in seen.items()}
        # The order of keys is the space's, so that gymnasium.spaces.unflatten reads it back.
        parts = [seen[key].float().flatten(1) for key in self._structured_space]
        return self.export(torch.cat(parts, dim=1))

    def read_actions(self, actions: Any, batch: tuple[int, ...]) -> Float[Tensor, "N C t h w"]:
        """Actions of shape ``(*batch, *action)`` as (N, C, T', H', W') float32 on the device.

        Raises:
            ValueError: for a wrong shape or a dtype that is not floating point.
        """
        expected = (*batch, *self.action_space.shape)
        if isinstance(actions, Tensor):
            # With numpy output the caller may reuse its tensor after `step`, so it is copied.
            tensor = actions.detach().clone() if self.output == "numpy" else actions.detach()
        else:
            tensor = _to_tensor(actions)
        if tensor.device.type == "meta":
            raise ValueError("actions must hold numbers, got a tensor on the device 'meta'")
        if not tensor.is_floating_point():
            raise ValueError(f"actions must be floating point (float32), got {tensor.dtype}")
        if tuple(tensor.shape) != expected:
            raise ValueError(f"actions must have shape {expected}, got {tuple(tensor.shape)}")
        return tensor.to(self.device, torch.float32).reshape(-1, *self.latent_shape)

    def refuse_nonfinite(self, state: mdp.State, ended: bool) -> None:
        """Raise if an action was not finite: at once where looking is free, else at the end.

        Looking at a number on an accelerator stalls its queue; at the end of an episode the
        rewards do that anyway.

        Raises:
            ValueError: names the sub-environments.
        """
        free = self.device.type == "cpu" or self.output == "numpy"
        if not (free or ended) or bool(state.finite.all()):
            return
        rows = (~state.finite).nonzero().flatten().tolist()
        when = "this step" if free else "this or an earlier step of the episode"
        raise ValueError(
            f"the action of sub-env {', '.join(map(str, rows))} holds nan or inf in {when}; "
            f"expected finite latents of shape {self.action_space.shape}"
        )

    def begin(self, rngs: Sequence[np.random.Generator], chosen: Chosen) -> mdp.State:
        """Fresh episodes, one per generator; ids and noise seeds are drawn where not chosen.

        All three numbers are drawn in any case: fixing one must not change the others.
        """
        high = (len(self.prompts), NOISE_SEEDS, NOISE_SEEDS)
        drawn = np.array([[rng.integers(limit) for limit in high] for rng in rngs])
        return mdp.initial(
            self.latent_shape,
            drawn[:, 0] if chosen.prompt_id is None else chosen.prompt_id,
            drawn[:, 1] if chosen.noise_seed is None else chosen.noise_seed,
            drawn[:, 2],
            self.device,
            chosen.group_id,
        )

    def finish(
        self,
        latent: Float[Tensor, "M C t h w"],
        prompt_id: Int[NDArray[np.int64], " M"],
        group_id: Int[NDArray[np.int64], " M"],
    ) -> Clips:
        """Decode M finished latents once, and begin to score them."""
        videos = self.decode(latent)
        shown = to_uint8(videos)  # first, so that no reward can write into the shown clip
        return Clips(shown, self.begin_scores(videos, prompt_id, group_id))

    @undisturbed
    @torch.no_grad()
    def decode(self, latent: Float[Tensor, "M C t h w"]) -> Float[Tensor, "M F H W 3"]:
        """(M, F, H, W, 3) clips of M latents, without gradients."""
        return self.model.decode(latent)

    @undisturbed
    def begin_scores(
        self,
        videos: Float[Tensor, "M F H W 3"],
        prompt_id: Int[NDArray[np.int64], " M"],
        group_id: Int[NDArray[np.int64], " M"],
    ) -> Scores:
        """Scores of M decoded clips; components in the background may still be at work."""
        pairs = zip(prompt_id.tolist(), group_id.tolist(), strict=True)
        infos = [{"prompt_id": prompt, "group_id": group} for prompt, group in pairs]
        prompts = [self.prompts[info["prompt_id"]] for info in infos]
        return self.rewards.begin(videos, prompts, infos)

    def score(self, latents: Any, prompt_ids: Any, group_ids: Any = None) -> Any:
        """(N, K) rewards of any latents, as if they were finished clips.

        Args:
            latents: (N, C, T', H', W'), or (N, D) of a flat environment; array or tensor.
            prompt_ids: N rows in the list of prompts.
            group_ids: N numbers of groups that are compared; None means one group per prompt.

        Raises:
            ValueError: for a wrong shape or dtype, or an id out of range.
        """
        count = len(latents)
        ids = self.read_prompt_ids(prompt_ids, count)
        groups = ids if group_ids is None else _read_integers("group_id", group_ids, count, 2**63)
        latent = self.read_actions(latents, (count,))
        values, _ = self.begin_scores(self.decode(latent), ids, groups).result()
        return self.export(values)

    def read_prompt_ids(self, prompt_id: Any, count: int) -> Int[NDArray[np.int64], " N"]:
        """One prompt id per sub-environment from one for all or one each.

        Raises:
            ValueError: for ids that are no integers, the wrong number of them, or out of range.
        """
        return _read_integers("prompt_id", prompt_id, count, len(self.prompts))

    def read_options(
        self, options: Mapping[str, Any] | None, count: int, known: Sequence[str]
    ) -> Chosen:
        """Reset options of ``count`` episodes.

        Raises:
            ValueError: for an unknown option or a value out of range.
        """
        if options is not None and not isinstance(options, Mapping):
            raise ValueError(f"reset options must be a dict or None, got {options!r}")
        options = options or {}
        for name in options:
            if name not in known:
                raise ValueError(f"unknown reset option {name!r}{nearest(name, known)}")
        limits = {"prompt_id": len(self.prompts), "noise_seed": NOISE_SEEDS, "group_id": 2**63}
        return Chosen(
            **{
                name: _read_integers(name, options[name], count, limit)
                for name, limit in limits.items()
                if options.get(name) is not None
            }
        )

    def export(self, value: Tensor) -> Any:
        """A tensor of the state as the environment hands it out: a fresh array, or itself."""
        return value if self.output == "torch" else value.cpu().numpy().copy()

    def export_flags(self, flags: Bool[NDArray[np.bool_], " N"]) -> Any:
        """Flags known to the host as the environment hands them out."""
        copy = flags.copy()
        return torch.from_numpy(copy).to(self.device) if self.output == "torch" else copy


def open_model(model: str | Path | VideoModel, device: str | torch.device | None) -> VideoModel:
    """The model itself, or the one of that name or folder on ``device`` (default: the CPU).

    Raises:
        ValueError: if a model is given together with another device than its own.
    """
    if not isinstance(model, VideoModel | str | Path):
        raise ValueError(f"model must be a name, a folder or a VideoModel, got {model!r}")
    given = None if device is None else read_device(device)
    if not isinstance(model, VideoModel):
        return VideoModel.from_pretrained(model, device=given or torch.device("cpu"))
    wanted = given or model.device
    # "cuda" means any of them, "cuda:1" that one.
    if wanted.type != model.device.type or wanted.index not in (None, model.device.index):
        raise ValueError(f"the model is on {model.device}, got device={str(device)!r}")
    return model


def read_device(device: Any) -> torch.device:
    """A device that is there.

    Raises:
        ValueError: for a name that torch does not know, or hardware that this machine lacks.
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        line = str(error).splitlines()[0]
        raise ValueError(f"device must be one that torch knows, got {device!r}: {line}") from error
    try:
        torch.empty(1, dtype=torch.float32, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        line = str(error).splitlines()[0]
        raise ValueError(f"device {str(found)!r} is not there: {line}") from error
    if found.type == "meta":
        raise ValueError("device must hold numbers, got 'meta'")
    return found


@undisturbed
def encode_prompts(model: VideoModel, prompts: Sequence[str]) -> Float[Tensor, "P ..."]:
    """(P, ...) embeddings of P prompts, a chunk at a time."""
    rows = range(0, len(prompts), ENCODE_CHUNK)
    return torch.cat([model.encode(prompts[i : i + ENCODE_CHUNK]) for i in rows])


def row_of(batched: Any, row: int) -> Any:
    """One sub-environment's part of a batched observation."""
    if isinstance(batched, dict):
        return {key: value[row] for key, value in batched.items()}
    return batched[row]


def to_uint8(videos: Float[Tensor, " *shape"]) -> UInt8[Tensor, " *shape"]:
    """Clips in [0, 1] as rounded bytes."""
    # Decoders overshoot a little, and a byte would wrap around: white would be shown as black.
    return videos.mul(255).round_().clamp_(0, 255).to(torch.uint8)


def _to_tensor(actions: Any) -> Tensor:
    """A tensor with memory of its own, so that a caller may reuse the array."""
    try:
        array = np.asarray(actions)
    except ValueError as error:
        raise ValueError(f"actions must be one array of numbers: {error}") from error
    if array.dtype.kind != "f":
        raise ValueError(f"actions must be a floating point (float32) array, got {array.dtype}")
    # Longer floats and other byte orders, too, which torch does not know.
    return torch.from_numpy(array.astype(np.float32))


def _read_integers(name: str, value: Any, count: int, limit: int) -> Int[NDArray[np.int64], " N"]:
    """One integer of [0, limit) per sub-environment, from one for all or one each."""
    array = np.asarray(value.cpu() if isinstance(value, Tensor) else value)
    if array.dtype.kind not in "iu" or array.shape not in ((), (count,), (count, 1)):
        raise ValueError(
            f"{name} must be one integer or {count} of them, got {array.dtype} of shape "
            f"{array.shape}"
        )
    # uint64 beyond int64 would wrap around to a negative number.
    if array.size and (array.min() < 0 or array.max() >= limit):
        raise ValueError(
            f"{name} must be in 0..{limit - 1}, got values from {array.min()} to {array.max()}"
        )
    return np.broadcast_to(array.astype(np.int64).reshape(-1), (count,)).copy()
