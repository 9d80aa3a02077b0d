"""A log that had lost the row by which it is kept ended every command in a traceback, also `verify`."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from chroma_async import PersistentClient
from chroma_async.cli.commands import app


@pytest.mark.parametrize("table", ["log", "sqlite_sequence"])
def test_log_without_its_row_is_named_by_every_command(tmp_path: Path, table: str) -> None:
    directory = tmp_path / "data"
    with PersistentClient(directory) as client:
        client.create_collection("things", embedding_function=None).add(["a"], [[1.0, 2.0]])
    with closing(sqlite3.connect(directory / "log.sqlite3")) as log, log:
        log.execute(f"DELETE FROM {table}")
    for command in (["verify", directory], ["count", directory, "things"], ["backup", directory, tmp_path / "backups"]):
        done = CliRunner().invoke(app, [str(word) for word in command])
        assert (done.exit_code, isinstance(done.exception, SystemExit)) == (1, True)
        assert "the log lacks a row that it always has" in done.output
