"""What a program does with an old Chroma client; run by the Python of an environment that has that client.

    python legacy_journey.py HOST PORT

It only uses what the client offers, and asserts what its users rely on. It prints nothing but a last line, `done VERSION`.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable

import chromadb
from chromadb.config import Settings

READS_LISTS = chromadb.__version__ not in ("0.5.1", "0.5.2", "0.5.3")
"""Those send what their elders send, and can't read the lists that these get."""


def main(host: str, port: str) -> None:
    settings = Settings(anonymized_telemetry=False, allow_reset=True)
    client = chromadb.HttpClient(host=host, port=int(port), settings=settings)
    assert client.heartbeat() > 1_600_000_000_000_000_000
    assert isinstance(client.get_version(), str)
    name = "old-" + uuid.uuid4().hex
    administer(host, port, settings)
    collections(client, name)
    records(client, name)
    refusals(client, name)
    client.delete_collection(name)
    assert name not in listed(client)
    print("done", chromadb.__version__)


def administer(host: str, port: str, settings: Settings) -> None:
    """Tenants and databases, and a client of another place than the default."""
    settings.chroma_server_host, settings.chroma_server_http_port = host, int(port)
    settings.chroma_api_impl = "chromadb.api.fastapi.FastAPI"
    admin = chromadb.AdminClient(settings)
    tenant, database = "tenant-" + uuid.uuid4().hex, "database-" + uuid.uuid4().hex
    admin.create_tenant(tenant)
    admin.create_database(database, tenant)
    assert admin.get_tenant(tenant)["name"] == tenant
    assert admin.get_database(database, tenant)["tenant"] == tenant
    elsewhere = chromadb.HttpClient(host=host, port=int(port), settings=settings, tenant=tenant, database=database)
    made = elsewhere.create_collection("elsewhere", embedding_function=None)
    made.add(ids=["a"], embeddings=[[1.0]])
    assert made.count() == 1
    if READS_LISTS:
        assert listed(elsewhere) == ["elsewhere"]
    if hasattr(elsewhere, "count_collections"):  # not in 0.4.15
        assert elsewhere.count_collections() == 1


def listed(client: chromadb.api.ClientAPI) -> list[str]:
    return [found.name for found in client.list_collections()] if READS_LISTS else []


def collections(client: chromadb.api.ClientAPI, name: str) -> None:
    created = client.create_collection(name, metadata={"hnsw:space": "cosine", "topic": "x"}, embedding_function=None)
    assert created.name == name
    assert created.metadata == {"hnsw:space": "cosine", "topic": "x"}
    again = client.get_or_create_collection(name, metadata={"hnsw:space": "cosine", "topic": "x"}, embedding_function=None)
    assert again.id == created.id
    assert client.get_collection(name, embedding_function=None).id == created.id
    assert name in listed(client) or not READS_LISTS
    created.modify(name=name + "-new", metadata={"topic": "y"})
    changed = client.get_collection(name + "-new", embedding_function=None)
    assert (changed.id, changed.metadata) == (created.id, {"topic": "y"})
    changed.modify(name=name)


def records(client: chromadb.api.ClientAPI, name: str) -> None:
    docs = client.get_collection(name, embedding_function=None)
    docs.add(
        ids=["a", "b", "c"],
        embeddings=[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]],
        documents=["red fox", "blue fox", None],
        metadatas=[{"n": 1, "s": "x"}, {"n": 2}, {"f": 1.5, "flag": True}],
    )
    assert docs.count() == 3
    whole = docs.get(include=["embeddings", "documents", "metadatas"])
    assert whole["ids"] == ["a", "b", "c"]
    assert [list(vector) for vector in whole["embeddings"]] == [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    assert whole["documents"] == ["red fox", "blue fox", None]
    assert whole["metadatas"] == [{"n": 1, "s": "x"}, {"n": 2}, {"f": 1.5, "flag": True}]
    assert whole.get("data") is None  # nothing at all in 0.4.15
    assert docs.get(ids=["b"], include=[])["ids"] == ["b"]
    assert docs.get(where={"n": {"$gte": 2}})["ids"] == ["b"]
    assert docs.get(where={"n": {"$ne": 1}})["ids"] == ["b"], "records without the field do not match"
    assert docs.get(where_document={"$contains": "fox"}, limit=1, offset=1)["ids"] == ["b"]
    assert docs.peek(2)["ids"] == ["a", "b"]
    found = docs.query(query_embeddings=[[2.0, 0.0]], n_results=2)
    assert found["ids"] == [["a", "c"]]
    assert abs(found["distances"][0][1] - (1 - 0.5**0.5)) < 1e-6, "cosine, as the metadata of the creation says"
    assert found["embeddings"] is None
    assert docs.query(query_embeddings=[[2.0, 0.0]], where={"s": "x"}, include=["metadatas"])["ids"] == [["a"]]
    docs.update(ids=["a"], metadatas=[{"n": 7}])
    docs.upsert(ids=["d"], embeddings=[[5.0, 5.0]], metadatas=[{"n": 9}], documents=["new"])
    assert docs.get(ids=["a", "d"])["metadatas"] == [{"n": 7, "s": "x"}, {"n": 9}]
    docs.delete(ids=["d"])
    docs.delete(where={"n": 2})
    assert docs.get()["ids"] == ["a", "c"]


def refusals(client: chromadb.api.ClientAPI, name: str) -> None:
    docs = client.get_collection(name, embedding_function=None)
    expect("does not exist", lambda: client.get_collection("nowhere", embedding_function=None))
    expect("does not exist", lambda: client.delete_collection("nowhere"))
    expect("already exists", lambda: client.create_collection(name, embedding_function=None))
    expect("dimension", lambda: docs.query(query_embeddings=[[1.0]]))
    expect("dimension", lambda: docs.add(ids=["z"], embeddings=[[1.0]]))
    assert docs.count() == 2


def expect(words: str, action: Callable[[], object]) -> None:
    """Old clients raise whatever they make of the answer; what their users look at is the text."""
    said = "no error"
    try:
        action()
    except Exception as error:
        said = str(error)
    assert words in said, said


main(*sys.argv[1:])
