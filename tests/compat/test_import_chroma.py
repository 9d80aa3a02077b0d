"""`import-chroma`: what the real Chroma has written is here afterwards, as Chroma itself would answer."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from tests.compat.servers import chroma_server

from chroma_async import PersistentClient
from chroma_async.cli.commands import app

QUERIES = [[0.5, -0.25, 1.0, 2.0], [-1.0, 0.0, 0.0, 1.0]]

WRITE = """
import sys
from collections.abc import Callable
from contextlib import closing
import chromadb
import numpy as np
from chromadb.config import Settings



def metadata(number):
    every = {"whole": number, "share": number / 3, "round": 1.0, "flag": number % 2 == 0, "text": "ü 文 " + str(number)}
    lists = {"words": ["b", "a"], "wholes": [3, 1], "shares": [1.5, 1.0], "flags": [True, False]}
    return (every, {**every, **lists}, None)[number % 3]


def fill(client, name, count, space, threshold):
    dice = np.random.default_rng(count)
    hnsw = {"space": space, "sync_threshold": threshold, "batch_size": 10, "ef_search": 400}
    kept = {"kind": "test", "year": 1979, "share": 0.5, "flag": True}
    made = client.create_collection(name, configuration={"hnsw": hnsw}, metadata=kept, embedding_function=None)
    vectors = (3 * dice.standard_normal((count, 4))).astype(np.float32)
    for first in range(0, count, 10):
        numbers = range(first, min(count, first + 10))
        made.add(
            ids=[f"{number} é" for number in numbers],
            embeddings=vectors[first : first + 10],
            documents=[None if number % 4 == 0 else f"text 文 {number}" for number in numbers],
            uris=[f"s3://{number}" if number % 5 == 0 else None for number in numbers],
            metadatas=[metadata(number) for number in numbers],
        )
        if first == count // 20 * 10:
            change(made, vectors)
    change(made, vectors)


def change(made, vectors):
    made.delete(ids=["3 é", "5 é"])
    made.update(ids=["7 é"], embeddings=[[9, 9, 9, 9]], metadatas=[{"whole": None, "new": 2}])
    made.update(ids=["nobody"], embeddings=[[1, 1, 1, 1]], metadatas=[{"q": 1}])
    made.update(ids=["10 é"], metadatas=[{"words": ["z"], "wholes": None}])
    made.update(ids=["12 é"], documents=["another"], embeddings=[[4, 3, 2, 1]])
    made.upsert(ids=["8 é", "late"], embeddings=[[8, 8, 8, 8], [1, 2, 3, 4]], metadatas=[{"whole": 5}, {"z": 1}])
    made.add(ids=["9 é"], embeddings=[[1, 0, 0, 0]])
    made.delete(ids=["2 é"])
    made.add(ids=["2 é"], embeddings=[[2, 2, 2, 2]])


if sys.argv[1].startswith("http"):
    client = chromadb.HttpClient(*sys.argv[1].removeprefix("http://").split(":"))
    admin = chromadb.AdminClient(Settings(
        chroma_api_impl="chromadb.api.fastapi.FastAPI",
        chroma_server_host="127.0.0.1", chroma_server_http_port=int(sys.argv[1].split(":")[2]),
    ))
else:
    settings = Settings(is_persistent=True, persist_directory=sys.argv[1])
    client = chromadb.PersistentClient(sys.argv[1], settings=settings)
    admin = chromadb.AdminClient(settings)
admin.create_tenant("acme")
admin.create_database("films", tenant="acme")
for space in ("l2", "ip", "cosine"):
    fill(client, f"below-{space}", 60, space, 1000)
    fill(client, f"above-{space}", 260, space, 50)
client.create_collection("empty", embedding_function=None)
client.set_tenant("acme", "films")
fill(client, "elsewhere", 50, "l2", 1000)
"""

READ = """
import json, sys
import chromadb

place, tenant, database = sys.argv[1:4]
queries = json.loads(sys.argv[4])
if place.startswith("http"):
    host, port = place.removeprefix("http://").split(":")
    client = chromadb.HttpClient(host, int(port), tenant=tenant, database=database)
else:
    client = chromadb.PersistentClient(place, tenant=tenant, database=database)
answers = {}
for found in client.list_collections():
    made = client.get_collection(found.name, embedding_function=None)
    got = made.get(include=["embeddings", "documents", "metadatas", "uris"])
    count = made.count()
    near = made.query(query_embeddings=queries, n_results=max(1, count), include=["distances"]) if count else None
    answers[found.name] = {
        "count": count,
        "metadata": made.metadata,
        "hnsw": made.configuration_json["hnsw"],
        "ids": got["ids"], "documents": got["documents"], "metadatas": got["metadatas"], "uris": got["uris"],
        "embeddings": [[float(number) for number in row] for row in got["embeddings"]],
        "near": near and {"ids": near["ids"], "distances": near["distances"]},
    }
print(json.dumps(answers))
"""


def in_chroma(script: str, *arguments: str | Path) -> str:
    """Run a script with the real chromadb, in a process of its own: it keeps what it has opened."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CHROMA_")}
    command = [sys.executable, "-c", script, *(str(argument) for argument in arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def answers_of(place: str | Path, tenant: str, database: str) -> dict[str, Any]:
    answers: dict[str, Any] = json.loads(in_chroma(READ, place, tenant, database, json.dumps(QUERIES)))
    return answers


def chroma_async(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that Chroma has written, and nobody has opened since."""
    path = tmp_path_factory.mktemp("chroma") / "data"
    in_chroma(WRITE, path)
    return path


@pytest.fixture(scope="module")
def expected(written: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    """What Chroma itself answers of a copy of it, by tenant and database."""
    copy = tmp_path_factory.mktemp("copy") / "data"
    shutil.copytree(written, copy)
    places = (("default_tenant", "default_database"), ("acme", "films"))
    return {place: answers_of(copy, *place) for place in places}


def check(directory: Path, expected: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Compare gets, counts and exact queries with Chroma's.

    Vectors of a cosine collection are equal up to rounding: Chroma divides them by their length and multiplies again.
    """
    for (tenant, database), answers in expected.items():
        with PersistentClient(directory, tenant=tenant, database=database) as client:
            assert sorted(item.name for item in client.list_collections()) == sorted(answers)
            for name, answer in answers.items():
                check_collection(client.get_collection(name, embedding_function=None), answer)


def check_collection(made: Any, answer: dict[str, Any]) -> None:
    got = made.get(include=["embeddings", "documents", "metadatas", "uris"])
    assert made.count() == answer["count"]
    assert made.metadata == answer["metadata"]
    assert {name: made.configuration["hnsw"][name] for name in answer["hnsw"]} == answer["hnsw"]
    assert [got[name] for name in ("ids", "documents", "uris")] == [answer[name] for name in ("ids", "documents", "uris")]
    assert got["metadatas"] == [item or None for item in answer["metadatas"]]  # Chroma shows {} beside a uri alone
    assert [types(item) for item in got["metadatas"]] == [types(item) for item in answer["metadatas"]]
    if not answer["count"]:
        return
    tolerance = 1e-6 if answer["hnsw"]["space"] == "cosine" else 0
    np.testing.assert_allclose(got["embeddings"], np.float32(answer["embeddings"]), rtol=tolerance, atol=tolerance)
    near = made.query(query_embeddings=QUERIES, n_results=answer["count"], include=["distances"])
    for query in range(len(QUERIES)):
        ours = dict(zip(near["ids"][query], near["distances"][query], strict=True))
        theirs = dict(zip(answer["near"]["ids"][query], answer["near"]["distances"][query], strict=True))
        assert set(ours) == set(got["ids"])
        assert set(theirs) <= set(ours)
        np.testing.assert_allclose([ours[item] for item in theirs], list(theirs.values()), rtol=1e-4, atol=1e-5)


def types(metadata: dict[str, Any] | None) -> dict[str, type]:
    return {key: type(value) for key, value in (metadata or {}).items()}


def test_a_directory_is_taken_whole(written: Path, expected: Any, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in written.rglob("*") if path.is_file()}
    done = chroma_async("import-chroma", written, tmp_path / "data")
    assert done.exit_code == 0, done.output
    assert done.stdout.count("nothing") == 8
    check(tmp_path / "data", expected)
    assert {path: path.read_bytes() for path in written.rglob("*") if path.is_file()} == before


def test_both_kinds_of_place_for_vectors_were_there(written: Path) -> None:
    """Else the other tests would not see what they are about."""
    with sqlite3.connect(written / "chroma.sqlite3") as tables:
        queued = tables.execute("SELECT count(*) FROM embeddings_queue WHERE vector IS NOT NULL").fetchone()[0]
    tables.close()
    assert queued > 4 * 50
    assert len(list(written.glob("*/index_metadata.pickle"))) == 3


def test_a_running_server_is_taken_whole(tmp_path: Path, expected: Any) -> None:
    with chroma_server(tmp_path) as url:
        in_chroma(WRITE, url)
        done = chroma_async("import-chroma", url, tmp_path / "ours", "--tenant", "default_tenant", "--tenant", "acme")
        assert done.exit_code == 0, done.output
        served = {place: answers_of(url, *place) for place in expected}
    check(tmp_path / "ours", served)


@pytest.fixture
def few(written: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    shutil.copytree(written, tmp_path / "few")
    return tmp_path / "few"


def test_an_interrupted_import_goes_on(few: Path, expected: Any, tmp_path: Path) -> None:
    chroma_async("import-chroma", few, tmp_path / "data")
    with PersistentClient(tmp_path / "data") as client:
        client.delete_collection("below-l2")
        halved = client.get_collection("above-ip", embedding_function=None)
        halved.delete(ids=halved.get()["ids"][100:])
        halved.update(ids=["7 é"], metadatas=[{"more": 1}], documents=["other"], embeddings=[[0.0] * 4])
    done = chroma_async("import-chroma", few, tmp_path / "data")
    assert done.exit_code == 0, done.output
    count = expected["default_tenant", "default_database"]
    rows = {cells[2]: cells[4] for line in done.stdout.splitlines() if len(cells := line.replace("│", " ").split()) > 5}
    assert rows["below-l2"] == str(count["below-l2"]["count"])
    assert rows["above-ip"] == str(count["above-ip"]["count"] - 100 + 1)
    assert rows["above-l2"] == "0"
    check(tmp_path / "data", expected)


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_runs_no_code(few: Path, tmp_path: Path) -> None:
    for path in few.glob("*/index_metadata.pickle"):
        path.write_bytes(pickle.dumps({"id_to_label": _Evil(tmp_path / "evil")}))
    done = chroma_async("import-chroma", few, tmp_path / "data")
    assert done.exit_code == 1
    assert "posix.mkdir" in done.stdout
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("name", ["data_level0.bin", "header.bin", "length.bin", "index_metadata.pickle"])
def test_records_of_a_damaged_index_are_counted_and_the_rest_is_taken(
    name: str, few: Path, expected: Any, tmp_path: Path
) -> None:
    for path in few.glob(f"*/{name}"):
        path.write_bytes(path.read_bytes()[:-40] if name != "header.bin" else b"x" * 100)
    done = chroma_async("import-chroma", few, tmp_path / "data")
    assert done.exit_code == 1
    assert "the vector index can't be read" in done.stdout
    answers = expected["default_tenant", "default_database"]
    with PersistentClient(tmp_path / "data") as client:
        check_collection(client.get_collection("below-cosine", embedding_function=None), answers["below-cosine"])
        left = client.get_collection("above-cosine", embedding_function=None)
        assert 0 < left.count() < answers["above-cosine"]["count"]


def _huge_count(header: bytes) -> bytes:
    return header[:20] + (2**62).to_bytes(8, "little") + header[28:]


def _vector_elsewhere(header: bytes) -> bytes:
    return header[:44] + bytes(8) + header[52:]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("header.bin", _huge_count),
        ("header.bin", _vector_elsewhere),
        ("index_metadata.pickle", lambda _: pickle.dumps({"id_to_label": {"7 é": []}})),
        ("index_metadata.pickle", None),
    ],
)
def test_an_index_that_is_damaged_in_a_worse_way_ends_nothing(
    name: str, damage: Callable[[bytes], bytes] | None, few: Path, expected: Any, tmp_path: Path
) -> None:
    for path in few.glob(f"*/{name}"):
        if damage is None:
            path.unlink()
        else:
            path.write_bytes(damage(path.read_bytes()))
    done = chroma_async("import-chroma", few, tmp_path / "data")
    assert done.exit_code == 1
    assert "the vector index can't be read" in done.stdout
    answers = expected["default_tenant", "default_database"]
    with PersistentClient(tmp_path / "data") as client:
        check_collection(client.get_collection("below-cosine", embedding_function=None), answers["below-cosine"])


def test_a_vector_in_the_queue_that_is_cut_costs_its_record(few: Path, expected: Any, tmp_path: Path) -> None:
    with closing(sqlite3.connect(few / "chroma.sqlite3")) as tables, tables:
        (row,) = tables.execute("SELECT max(seq_id) FROM embeddings_queue WHERE vector IS NOT NULL").fetchone()
        tables.execute("UPDATE embeddings_queue SET vector = x'00' WHERE seq_id = ?", (row,))
    done = chroma_async("import-chroma", few, tmp_path / "data")
    assert (done.exit_code, "it has no vector" in done.stdout.replace("\n", " ")) == (1, True)


def test_a_damaged_configuration_is_named_with_its_collection(few: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(few / "chroma.sqlite3")) as tables, tables:
        tables.execute("UPDATE collections SET schema_str = '{' WHERE name = 'below-l2'")
    done = chroma_async("import-chroma", few, tmp_path / "data")
    assert (done.exit_code, "collection='below-l2'" in done.stderr) == (1, True)


HNSW_0_6 = {"space": "l2", "M": 16, "ef_search": 100, "_type": "HNSWConfigurationInternal"}


@pytest.mark.parametrize(
    ("stored", "metadata"),
    [
        ({"vector_index": {"hnsw": {"space": "cosine", "max_neighbors": 9}}, "embedding_function": {"type": "legacy"}}, {}),
        ({"hnsw_configuration": HNSW_0_6, "_type": "x"}, {"hnsw:space": "cosine", "hnsw:M": 9}),
        ({}, {"hnsw:space": "cosine", "hnsw:M": 9}),
    ],
    ids=["1.0", "0.6", "0.5"],
)
def test_what_older_releases_of_chroma_have_made_keeps_its_space_and_its_vectors(
    stored: dict[str, Any], metadata: dict[str, Any], few: Path, expected: Any, tmp_path: Path
) -> None:
    """A later release opens such a directory, and converts none of this."""
    with closing(sqlite3.connect(few / "chroma.sqlite3")) as tables, tables:
        (key,) = tables.execute("SELECT id FROM collections WHERE name = 'above-cosine'").fetchone()
        update = "UPDATE collections SET schema_str = NULL, config_json_str = ? WHERE id = ?"
        tables.execute(update, (json.dumps(stored), key))
        tables.execute("DELETE FROM collection_metadata WHERE collection_id = ?", (key,))
        for name, value in metadata.items():
            column = "str_value" if isinstance(value, str) else "int_value"
            insert = f"INSERT INTO collection_metadata (collection_id, key, {column}) VALUES (?, ?, ?)"
            tables.execute(insert, (key, name, value))
    done = chroma_async("import-chroma", few, tmp_path / "data")
    assert done.exit_code == 0, done.output
    answers = expected["default_tenant", "default_database"]
    with PersistentClient(tmp_path / "data") as client:
        found = client.get_collection("above-cosine", embedding_function=None)
        assert (found.configuration["hnsw"]["space"], found.configuration["hnsw"]["max_neighbors"]) == ("cosine", 9)
        hnsw = {name: found.configuration["hnsw"][name] for name in answers["above-cosine"]["hnsw"]}
        check_collection(found, {**answers["above-cosine"], "metadata": metadata or None, "hnsw": hnsw})


def test_a_configuration_of_an_unknown_form_is_refused_rather_than_guessed(few: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(few / "chroma.sqlite3")) as tables, tables:
        tables.execute("""UPDATE collections SET config_json_str = '{"new": 1}' WHERE name = 'below-l2'""")
    done = chroma_async("import-chroma", few, tmp_path / "data")
    assert (done.exit_code, "unknown parts new" in done.stderr) == (1, True)


def test_what_is_no_directory_of_chroma_is_refused(tmp_path: Path, few: Path) -> None:
    for source, reason in ((tmp_path / "nowhere", "no data directory of Chroma"), ("http://127.0.0.1:1", "127.0.0.1:1")):
        done = chroma_async("import-chroma", source, tmp_path / "data")
        assert done.exit_code == 1
        (line,) = done.stderr.splitlines()
        assert reason in line
    (few / "chroma.sqlite3").write_bytes(b"no database" * 100)
    done = chroma_async("import-chroma", few, tmp_path / "data")
    assert (done.exit_code, "can't be read" in done.stderr) == (1, True)


def test_a_collection_of_another_kind_is_left_alone_and_reported(written: Path, tmp_path: Path) -> None:
    with PersistentClient(tmp_path / "data") as client:
        client.create_collection("below-ip", embedding_function=None).add(ids=["mine"], embeddings=[[1.0, 2.0]])
    done = chroma_async("import-chroma", written, tmp_path / "data")
    assert done.exit_code == 1
    assert "import under a new name" in done.stdout
    with PersistentClient(tmp_path / "data") as client:
        assert client.get_collection("below-ip", embedding_function=None).get()["ids"] == ["mine"]
        assert client.get_collection("above-ip", embedding_function=None).count() > 200
