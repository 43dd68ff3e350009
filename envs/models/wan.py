"""Wan text-to-video models: a diffusers ``WanPipeline`` folder, component by component."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from reelrl.ambient import own_settings, undisturbed
from reelrl.envs.models import trained
from reelrl.envs.models.base import VideoModel, register_model
from reelrl.envs.models.integrity import INDEX, read_json, verify_checksums, verify_facts
from reelrl.files import share, sort_header

if TYPE_CHECKING:
    from jaxtyping import Float, Int

VAE_DEFAULTS = {"z_dim": 16, "scale_factor_temporal": 4, "scale_factor_spatial": 8}
"""Sizes of ``AutoencoderKLWan`` where a config is silent: Wan 2.1's own predates two of them."""
VOCABULARY_SHOWN = 200
"""An error lists a vocabulary of at most this many tokens; UMT5's has 256,000."""
LORA_FILE = "pytorch_lora_weights.safetensors"
"""File name of an adapter in diffusers."""
TIMESTEPS = 1000
"""Wan transformers are conditioned on ``1000 * sigma``."""


@register_model("WanPipeline")
class WanVideoModel(VideoModel):
    """A local Wan 2.1 pipeline folder, each component loaded when first used.

    A pickled model opens its folder again. It carries the weights of the transformer alone, if that
    was loaded: they may have been trained since.

    Args:
        folder: a folder ``WanPipeline.from_pretrained`` would load.
        name: of the model; the folder's name by default.
        device: where the components go.
        dtype: of transformer and text encoder; VAE and everything returned are float32.
        max_prompt_tokens: L; must equal the length in the model's training, since the zeros that
            pad an embedding take part in its cross-attention. Default: the tokenizer's own length,
            at most the 512 that ``WanPipeline`` has.

    Raises:
        ValueError: for a folder that is not a one-transformer ``WanPipeline``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        max_prompt_tokens: int | None = None,
    ) -> None:
        self.folder = folder
        self.name = name or folder.name
        self.device = torch.device(device)
        self.dtype = dtype
        verify_facts(folder)
        index = read_json(folder / INDEX)
        if index.get("_class_name") != "WanPipeline":
            raise ValueError(f"{folder} holds a {index.get('_class_name')}, expected a WanPipeline")
        if (index.get("transformer_2") or [None])[0] is not None or index.get("expand_timesteps"):
            raise ValueError(
                f"{folder} is a Wan 2.2 pipeline (two transformers or per-token timesteps); "
                "expected Wan 2.1 with one transformer"
            )
        self.max_prompt_tokens = max_prompt_tokens or self._default_prompt_tokens()
        self.default_shift = self._scheduler_shift()

    def _default_prompt_tokens(self) -> int:
        config = read_json(self.folder / "tokenizer" / "tokenizer_config.json")
        return min(int(config.get("model_max_length", 512)), 512)

    def _scheduler_shift(self) -> float:
        """The shift that the folder's scheduler samples with."""
        path = self.folder / "scheduler" / "scheduler_config.json"
        config = read_json(path) if path.is_file() else {}
        # UniPC, with which Wan 2.1 is published, calls it flow_shift; Euler calls it shift.
        found = (config.get(key) for key in ("flow_shift", "shift"))
        return float(next((s for s in found if s is not None), type(self).default_shift))

    @cached_property
    def tokenizer(self) -> Any:
        """The prompt tokenizer."""
        from transformers import AutoTokenizer

        verify_checksums(self.folder, "tokenizer")
        # Said outright: left open, the folder may ask whether to run code that it brings along.
        return AutoTokenizer.from_pretrained(self.folder / "tokenizer", trust_remote_code=False)

    @cached_property
    def text_encoder(self) -> torch.nn.Module:
        """The UMT5 encoder, frozen and in evaluation mode."""
        from transformers import UMT5EncoderModel

        return self._load("text_encoder", UMT5EncoderModel, self.dtype)

    @cached_property
    def transformer(self) -> torch.nn.Module:
        """The ``WanTransformer3DModel``, in evaluation mode; the one part a policy trains."""
        from diffusers import WanTransformer3DModel

        return self._load("transformer", WanTransformer3DModel, self.dtype)

    @cached_property
    def vae(self) -> Any:
        """The ``AutoencoderKLWan`` in float32, frozen and in evaluation mode."""
        from diffusers import AutoencoderKLWan

        return self._load("vae", AutoencoderKLWan, torch.float32)

    def _load(self, component: str, kind: Any, dtype: torch.dtype) -> torch.nn.Module:
        verify_checksums(self.folder, component)
        module = load_component(kind, self.folder / component, dtype)
        return module.to(self.device).eval().requires_grad_(component == "transformer")

    @cached_property
    def vae_config(self) -> dict[str, Any]:
        """The VAE's ``config.json`` over :data:`VAE_DEFAULTS`, read without loading the VAE."""
        return VAE_DEFAULTS | read_json(self.folder / "vae" / "config.json")

    @cached_property
    def _patch_size(self) -> tuple[int, int, int]:
        config = read_json(self.folder / "transformer" / "config.json")
        return tuple(config["patch_size"])

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the frozen components: a pickled model opens its folder again."""
        parts = ("tokenizer", "text_encoder", "vae")
        return {key: value for key, value in self.__dict__.items() if key not in parts}

    def fresh(self) -> WanVideoModel:
        """A model of the same folder that has loaded nothing yet; see :meth:`VideoModel.fresh`."""
        other = object.__new__(type(self))
        vars(other).update(self.__getstate__())
        vars(other).pop("transformer", None)
        other.trained_by, other.altered = None, False
        return other

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Refuse unknown words and prompts too long; see :meth:`VideoModel.check_prompts`."""
        self._tokenize(prompts)

    @undisturbed
    def _tokenize(self, prompts: Sequence[str]) -> Any:
        """Token ids and attention mask (N, L) of prompts whose words are all known."""
        self._refuse_long_prompts(prompts)
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.max_prompt_tokens,
            return_tensors="pt",
        )
        self._refuse_unknown_words(prompts, tokens.input_ids)
        return tokens

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Float[Tensor, "N L D"]:
        """Embed N prompts: (N, L, D) float32, zero beyond each prompt's length.

        Raises:
            ValueError: for a prompt of more than L tokens, or with a word that the tokenizer maps
                to ``<unk>``.
        """
        tokens = self._tokenize(prompts)
        ids, mask = tokens.input_ids.to(self.device), tokens.attention_mask.to(self.device)
        hidden: Tensor = self.text_encoder(ids, mask).last_hidden_state
        shown: Tensor = mask[..., None]
        return hidden.float() * shown

    def _refuse_long_prompts(self, prompts: Sequence[str]) -> None:
        for prompt, ids in zip(prompts, self.tokenizer(list(prompts)).input_ids, strict=True):
            if len(ids) > self.max_prompt_tokens:
                raise ValueError(
                    f"prompt {prompt!r} has {len(ids)} tokens, {self.name!r} takes at most "
                    f"{self.max_prompt_tokens}: the cut part would not be drawn"
                )

    def _refuse_unknown_words(self, prompts: Sequence[str], ids: Int[Tensor, "N L"]) -> None:
        unknown = self.tokenizer.unk_token_id
        if unknown is None or not (ids == unknown).any():
            return
        row = int((ids == unknown).any(dim=1).nonzero()[0])
        known = self.tokenizer.get_vocab()
        # A vocabulary of word pieces holds few whole words, so each word is asked for alone.
        words = [word for word in prompts[row].split() if unknown in self.tokenizer(word).input_ids]
        listed = f" are: {', '.join(sorted(known))}" if len(known) <= VOCABULARY_SHOWN else ""
        raise ValueError(
            f"prompt {prompts[row]!r} has words that the tokenizer of {self.name!r} does not know: "
            f"{', '.join(words)}; its {len(known)} tokens{listed or ' are too many to list'}"
        )

    def velocity(
        self,
        latent: Float[Tensor, "N C t h w"],
        sigma: Float[Tensor, " N"],
        embedding: Float[Tensor, "N L D"],
    ) -> Float[Tensor, "N C t h w"]:
        """Predicted velocity ``noise - clip``; see :meth:`VideoModel.velocity`."""
        velocity: Tensor = self.transformer(
            hidden_states=latent.to(self.dtype),
            timestep=sigma * TIMESTEPS,
            encoder_hidden_states=embedding.to(self.dtype),
            return_dict=False,
        )[0]
        return velocity.float()

    @cached_property
    def _latent_moments(self) -> tuple[Float[Tensor, "1 C 1 1 1"], Float[Tensor, "1 C 1 1 1"]]:
        mean, std = (
            torch.tensor(self.vae_config[key], dtype=torch.float32, device="cpu")
            .to(self.device)
            .view(1, -1, 1, 1, 1)
            for key in ("latents_mean", "latents_std")
        )
        return mean, std

    def decode(self, latent: Float[Tensor, "N C t h w"]) -> Float[Tensor, "N F H W 3"]:
        """Decode latents to (N, F, H, W, 3) float32 in [0, 1], with gradients where enabled."""
        mean, std = self._latent_moments
        pixels: Tensor = self.vae.decode(latent.float() * std + mean, return_dict=False)[0]
        return (pixels.permute(0, 2, 3, 4, 1) * 0.5 + 0.5).clamp_(0, 1)

    @torch.no_grad()
    def encode_video(self, videos: Float[Tensor, "N F H W 3"]) -> Float[Tensor, "N C t h w"]:
        """Latents (N, C, T', H', W') of clips (N, F, H, W, 3) in [0, 1]: the posterior mean."""
        mean, std = self._latent_moments
        pixels = videos.to(self.device, torch.float32).permute(0, 4, 1, 2, 3) * 2 - 1
        latent: Tensor = self.vae.encode(pixels).latent_dist.mode()
        return (latent - mean) / std

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(C, T', H', W') of a clip.

        Raises:
            ValueError: unless ``num_frames`` is 4k+1 and both sides are multiples of 16 and of the
                factors by which VAE and transformer divide them.
        """
        temporal = int(self.vae_config["scale_factor_temporal"])
        spatial = int(self.vae_config["scale_factor_spatial"])
        if num_frames < 1 or num_frames % 4 != 1:
            near = max(1, 4 * round((num_frames - 1) / 4) + 1)
            raise ValueError(f"num_frames must be 4k+1, got {num_frames}; the nearest is {near}")
        for side, value, patch in (
            ("height", height, self._patch_size[1]),
            ("width", width, self._patch_size[2]),
        ):
            multiple = max(16, spatial * patch)
            if value < multiple or value % multiple:
                raise ValueError(f"{side} must be a positive multiple of {multiple}, got {value}")
        frames = (num_frames - 1) // temporal + 1
        return int(self.vae_config["z_dim"]), frames, height // spatial, width // spatial

    def save_trained(self, folder: str | Path) -> None:
        """Write ``transformer/``, a folder that ``WanTransformer3DModel.from_pretrained`` reads."""
        transformer: Any = self.transformer
        transformer.save_pretrained(Path(folder) / "transformer")
        share(Path(folder) / "transformer")

    def save_lora(self, folder: str | Path) -> None:
        """Write :data:`LORA_FILE`, to be read by ``pipe.load_lora_weights(folder)``."""
        from diffusers import WanPipeline
        from peft import get_peft_model_state_dict

        transformer: Any = self.transformer
        facts = transformer.peft_config["default"].to_dict()
        # A set has another order in each process.
        facts["target_modules"] = sorted(facts["target_modules"])
        WanPipeline.save_lora_weights(
            folder,
            transformer_lora_layers=get_peft_model_state_dict(transformer),
            transformer_lora_adapter_metadata=facts,
        )
        sort_header(Path(folder) / LORA_FILE)
        share(Path(folder) / LORA_FILE)

    def load_trained(self, folder: str | Path) -> None:
        """Read back the files of :meth:`save_trained` or :meth:`save_lora`.

        Raises:
            FileNotFoundError: for a folder that neither wrote.
            ValueError: if names or shapes of the weights differ, as of adapters where there are
                none.
        """
        from diffusers import WanTransformer3DModel

        folder = Path(folder)
        own = trained.trainable_of(self.experts)
        if (folder / LORA_FILE).is_file():
            trained.check_scale(_lora_scale(folder / LORA_FILE), self.experts)
            # peft puts the adapter's name into that of a parameter, diffusers the transformer's.
            saved = trained.read_tensors(folder / LORA_FILE)
            names = {name: f"transformer.{name.replace('.default.', '.')}" for name in own}
            extra = {name: saved[name] for name in saved.keys() - set(names.values())}
            weights = {name: saved[key] for name, key in names.items() if key in saved} | extra
        elif (folder / "transformer").is_dir():
            weights = load_component(WanTransformer3DModel, folder / "transformer").state_dict()
        else:
            raise FileNotFoundError(
                f"no trained weights in {folder}: expected {LORA_FILE} or the folder transformer"
            )
        trained.load_into(own, weights)
        self.altered = True


def load_component(kind: Any, folder: Path, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """A module of diffusers or transformers with all its weights from a folder.

    Args:
        kind: class with ``from_pretrained``.
        folder: with ``config.json`` and safetensors.
        dtype: of the weights.

    Raises:
        ValueError: if files cannot be read, or tensors are missing or of another shape.
    """
    try:
        # Modules are initialised before their weights are read, from whoever's generator is there.
        with torch.random.fork_rng(devices=[]), own_settings():
            module, report = kind.from_pretrained(
                folder, torch_dtype=dtype, output_loading_info=True
            )
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{folder} cannot be read: {line}") from error
    # Left as they are they would be random, or hold no memory.
    if missing := sorted(report["missing_keys"]):
        total = len(module.state_dict())
        raise ValueError(f"{folder} lacks {len(missing)} of {total} tensors, first {missing[0]}")
    if wrong := sorted(str(entry[0]) for entry in report["mismatched_keys"]):
        raise ValueError(f"{folder} has {len(wrong)} tensors of another shape, first {wrong[0]}")
    loaded: torch.nn.Module = module
    return loaded


def _lora_scale(path: Path) -> float | None:
    """Alpha / rank of the adapters in a file, from the facts that diffusers writes beside them."""
    with safe_open(path, framework="pt") as file:
        facts = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
    alpha, rank = facts.get("transformer.lora_alpha"), facts.get("transformer.r")
    return None if alpha is None or rank is None else float(alpha) / float(rank)
