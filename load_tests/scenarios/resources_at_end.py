"""Memory and disk after all the work."""

from __future__ import annotations

from load_tests.scenarios.resources import resources
from load_tests.scenarios.scenario import Scenario

SCENARIOS = (Scenario("resources at the end", "the same after all of the above", resources),)
