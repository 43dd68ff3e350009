"""Pages of the registered environments: what an id is made of, and its class docstring."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

import reelrl  # noqa: F401  (registers the ids)

PREFIX = "reelrl/"
CLASS = "reelrl.envs.text_to_video.TextToVideoEnv"
BATCH = "reelrl.envs.vector.TextToVideoVectorEnv"


def ids() -> list[str]:
    """Registered ids, the general one first."""
    found = sorted(name for name in gym.registry if name.startswith(PREFIX))
    return sorted(found, key=lambda name: bool(gym.registry[name].kwargs))


def pages() -> dict[str, str]:
    """Site path -> Markdown."""
    made = {f"environments/{name.removeprefix(PREFIX)}.md": page(name) for name in ids()}
    return {"environments/index.md": index(), **made}


def index() -> str:
    """The table of all ids."""
    lines = ["# Environments", "", "| id | model | reward vector |", "|---|---|---|"]
    for name in ids():
        given = gym.registry[name].kwargs
        rewards = ", ".join(_reward_link(r) for r in given.get("rewards", ())) or "yours"
        model = f"`{given['model']}`" if "model" in given else "yours"
        lines.append(f"| [`{name}`]({name.removeprefix(PREFIX)}.md) | {model} | {rewards} |")
    lines += [
        "",
        "All are one class, [`TextToVideoEnv`](TextToVideo-v0.md), and its native batch, "
        f"[`TextToVideoVectorEnv`][{BATCH}]. "
        "How they behave, wrappers, kernels and speed: [The environment](../envs.md).",
    ]
    return "\n".join(lines) + "\n"


def page(name: str) -> str:
    """One id: the general one is the class docstring, the others say what they fix."""
    given = gym.registry[name].kwargs
    return _general(name) if not given else _specific(name, given)


def _general(name: str) -> str:
    options = (
        "members: false, show_root_heading: false, show_root_toc_entry: false, show_bases: false, "
        "show_signature: false, heading_level: 1, skip_local_inventory: true"
    )
    return f"# `{name}`\n\n::: {CLASS}\n    options: {{{options}}}\n"


def _specific(name: str, given: dict[str, Any]) -> str:
    env = gym.make(name)
    # The type of what make returns knows nothing of prompts and rewards.
    task: Any = env.unwrapped
    facts = {
        "model": f"[`{given['model']}`](../nano.md)",
        "prompts": f"`{given['prompts']}`, {len(task.prompts)} captions such as "
        f"“{task.prompts[0]}”",
        "rewards": ", ".join(_reward_link(reward) for reward in task.reward_names),
        "action": f"`{env.action_space}`",
        "reward": f"`{task.reward_space}`",
    }
    seen = env.observation_space
    entries = seen.items() if isinstance(seen, gym.spaces.Dict) else [("vector", seen)]
    facts |= {f"observation `{key}`": f"`{space}`" for key, space in entries}
    facts["steps"] = str(task.num_steps)
    lines = [f"# `{name}`", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in facts.items()]
    lines += [
        "",
        "```python",
        "import gymnasium as gym",
        "",
        f'envs = gym.make_vec("reelrl:{name}", num_envs=2)',
        "observations, infos = envs.reset(seed=0)",
        "observations, rewards, *_ = envs.step(envs.action_space.sample())",
        "print(rewards.shape, envs.unwrapped.reward_names)",
        "```",
        "",
        "Any argument may be changed, `num_steps` or `rewards` for example. Spaces, starting "
        "state, episode end and all arguments are described in "
        "[`reelrl/TextToVideo-v0`](TextToVideo-v0.md), of which this is a configuration.",
    ]
    env.close()
    return "\n".join(lines) + "\n"


def _reward_link(name: str) -> str:
    return f"[`{name}`](../components/{name}.md)"
