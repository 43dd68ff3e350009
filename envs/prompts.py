"""The prompts of an environment: a list of texts, or the name of a set that ships."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from reelrl.rewards.moving_shapes.world import captions

PROMPT_SETS = {
    "moving_shapes": "train",
    "moving_shapes/compositional": "compositional",
}
"""Name of a prompt set -> split of :func:`reelrl.rewards.moving_shapes.world.captions`."""


def resolve_prompts(prompts: str | Sequence[str]) -> tuple[str, ...]:
    """Texts of a named prompt set, or the texts given.

    Raises:
        ValueError: for an unknown name, an empty list, or an entry that is no text.
    """
    if isinstance(prompts, str):
        if prompts not in PROMPT_SETS:
            near = get_close_matches(prompts, PROMPT_SETS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"unknown prompt set {prompts!r}{hint} Known: {', '.join(PROMPT_SETS)}. "
                "Texts of your own go in a list, even a single one"
            )
        return tuple(captions(PROMPT_SETS[prompts]))
    texts = tuple(prompts)
    if not texts:
        raise ValueError("prompts must hold at least one text, got none")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"prompt {index} must be a text, got {type(text).__name__}")
    return texts
