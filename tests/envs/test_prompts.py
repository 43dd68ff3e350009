"""Prompts are texts in an order: an id is a place in it."""

from __future__ import annotations

import pytest

from reelrl.envs.prompts import resolve_prompts

TEXTS = ("a red circle moving right", "a blue square moving left")


@pytest.mark.parametrize("kind", [list, tuple])
def test_what_has_an_order_is_taken_in_it(kind):
    assert resolve_prompts(kind(TEXTS)) == TEXTS


@pytest.mark.parametrize(
    "given", [set(TEXTS), frozenset(TEXTS), dict.fromkeys(TEXTS), dict.fromkeys(TEXTS).keys(), 5]
)
def test_what_has_no_order_is_refused(given):
    """Of a set the ids followed Python's hash seed: one seed was another run in each process."""
    with pytest.raises(ValueError) as error:
        resolve_prompts(given)
    assert str(error.value) == (
        f"prompts must be a list or another sequence of texts, got {type(given).__name__}"
    )
