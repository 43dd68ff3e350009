"""A local model behind the loopback server: chat requests in, its own log-probabilities out.

Tests of a client use it in place of a real server: the same weights answer in the process,
for :class:`~reelrl.rewards.judges.VLMJudge`, and over HTTP, for
:class:`~reelrl.rewards.judges.OpenAIJudge`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import accumulate, pairwise
from threading import Lock
from typing import Any

from reelrl.rewards.judges.chat import TOP_LOGPROBS
from reelrl.rewards.judges.loopback import frames_of, text_reply
from reelrl.rewards.vlm.model import Query, QwenVL

HEADING = re.compile(r"(?:Video|First video|Second video), (\d+) frames in order, (\S+) a second:")
"""Heading that :func:`reelrl.rewards.judges.chat.content` writes above the frames of a clip."""


def query_of(request: Mapping[str, Any]) -> Query:
    """The question that a chat request of our client asks, its frames gathered into clips again.

    Raises:
        ValueError: if the frames differ from the headings' announcement.
    """
    texts = [p["text"] for p in request["messages"][-1]["content"] if p["type"] == "text"]
    found = [match for text in texts[:-1] if (match := HEADING.fullmatch(text))]
    counts = [int(match[1]) for match in found]
    frames = frames_of(request)
    if not counts or sum(counts) != len(frames):
        raise ValueError(f"expected {counts} frames by the headings, got {len(frames)} pictures")
    clips = tuple(frames[i:j] for i, j in pairwise(accumulate(counts, initial=0)))
    system = [m["content"] for m in request["messages"] if m["role"] == "system"]
    rates = tuple(float(match[2]) for match in found)
    return Query(clips, texts[-1], system[0] if system else None, rates)


def model_reply(vlm: QwenVL) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A reply function for :class:`~reelrl.rewards.judges.loopback.LoopbackServer`.

    A request for log-probabilities gets the first token's; any other request gets a written answer.
    Requests are answered one at a time.
    """
    lock = Lock()

    def reply(request: dict[str, Any]) -> dict[str, Any]:
        query = query_of(request)
        with lock:
            if request.get("logprobs"):
                return first_token_reply(vlm, query, request.get("top_logprobs", TOP_LOGPROBS))
            return text_reply(vlm.text(vlm.generate([query], request["max_tokens"])[0]))

    return reply


def first_token_reply(vlm: QwenVL, query: Query, count: int) -> dict[str, Any]:
    """The likeliest first token and the ``count`` likeliest with their log-probabilities."""
    share = vlm.next_logits([query])[0].log_softmax(-1)
    values, ids = share.topk(min(count, len(share)))
    top = [
        {"token": vlm.tokenizer.decode([i]), "logprob": value}
        for i, value in zip(ids.tolist(), values.tolist(), strict=True)
    ]
    first = {**top[0], "top_logprobs": top}
    message = {"role": "assistant", "content": top[0]["token"]}
    return {"choices": [{"index": 0, "message": message, "logprobs": {"content": [first]}}]}
