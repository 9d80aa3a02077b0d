"""How long applying is behind, as it is measured."""

from __future__ import annotations

from chroma_async.core.lag import Lag
from chroma_async.model import Lsn


def test_lag_is_the_age_of_the_oldest_entry_that_is_not_applied() -> None:
    lag = Lag()
    lag.note(Lsn(5), Lsn(5), 100.0)
    assert lag.seconds == 0
    lag.note(Lsn(8), Lsn(5), 101.0)
    lag.note(Lsn(8), Lsn(5), 103.0)
    assert lag.seconds == 2
    lag.note(Lsn(20), Lsn(7), 104.0)
    assert lag.seconds == 3
    lag.note(Lsn(20), Lsn(8), 106.0)
    assert lag.seconds == 2
    lag.note(Lsn(20), Lsn(20), 107.0)
    assert lag.seconds == 0


def test_lag_of_days_takes_little_memory_and_is_told_all_the_same() -> None:
    lag = Lag()
    for second in range(100_000):
        lag.note(Lsn(second + 1), Lsn(0), float(second))
    assert lag.seconds == 99_999
    assert len(lag._looks) <= 1024
    lag.note(Lsn(100_000), Lsn(50_000), 100_000.0)
    assert 49_000 < lag.seconds < 51_000
