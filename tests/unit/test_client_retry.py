"""When a request is sent again."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from chroma_async.client.retry import RetryPolicy, asked_wait_seconds, may_repeat


def test_waits_grow_up_to_a_bound_and_are_spread() -> None:
    policy = RetryPolicy(retries=10, first_wait_seconds=0.1, wait_seconds_max=1.0)
    assert [policy.wait_seconds(attempt, None, 1.0) for attempt in range(5)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0])
    assert policy.wait_seconds(3, None, 0.0) == pytest.approx(0.4)


def test_an_asked_for_wait_is_never_shortened() -> None:
    policy = RetryPolicy()
    assert policy.wait_seconds(0, 3.0, 0.0) == 3.0
    assert policy.wait_seconds(0, 3.0, 0.9) > 3.0
    assert policy.wait_seconds(0, 3600.0, 0.5) is None


def test_attempts_end() -> None:
    assert RetryPolicy(retries=2).wait_seconds(1, None, 0.5) is not None
    assert RetryPolicy(retries=2).wait_seconds(2, None, 0.5) is None
    assert RetryPolicy(retries=0).wait_seconds(0, None, 0.5) is None


def test_only_refusals_allow_any_call_to_be_repeated() -> None:
    assert may_repeat(429, safe_to_repeat=False)
    assert {status for status in (400, 404, 409, 500, 502, 503, 504) if may_repeat(status, True)} == {502, 503, 504}
    assert not any(may_repeat(status, False) for status in (400, 500, 502, 503, 504))


def test_retry_after_is_a_number_or_a_date() -> None:
    now = datetime(2030, 1, 1, 12, 0, 0, tzinfo=UTC)
    assert asked_wait_seconds(None) is None
    assert asked_wait_seconds("7") == 7.0
    assert asked_wait_seconds("-7") == 0.0
    assert asked_wait_seconds("Tue, 01 Jan 2030 12:00:30 GMT", now) == 30.0
    assert asked_wait_seconds("Tue, 01 Jan 2030 11:00:00 GMT", now) == 0.0
    assert asked_wait_seconds("soon") is None


@pytest.mark.parametrize("zone", ["GMT", "-0000", "+0000", ""])
def test_a_date_without_a_zone_is_in_utc(zone: str) -> None:
    now = datetime(2030, 1, 1, 12, 0, 0, tzinfo=UTC)
    assert asked_wait_seconds(f"Tue, 01 Jan 2030 12:00:30 {zone}".strip(), now) == 30.0


@pytest.mark.parametrize("date", ["Wed, 99 Oct 99999 07:28:00 GMT", "Tue, 01 Jan 2030 12:00:30 +999999999999999999"])
def test_an_impossible_date_says_nothing(date: str) -> None:
    assert asked_wait_seconds(date) is None
