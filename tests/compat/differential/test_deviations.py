"""Where we answer otherwise: docs/compatibility.md lists it all, and each row is as it says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.compat.differential.deviations import DEVIATIONS, Deviation
from tests.compat.differential.exchange import Pair, difference, judge
from tests.compat.servers import chroma_server

PAGE = Path(__file__).parents[3] / "docs" / "compatibility.md"
SECTION = "## Where we answer otherwise\n"
SHARED = [deviation for deviation in DEVIATIONS if not deviation.spoils]
SPOILING = [deviation for deviation in DEVIATIONS if deviation.spoils]


def documented_rows() -> list[str]:
    section = PAGE.read_text(encoding="utf-8").partition(SECTION)[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (.*?) \|", section, re.MULTILINE)
    return [cell for cell in cells if cell not in ("what", "---") and not cell.startswith("**")]


def test_every_row_of_the_page_is_a_deviation_and_every_deviation_a_row() -> None:
    assert [deviation.row for deviation in DEVIATIONS] == documented_rows()


@pytest.mark.parametrize("deviation", SHARED, ids=lambda deviation: deviation.row)
def test_both_servers_answer_as_the_row_says(deviation: Deviation, pair: Pair) -> None:
    check(deviation, pair.fresh())


@pytest.fixture
def spoilt(tmp_path: Path, our_url: str) -> Iterator[Pair]:
    """A pair whose Chroma server is thrown away afterwards."""
    with chroma_server(tmp_path) as url:
        pair = Pair(url, our_url, DEVIATIONS)
        yield pair
        pair.close()


@pytest.mark.parametrize("deviation", SPOILING, ids=lambda deviation: deviation.row)
def test_both_servers_answer_as_the_row_says_though_one_is_spoilt(deviation: Deviation, spoilt: Pair) -> None:
    check(deviation, spoilt.fresh())


def check(deviation: Deviation, pair: Pair) -> None:
    """The servers agree up to the last request of the example, differ there as documented, and just that is tolerated."""
    for request in deviation.example[:-1]:
        pair.agree(request)
    exchange = pair.ask(deviation.example[-1])
    assert difference(exchange) is not None, f"no difference\n{exchange}"
    assert deviation.chroma(exchange.chroma), exchange
    assert deviation.ours(exchange.ours), exchange
    verdict = judge(exchange, DEVIATIONS)
    if deviation.tolerate is None:
        assert verdict.difference is not None, f"tolerated as {verdict.rows}\n{exchange}"
    else:
        assert verdict.difference is None, f"{verdict.difference}\n{exchange}"
        assert deviation.row in verdict.rows
