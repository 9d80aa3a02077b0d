"""When a request is sent again, and after what wait: a pure decision, apart from the waiting."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

REFUSED_STATUS: Final = 429
"""The server says that it did nothing: every call may be sent again."""

PASSING_STATUSES: Final = (502, 503, 504)
"""The server, or a hop before it, may have done something: only calls that are safe to repeat are sent again."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`retries` is the number of attempts after the first one."""

    retries: int = 2
    first_wait_seconds: float = 0.1
    wait_seconds_max: float = 5.0
    asked_seconds_max: float = 60.0

    def wait_seconds(self, attempt: int, asked: float | None, jitter: float) -> float | None:
        """Return the wait before the next attempt, or None when there is none.

        `attempt` counts from 0; `asked` is the server's Retry-After in seconds; `jitter` is a random number in [0, 1), which
        spreads clients that failed together. An asked-for wait is never shortened: beyond `asked_seconds_max` we give up.
        """
        if attempt >= self.retries or (asked is not None and asked > self.asked_seconds_max):
            return None
        longest = min(self.first_wait_seconds * 2.0**attempt, self.wait_seconds_max)
        backoff = longest * (0.5 + jitter / 2)
        return backoff if asked is None else asked + backoff * jitter


def may_repeat(status: int, safe_to_repeat: bool) -> bool:
    """Whether a call that was answered so may be sent again."""
    return status == REFUSED_STATUS or (safe_to_repeat and status in PASSING_STATUSES)


def asked_wait_seconds(retry_after: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds that a Retry-After header means (a number, or an HTTP date), or None when it says nothing."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(retry_after)
    except (ValueError, OverflowError):
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)  # "-0000", or no zone: HTTP knows only UTC
    return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())
