"""Metadata that is looked at field by field, for all rows at once, is what looking at it row by row makes of it."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from chroma_async.errors import ChromaError
from chroma_async.protocol import metadata
from chroma_async.protocol.metadata import check_metadatas

KINDS: list[st.SearchStrategy[Any]] = [
    st.text(max_size=3),
    st.booleans(),
    st.integers(-2, 2) | st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1]),
    st.floats(width=32) | st.just(1.0),
    st.lists(st.text(max_size=2), max_size=2),
    st.lists(st.integers(0, 1) | st.text(max_size=1), max_size=2),
    st.none(),
    st.dictionaries(st.text(max_size=1), st.integers(0, 1), max_size=1),
]
keys = st.sampled_from(["a", "b", "é", "", "#a", "$b", "chroma:document"])


@st.composite
def rows(draw: st.DrawFn) -> list[Any]:
    """Rows that are alike, but for a few."""
    fields = draw(st.dictionaries(keys, st.sampled_from(KINDS), min_size=1, max_size=3))
    alike = st.fixed_dictionaries(fields)
    odd = st.none() | st.dictionaries(keys, st.one_of(KINDS), max_size=3) | st.just([])
    found: list[Any] = draw(st.lists(alike, min_size=1, max_size=5))
    for place, row in draw(st.dictionaries(st.integers(0, 4), odd, max_size=1)).items():
        found.insert(place, row)
    return found


def outcome(metadatas: list[Any], *, nulls_allowed: bool) -> object:
    try:
        checked = check_metadatas(metadatas, nulls_allowed=nulls_allowed)
    except ChromaError as error:
        return type(error), error.message
    return repr(checked.stored), list(checked.types.items())  # as text, since nan differs from itself


@given(metadatas=rows(), nulls_allowed=st.booleans())
def test_checking_field_by_field_is_checking_row_by_row(metadatas: list[Any], nulls_allowed: bool) -> None:
    found = outcome(metadatas, nulls_allowed=nulls_allowed)
    with patch.object(metadata, "_alike", lambda metadatas: None):
        assert outcome(metadatas, nulls_allowed=nulls_allowed) == found
