"""Whether a run may go on in an environment, and how that differs from its first one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reelrl.algos.run.checkpoint import list_checkpoints
from reelrl.envs.protocol import denoising_env
from reelrl.envs.rebuild import describe_env, resolved_arguments


def environment_facts(env: Any) -> dict[str, Any]:
    """All that another environment could change under a run, as plain values."""
    base = denoising_env(env)
    prompts = json.dumps(list(base.prompts)).encode("utf-8")
    return {
        "model": base.model.digest,
        "negative_prompt": base.model.negative_prompt,
        "max_prompt_tokens": base.model.max_prompt_tokens,
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
        was, now = _described(facts["env"]), _described(describe_env(env))
        now["model"] = base.model.name
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


def check_same_policy(facts: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuse to go on with a policy of other settings than the run's.

    Args:
        facts: of a checkpoint.
        settings: of the policy.

    Raises:
        ValueError: names what differs, with both values.
    """
    # What is only about speed and memory may change.
    free = ("compile", "gradient_checkpointing", "lora_seed")
    was = {k: v for k, v in facts["policy"].items() if k not in free and k in settings}
    now = json.loads(json.dumps(dict(settings)))
    different = [f"{k} {v}, now {now[k]}" for k, v in was.items() if now[k] != v]
    if different:
        raise ValueError(
            f"the run had another policy: it had {'; '.join(different)}. Give it the settings it "
            "had, or allow_changes=True"
        )


def check_frozen(facts: Mapping[str, Any], own: str | None) -> None:
    """Refuse adapters over other weights than they were trained over.

    Args:
        facts: of a checkpoint.
        own: digest of the weights below the policy's adapters; None if they are the base model's.

    Raises:
        ValueError: if they differ.
    """
    was = facts.get("frozen")
    if "frozen" in facts and was != own:
        shown = [value[:12] if value else "the base model's own" for value in (was, own)]
        raise ValueError(
            f"the run's adapters were trained over other weights: {shown[0]}, now {shown[1]}. Load "
            "those weights into the environment's model first, by its load_trained"
        )


def check_branch(own: Path, source: Path) -> None:
    """Refuse to go on in the folder of a run from a checkpoint of elsewhere.

    Args:
        own: folder of checkpoints of the run.
        source: a checkpoint, or a folder of them.

    Raises:
        ValueError: if the run has checkpoints, and the source is none of them.
    """
    inside = own.resolve() in (source.resolve(), source.resolve().parent)
    if not inside and list_checkpoints(own):
        raise ValueError(
            f"{source} is none of the checkpoints in {own}: going on from it there would mix two "
            "runs. Give another log_folder"
        )


def _described(described: Mapping[str, Any] | None) -> dict[str, Any]:
    """The arguments by which old checkpoints know their environment, where they are plain."""
    arguments = resolved_arguments(described)
    known = ("model", "prompts", "num_steps", "num_frames", "height", "width")
    return {key: arguments[key] for key in known if key in arguments}


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)
