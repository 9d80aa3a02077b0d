"""Wrong credentials are slowed down where they come from, in memory that is bounded."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from typing import Final

from msgspec import Struct

FREE_FAILURES: Final = 10
"""Wrong credentials in a row that a source may send before it has to wait."""

FAILURES_PER_SECOND: Final = 1.0
SPRAYED_FREE: Final = 20
SPRAYED_PER_SECOND: Final = 2.0
"""The same for all names of a source together: who sprays names must not keep those busy who verify for others."""

PENDING_MAX: Final = 64
PENDING_PER_SLOT_MAX: Final = 4
PENDING_PER_SOURCE_MAX: Final = 16
SLOTS_MAX: Final = 10_000

BUCKETS: Final = 64
"""Into which the names that a source presents are put, by a secret hash. Whether there is such a user changes nothing: else
whoever has used up the allowance of those that there are not would see by a fresh one who there is."""

ALL_NAMES: Final = -1

Slot = tuple[str, int | None]
"""A source, and the bucket of the name that it presents, or `ALL_NAMES`; None: credentials without a name."""


class _Account(Struct):
    allowance: float
    counted_at: float
    pending: int = 0


class Throttle:
    """Says whether a credential that costs something to verify may be verified now.

    Each slot has an allowance of wrong credentials, which grows again with time. One that has used it up is told to wait, so
    a guesser of one user's password shuts out nobody but that user and those of the same bucket, from that address, until
    the guessing ends. Who sprays names shuts out all new ones from that address. The oldest slots are forgotten when there
    are too many; then what is pending at once, in all, per source and per slot, is what bounds the work.
    """

    def __init__(self, slots_max: int = SLOTS_MAX) -> None:
        self._accounts: OrderedDict[Slot, _Account] = OrderedDict()
        self._slots_max = slots_max
        self._pending = 0
        self._pending_of: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._accounts)

    def wait_seconds(self, slot: Slot, now: float) -> int:
        """Return the whole seconds that a slot has to wait before it may try again; 0: it may try now."""
        account = self._accounts.get(slot)
        if self._pending >= PENDING_MAX or self._pending_of[slot[0]] >= PENDING_PER_SOURCE_MAX:
            return 1
        if account is not None and account.pending >= PENDING_PER_SLOT_MAX:
            return 1
        return max(self._wait_seconds(slot, now), self._wait_seconds(_whole(slot), now))

    def _wait_seconds(self, slot: Slot, now: float) -> int:
        account = self._accounts.get(slot)
        if account is None:
            return 0
        self._grow(slot, account, now)
        missing = 1.0 - account.allowance
        return 0 if missing <= 0 else max(1, math.ceil(missing / _rate(slot)))

    def begin(self, slot: Slot, now: float) -> None:
        """Count an attempt that has begun."""
        account = self._account(slot, now)
        account.pending += 1
        self._pending += 1
        self._pending_of[slot[0]] += 1

    def end(self, slot: Slot, now: float, *, wrong: bool) -> None:
        """Count how an attempt that had begun came out."""
        account = self._account(slot, now)
        account.pending = max(0, account.pending - 1)  # it may have been forgotten meanwhile
        self._pending -= 1
        self._pending_of[slot[0]] -= 1
        if not self._pending_of[slot[0]]:
            del self._pending_of[slot[0]]
        if wrong:
            self.fail(slot, now)
            self.fail(_whole(slot), now)

    def fail(self, slot: Slot, now: float) -> None:
        """Count a wrong credential that cost nothing to verify."""
        account = self._account(slot, now)
        self._grow(slot, account, now)
        account.allowance = max(0.0, account.allowance - 1.0)

    def _grow(self, slot: Slot, account: _Account, now: float) -> None:
        grown = account.allowance + (now - account.counted_at) * _rate(slot)
        account.allowance = min(_free(slot), grown)
        account.counted_at = now

    def _account(self, slot: Slot, now: float) -> _Account:
        account = self._accounts.get(slot)
        if account is None:
            account = self._accounts[slot] = _Account(_free(slot), now)
            if len(self._accounts) > self._slots_max:
                self._accounts.popitem(last=False)
        self._accounts.move_to_end(slot)
        return account


def _whole(slot: Slot) -> Slot:
    return slot[0], ALL_NAMES


def _free(slot: Slot) -> float:
    return float(SPRAYED_FREE if slot[1] == ALL_NAMES else FREE_FAILURES)


def _rate(slot: Slot) -> float:
    return SPRAYED_PER_SECOND if slot[1] == ALL_NAMES else FAILURES_PER_SECOND
