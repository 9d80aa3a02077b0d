"""The catalogue of calls: everything in it is answered, described, and reached by one route."""

from __future__ import annotations

import inspect
from collections import Counter
from typing import Any

import pytest

from chroma_async.engine.handlers import HANDLERS
from chroma_async.protocol import CALLS, Call

LEGACY = "chroma_async.protocol.v1"
"""Asks for what the old routes need to know, by calls that have no route of their own."""


def test_every_call_has_a_handler_and_every_handler_a_call() -> None:
    assert set(CALLS) <= set(HANDLERS)
    assert {call for call in HANDLERS if call.__module__ != LEGACY} == set(CALLS)


def test_every_handler_is_a_coroutine_function() -> None:
    assert [call.__name__ for call, handler in HANDLERS.items() if not inspect.iscoroutinefunction(handler)] == []


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_every_call_has_a_line_of_documentation_of_its_own(call: type[Call[Any]]) -> None:
    assert (vars(call).get("__doc__") or "").strip()


def test_no_two_calls_share_a_route() -> None:
    counted = Counter((call.route.method, call.route.path) for call in CALLS)
    assert [route for route, count in counted.items() if count > 1] == []


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_every_name_in_a_route_is_a_field(call: type[Call[Any]]) -> None:
    assert {*call.route.path_fields, *call.route.query} <= set(call.__struct_fields__)
