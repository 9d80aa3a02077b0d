"""`backup` and `restore` as commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from chroma_async import PersistentClient
from chroma_async.cli.commands import app
from chroma_async.cli.console import format_bytes


def chroma_async(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(code: int, *arguments: str | Path) -> str:
    """Return the one line that a refused command prints."""
    result = chroma_async(*arguments)
    assert result.exit_code == code, result.output
    (line,) = result.stderr.splitlines()
    return line


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with one collection of two records."""
    with PersistentClient(tmp_path / "data") as client:
        client.create_collection("docs", embedding_function=None).add(ids=["a", "b"], embeddings=[[1.0], [2.0]])
    return tmp_path / "data"


def test_a_directory_is_backed_up_and_restored(data: Path, tmp_path: Path) -> None:
    made = chroma_async("backup", data, tmp_path / "backups")
    assert made.exit_code == 0, made.output
    assert "lsn=4 " in made.stdout
    assert chroma_async("restore", tmp_path / "backups", "--check").stdout.count(": whole lsn=4 ") == 1
    done = chroma_async("restore", tmp_path / "backups", tmp_path / "restored")
    assert ": restored lsn=4 " in done.stdout
    assert chroma_async("count", tmp_path / "restored", "docs").stdout == "2\n"


def test_what_can_not_be_done_is_one_line(data: Path, tmp_path: Path) -> None:
    assert "no data directory there" in refused(2, "backup", tmp_path / "nowhere", tmp_path / "backups")
    assert "inside of the data directory" in refused(1, "backup", data, data / "backups")
    assert "there is no backup" in refused(1, "restore", tmp_path / "backups", tmp_path / "restored")
    chroma_async("backup", data, tmp_path / "backups")
    assert "holds a data set" in refused(1, "restore", tmp_path / "backups", data)
    (log,) = tmp_path.glob("backups/*/log.sqlite3")
    log.write_bytes(b"x" + log.read_bytes()[1:])
    for rest in (tmp_path / "restored", "--check"):
        assert "log.sqlite3 (does not match its checksum)" in refused(1, "restore", tmp_path / "backups", rest)
    assert chroma_async("restore", tmp_path / "backups").exit_code == 2
    assert not (tmp_path / "restored").exists()


def test_sizes_are_for_people() -> None:
    assert [format_bytes(size) for size in (0, 1023, 1536, 2**30)] == ["0 B", "1023 B", "1.5 KiB", "1.0 GiB"]
