"""What an ingest shows and tells."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from chroma_async import EphemeralClient, IngestReport, LineError
from chroma_async.client.ingest_report import ERRORS_KEPT, BadLines


def rows(count: int) -> list[dict[str, Any]]:
    return [{"id": f"i{number}", "embedding": [number, 1.0]} for number in range(count)]


def test_a_terminal_shows_lines_and_rate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with EphemeralClient() as client:
        client.create_collection("bars", embedding_function=None).ingest_from(rows(3_000), progress=True)
    shown = capsys.readouterr()
    assert "bars" in shown.err
    assert "3,000 lines" in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("variables", [{}, {"TTY_COMPATIBLE": "1", "FORCE_COLOR": "1", "TERM": "dumb"}])
def test_a_file_or_a_pipe_gets_no_bar_and_nor_does_a_dumb_terminal(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with EphemeralClient() as client:
        client.create_collection("bars", embedding_function=None).ingest_from(rows(10), progress=True)
    assert capsys.readouterr() == ("", "")


def test_without_rich_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [module for module in sys.modules if module.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "rich", None)
    with EphemeralClient() as client:
        bars = client.create_collection("bars", embedding_function=None)
        with pytest.raises(ImportError, match=r"pip install 'chroma-async\[progress\]'"):
            bars.ingest_from(rows(10), progress=True)
        assert bars.ingest_from(rows(10)).lines == 10


def test_many_bad_lines_are_counted_and_the_first_of_them_kept() -> None:
    told: list[LineError] = []
    bad = BadLines(told.append)
    bad.add([LineError(line=number, message="bad") for number in range(ERRORS_KEPT + 7)])
    assert bad.count == len(told) == ERRORS_KEPT + 7
    assert [error.line for error in bad.first] == list(range(ERRORS_KEPT))


def test_a_report_counts_what_this_run_sent() -> None:
    report = IngestReport(position=500, began=200, bad_lines=0, errors=[], lsn=9, seconds=2.0)
    assert (report.lines, report.lines_per_second) == (300, 150.0)
