"""The arguments of an environment, checked by key before a model is loaded."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from gymnasium.envs.registration import EnvSpec, load_env_creator

from reelrl.algos.advantages import make_estimator
from reelrl.algos.config import check_weights
from reelrl.algos.silence import check_group_of_one
from reelrl.checks import Ge, Gt, check_fields
from reelrl.envs.prompts import resolve_prompts
from reelrl.envs.vector import TextToVideoVectorEnv
from reelrl.naming import nearest
from reelrl.rewards.base import REWARDS
from reelrl.rewards.spec import AROUND
from reelrl.zoo.settings import TrainConfig, build


@dataclass(frozen=True)
class EnvArguments:
    """The keys of ``env_args``, as yaml has them; the environment says the effect of each.

    Raises:
        ValueError: for a value out of range.
    """

    model: str = ""
    prompts: str | tuple[Any, ...] = ()
    rewards: tuple[Any, ...] = ()
    num_steps: Annotated[int, Ge(1)] = 1
    shift: Annotated[float, Gt(0)] | None = None
    num_frames: Annotated[int, Ge(1)] = 1
    height: Annotated[int, Ge(1)] = 1
    width: Annotated[int, Ge(1)] = 1
    observe_embedding: bool = False
    flat: bool = False
    scalar_weights: tuple[float, ...] | None = None
    output: Literal["numpy", "torch"] = "torch"
    device: str | None = None
    on_reward_error: str = "mask"
    reward_timeout: Annotated[float, Gt(0)] | None = None
    render_mode: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, "env_args.")


def check_arguments(spec: EnvSpec, arguments: Mapping[str, Any]) -> None:
    """Refuse an environment that makes no clips, and arguments that it cannot take.

    Args:
        spec: of the environment.
        arguments: the arguments that differ from the spec's own.

    Raises:
        ValueError: in one line that names the key.
    """
    entry = spec.vector_entry_point
    kind: Any = load_env_creator(entry) if isinstance(entry, str) else entry
    if kind is None or (isinstance(kind, type) and not issubclass(kind, TextToVideoVectorEnv)):
        raise ValueError(
            f"env must be a batch of text-to-video episodes, such as reelrl/MovingShapes-v0, got "
            f"{spec.id!r}"
        )
    if kind is not TextToVideoVectorEnv:
        return  # somebody's own may take more
    given = build(EnvArguments, arguments, "env_args.")
    check_device(given.device)
    if "prompts" in arguments:
        prompts = given.prompts if isinstance(given.prompts, str) else list(given.prompts)
        _with_key("env_args.prompts", resolve_prompts, prompts)
    for place, reward in enumerate(given.rewards):
        _check_reward(reward, f"env_args.rewards[{place}]")


def check_run(config: TrainConfig, spec: EnvSpec) -> None:
    """Refuse a training run that could not begin, before its model is loaded.

    Args:
        config: of the run.
        spec: of its environment.

    Raises:
        ValueError: in one line that names the key.
    """
    check_arguments(spec, config.env_args)
    _with_key("estimator", make_estimator, config.estimator)
    rewards = config.env_args.get("rewards", spec.kwargs.get("rewards"))
    if isinstance(rewards, list | tuple):
        check_weights(config.learner.reward_weights, [_label(reward) for reward in rewards])
    if config.env_args.get("scalar_weights") is not None:
        raise ValueError(
            "env_args.scalar_weights: a learner reads the vector of rewards, so give the weights "
            "as learner.reward_weights"
        )
    if config.learner.group_size == 1:
        estimator = make_estimator(config.estimator)
        _with_key("learner", partial(check_group_of_one, names=["reward"], prompts=8), estimator)
    for place, reward in enumerate(config.evaluation.rewards):
        _check_reward(reward, f"evaluation.rewards[{place}]")


def check_device(name: str | None, path: str = "env_args.device") -> None:
    """Refuse a device that this machine does not have.

    Args:
        name: as torch has it; None means the default.
        path: the key.

    Raises:
        ValueError: names the key and a device that is here.
    """
    if name is None:
        return
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"{path} must be a device such as 'cpu', got {name!r}") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        here = f"{count} CUDA devices here" if count else "no CUDA device here"
        works = f"'cuda:0' to 'cuda:{count - 1}' or 'cpu'" if count else "'cpu'"
        raise ValueError(f"{here}: {path} must be {works}, got {name!r}")
    try:
        torch.zeros((), device=device).item()
    # Each backend that is not there raises its own kind.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"{path} must be a device of this machine, got {name!r}") from error


def _check_reward(reward: Any, path: str) -> None:
    """Refuse a reward that is not registered, and keys that it does not have."""
    given = reward if isinstance(reward, Mapping) else {"name": reward}
    name = given.get("name")
    if not isinstance(name, str):
        raise ValueError(f"{path} must be a name, or keys and values with a name, got {reward!r}")
    _with_key(path, REWARDS.find, name)
    parameters = inspect.signature(REWARDS[name]).parameters
    known = ["name", *AROUND, *parameters]
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for key in given:
        if key not in known and not takes_all:
            raise ValueError(f"unknown key {f'{path}.{key}'!r}{nearest(key, known)}")


def _label(reward: Any) -> str:
    """Name of a reward's column."""
    given = reward if isinstance(reward, Mapping) else {"name": reward}
    return str(given.get("label", given.get("name")))


def _with_key(path: str, function: Any, value: Any) -> None:
    try:
        function(value)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
