"""A judge behind an OpenAI-compatible server: vLLM, SGLang, ``transformers serve``, llama.cpp."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reelrl.rewards.base import register_reward
from reelrl.rewards.judges import chat
from reelrl.rewards.judges.base import Answer, Ask, Judge
from reelrl.rewards.judges.pool import Backoff, Breaker, map_ordered
from reelrl.rewards.judges.telemetry import Call
from reelrl.rewards.judges.transport import Reply, Transport, TransportError

REFUSES_SETTING = (400, 404, 415, 422, 501)
"""What servers answer to a request that holds a setting they do not know."""


class _Failed(Exception):
    """A question that stays unanswered."""


@dataclass
class _Progress:
    """One question on its way."""

    deadline: float
    attempts: int = 0
    mass: float | None = None
    reply: dict[str, Any] | None = None


@register_reward("openai_judge")
class OpenAIJudge(Judge):
    """A judge on an OpenAI-compatible server: P("yes") or a written score in [0, 1].

    Args:
        model: as the server calls it.
        base_url: of the server, with its ``/v1``.
        revision: of the weights, where the model's name does not say; part of the cache key.
        api_key_env: environment variable that holds the key; None sends none.
        allow_remote: permit a server on another machine.
        concurrency: requests at a time.
        timeout: seconds per request.
        deadline: seconds per batch of clips; what is unanswered then is masked.
        retries: after a lost connection, HTTP 429 or 5xx.
        max_tokens: longest written answer.
        seed: sent along, and of the waits between retries.
        max_reply: bytes of a reply.
        **settings: see :class:`~reelrl.rewards.judges.base.Judge`.

    Raises:
        ValueError: for settings out of range or a missing environment variable.
    """

    name = "openai_judge"
    license = "Apache-2.0, and the server's model"
    # Servers batch what comes in together, and rounding depends on the batch.
    deterministic = False

    def __init__(
        self,
        model: str,
        *,
        base_url: str = "http://127.0.0.1:8000/v1",
        revision: str = "",
        api_key_env: str | None = None,
        allow_remote: bool = False,
        concurrency: int = 8,
        timeout: float = 60.0,
        deadline: float = 300.0,
        retries: int = 3,
        max_tokens: int = 512,
        seed: int = 0,
        max_reply: int = 1 << 20,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        numbers = {"concurrency": concurrency, "max_tokens": max_tokens, "max_reply": max_reply}
        wrong = {name: value for name, value in numbers.items() if value < 1}
        if wrong or retries < 0 or not timeout > 0 or not deadline > 0:
            raise ValueError(
                "expected concurrency, max_tokens, max_reply >= 1, retries >= 0 and positive "
                f"timeout and deadline, got {concurrency}, {max_tokens}, {max_reply}, {retries}, "
                f"{timeout} and {deadline}"
            )
        headers = {}
        if api_key_env is not None:
            if not os.environ.get(api_key_env):
                raise ValueError(f"the environment variable {api_key_env} is empty or not set")
            headers["Authorization"] = f"Bearer {os.environ[api_key_env]}"
        self.transport = Transport(
            base_url, headers, allow_remote=allow_remote, max_reply=max_reply
        )
        self.model, self.revision, self.concurrency = model, revision, concurrency
        self.timeout, self.deadline, self.retries = float(timeout), float(deadline), retries
        self.max_tokens, self.seed = max_tokens, seed
        self.breaker, self.backoff = Breaker(), Backoff(seed)
        self.structured = self.form == "score"
        self._checked = False

    @property
    def version(self) -> str:
        """Model, revision, codec and sampling; the address is not part of it."""
        return json.dumps([self.model, self.revision, chat.CODEC, self.max_tokens, self.seed])

    def check(self) -> None:
        """Ask the server for its models, and for ours among them.

        Raises:
            ConnectionError: if it does not answer.
            ValueError: if it has other models only.
        """
        try:
            reply = self.transport.request("GET", "/models", None, min(self.timeout, self.deadline))
            listed = reply.json().get("data") if reply.status == 200 else None
        except (TransportError, ValueError) as error:
            raise ConnectionError(f"no judge at {self.transport.host}: {error}") from error
        if reply.status in (401, 403) or reply.status >= 500:
            raise ConnectionError(f"the judge's server answers HTTP {reply.status} to /models")
        names = [m.get("id") for m in listed or () if isinstance(m, dict)]
        # A server that keeps its list to itself is alive at least.
        if names and self.model not in names:
            raise ValueError(f"the server has no model {self.model!r}, only {names}")
        self._checked = True

    def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        """Answers to M questions in order, several at a time, within the deadline."""
        until = time.monotonic() + self.deadline
        if not self._checked:
            try:
                self.check()
            except (ConnectionError, ValueError) as error:
                return [Answer(math.nan, Call(0.0, 1, str(error)))] * len(asks)
        late = Answer(math.nan, Call(self.deadline, 1, "deadline of the batch"))
        return map_ordered(
            lambda ask: self._answer(ask, until), asks, self.concurrency, self.deadline, late
        )

    def _answer(self, ask: Ask, deadline: float) -> Answer:
        began, state = time.monotonic(), _Progress(deadline)
        value, failure = math.nan, None
        try:
            value = self._first_or_second(ask, state)
        except (_Failed, ValueError) as error:
            failure = str(error)
        except Exception as error:  # a thread that dies would leave its question open
            failure = f"{type(error).__name__}: {error}"
        reply = state.reply or {}
        tokens = chat.usage(reply)
        call = Call(
            time.monotonic() - began,
            max(state.attempts, 1),
            failure,
            state.mass,
            *tokens,
            chat.served_as(reply) or None,
        )
        return Answer(value, call)

    def _first_or_second(self, ask: Ask, state: _Progress) -> float:
        """The value of the first wording, or, if that got no answer, of the strict one."""
        problem = ""
        for text in (ask.text, ask.strict):
            reply = self._post(chat.content(ask.clips, ask.rates, text), state)
            try:
                value = self._read(reply, state)
            except ValueError as error:
                problem = str(error)
                continue
            if not math.isnan(value):
                return value
            problem = "no score in the answer" if self.form == "score" else "neither yes nor no"
        raise _Failed(problem)

    def _read(self, reply: Reply, state: _Progress) -> float:
        state.reply = reply.json()
        if self.form == "score":
            return chat.read_score(state.reply)
        value, state.mass = chat.read_yes(state.reply)
        return value

    def _post(self, parts: Sequence[dict[str, Any]], state: _Progress) -> Reply:
        """A reply of status 200, after as many attempts as are allowed."""
        problem = ""
        for attempt in range(self.retries + 1):
            if not self.breaker.allows():
                raise _Failed("server given up for now")
            reply, problem = self._once(parts, state)
            if reply is not None and reply.status == 200:
                return reply
            asked = None if reply is None else reply.retry_after
            wait = self.backoff(attempt, asked)
            if attempt < self.retries and time.monotonic() + wait >= state.deadline:
                raise _Failed(f"{problem}; no time to retry")
            if attempt < self.retries:
                time.sleep(wait)
        raise _Failed(problem)

    def _once(self, parts: Sequence[dict[str, Any]], state: _Progress) -> tuple[Reply | None, str]:
        """One request; the reply or None, and what is wrong with it.

        Raises:
            _Failed: if asking again cannot help.
        """
        structured = self.structured
        body = chat.chat_request(
            self.model,
            parts,
            written=self.form == "score",
            seed=self.seed,
            max_tokens=self.max_tokens,
            structured=structured,
        )
        state.attempts += 1
        seconds = min(self.timeout, state.deadline - time.monotonic())
        try:
            reply = self.transport.request("POST", "/chat/completions", body, seconds)
        except TransportError as error:
            self.breaker.record(False)
            return None, str(error)
        self.breaker.record(reply.status < 500)
        if structured and reply.status in REFUSES_SETTING:
            # The server knows no schemas: the parser reads free text from now on.
            self.structured = False
            return self._once(parts, state)
        if reply.status == 200 or reply.status in (408, 429) or reply.status >= 500:
            return reply, f"HTTP {reply.status}"
        hint = "" if self.form == "score" else "; without logprobs only form='score' works"
        raise _Failed(f"HTTP {reply.status}{hint}")
