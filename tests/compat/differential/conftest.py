"""Chroma's server and ours, to be compared."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest
from tests.compat.differential.deviations import DEVIATIONS
from tests.compat.differential.exchange import Pair, create, post
from tests.compat.differential.values import GOOD_RECORDS

URL_VARIABLE = "CHROMA_ASYNC_COMPAT_URL"


@pytest.fixture(scope="session")
def pair(chroma_url: str, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Chroma's server and ours, or the one that is named, with all tolerances."""
    ours = os.environ.get(URL_VARIABLE) or request.getfixturevalue("our_url")
    with contextlib.closing(Pair(chroma_url, ours.rstrip("/"), DEVIATIONS)) as pair:
        yield pair


@pytest.fixture
def docs(pair: Pair) -> Pair:
    """A collection `docs` with two records."""
    pair.fresh().agree(create("docs"))
    pair.agree(post("docs", "add", GOOD_RECORDS))
    return pair
