"""The prompts of an environment: a list of texts, or the name of a set that ships."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from reelrl.naming import Registry, nearest
from reelrl.rewards.moving_shapes.world import captions

S = TypeVar("S", bound=Callable[[], Sequence[str]])
PROMPT_SETS: Registry[Callable[[], Sequence[str]]] = Registry("prompt set")
"""Name of a prompt set -> function that returns its texts."""


def register_prompts(name: str) -> Callable[[S], S]:
    """Decorator for a function without arguments that returns the texts of a prompt set.

    Raises:
        ValueError: if the name is taken by another function.
    """
    return PROMPT_SETS.register(name)


@register_prompts("moving_shapes")
def training_captions() -> list[str]:
    """The 192 captions of MovingShapes that policies are trained on."""
    return captions("train")


@register_prompts("moving_shapes/compositional")
def compositional_captions() -> list[str]:
    """The 24 captions of the pairs of colour and shape that training leaves out."""
    return captions("compositional")


def resolve_prompts(prompts: str | Sequence[str]) -> tuple[str, ...]:
    """Texts of a named prompt set, or the texts given.

    Raises:
        ValueError: for an unknown name, an empty list, an entry that is no text, or a collection
            without an order, for example a set.
    """
    if isinstance(prompts, str):
        if prompts not in PROMPT_SETS:
            raise ValueError(
                f"unknown prompt set {prompts!r}{nearest(prompts, PROMPT_SETS)}. "
                "Texts of your own go in a list, even a single one"
            )
        prompts = PROMPT_SETS[prompts]()
    if not isinstance(prompts, Sequence):
        # Of a set the order, and with it the id of each prompt, is another one in each process.
        raise ValueError(
            f"prompts must be a list or another sequence of texts, got {type(prompts).__name__}"
        )
    texts = tuple(prompts)
    if not texts:
        raise ValueError("prompts must hold at least one text, got none")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"prompt {index} must be a text, got {type(text).__name__}")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"prompt {index} must be valid Unicode, got {text!r}") from error
    return texts
