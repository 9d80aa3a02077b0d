"""A collection that was exported and imported is equal to the one it was, in every format and between all places."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from tests.compat.servers import our_server

from chroma_async import HttpClient, PersistentClient, Schema, StringInvertedIndexConfig
from chroma_async.cli import exchange
from chroma_async.cli.commands import app
from chroma_async.engine import writer
from chroma_async.errors import ExchangeError

INCLUDE = ["embeddings", "documents", "metadatas", "uris"]
FORMATS = ["films.ndjson", "films.parquet"]
METADATAS: list[dict[str, Any] | None] = [
    {"text": "naïve 文 \u0000 🎬", "whole": 2**53, "share": 0.1, "flag": True, "words": ["a", "b"]},
    {"numbers": [1, 2], "shares": [0.5, 1.5], "flags": [True, False], "share": 1.0, "negative": -1},
    None,
    {"quote": 'a "b"\\n\n', "zero": 0, "flag": False},
]


def chroma_async(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def done(*arguments: str | Path) -> str:
    result = chroma_async(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(code: int, *arguments: str | Path) -> str:
    """Return the one line that a refused command prints."""
    result = chroma_async(*arguments)
    assert result.exit_code == code, result.output
    (line,) = result.stderr.splitlines()
    return line


def fill(client: Any, name: str = "films", **arguments: Any) -> None:
    """Records with and without each part, of which some were changed or deleted."""
    arguments.setdefault("configuration", {"hnsw": {"space": "cosine", "ef_search": 77}})
    films = client.create_collection(name, metadata={"kind": "films", "year": 1979}, embedding_function=None, **arguments)
    dice = np.random.default_rng(3)
    films.add(
        ids=[f"{number} é" for number in range(4)],
        embeddings=dice.standard_normal((4, 3)),
        metadatas=METADATAS,
        documents=["erste\nZeile", None, "", "文"],
        uris=["file:///a", None, None, "s3://b/ü"],
    )
    films.add(ids=[str(number) for number in range(1200)], embeddings=dice.standard_normal((1200, 3)))
    films.delete(ids=["7", "600"])
    films.upsert(ids=["8"], embeddings=[[1e-30, -3.0e38, 0.1]], documents=["new"], metadatas=[{"new": 1}])


def described(client: Any, name: str = "films") -> tuple[Any, ...]:
    """All that a caller can see of a collection."""
    films = client.get_collection(name, embedding_function=None)
    got = films.get(include=INCLUDE)
    found = films.query(query_embeddings=[[0.1, 0.2, 0.3]], n_results=20)
    vectors = np.asarray(got.pop("embeddings"))
    return (
        got,
        vectors.tobytes(),
        vectors.shape,
        found["ids"],
        found["distances"],
        films.metadata,
        films.configuration,
        films.count(),
    )


@pytest.mark.parametrize("file", FORMATS)
def test_what_was_exported_is_imported(file: str, tmp_path: Path) -> None:
    with PersistentClient(tmp_path / "data") as client:
        fill(client)
        expected = described(client)
    assert done("export", tmp_path / "data", "films", tmp_path / file).endswith(": 1202 records of films\n")
    assert done("import", tmp_path / file, tmp_path / "other").startswith("films: 1202 records from ")
    with PersistentClient(tmp_path / "other") as client:
        assert described(client) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["data", "other", file])


def test_lists_of_numbers_are_as_good(tmp_path: Path) -> None:
    with PersistentClient(tmp_path / "data") as client:
        fill(client)
        expected = described(client)
    done("export", tmp_path / "data", "films", tmp_path / "films.ndjson", "--lists")
    line = (tmp_path / "films.ndjson").read_text().splitlines()[1]
    assert [type(number) for number in json.loads(line)["embedding"]] == [float] * 3
    done("import", tmp_path / "films.ndjson", tmp_path / "other", "--collection", "copies")
    with PersistentClient(tmp_path / "other") as client:
        assert described(client, "copies") == expected


@pytest.mark.parametrize("file", FORMATS)
def test_servers_are_places_too(file: str, tmp_path: Path) -> None:
    with our_server(tmp_path, workers=1) as url, HttpClient(url) as client:
        fill(client)
        expected = described(client)
        done("export", "films", tmp_path / file, "--url", url, "--header", "X-Token: t")
        done("import", tmp_path / file, tmp_path / "other")
        done("import", tmp_path / file, "--url", url, "--collection", "copies")
        assert described(client, "copies") == expected
    with PersistentClient(tmp_path / "other") as client:
        assert described(client) == expected
        assert client.get_collection("films", embedding_function=None).metadata == {"kind": "films", "year": 1979}


@pytest.mark.parametrize("file", FORMATS)
def test_a_collection_without_records_keeps_what_it_is(file: str, tmp_path: Path) -> None:
    with PersistentClient(tmp_path / "data") as client:
        client.create_collection("films", configuration={"hnsw": {"space": "ip"}}, embedding_function=None)
    done("export", tmp_path / "data", "films", tmp_path / file)
    done("import", tmp_path / file, tmp_path / "other")
    with PersistentClient(tmp_path / "other") as client:
        films = client.get_collection("films", embedding_function=None)
        assert films.count() == 0
        assert films.configuration["hnsw"]["space"] == "ip"


def test_a_schema_of_its_own_is_kept(tmp_path: Path) -> None:
    schema = Schema().delete_index(config=StringInvertedIndexConfig(), key="secret")
    with PersistentClient(tmp_path / "data") as client:
        client.create_collection("films", schema=schema, embedding_function=None)
    done("export", tmp_path / "data", "films", tmp_path / "films.ndjson")
    done("import", tmp_path / "films.ndjson", tmp_path / "other")
    with PersistentClient(tmp_path / "data") as one, PersistentClient(tmp_path / "other") as other:
        assert len({str(place.get_collection("films", embedding_function=None).schema) for place in (one, other)}) == 1


@pytest.mark.parametrize("file", FORMATS)
def test_a_page_that_is_too_large_for_one_entry_is_cut(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with PersistentClient(tmp_path / "data") as client:
        fill(client)
        before = client.get_collection("films", embedding_function=None).get(include=INCLUDE)
    done("export", tmp_path / "data", "films", tmp_path / file)
    monkeypatch.setattr(writer, "ENTRY_BYTES_MAX", 5_000)
    done("import", tmp_path / file, tmp_path / "other")
    with PersistentClient(tmp_path / "other") as client:
        after = client.get_collection("films", embedding_function=None).get(include=INCLUDE)
    assert (after["ids"], after["documents"]) == (before["ids"], before["documents"])
    assert np.array_equal(after["embeddings"], before["embeddings"])


def test_a_schema_that_was_derived_from_metadata_does_not_stand_in_its_way() -> None:
    """As Chroma 1.3.0 has stored it: a creation with both would be refused."""
    stored = {"defaults": {}, "keys": {"#embedding": {"float_list": {"vector_index": {"enabled": True, "config": {}}}}}}
    definition = exchange.Definition(
        name="films", metadata={"hnsw:space": "cosine"}, hnsw={"space": "cosine", "max_neighbors": 9}, schema=stored
    )
    call = definition.creation("t", "d", "films")
    assert (call.schema, call.metadata) == (None, {"hnsw:space": "cosine"})
    assert call.configuration is not None
    assert call.configuration.hnsw is not None
    assert (call.configuration.hnsw.space, call.configuration.hnsw.max_neighbors) == ("cosine", 9)


def test_an_import_may_be_repeated(tmp_path: Path) -> None:
    with PersistentClient(tmp_path / "data") as client:
        fill(client)
        expected = described(client)
    file = tmp_path / "films.ndjson"
    done("export", tmp_path / "data", "films", file)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) * 2 // 3])
    assert "line" in refused(1, "import", file, tmp_path / "other")
    file.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    assert "its last line is missing" in refused(1, "import", file, tmp_path / "other")
    file.write_bytes(whole)
    done("import", file, tmp_path / "other")
    with PersistentClient(tmp_path / "other") as client:
        assert described(client) == expected


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with PersistentClient(tmp_path / "data") as client:
        client.create_collection("films", embedding_function=None).add(ids=["a"], embeddings=[[1.0, 2.0]])
        client.create_collection("space", configuration={"hnsw": {"space": "ip"}}, embedding_function=None)
    for name, content, reason in (
        ("a.ndjson", b"", "no exported collection"),
        ("b.ndjson", b'{"name":"x"}\n', "does not say chroma_async_export"),
        ("c.ndjson", b'{"chroma_async_export":2,"name":"xyz"}\n', "a newer release"),
        ("d.ndjson", b'{"chroma_async_export":1,"name":"xyz"}\n{"id":"a","embedding":[1]}\n{"id":3}\n', "line=3"),
        ("e.ndjson", b'{"chroma_async_export":1,"name":"xyz"}\n{"id":"a","embedding":"!"}\n{"end":1}\n', "lines=2-2"),
        ("f.ndjson", b'{"chroma_async_export":1,"name":"xyz"}\n{"end":0}\n{"id":"a"}\n', "after the last line"),
        ("g.parquet", b"PAR1", "no whole Parquet file"),
        ("h.ndjson", b'{"chroma_async_export":1,"name":"xyz"}\n{"id":"a","embedd', "line=2"),
        ("i.ndjson", b'{"chroma_async_export":1,"name":"xyz"}\n', "was cut off"),
        ("j.ndjson", b'{"chroma_async_export":1,"name":"xyz"}\n{"id":"a","embedding":[1]}\n{"end":2}\n', "said=2"),
    ):
        (tmp_path / name).write_bytes(content)
        assert reason in refused(1, "import", tmp_path / name, tmp_path / "other")
        assert not (tmp_path / "other").exists()
    done("export", tmp_path / "data", "films", tmp_path / "films.ndjson")
    line = refused(1, "import", tmp_path / "films.ndjson", tmp_path / "data", "--collection", "space")
    assert "space: file='l2' collection='ip'" in line
    assert "No such file" in refused(2, "import", tmp_path / "nothing.ndjson", tmp_path / "other")
    assert "or a server with --url." in refused(2, "export", "films", tmp_path / "x.ndjson")
    both = refused(2, "export", tmp_path / "data", "films", tmp_path / "x.ndjson", "--url", "http://127.0.0.1:1")
    assert "or a server with --url, not both." in both
    assert "does not exist" in refused(1, "export", tmp_path / "data", "none", tmp_path / "x.ndjson")
    assert not (tmp_path / "x.ndjson").exists()


def test_parquet_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return wanted(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with (
        pytest.raises(ExchangeError, match=r"pip install 'chroma-async\[parquet\]'"),
        exchange.new_file(tmp_path / "films.parquet", exchange.Definition(name="films"), lists=False),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
