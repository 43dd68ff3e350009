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
from reelrl.rewards.judges.transport import Reply, RequestTooLarge, Transport, TransportError

REFUSES_SETTING = (400, 404, 415, 422, 501)
"""Statuses that servers send for a request with a setting they do not know."""
REFUSES_LOGPROBS = (400, 422, 501)
"""Statuses that may mean log-probabilities; 404 is about the model, 415 about the pictures."""


class _Failed(Exception):
    """A question that stays unanswered."""


class _HeldBack(_Failed):
    """A question that was not asked, because the server has been given up for now."""


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
        deadline: seconds per batch of clips; questions without an answer by then are masked.
        retries: after a lost connection, HTTP 429 or 5xx.
        max_tokens: longest written answer.
        seed: sent along, and of the waits between retries.
        max_request: bytes of a request; one with more is not sent, and its clip masked.
        max_reply: bytes of a reply.
        **settings: see :class:`~reelrl.rewards.judges.base.Judge`.

    Raises:
        ValueError: for settings out of range, a missing environment variable, or a key that is
            none or would leave this machine without https.
    """

    name = "openai_judge"
    license = "Apache-2.0, and the server's model"
    # Servers batch questions that arrive together, and rounding depends on the batch.
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
        max_request: int = 64 << 20,
        max_reply: int = 1 << 20,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        counts = {
            "concurrency": concurrency,
            "max_tokens": max_tokens,
            "max_request": max_request,
            "max_reply": max_reply,
        }
        if min(counts.values()) < 1 or retries < 0 or not timeout > 0 or not deadline > 0:
            raise ValueError(
                f"expected {', '.join(counts)} >= 1, retries >= 0 and positive timeout and "
                f"deadline, got {', '.join(map(str, counts.values()))}, {retries}, {timeout} and "
                f"{deadline}"
            )
        self._key_sent = "" if api_key_env is None else read_key(api_key_env)
        self.transport = Transport(
            base_url,
            {"Authorization": f"Bearer {self._key_sent}"} if self._key_sent else None,
            allow_remote=allow_remote,
            max_request=max_request,
            max_reply=max_reply,
        )
        self.model, self.revision, self.concurrency = model, revision, concurrency
        self.timeout, self.deadline, self.retries = float(timeout), float(deadline), retries
        self.max_tokens, self.seed = max_tokens, seed
        self.breaker, self.backoff = Breaker(), Backoff(seed)
        self.structured = self.form == "score"
        self._checked = False

    @property
    def version(self) -> str:
        """Model, revision, codec, sampling and schema; the address is not part of it."""
        sampling = [self.max_tokens, self.seed, self.structured]
        return json.dumps([self.model, self.revision, chat.CODEC, *sampling])

    def check(self) -> None:
        """Ask the server for its models, and for ours among them.

        Raises:
            ConnectionError: if it does not answer, or with something else.
            ValueError: if it has other models only.
        """
        try:
            reply = self.transport.request("GET", "/models", None, min(self.timeout, self.deadline))
            listed = reply.json().get("data") if reply.status == 200 else None
        except (TransportError, ValueError) as error:
            raise ConnectionError(f"no judge at {self.transport.host}: {error}") from error
        if reply.status in (401, 403) or reply.status >= 500:
            raise ConnectionError(f"the judge's server answers HTTP {reply.status} to /models")
        # A server that keeps its list to itself is alive at least.
        listed = [] if listed is None else listed
        if not isinstance(listed, list):
            raise ConnectionError(
                f"expected a list of models from the judge's server, got {type(listed).__name__}"
            )
        names = [m.get("id") for m in listed if isinstance(m, dict)]
        if names and self.model not in names:
            shown = [str(name)[:99] for name in names[:9]]
            raise ValueError(f"the server has no model {self.model!r}, only {shown}")
        self._checked = True

    def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        """Answers to M questions in order, several at a time, within the deadline."""
        until = time.monotonic() + self.deadline
        if not self._checked:
            try:
                self.check()
            except (ConnectionError, ValueError) as error:
                return [Answer(math.nan, Call(0.0, 1, str(error)))] * len(asks)
        states = [_Progress(until) for _ in asks]
        found = map_ordered(
            lambda item: self._answer(*item),
            list(zip(asks, states, strict=True)),
            self.concurrency,
            self.deadline,
            None,
        )
        return [
            self._late(state) if answer is None else answer
            for answer, state in zip(found, states, strict=True)
        ]

    def _late(self, state: _Progress) -> Answer:
        # A question that waited for a server that was given up is no failure of its own.
        attempts = state.attempts or int(not self.breaker.open)
        return Answer(math.nan, Call(self.deadline, attempts, "deadline of the batch"))

    def _answer(self, ask: Ask, state: _Progress) -> Answer:
        began, least = time.monotonic(), 1
        value, failure = math.nan, None
        try:
            value = self._first_or_second(ask, state)
        except _HeldBack as error:
            failure, least = str(error), 0
        except (_Failed, RequestTooLarge, ValueError) as error:
            failure = str(error)
        except Exception as error:  # a thread that dies would leave its question open
            failure = f"{type(error).__name__}: {error}"
        reply = state.reply or {}
        tokens = chat.usage(reply)
        call = Call(
            time.monotonic() - began,
            max(state.attempts, least),
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
        """A reply of status 200, after as many attempts as are allowed.

        Raises:
            _Failed: if there is none.
            RequestTooLarge: at once.
        """
        if not self.breaker.allows(state.deadline):
            raise _HeldBack("server given up for now")
        reply, problem = None, ""
        for attempt in range(self.retries + 1):
            reply, problem = self._once(parts, state)
            if reply is not None and reply.status == 200:
                return reply
            asked = None if reply is None else reply.retry_after
            wait = self.backoff(attempt, asked)
            if attempt < self.retries and time.monotonic() + wait >= state.deadline:
                raise _Failed(f"{problem}; no time to retry")
            if attempt < self.retries:
                time.sleep(wait)
        if reply is None or _ill(reply):
            self.breaker.record(False)
        raise _Failed(problem)

    def _once(self, parts: Sequence[dict[str, Any]], state: _Progress) -> tuple[Reply | None, str]:
        """One attempt: the reply or None, and the fault of the attempt.

        Raises:
            _Failed: if asking again cannot help.
        """
        structured = self.structured
        try:
            reply = self._send(parts, structured, state)
            if structured and reply.status in REFUSES_SETTING:
                reply = self._send(parts, False, state)
                if reply.status == 200:
                    # It was the schema: the parser reads free text from now on.
                    self.structured = False
        except TransportError as error:
            return None, str(error)
        if reply.status in (200, 408, 429) or _ill(reply):
            return reply, f"HTTP {reply.status}"
        raise _Failed(self._refusal(reply))

    def _send(self, parts: Sequence[dict[str, Any]], structured: bool, state: _Progress) -> Reply:
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
        reply = self.transport.request("POST", "/chat/completions", body, seconds)
        if not _ill(reply):
            self.breaker.record(True)
        return reply

    def _refusal(self, reply: Reply) -> str:
        said = reply.message(self._key_sent)
        maybe_logprobs = self.form == "yes" and reply.status in REFUSES_LOGPROBS
        hint = "; without logprobs only form='score' works" if maybe_logprobs else ""
        return f"HTTP {reply.status}{': ' if said else ''}{said}{hint}"


def _ill(reply: Reply) -> bool:
    """Whether it is the server that is in trouble, so that the same request may pass later."""
    return reply.status >= 500 and reply.status != 501


def read_key(variable: str) -> str:
    """The key in an environment variable, without blanks around it.

    Raises:
        ValueError: if there is none, or one that no header can carry; the key is not quoted.
    """
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(f"the environment variable {variable} is empty or not set")
    if not (key.isascii() and key.isprintable()):
        raise ValueError(
            f"expected a key of printable ASCII characters in the environment variable {variable}, "
            "got others among them"
        )
    return key
