"""A flow-matching video model as a policy: each denoising step is a Gaussian over the next latent.

Sampling and replaying go through :meth:`FlowPolicy.forward`, so the ratio of two
log-probabilities differs from one only by what training did to the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from reelrl.algos.policies import lora
from reelrl.algos.policies.base import Observation
from reelrl.algos.policies.weights import Weights, load_into, snapshot, swapped
from reelrl.envs import kernels, steps
from reelrl.envs.models import VideoModel
from reelrl.envs.sampling import guided_velocity

Precision = Literal["float32", "bfloat16", "float16"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True)
class FlowPolicyConfig:
    """How a model denoises, and which of its weights may change.

    Attributes:
        kernel: key of :data:`~reelrl.envs.kernels.KERNELS` that predicts from a velocity.
        eta: noise level of the kernel; None is the kernel's own default (``flow_sde`` 0.7).
        guidance_scale: of classifier-free guidance (Ho and Salimans 2022); 1 is none. Both branches
            run in one forward and both carry gradients.
        reduction: of the log-probability over the D latent dimensions.
        precision: of the forward pass, by autocast; weights stay as the model was loaded, means
            and densities are float32 or better.
        latent_dtype: what latents of a rollout are rounded to before they are scored and stored.
        lora_rank: 0 trains all weights of the transformer, which must be float32 for that;
            adapters always are.
        lora_alpha: adapters are scaled by alpha / rank; None is the rank.
        lora_targets: endings of the names of the layers that get adapters.
        lora_seed: of the adapters' initialisation.
        gradient_checkpointing: recompute blocks in the backward pass instead of keeping them.
        compile: run the transformer through ``torch.compile``.

    Raises:
        ValueError: for a value out of range.
    """

    kernel: str = "flow_sde"
    eta: float | None = None
    guidance_scale: float = 1.0
    reduction: steps.Reduction = "mean"
    precision: Precision = "float32"
    latent_dtype: Precision = "float32"
    lora_rank: int = 0
    lora_alpha: float | None = None
    lora_targets: tuple[str, ...] = ATTENTION
    lora_seed: int = 0
    gradient_checkpointing: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "lora_targets", tuple(self.lora_targets))
        for name, known in (
            ("reduction", get_args(steps.Reduction)),
            ("precision", tuple(DTYPES)),
            ("latent_dtype", tuple(DTYPES)),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        if self.lora_rank < 0:
            raise ValueError(f"lora_rank must be at least 0, got {self.lora_rank}")

    def make_kernel(self) -> kernels.StepKernel:
        """The step kernel.

        Raises:
            ValueError: if there is none of that name, it has no ``eta`` or no use for a velocity.
        """
        config = {} if self.eta is None else {"eta": self.eta}
        kernel = kernels.make_kernel(self.kernel, **config)
        if kernel.predicts != "velocity":
            raise ValueError(
                f"kernel {self.kernel!r} needs a model that predicts {kernel.predicts}, "
                "a flow policy predicts velocity"
            )
        return kernel


@dataclass(frozen=True)
class FlowOutput:
    """What the policy says about N latents.

    Attributes:
        velocity: (N, C, T', H', W') float32, guided.
        step: distribution of the next latents.
    """

    velocity: Tensor
    step: steps.Step


class FlowPolicy:
    """A video model that denoises stochastically and can be trained.

    ```python
    policy = FlowPolicy(env.unwrapped.model, kernel="flow_sde", eta=0.7)
    policy.bind(env)
    latent, log_prob = policy.act(obs, torch.Generator().manual_seed(0))
    ```

    The transformer is that of the model, which environment and policy share: training changes it in
    place. It is always in evaluation mode.

    Args:
        model: its ``transformer`` is trained.
        kernel: see :class:`FlowPolicyConfig`, as all that follows.
        eta: see there.
        guidance_scale: see there; an entry ``guidance_scale`` in an observation, a float or (N,),
            takes precedence, so that a stored trajectory is replayed with its own.
        **settings: its other attributes.

    Raises:
        ValueError: for a setting out of range, or a model without a ``transformer``.
    """

    def __init__(
        self,
        model: VideoModel,
        kernel: str = "flow_sde",
        eta: float | None = None,
        guidance_scale: float = 1.0,
        **settings: Any,
    ) -> None:
        self.config = FlowPolicyConfig(kernel, eta, guidance_scale, **settings)
        self.kernel = self.config.make_kernel()
        self.model = model
        module = getattr(model, "transformer", None)
        if not isinstance(module, nn.Module):
            raise ValueError(f"model {model.name!r} has no transformer to train")
        self.module: nn.Module = module
        if self.config.lora_rank:
            lora.add_lora(
                module,
                self.config.lora_rank,
                self.config.lora_alpha,
                self.config.lora_targets,
                self.config.lora_seed,
            )
        if self.config.gradient_checkpointing:
            # diffusers has no types: to the checker the transformer is any module.
            module.enable_gradient_checkpointing()  # type: ignore[operator]
        if self.config.compile:
            # In place: a wrapper would hide the adapters and rename the weights.
            module.compile()
        self._reference: Weights | None = None
        self._empty: Tensor | None = None
        self._embeddings: Tensor | None = None
        self._table: kernels.Coefficients | None = None
        self._ode: kernels.Coefficients | None = None

    def bind(self, env: Any) -> FlowPolicy:
        """Take noise schedule and prompts from an environment; a learner does so by itself.

        Args:
            env: single or batched environment, wrapped or not; prompt embeddings are those of
                its table, encoded once.
        """
        task = env.unwrapped
        self._table = self.kernel.table(task.sigmas).to(self.model.device)
        self._ode = kernels.ODE().table(task.sigmas).to(self.model.device)
        self._embeddings = task.embeddings
        return self

    @property
    def table(self) -> kernels.Coefficients:
        """The kernel over the schedule of the environment.

        Raises:
            RuntimeError: before :meth:`bind`.
        """
        if self._table is None:
            raise RuntimeError("the policy knows no noise schedule yet: call policy.bind(env)")
        return self._table

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Trainable parameters by name."""
        named = self.module.named_parameters()
        return {name: parameter for name, parameter in named if parameter.requires_grad}

    def trainable(self) -> list[nn.Parameter]:
        """What an optimizer may work on, the values of :attr:`parameters`.

        Raises:
            ValueError: for weights below float32, where a small update is rounded away.
        """
        for name, parameter in self.parameters.items():
            if torch.finfo(parameter.dtype).bits < 32:
                raise ValueError(
                    f"weights must be float32 to be trained, got {parameter.dtype} for {name!r}: "
                    'load the model in float32 and set precision="bfloat16", or train a lora_rank'
                )
        return list(self.parameters.values())

    def forward(self, obs: Observation, deterministic: bool = False) -> FlowOutput:
        """Run the model once on N observations, which may be at different noise levels.

        Args:
            obs: ``latent`` (N, C, T', H', W'), ``sigma`` (N, 1), ``prompt_id`` (N, 1) or
                ``prompt_embedding`` (N, L, D), optionally ``guidance_scale``.
            deterministic: take Euler steps of the probability flow in place of the kernel's.
        """
        latent = self._tensor(obs["latent"]).to(torch.float32)
        table = self._ode_table if deterministic else self.table
        rows = table.at(self.table.index_of(self._tensor(obs["sigma"])))
        scale = obs.get("guidance_scale", self.config.guidance_scale)
        sigma = rows.sigma.to(torch.float32)
        velocity = self._velocity(latent, sigma, self._embed(obs), scale)
        return FlowOutput(velocity, steps.advance(rows, latent, velocity))

    def sample(self, step: steps.Step, noise: Tensor) -> Tensor:
        """Latents (N, ...) float32 from standard normal noise, rounded as they will be stored."""
        dtype = DTYPES[self.config.latent_dtype]
        return steps.sample(step, noise.to(step.mean.device), dtype).to(torch.float32)

    def log_density(self, step: steps.Step, action: Tensor) -> Tensor:
        """(N,) float64 log-probability of actions; ``nan`` where the step is deterministic.

        Raises:
            ValueError: if the kernel is deterministic at every step.
        """
        if not self.kernel.has_density:
            raise ValueError(
                f"kernel {self.config.kernel!r} is deterministic: its samples have no density"
            )
        return steps.log_prob(step, action, self.config.reduction)

    @torch.no_grad()
    def act(
        self,
        obs: Observation,
        generator: torch.Generator | None = None,
        *,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw the next latents.

        Args:
            obs: see :meth:`forward`.
            generator: source of the noise, on its own device; None is torch's global one.
            noise: (N, C, T', H', W') standard normal, instead of drawing it.

        Returns:
            latents (N, C, T', H', W') float32 and log-probabilities (N,) float64.
        """
        step = self.forward(obs).step
        if noise is None:
            device = step.mean.device if generator is None else generator.device
            noise = torch.randn(step.mean.shape, generator=generator, device=device)
        latent = self.sample(step, noise)
        return latent, self.log_density(step, latent)

    def log_prob(self, obs: Observation, action: Any) -> Tensor:
        """(N,) float64 log-probability of stored actions, with gradients where enabled."""
        return self.log_density(self.forward(obs).step, self._tensor(action))

    @torch.no_grad()
    def predict(self, obs: Observation, deterministic: bool = False) -> Any:
        """The next latents, as arrays for arrays and without a batch for a single observation.

        Args:
            obs: of the single or the batched environment.
            deterministic: take the Euler step of the probability flow instead of drawing.
        """
        single = obs["latent"].ndim == 4
        if single:
            obs = {key: value[None] for key, value in obs.items()}
        latent = self.forward(obs, True).step.mean if deterministic else self.act(obs)[0]
        latent = latent[0] if single else latent
        return latent if isinstance(obs["latent"], Tensor) else latent.cpu().numpy()

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Run as the policy was before training: adapter off, or the kept copy of the weights.

        Raises:
            RuntimeError: if all weights are trained and :meth:`keep_reference` was not called.
        """
        if self.config.lora_rank:
            with lora.adapters_off(self.module):
                yield
            return
        if self._reference is None:
            raise RuntimeError("there is no reference policy: call keep_reference() first")
        with swapped(self.parameters, self._reference):
            yield

    def keep_reference(self) -> None:
        """Make the weights of this moment the reference; nothing to do with LoRA."""
        if not self.config.lora_rank:
            self._reference = snapshot(self.parameters)

    @property
    def reference_weights(self) -> Weights:
        """The kept copy of the weights, for a checkpoint; empty with LoRA or before keeping."""
        return self._reference or {}

    def state_dict(self) -> Weights:
        """A copy of the trainable weights."""
        return snapshot(self.parameters)

    def load_state_dict(self, weights: Weights, reference: Weights | None = None) -> None:
        """Set the trainable weights, and those of the reference.

        Raises:
            ValueError: if names or shapes differ.
        """
        load_into(self.parameters, weights)
        if reference:
            kept = {name: tensor.to(self.model.device) for name, tensor in reference.items()}
            self._reference = kept

    def save_pretrained(self, folder: str | Path) -> None:
        """Write what a stock diffusers pipeline loads: an adapter, or a transformer folder."""
        folder = Path(folder)
        if self.config.lora_rank:
            lora.save_lora(self.module, folder)
        else:
            # diffusers has no types: to the checker the transformer is any module.
            self.module.save_pretrained(folder / "transformer")  # type: ignore[operator]

    def settings(self) -> dict[str, Any]:
        """The configuration as plain values: ``FlowPolicy(model, **settings)`` is its twin."""
        return asdict(self.config)

    @property
    def _ode_table(self) -> kernels.Coefficients:
        assert self._ode is not None  # bound together with the table
        return self._ode

    def _tensor(self, value: Any) -> Tensor:
        return torch.as_tensor(value, device=self.model.device)

    def _embed(self, obs: Observation) -> Tensor:
        if "prompt_embedding" in obs:
            return self._tensor(obs["prompt_embedding"])
        assert self._embeddings is not None
        return self._embeddings[self._tensor(obs["prompt_id"]).reshape(-1)]

    def _velocity(
        self, latent: Tensor, sigma: Tensor, embedding: Tensor, scale: float | Tensor
    ) -> Tensor:
        """Guided velocity in the policy's precision."""
        # Dropout between sampling and replaying would be a ratio that no training made.
        self.module.eval()
        scale = scale if isinstance(scale, int | float) else torch.as_tensor(scale)
        if self._empty is None and (isinstance(scale, Tensor) or scale != 1):
            self._empty = self.model.encode([""])
        with self._autocast():
            return guided_velocity(self.model, latent, sigma, embedding, scale, self._empty)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.config.precision == "float32":
            return nullcontext()
        return torch.autocast(self.model.device.type, DTYPES[self.config.precision])
