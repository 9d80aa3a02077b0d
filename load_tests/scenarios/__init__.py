"""The scenarios, in the order in which they run: a module for each, and a row or a few in it.

They speak HTTP only and know nothing of the server but its address; the few that restart it or look at its process
and disk say "unknown" for a server that somebody else started. Those that change data come after those that check
answers against it.

To add one: a module with `SCENARIOS`, and its name in `_MODULES`. What is expected of it is a row in `targets.py`.
"""

from __future__ import annotations

from load_tests.scenarios import (
    contains,
    deep_page,
    filtered,
    get_filter,
    get_ids,
    ingest,
    query,
    resources,
    resources_at_end,
    restart,
    upserts,
)
from load_tests.scenarios.scenario import Scenario

__all__ = ["SCENARIOS", "Scenario", "choose"]

_MODULES = (ingest, resources, query, filtered, contains, get_ids, get_filter, deep_page, upserts, resources_at_end, restart)

SCENARIOS: tuple[Scenario, ...] = tuple(scenario for module in _MODULES for scenario in module.SCENARIOS)


def choose(names: list[str]) -> list[Scenario]:
    """The scenarios of some names, or all if there are none, in the order in which they run; ingest comes always.

    Raises:
        ValueError: there is no scenario of a name.
    """
    known = [scenario.name for scenario in SCENARIOS]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"no such scenario; take some of {known}. names={unknown}")
    return [scenario for scenario in SCENARIOS if not names or scenario.name in names or scenario.name == "ingest"]
