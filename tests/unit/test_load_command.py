"""`chroma-async load`: what it loads, what it says, and how it goes on after Ctrl-C."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet
import pytest
from tests.api.serving import serving

from chroma_async import HttpClient, PersistentClient
from chroma_async.cli import load as load_command
from chroma_async.client.sources import FileFormat
from chroma_async.protocol.ingest import OnError

COMMAND = [sys.executable, "-c", "from chroma_async.cli import main; main()", "load"]
MANY = 60_000


def load(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def ndjson(path: Path, count: int) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            file.write(json.dumps({"id": f"i{number}", "embedding": [number, 1], "metadata": {"n": number}}) + "\n")
    return path


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("server")) as url:
        yield url


def test_a_file_is_loaded_into_a_directory_and_a_finished_load_has_nothing_to_do(tmp_path: Path) -> None:
    file, place = ndjson(tmp_path / "x.ndjson", 3_000), ("--collection", "docs", "--path", tmp_path / "data")
    missing = load(file, *place)
    assert missing.returncode == 2
    assert "--create" in missing.stderr
    first = load(file, *place, "--create")
    assert first.returncode == 0, first.stderr
    assert re.search(r"3,000 lines into docs in [\d.]+ s \([\d,]+ a second\)", first.stdout)
    second = load(file, *place)
    assert second.returncode == 0, second.stderr
    assert "all 3,000 lines were sent to docs before; nothing was to do" in second.stdout
    with PersistentClient(tmp_path / "data") as client:
        docs = client.get_collection("docs")
        assert docs.count() == 3_000
        assert docs.get("i7")["metadatas"] == [{"n": 7}]
        docs.delete("i7")
    assert "nothing was to do" in load(file, *place).stdout
    again = load(file, *place, "--stream-id", "mine")
    assert "3,000 lines into docs" in again.stdout
    file.write_bytes(file.read_bytes() + b'{"id": "new", "embedding": [1, 2]}\n')
    assert "3,001 lines into docs" in load(file, *place).stdout


def test_a_load_goes_on_after_an_interruption_and_says_so(url: str, tmp_path: Path) -> None:
    file = ndjson(tmp_path / "x.ndjson", MANY)
    place = ("--collection", "interrupted", "--url", url, "--create")
    with HttpClient(url) as client:
        collection = client.create_collection("interrupted", embedding_function=None)
        process = subprocess.Popen([*COMMAND, str(file), *place], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while not collection.count():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 130, errors
        assert "Traceback" not in errors
        told = re.search(r"interrupted after ([\d,]+) lines; the same command goes on", errors)
        assert told is not None, errors
        there = collection.count()
        assert int(told[1].replace(",", "")) <= there < MANY
        second = load(file, *place)
        assert second.returncode == 0, second.stderr
        assert f"went on after {there:,} lines that were sent before" in second.stdout
        assert f"{MANY - there:,} lines into interrupted" in second.stdout
        assert collection.count() == MANY
        assert "nothing was to do" in load(file, *place).stdout


def test_bad_lines_are_told_and_the_exit_code_says_so(url: str, tmp_path: Path) -> None:
    file = tmp_path / "x.ndjson"
    file.write_text('{"id": "a", "embedding": [1, 2]}\n{"id": "b", "embedding": [1]}\n{oh no\n')
    done = load(file, "--collection", "bad-lines", "--url", url, "--create")
    assert done.returncode == 1
    assert "line 1: " in done.stderr
    assert "dimension of 2, got 1" in done.stderr
    assert "line 2: the line is no JSON" in done.stderr
    assert "2 lines were bad and passed over" in done.stderr
    stopped = load(file, "--collection", "bad-lines", "--url", url, "--on-error", "stop", "--stream-id", "s")
    assert stopped.returncode == 1
    assert "stopped at a bad line" in stopped.stderr
    assert "line=1" in stopped.stderr
    assert "what comes before line 1 is loaded; the same command goes on there" in stopped.stderr
    assert len(stopped.stderr.splitlines()) == 2


def test_bad_lines_are_told_again_by_a_run_that_has_nothing_to_do(tmp_path: Path) -> None:
    file = tmp_path / "films.csv"
    file.write_text("key,x,y,year\na,1,1,1999\nb,2,1,abc\nc,,,2001\n")
    command = (file, "--collection", "films", "--path", tmp_path / "data", "--create")
    mapping = ("--mapping", "id=key", "--mapping", "embedding=x,y", "--mapping", "metadata=year:int")
    first, second = load(*command, *mapping), load(*command, *mapping)
    assert (first.returncode, second.returncode) == (1, 1)
    assert "all 3 lines were sent to films before; nothing was to do" in second.stdout
    assert sorted(first.stderr.splitlines()) == sorted(second.stderr.splitlines())
    assert "2 lines were bad and passed over; lines are counted from 0, without a header" in second.stderr
    file.write_text("key,x,y,year\na,1,1,1999\nb,2,1,abc\n\n")
    assert "1 line was bad" in load(*command, *mapping).stderr
    assert load(*command, *mapping).returncode == 1


def test_empty_lines_are_not_bad_in_a_second_run_either(tmp_path: Path) -> None:
    file = tmp_path / "x.ndjson"
    file.write_text('{"id": "a", "embedding": [1]}\n\n{"id": "b", "embedding": [2]}\n')
    command = (file, "--collection", "docs", "--path", tmp_path / "data", "--create")
    assert [load(*command).returncode for _ in range(2)] == [0, 0]


def test_a_mapping_types_and_operations_from_the_command_line(url: str, tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("key;a;b;text;year;lang\nk1;1;2;hello;1999;en\nk2;3;4;;;de\n")
    place = ("--collection", "mapped", "--url", url, "--delimiter", ";", "--mapping", "id=key")
    done = load(
        file,
        *place,
        "--create",
        "--mapping",
        "embedding=a,b",
        "--mapping",
        "document=text",
        "--mapping",
        "metadata=year:int,lang",
    )
    assert done.returncode == 0, done.stderr
    with HttpClient(url) as client:
        mapped = client.get_collection("mapped", embedding_function=None)
        found = mapped.get(include=["embeddings", "documents", "metadatas"])
        assert found["ids"] == ["k1", "k2"]
        assert found["documents"] == ["hello", None]
        assert found["metadatas"] == [{"year": 1999, "lang": "en"}, {"lang": "de"}]
        assert found["embeddings"] is not None
        assert found["embeddings"].tolist() == [[1, 2], [3, 4]]
        assert load(file, *place, "--mapping", "metadata=", "--op", "delete").returncode == 2
        assert load(file, *place, "--op", "delete").returncode == 0
        assert mapped.count() == 0


def test_parquet_is_loaded_too(url: str, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"id": n, "embedding": [n, 0.5], "document": f"text {n}", "n": n} for n in range(1_000)]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    done = load(tmp_path / "x.parquet", "--collection", "parquet", "--url", url, "--create")
    assert done.returncode == 0, done.stderr
    with HttpClient(url) as client:
        found = client.get_collection("parquet", embedding_function=None).get("999", include=["embeddings", "metadatas"])
        assert found["metadatas"] == [{"n": 999}]
        assert found["embeddings"] is not None
        assert found["embeddings"].tolist() == [[999, 0.5]]


def test_without_vectors_it_is_said_how_to_embed(url: str, tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('{"id": "a", "document": "hello"}\n')
    done = load(file, "--collection", "unembedded", "--url", url, "--create")
    assert done.returncode == 1
    assert "--embed" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--path", "a", "--url", "b"), "name a data directory with --path, or a server with --url, not both."),
        ((), "name a data directory with --path, or a server with --url."),
        (("--path", "/nowhere"), "no data directory there; --create makes one"),
        (("--url", "http://127.0.0.1:9", "--mapping", "id"), "--mapping is FIELD=COLUMN"),
        (("--url", "http://127.0.0.1:9", "--mapping", "ident=x"), "unknown field 'ident'"),
        (("--url", "http://127.0.0.1:9", "--header", "x"), "a header is NAME: VALUE"),
        (
            (
                "--url",
                "http://127.0.0.1:9",
            ),
            "can't connect",
        ),
    ],
)
def test_what_can_not_be_done_is_said_in_one_line(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = load(ndjson(tmp_path / "x.ndjson", 1), "--collection", "docs", *arguments)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_choices_of_the_command_are_those_of_the_client() -> None:
    """They are written out there, so that the command line starts without what it may not need."""
    assert get_args(FileFormat) == load_command._FORMATS
    assert get_args(OnError) == load_command._ON_ERROR
