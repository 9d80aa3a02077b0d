"""Who calls, and what that allows: values and pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Literal

EVERY: Final = "*"

Reach = Literal["none", "some", "all"]
"""Of an action in a database: nothing there, some of its collections, or the database with all that is in it."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Leave to perform actions on what the patterns name. In a pattern, `*` stands for any text, also for none."""

    actions: frozenset[str]
    tenants: tuple[str, ...] = (EVERY,)
    databases: tuple[str, ...] = (EVERY,)
    collections: tuple[str, ...] = (EVERY,)

    def covers(self, tenant: str, database: str) -> bool:
        return matches(self.tenants, tenant) and matches(self.databases, database)


@dataclass(frozen=True)
class Identity:
    """Somebody who was authenticated. Without a grant nothing is allowed."""

    name: str
    grants: tuple[Grant, ...] = ()
    provider: str = field(default="", compare=False)

    def performs(self, action: str) -> bool:
        """Whether an action is allowed anywhere."""
        return action in self._grants

    def reach(self, action: str, tenant: str, database: str) -> Reach:
        """Return where in a database an action is allowed."""
        found: Reach = "none"
        for grant in self._by_action(action):
            if grant.covers(tenant, database):
                if EVERY in grant.collections:
                    return "all"
                found = "some"
        return found

    def allows(self, action: str, tenant: str, database: str, collection: str) -> bool:
        """Whether an action on one collection is allowed."""
        return any(
            grant.covers(tenant, database) and matches(grant.collections, collection) for grant in self._by_action(action)
        )

    def allows_in_tenant(self, action: str, tenant: str) -> bool:
        """Whether an action on a tenant itself is allowed: that takes a grant for all that is in it."""
        return any(
            matches(grant.tenants, tenant) and EVERY in grant.databases and EVERY in grant.collections
            for grant in self._by_action(action)
        )

    def sees_tenant(self, action: str, tenant: str) -> bool:
        """Whether an action is allowed anywhere in a tenant."""
        return any(matches(grant.tenants, tenant) for grant in self._by_action(action))

    def allows_everywhere(self, action: str) -> bool:
        """Whether an action is allowed on everything that there is."""
        return any(
            EVERY in grant.tenants and EVERY in grant.databases and EVERY in grant.collections
            for grant in self._by_action(action)
        )

    def _by_action(self, action: str) -> Iterable[Grant]:
        return self._grants.get(action, ())

    @cached_property
    def _grants(self) -> dict[str, list[Grant]]:
        found: dict[str, list[Grant]] = {}
        for grant in self.grants:
            for action in grant.actions:
                found.setdefault(action, []).append(grant)
        return found

    @cached_property
    def home(self) -> tuple[str | None, list[str]]:
        """The tenant and the databases that are this identity's, as Chroma's clients want to be told: `*` for more than one
        tenant, `["*"]` where databases can't be named, none of both where nothing is allowed."""
        if not self.grants:
            return None, []
        tenants = {name for grant in self.grants for name in grant.tenants}
        databases = {name for grant in self.grants for name in grant.databases}
        one = len(tenants) == 1 and not any(EVERY in name for name in tenants)
        named = bool(databases) and not any(EVERY in name for name in databases)
        return (tenants.pop() if one else EVERY), (sorted(databases) if named else [EVERY])


def matches(patterns: Sequence[str], name: str) -> bool:
    """Whether a name is one of the patterns."""
    return any(pattern in (EVERY, name) or (EVERY in pattern and _matches(pattern, name)) for pattern in patterns)


def _matches(pattern: str, name: str) -> bool:
    """Look for the parts between the wildcards one after another: a pattern with many of them takes no longer."""
    first, *middle, last = pattern.split(EVERY)
    position, end = len(first), len(name) - len(last)
    if position > end or not name.startswith(first) or not name.endswith(last):
        return False
    for part in middle:
        found = name.find(part, position, end)
        if found < 0:
            return False
        position = found + len(part)
    return True


IDENTITY: Final[ContextVar[Identity | None]] = ContextVar("chroma_async.identity", default=None)
"""Whose request this task answers; None until somebody was authenticated."""
