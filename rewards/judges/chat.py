"""A question as an OpenAI-style chat request, and the score in its reply."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from reelrl.rewards.answers import last_score
from reelrl.rewards.judges.rubric import HIGH, LOW, SYSTEM
from reelrl.rewards.judges.yes_no import yes_of_top

CODEC = "png8"
"""Frames are rounded to bytes and packed without loss; JPEG and mp4 would smooth away the very
noise that a policy learns to exploit."""
TOP_LOGPROBS = 20
"""The most that vLLM and OpenAI list unless told otherwise."""
NAME_KEPT = 200
"""Characters of a server's name for its model; telemetry keeps thousands of them."""

SCORE_SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "score",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"score": {"type": "integer", "minimum": LOW, "maximum": HIGH}},
            "required": ["score"],
            "additionalProperties": False,
        },
    },
}


def png_url(frame: Tensor) -> str:
    """A frame (H, W, 3) in [0, 1] as a data address of a PNG."""
    from PIL import Image

    pixels = frame.detach().cpu().clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def content(clips: Sequence[Tensor], rates: Sequence[float], text: str) -> list[dict[str, Any]]:
    """Clips (n, H, W, 3) frame by frame, each under its heading, then the question.

    Args:
        clips: one or two.
        rates: frames a second of each.
        text: the question.
    """
    names = ["Video"] if len(clips) == 1 else ["First video", "Second video"]
    parts: list[dict[str, Any]] = []
    for name, clip, rate in zip(names, clips, rates, strict=True):
        heading = f"{name}, {len(clip)} frames in order, {rate:.3g} a second:"
        parts.append({"type": "text", "text": heading})
        parts += [{"type": "image_url", "image_url": {"url": png_url(frame)}} for frame in clip]
    return [*parts, {"type": "text", "text": text}]


def chat_request(
    model: str,
    parts: Sequence[Mapping[str, Any]],
    *,
    written: bool,
    seed: int,
    max_tokens: int,
    structured: bool,
) -> dict[str, Any]:
    """The body of a request: greedy, one token and its rivals for yes or no.

    Args:
        model: as the server calls it.
        parts: of :func:`content`.
        written: a score is to be written.
        seed: for servers whose sampler wants one even at temperature 0.
        max_tokens: of a written answer.
        structured: ask for JSON by schema.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": list(parts)},
        ],
        "temperature": 0,
        "seed": seed,
        "max_tokens": max_tokens if written else 1,
    }
    if not written:
        return body | {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
    return body | ({"response_format": SCORE_SCHEMA} if structured else {})


def read_yes(reply: Mapping[str, Any]) -> tuple[float, float]:
    """P(yes) and the mass from a reply.

    Raises:
        ValueError: if the reply has no log-probabilities of a first token.
    """
    choice = _choice(reply)
    try:
        listed = choice["logprobs"]["content"][0]["top_logprobs"]
        top = [(entry["token"], entry["logprob"]) for entry in listed]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError("no log-probabilities in the reply") from error
    if not all(isinstance(token, str) and _is_number(value) for token, value in top):
        raise ValueError("a token or log-probability in the reply is none")
    return yes_of_top([(token, float(value)) for token, value in top])


def _is_number(value: Any) -> bool:
    """Whether it is a number of a size that a log-probability can have."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def read_score(reply: Mapping[str, Any]) -> float:
    """A written score as (s - 1) / 4, ``nan`` if there is none from 1 to 5.

    Raises:
        ValueError: if the reply has no text.
    """
    message = _choice(reply).get("message")
    text = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(text, str):
        raise ValueError("no text in the reply")
    return (last_score(text, LOW, HIGH) - LOW) / (HIGH - LOW)


def _choice(reply: Mapping[str, Any]) -> Mapping[str, Any]:
    """The choice with index 0, wherever it stands.

    Raises:
        ValueError: if there is none.
    """
    choices = reply.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, Mapping) and choice.get("index", 0) == 0:
            return choice
    raise ValueError("no choice in the reply")


def usage(reply: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Tokens of prompt and answer as the server counts them; None where it does not."""
    counts = reply.get("usage")
    counts = counts if isinstance(counts, Mapping) else {}
    found = [counts.get(f"{side}_tokens") for side in ("prompt", "completion")]
    return tuple(n if isinstance(n, int) else None for n in found)  # type: ignore[return-value]


def served_as(reply: Mapping[str, Any]) -> str:
    """Model and build that a reply says it is from."""
    names = (reply.get("model"), reply.get("system_fingerprint"))
    return " ".join(str(name)[:NAME_KEPT] for name in names if name)
