"""Whether a run may go on in an environment, and how that differs from its first one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from reelrl.envs.protocol import denoising_env
from reelrl.envs.rebuild import describe_env, resolved_arguments


def environment_facts(env: Any) -> dict[str, Any]:
    """All that another environment could change under a run, as plain values."""
    base = denoising_env(env)
    prompts = json.dumps(list(base.prompts)).encode("utf-8")
    return {
        "model": base.model.digest,
        "prompts": hashlib.sha256(prompts).hexdigest(),
        "num_steps": base.num_steps,
        "latent_shape": list(base.latent_shape),
    }


def check_same_environment(facts: Mapping[str, Any], env: Any, *, allow_changes: bool) -> None:
    """Refuse to go on in an environment that differs from the run's.

    Args:
        facts: of a checkpoint.
        env: to go on in.
        allow_changes: pass over everything but the names of the rewards.

    Raises:
        ValueError: names each difference, with both values.
    """
    base = denoising_env(env)
    if facts["rewards"] != base.reward_names:
        raise ValueError(
            f"the run had the rewards {facts['rewards']}, the environment has {base.reward_names}"
        )
    if allow_changes:
        return
    shift = shift_of(facts)
    if shift is not None and shift != base.shift:
        raise ValueError(
            f"the run had a noise schedule of shift {shift}, the environment has {base.shift}: "
            f"give it shift={shift}"
        )
    was, now = facts.get("environment"), environment_facts(env)
    # Checkpoints from before there was a digest know the name of a model that ships, no more.
    if was is None:
        was, now = _named(facts["env"]), {"model": base.model.name}
    different = [name for name in was if name in now and was[name] != now[name]]
    before, after = resolved_arguments(facts["env"]), resolved_arguments(describe_env(env))
    known = "rewards" in before and "rewards" in after
    if known and before["rewards"] != after["rewards"]:
        was, now = {**was, "rewards": before["rewards"]}, {**now, "rewards": after["rewards"]}
        different.append("rewards")
    if different:
        shown = "; ".join(f"{n} {_short(was[n])}, now {_short(now[n])}" for n in different)
        raise ValueError(
            f"the run was trained in another environment: it had {shown}. Give it the "
            "environment it had, or allow_changes=True"
        )


def shift_of(facts: Mapping[str, Any]) -> float | None:
    """Shift of a run's noise schedule; None if its checkpoint cannot tell.

    Checkpoints from before a model had a shift of its own do not record it. The environment had the
    shift it was given then, or 3.
    """
    if "shift" in facts:
        return float(facts["shift"])
    return None if facts["env"] is None else float(facts["env"]["kwargs"].get("shift", 3.0))


def _named(described: Mapping[str, Any] | None) -> dict[str, Any]:
    name = resolved_arguments(described).get("model")
    return {"model": name} if isinstance(name, str) else {}


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)
