"""Pages of the reward components, from what their classes declare."""

from __future__ import annotations

import inspect
import math
import re
from typing import Any

from docstrings import ROLE, to_markdown

from reelrl.rewards import Reward, list_rewards, make_reward, reward_class

WORDS = {
    "higher_is_better": "higher is better",
    "license": "licence",
    "memory_gb": "memory of the weights, GB",
    "fps_sensitive": "depends on the frame rate",
    "groupwise": "depends on the group",
}
"""Attributes whose names do not explain themselves."""


def declared(name: str) -> dict[str, Any]:
    """What the component says of itself, in the order in which `Reward` lists it.

    What a class leaves to its constructor is read from an instance if one can be made.
    """
    found: Any = reward_class(name)
    if not all(hasattr(found, attribute) for attribute in Reward.__annotations__):
        found = make_reward(name) if not needed(name) else found
    return {key: getattr(found, key) for key in Reward.__annotations__ if hasattr(found, key)}


def needed(name: str) -> list[str]:
    """Arguments without which the component cannot be made here, where no weights are."""
    published = getattr(reward_class(name), "weights", "")
    return [
        parameter.name
        for parameter in _parameters(name)
        if parameter.default is parameter.empty or (published and parameter.name == "model")
    ]


def summary(name: str) -> str:
    """The first line of the docstring, without links."""
    return ROLE.sub(lambda match: f"`{match[2]}`", _doc(name).split("\n")[0])


def pages() -> dict[str, str]:
    """Site path -> Markdown."""
    made = {f"components/{name}.md": page(name) for name in list_rewards()}
    return {"components/index.md": index(), **made}


def index() -> str:
    """The table of all components."""
    lines = ["# Reward components", "", "| name | bounds | licence | what |", "|---|---|---|---|"]
    for name in list_rewards():
        facts = declared(name)
        cells = (show(facts.get("bounds")), show(facts.get("license")), _cell(summary(name)))
        lines.append(f"| [`{name}`]({name}.md) | {' | '.join(cells)} |")
    lines += [
        "",
        "Transforms that go around any of them are in "
        "[`reelrl.rewards.transforms`][reelrl.rewards.transforms]; a component of your own is "
        "[ten lines](../howto/reward.md).",
    ]
    return "\n".join(lines) + "\n"


def page(name: str) -> str:
    """One component."""
    factory: Any = reward_class(name)
    summary_, _, rest = _doc(name).partition("\n")
    # The arguments have a table of their own below.
    rest = re.split(r"^(?:Args|Attributes|Raises|Returns):$", rest, flags=re.MULTILINE)[0]
    lines = [f"# `{name}`", "", *_markdown(f"{summary_}\n{rest}".strip()), ""]
    lines += ["| declares | |", "|---|---|"]
    for key, value in declared(name).items():
        # A default that says nothing is no fact about this component.
        if value not in ("", 0.0) or isinstance(value, bool):
            lines.append(f"| {WORDS.get(key, key)} | {_cell(show(value))} |")
    lines += ["", *_arguments(name), *_use(name)]
    lines += ["", f"Class: [`{factory.__qualname__}`][{factory.__module__}.{factory.__qualname__}]"]
    return "\n".join(lines) + "\n"


def show(value: Any) -> str:
    """A declared value for a reader."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple) and len(value) == 2:
        low, high = (("−" if end < 0 else "") + _number(abs(end)) for end in value)
        return f"[{low}, {high}]"
    return "" if value is None else str(value)


def _number(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:g}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _doc(name: str) -> str:
    return inspect.getdoc(reward_class(name)) or ""


def _markdown(text: str) -> list[str]:
    return to_markdown(text, lambda path: path if path.startswith("reelrl.") else None).split("\n")


def _parameters(name: str) -> list[inspect.Parameter]:
    found = inspect.signature(reward_class(name)).parameters.values()
    return [p for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _arguments(name: str) -> list[str]:
    parameters = _parameters(name)
    if not parameters:
        return []
    lines = ["| argument | default |", "|---|---|"]
    for parameter in parameters:
        default = "required" if parameter.default is parameter.empty else f"`{parameter.default!r}`"
        lines.append(f"| `{parameter.name}` | {_cell(default)} |")
    return [*lines, ""]


def _use(name: str) -> list[str]:
    wanted = needed(name)
    if wanted:
        spec = ", ".join([f"name: {name}", *(f"{argument}: ..." for argument in wanted)])
        return ["In `rewards` of an environment or a preset:", "", "```text", f"{{{spec}}}", "```"]
    return [
        "```python",
        "import gymnasium as gym",
        "",
        f'env = gym.make("reelrl:reelrl/MovingShapes-v0", rewards=["{name}"])',
        "print(env.unwrapped.reward_names, env.unwrapped.reward_space)",
        "```",
    ]
