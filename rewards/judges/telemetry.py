"""The cost of each question to a judge, and whether too many went unanswered."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

from reelrl.rewards.base import RewardAbort

KEPT = 4096


@dataclass(frozen=True)
class Call:
    """One question.

    Attributes:
        seconds: from asking to the answer, all attempts and waits included.
        attempts: requests or forward passes; 0 for a cached answer, and for a question that was
            not put to a server given up for now.
        failure: why there is no answer; None if there is one.
        mass: probability of yes and no together; None in a written score.
        prompt_tokens: as the server counts them; None if it does not.
        completion_tokens: likewise.
        model: the server's name for its model.
    """

    seconds: float
    attempts: int
    failure: str | None = None
    mass: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    model: str | None = None


class Telemetry:
    """The last calls, and the rate of failures among the questions that reached the judge.

    Args:
        max_failure_rate: share of failures that stops the run; None never does.
        window: calls that the share is taken over; before there are that many nothing stops.
    """

    def __init__(self, max_failure_rate: float | None = 0.5, window: int = 256) -> None:
        if max_failure_rate is not None and not 0 <= max_failure_rate < 1:
            raise ValueError(f"max_failure_rate must be in [0, 1) or None, got {max_failure_rate}")
        if window < 1:
            raise ValueError(f"failure_window must be at least 1, got {window}")
        self.max_failure_rate = max_failure_rate
        self.calls: deque[Call] = deque(maxlen=KEPT)
        self._recent: deque[bool] = deque(maxlen=window)
        self._lock = Lock()

    def add(self, calls: Sequence[Call]) -> None:
        """Count the calls of a batch.

        Raises:
            RewardAbort: if more than the allowed share of the window failed.
        """
        with self._lock:
            self.calls.extend(calls)
            self._recent.extend(call.failure is not None for call in calls if call.attempts)
            full = len(self._recent) == self._recent.maxlen
            rate = self.failure_rate
        if full and self.max_failure_rate is not None and rate > self.max_failure_rate:
            raise RewardAbort(
                f"{rate:.0%} of the last {len(self._recent)} questions to the judge failed "
                f"(allowed: {self.max_failure_rate:.0%}): {reasons(self.calls)}"
            )

    @property
    def failure_rate(self) -> float:
        """Share of failures in the window; 0 before the first call."""
        return sum(self._recent) / max(len(self._recent), 1)

    def summary(self) -> dict[str, float]:
        """Means and shares over the calls that are kept."""
        calls = list(self.calls)
        asked = [call for call in calls if call.attempts]
        cached = [call for call in calls if not call.attempts and call.failure is None]
        failed = [call for call in calls if call.failure is not None]
        masses = [call.mass for call in asked if call.mass is not None]
        return {
            "calls": float(len(calls)),
            "cached": len(cached) / max(len(calls), 1),
            "failed": len(failed) / max(len(calls) - len(cached), 1),
            "seconds": sum(c.seconds for c in asked) / max(len(asked), 1),
            "attempts": sum(c.attempts for c in asked) / max(len(asked), 1),
            "mass": sum(masses) / max(len(masses), 1),
            "prompt_tokens": float(sum(c.prompt_tokens or 0 for c in asked)),
            "completion_tokens": float(sum(c.completion_tokens or 0 for c in asked)),
        }


def reasons(calls: Sequence[Call] | deque[Call]) -> str:
    """The failures of some calls and how often each came."""
    counts = Counter(call.failure for call in calls if call.failure is not None)
    return "; ".join(f"{reason} x{count}" for reason, count in counts.most_common(5))
