"""The interface to a text-to-video model: only the parts that environment and policy need."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import torch
from torch import Tensor, nn

from reelrl.envs.models import trained
from reelrl.envs.models.folders import pipeline_class, resolve_model, shipped_name
from reelrl.envs.models.integrity import folder_digest, module_digest
from reelrl.envs.schedule import sigma_schedule
from reelrl.envs.steps import rows_like
from reelrl.naming import Registry, nearest

if TYPE_CHECKING:
    from jaxtyping import Float

M = TypeVar("M", bound="type[VideoModel]")
PIPELINES: Registry[type[VideoModel]] = Registry("pipeline", "reelrl.envs.models")
"""Class name of a diffusers pipeline -> the model that opens its folders."""


def register_model(pipeline: str) -> Callable[[M], M]:
    """Decorator: the class opens folders that a diffusers pipeline of that class saved.

    The class is called as ``cls(folder, name=..., **kwargs)``, with the keyword arguments of
    :meth:`VideoModel.from_pretrained`.

    Raises:
        ValueError: if another class opens these pipelines already.
    """
    return PIPELINES.register(pipeline)


class VideoModel(ABC):
    """A latent flow-matching text-to-video model.

    The environment calls :meth:`encode` and :meth:`decode`, a policy :meth:`guided`, which calls
    :meth:`velocity`; both share one instance. Components load when first used, so an environment
    never loads a transformer and a policy never loads a VAE.

    ``copy.deepcopy(model)`` gives a model with experts of its own, see :meth:`twin`. As a part of
    something else, such as the arguments of an environment, a model is shared and not copied:
    Gymnasium deep-copies these arguments into the environment's spec.

    Attributes:
        name: the name or path by which the model was asked for.
        device: where latents live.
        max_prompt_tokens: L, the length every embedding is padded to with zeros.
        default_shift: shift of the noise schedule that the model was made for.
        default_guidance: guidance scale that its authors recommend; 1 is none.
        negative_prompt: text of the unconditional branch of classifier-free guidance.
        lora_targets: endings of the names of the layers that adapters go on.
        trained_by: token of the policy whose learner changed the experts' weights last.
        altered: True if weights were loaded over the base model's, by :meth:`load_trained`.
    """

    name: str
    device: torch.device
    max_prompt_tokens: int
    default_shift: float = 3.0
    default_guidance: float = 1.0
    negative_prompt: str = ""
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    trained_by: str | None = None
    altered: bool = False
    _digest: str | None = None

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **kwargs: Any) -> Self:
        """Open a shipped model by name, or the local folder of a diffusers pipeline.

        Args:
            name_or_path: ``"nano"``, ``"nano-early"`` or a folder.
            **kwargs: of the class that :func:`register_model` knows for the pipeline, such as
                ``device`` and ``dtype``.

        Raises:
            ValueError: for an unknown name or an unsupported kind of pipeline.
            FileNotFoundError: for a folder without the files of a pipeline.
        """
        folder = resolve_model(name_or_path)
        pipeline = pipeline_class(folder)
        if pipeline not in PIPELINES:
            raise ValueError(
                f"{folder} holds a {pipeline}, which no model opens{nearest(pipeline, PIPELINES)}"
            )
        kind = PIPELINES[pipeline]
        # A class of one's own, derived from the registered one, opens the same folders.
        opener = cls if issubclass(cls, kind) else kind
        if not issubclass(opener, cls):
            raise ValueError(
                f"{folder} holds a {pipeline}, which {kind.__name__} opens and {cls.__name__} "
                "does not"
            )
        # How a registered class is called is promised by register_model, not by its type.
        make = cast(Callable[..., Self], opener)
        return make(folder, name=shipped_name(name_or_path), **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> VideoModel:
        # Empty for a model that is copied by itself; whatever holds it has put itself in first.
        return self if memo else self.twin()

    @property
    def digest(self) -> str:
        """SHA-256 of the base model, before any training: equal for models of equal weights.

        It covers the files of a pipeline's folder. A model without a folder is covered by the
        weights that its experts had when the digest was first asked for; a policy asks when it is
        made.
        """
        if self._digest is None:
            folder = getattr(self, "folder", None)
            self._digest = (
                folder_digest(folder) if isinstance(folder, Path) else module_digest(self.experts)
            )
        return self._digest

    def same_base(self, other: VideoModel) -> bool:
        """Whether the other model has the same weights, whatever was trained since."""
        return other is self or other.digest == self.digest

    def fresh(self) -> Self:
        """A model that opens the same folder again, without trained weights; else the model itself.

        Its pickle is small.
        """
        return self

    def twin(self, memo: dict[int, Any] | None = None) -> Self:
        """A model with experts of its own, as they are now; all other parts are shared.

        Args:
            memo: of the deep copy that this is a part of.

        Raises:
            TypeError: if the class keeps experts where they are not found: not in an attribute, nor
                in a mapping in one. It must override this method then.
        """
        shared = {id(module) for module in self.experts.values()}
        if not isinstance(getattr(self, "folder", None), Path):
            self.digest  # noqa: B018  (remembered before the twin is trained)
        # Not copy.copy: a class may leave loaded parts out of its state.
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        for key, value in vars(self).items():
            parts = value.values() if isinstance(value, dict | nn.ModuleDict) else [value]
            if any(id(part) in shared for part in parts):
                setattr(other, key, copy.deepcopy(value, memo))
        if any(id(module) in shared for module in other.experts.values()):
            raise TypeError(
                f"a {type(self).__name__} cannot be copied, because its experts are in no "
                "attribute: override its method twin(), or open the model a second time"
            )
        return other

    # Not abstract: a model that reads any text has nothing to refuse.
    def check_prompts(self, prompts: Sequence[str]) -> None:  # noqa: B027
        """Refuse prompts the model cannot read, without loading a text encoder; default: none.

        Raises:
            ValueError: names the prompt and its fault.
        """

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Float[Tensor, "N ..."]:
        """Embed N prompts: (N, L, D) float32, zero beyond each prompt's length.

        Any trailing shape (N, ...) will do: a model that needs several parts packs them into one
        row per prompt and takes them apart in :meth:`velocity`.
        """

    @abstractmethod
    def velocity(
        self,
        latent: Float[Tensor, "N C t h w"],
        sigma: Float[Tensor, " N"],
        embedding: Float[Tensor, "N ..."],
    ) -> Float[Tensor, "N C t h w"]:
        """Predicted velocity ``noise - clip`` at noise level ``sigma``.

        Args:
            latent: (N, C, T', H', W').
            sigma: (N,) in [0, 1]; 1 is pure noise.
            embedding: (N, ...) from :meth:`encode`.

        Returns:
            Same shape as ``latent``, float32. Carries gradients where they are enabled.
        """

    def guided(
        self,
        latent: Float[Tensor, " N *rest"],
        sigma: Float[Tensor, " N"],
        embedding: Float[Tensor, "N ..."],
        scale: float | Float[Tensor, " N"],
        empty: Float[Tensor, "1 ..."] | None = None,
    ) -> Float[Tensor, " N *rest"]:
        """Velocity with classifier-free guidance (Ho and Salimans 2022), both branches in one call.

        Args:
            latent: (N, ...), of a video model (N, C, T', H', W').
            sigma: (N,).
            embedding: (N, ...) from :meth:`encode`.
            scale: one for all, where 1 is no guidance and costs one branch, or (N,).
            empty: (1, ...) embedding of :attr:`negative_prompt`; encoded here if not given.

        Returns:
            Same shape as ``latent``, float32. Carries gradients where they are enabled, in both
            branches.
        """
        if isinstance(scale, Tensor):
            scale = rows_like(scale.to(latent), latent)
        elif scale == 1:
            return self.velocity(latent, sigma, embedding)
        if empty is None:
            empty = self.encode([self.negative_prompt])
        both = self.velocity(
            torch.cat([latent, latent]),
            torch.cat([sigma, sigma]),
            torch.cat([embedding, empty.expand_as(embedding)]),
        )
        conditional, unconditional = both.chunk(2)
        return unconditional + scale * (conditional - unconditional)

    @abstractmethod
    def decode(self, latent: Float[Tensor, "N C t h w"]) -> Float[Tensor, "N F H W 3"]:
        """Decode latents to (N, F, H, W, 3) float32 in [0, 1].

        Carries gradients where they are enabled; an environment disables them.
        """

    @abstractmethod
    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(C, T', H', W') of a clip of that size.

        Raises:
            ValueError: if the model cannot make a clip of that size; names the constraint.
        """

    def schedule(
        self, num_steps: int, shift: float, latent_shape: Sequence[int]
    ) -> Float[Tensor, " levels"]:
        """Noise levels of an episode: (T + 1,) float64, strictly from exactly 1 to exactly 0.

        Args:
            num_steps: T.
            shift: of :func:`~reelrl.envs.schedule.sigma_schedule`.
            latent_shape: (C, T', H', W'), for models whose levels depend on the size.

        Raises:
            ValueError: if ``num_steps`` or ``shift`` is out of range.
        """
        return sigma_schedule(num_steps, shift)

    @property
    def experts(self) -> dict[str, nn.Module]:
        """The networks that a policy trains, by name: the ``transformer`` where there is one."""
        transformer = getattr(self, "transformer", None)
        return {"transformer": transformer} if isinstance(transformer, nn.Module) else {}

    def save_trained(self, folder: str | Path) -> None:
        """Write the trainable weights of the experts, to be read by :meth:`load_trained`.

        Args:
            folder: made if it does not exist.
        """
        trained.save_trained(Path(folder), type(self).__name__, self.experts)

    def save_lora(self, folder: str | Path) -> None:
        """Write the adapters of the experts; by default :meth:`save_trained` writes them.

        Args:
            folder: made if it does not exist.
        """
        self.save_trained(folder)

    def load_trained(self, folder: str | Path) -> None:
        """Read back the files of :meth:`save_trained` or :meth:`save_lora`.

        Adapters are read into adapters: make the policy with its ``lora_rank`` first.

        Raises:
            FileNotFoundError: for a folder that neither wrote.
            ValueError: if class, names or shapes of the weights differ.
        """
        trained.load_trained(Path(folder), type(self).__name__, self.experts)
        self.altered = True
