"""A flow-matching video model as a policy: each denoising step is a Gaussian over the next latent.

Sampling and replaying go through :meth:`FlowPolicy.forward`, so the ratio of two
log-probabilities differs from one only because training changed the weights.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from reelrl.algos.policies import lora
from reelrl.algos.policies.settings import DTYPES, FlowPolicyConfig
from reelrl.algos.policies.weights import Weights, snapshot, swapped
from reelrl.ambient import undisturbed
from reelrl.envs import kernels, steps
from reelrl.envs.models import VideoModel
from reelrl.envs.models.integrity import module_digest
from reelrl.envs.models.trained import load_into, trainable_of
from reelrl.naming import nearest

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Observation = Mapping[str, Any]
"""The batched ``Dict`` observation of the environment, of arrays or tensors."""


@dataclass(frozen=True)
class FlowOutput:
    """The policy's prediction for N latents.

    Attributes:
        velocity: (N, C, T', H', W') float32, guided.
        step: distribution of the next latents.
    """

    velocity: Float[Tensor, "N C t h w"]
    step: steps.Step


class FlowPolicy:
    """A video model that denoises stochastically and can be trained.

    ```python
    policy = FlowPolicy(env.unwrapped.model, kernel="flow_sde", eta=0.7)
    policy.bind(env)
    latent, log_prob = policy.act(obs, torch.Generator().manual_seed(0))
    ```

    The experts are the model's, which environment and policy share: training changes them in place.
    They are always in evaluation mode. A copy of the policy has experts of its own, whether made by
    ``copy.deepcopy`` or by ``pickle``.

    Args:
        model: its :attr:`~reelrl.envs.models.VideoModel.experts` are trained.
        kernel: see :class:`FlowPolicyConfig`, as all that follows.
        eta: see there.
        guidance_scale: see there; an entry ``guidance_scale`` in an observation, a float or (N,),
            takes precedence, so that a stored trajectory is replayed with its own.
        **settings: its other attributes.

    Attributes:
        config: the settings; the model's own are filled in where they were None.
        experts: the networks by name, ``transformer`` where there is one.
        guidance_scale: the one in force.
        token: tells this policy from every other, its copies included.
        frozen: digest of the weights below adapters, if they are not the base model's own; else
            None.

    Raises:
        ValueError: for a setting out of range, a model without an expert or without a weight to
            train, adapters that are there already, or a model that cannot recompute its blocks
            where ``gradient_checkpointing`` asks for that.
    """

    @undisturbed
    def __init__(
        self,
        model: VideoModel,
        kernel: str = "flow_sde",
        eta: float | None = None,
        guidance_scale: float | None = 1.0,
        **settings: Any,
    ) -> None:
        known = [field.name for field in fields(FlowPolicyConfig)]
        for name in settings:
            if name not in known:
                raise ValueError(f"unknown setting {name!r} of a policy{nearest(name, known)}")
        config = FlowPolicyConfig(kernel, eta, guidance_scale, **settings)
        self.kernel = config.make_kernel()
        self.model = model
        self.experts = nn.ModuleDict(model.experts)
        if not self.experts:
            raise ValueError(f"model {model.name!r} has no transformer to train")
        targets = model.lora_targets if config.lora_targets is None else config.lora_targets
        scale = config.guidance_scale
        self.guidance_scale = model.default_guidance if scale is None else scale
        self.config = replace(config, guidance_scale=self.guidance_scale, lora_targets=targets)
        if not hasattr(model, "folder"):
            model.digest  # noqa: B018  (of the weights before they are trained)
        self.token = uuid.uuid4().hex
        self._prepare_experts()
        self._names = frozenset(self.parameters)
        self.frozen: str | None = None
        if config.lora_rank and (model.trained_by or model.altered):
            self.frozen = module_digest(model.experts, self._names)
        self._reference: Weights | None = None
        self._empty: Tensor | None = None
        self._embeddings: Tensor | None = None
        self._table: kernels.Coefficients | None = None
        self._ode: kernels.Coefficients | None = None

    def _prepare_experts(self) -> None:
        """Checkpointing, adapters and compilation, as configured."""
        config = self.config
        for index, (name, expert) in enumerate(self.experts.items()):
            if lora.adapter_layers(expert):
                raise ValueError(
                    f"the {name} of {self.model.name!r} has LoRA adapters already: open the model "
                    "anew, or copy.deepcopy it before its first policy is made"
                )
            if config.gradient_checkpointing:
                self._enable_checkpointing(name, expert)
            if rank := config.lora_rank:
                seed = config.lora_seed + index
                lora.add_lora(expert, rank, config.lora_alpha, config.lora_targets or (), seed)
            if config.compile:
                # In place: a wrapper would hide the adapters and rename the weights.
                expert.compile()
        if not self.parameters:
            raise ValueError(
                f"model {self.model.name!r} has no weight with requires_grad=True: expected "
                "some to train, or lora_rank > 0"
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> FlowPolicy:
        other = object.__new__(type(self))
        memo[id(self)] = other
        memo[id(self.model)] = self.model.twin(memo)
        other.__setstate__({key: copy.deepcopy(value, memo) for key, value in vars(self).items()})
        return other

    def __getstate__(self) -> dict[str, Any]:
        if self.config.gradient_checkpointing:
            # diffusers hangs a local function on every block.
            raise TypeError(
                "a policy with gradient_checkpointing cannot be pickled: use copy.deepcopy, or "
                "save policy.state_dict() and policy.settings()"
            )
        return vars(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.token = uuid.uuid4().hex
        own, models = dict(self.experts.items()), self.model.experts
        if own.keys() != models.keys() or any(own[name] is not models[name] for name in own):
            raise TypeError(
                f"a policy over a {type(self.model).__name__} cannot be copied: the copied model "
                "does not hold the copied experts. Make a FlowPolicy over a second model and load "
                "policy.state_dict() into it"
            )
        for expert in self.experts.values():
            if self.config.compile:
                expert.compile()  # A copied module is not compiled.

    def _enable_checkpointing(self, name: str, expert: nn.Module) -> None:
        enable: Any = getattr(expert, "enable_gradient_checkpointing", None)
        if enable is None:
            raise ValueError(
                f"gradient_checkpointing expects a {name} with enable_gradient_checkpointing(), "
                f"got a {type(expert).__name__} without it"
            )
        enable()

    @undisturbed
    def bind(self, env: Any) -> FlowPolicy:
        """Take noise schedule and prompts from an environment; a learner does so by itself.

        Args:
            env: single or batched environment, wrapped or not; prompt embeddings come from its
                table and are encoded once.

        Raises:
            ValueError: if the environment's model has other weights than the policy's: its text
                encoder may embed prompts in another way than the policy was trained on.
            RuntimeError: if another policy has put adapters on the model since.
        """
        task = env.unwrapped
        self._check_own()
        if not self.model.same_base(task.model):
            raise ValueError(
                f"the policy is over model {self.model.name!r} (digest {self.model.digest[:12]}), "
                f"the environment over {task.model.name!r} ({task.model.digest[:12]}): make the "
                "policy over env.unwrapped.model"
            )
        self._table = self.kernel.table(task.sigmas).to(self.model.device)
        self._ode = kernels.ODE().table(task.sigmas).to(self.model.device)
        self._embeddings = task.embeddings
        return self

    def _check_own(self) -> None:
        """Refuse to go on with weights that another policy has rearranged."""
        if self.parameters.keys() != self._names:
            raise RuntimeError(
                f"the {len(self._names)} weights of this policy over {self.model.name!r} are no "
                "longer the trainable ones: another policy has put adapters on its model. Make "
                "each policy over a model of its own, such as copy.deepcopy(model)"
            )

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
        """Trainable parameters by name; prefixed by the expert's where there are several."""
        return trainable_of(dict(self.experts.items()))

    def trainable(self) -> list[nn.Parameter]:
        """Parameters that an optimizer may change, the values of :attr:`parameters`.

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

    @undisturbed
    def forward(self, obs: Observation, deterministic: bool = False) -> FlowOutput:
        """Run the model once on N observations, which may be at different noise levels.

        An observed level is rounded to the nearest one of the schedule, because it stands for a
        step there: float32 levels find their float64 row of the kernel's table. A level between two
        steps is for :meth:`velocity`.

        Args:
            obs: ``latent`` (N, C, T', H', W'), ``sigma`` (N, 1), ``prompt_id`` (N, 1) or
                ``prompt_embedding`` (N, ...), optionally ``guidance_scale``.
            deterministic: take Euler steps of the probability flow in place of the kernel's.
        """
        latent = self._tensor(obs["latent"]).to(torch.float32)
        table = self._ode_table if deterministic else self.table
        rows = table.at(self.table.index_of(self._tensor(obs["sigma"])))
        scale = obs.get("guidance_scale", self.guidance_scale)
        sigma = rows.sigma.to(torch.float32)
        velocity = self._velocity(latent, sigma, self._embed(obs), scale)
        return FlowOutput(velocity, steps.advance(rows, latent, velocity))

    @undisturbed
    def velocity(
        self,
        latent: Float[Tensor, "N C t h w"],
        sigma: Float[Tensor, " N"],
        prompt_ids: Int[Tensor, " N"],
    ) -> Float[Tensor, "N C t h w"]:
        """Predicted velocity ``noise - clip`` at any noise level, on the schedule or off it.

        Guided and in the precision that the policy is configured with.

        Args:
            latent: (N, C, T', H', W').
            sigma: (N,) in [0, 1], taken as it is.
            prompt_ids: (N,) rows in the prompts of the bound environment.

        Returns:
            (N, C, T', H', W') float32, with gradients where they are enabled.

        Raises:
            RuntimeError: before :meth:`bind`.
        """
        latent, sigma = (self._tensor(part).to(torch.float32) for part in (latent, sigma))
        embedding = self._embed({"prompt_id": prompt_ids})
        return self._velocity(latent, sigma, embedding, self.guidance_scale)

    def sample(
        self, step: steps.Step, noise: Float[Tensor, " N *rest"]
    ) -> Float[Tensor, " N *rest"]:
        """Latents (N, ...) float32 from standard normal noise, rounded as they will be stored."""
        dtype = DTYPES[self.config.latent_dtype]
        return steps.sample(step, noise.to(step.mean.device), dtype).to(torch.float32)

    def log_density(self, step: steps.Step, action: Float[Tensor, "N ..."]) -> Float[Tensor, " N"]:
        """(N,) float64 log-probability of actions; ``nan`` where the step is deterministic.

        Raises:
            ValueError: if the kernel is deterministic at every step.
        """
        if not self.kernel.has_density:
            raise ValueError(
                f"kernel {self.config.kernel!r} is deterministic: its samples have no density"
            )
        return steps.log_prob(step, action, self.config.reduction)

    @undisturbed
    @torch.no_grad()
    def act(
        self,
        obs: Observation,
        generator: torch.Generator | None = None,
        *,
        noise: Float[Tensor, "N C t h w"] | None = None,
    ) -> tuple[Float[Tensor, "N C t h w"], Float[Tensor, " N"]]:
        """Draw the next latents.

        Args:
            obs: see :meth:`forward`.
            generator: source of the noise, on its own device; None means torch's global one.
            noise: (N, C, T', H', W') standard normal, instead of drawing it.

        Returns:
            latents (N, C, T', H', W') float32 and log-probabilities (N,) float64.
        """
        step = self.forward(obs).step
        if noise is None:
            device = step.mean.device if generator is None else generator.device
            noise = torch.randn(
                step.mean.shape, generator=generator, dtype=torch.float32, device=device
            )
        latent = self.sample(step, noise)
        return latent, self.log_density(step, latent)

    @undisturbed
    def log_prob(self, obs: Observation, action: Any) -> Float[Tensor, " N"]:
        """(N,) float64 log-probability of stored actions, with gradients where enabled."""
        return self.log_density(self.forward(obs).step, self._tensor(action))

    @undisturbed
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
            with lora.adapters_off(self.experts):
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
        self._check_own()
        return snapshot(self.parameters)

    def load_state_dict(self, weights: Weights, reference: Weights | None = None) -> None:
        """Set the trainable weights, and the reference's weights.

        Raises:
            ValueError: if names or shapes differ.
        """
        load_into(self.parameters, weights)
        if reference:
            kept = {name: tensor.to(self.model.device) for name, tensor in reference.items()}
            self._reference = kept

    def save_pretrained(self, folder: str | Path) -> None:
        """Write adapters or weights in the model's own format; a diffusers pipeline loads Wan's.

        :meth:`~reelrl.envs.models.VideoModel.load_trained` of the model reads it back.
        """
        self._check_own()
        if self.config.lora_rank:
            self.model.save_lora(folder)
        else:
            self.model.save_trained(folder)

    def settings(self) -> dict[str, Any]:
        """The configuration as plain values: ``FlowPolicy(model, **settings)`` is its twin."""
        return asdict(self.config)

    @property
    def _ode_table(self) -> kernels.Coefficients:
        assert self._ode is not None  # bound together with the table
        return self._ode

    def _tensor(self, value: Any) -> Tensor:
        return torch.as_tensor(value, device=self.model.device)

    def _embed(self, obs: Observation) -> Float[Tensor, "N ..."]:
        if "prompt_embedding" in obs:
            return self._tensor(obs["prompt_embedding"])
        if self._embeddings is None:
            raise RuntimeError("the policy knows no prompts yet: call policy.bind(env)")
        return self._embeddings[self._tensor(obs["prompt_id"]).reshape(-1)]

    def _velocity(
        self,
        latent: Float[Tensor, "N C t h w"],
        sigma: Float[Tensor, " N"],
        embedding: Float[Tensor, "N ..."],
        scale: float | Float[Tensor, " N"],
    ) -> Float[Tensor, "N C t h w"]:
        """Guided velocity in the policy's precision."""
        # Dropout between sampling and replaying would be a ratio that no training made.
        for expert in self.experts.values():
            expert.eval()
        scale = scale if isinstance(scale, int | float) else torch.as_tensor(scale)
        if self._empty is None and (isinstance(scale, Tensor) or scale != 1):
            self._empty = self.model.encode([self.model.negative_prompt])
        with self._autocast():
            return self.model.guided(latent, sigma, embedding, scale, self._empty)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.config.precision == "float32":
            return nullcontext()
        return torch.autocast(self.model.device.type, DTYPES[self.config.precision])
