"""Three ways into one data directory, with the same few methods: a server's worker, an embedded client, the command line."""

from __future__ import annotations

import http.client
import itertools
import json
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import orjson

from load_tests.acceptance.family import members, who_answers
from load_tests.data import Floats
from load_tests.errors import RequestFailed, Unavailable
from load_tests.generator import Address
from load_tests.servers import LocalServer

COLLECTIONS = "/api/v2/tenants/default_tenant/databases/default_database/collections"

_TIMEOUT_SECONDS = 60.0
_CONNECTIONS_MAX = 200
"""Connections that are tried until each worker has taken one: the system decides which worker does."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is written, and compared when it is read."""

    document: str
    metadata: dict[str, Any]


class Door(Protocol):
    """A way to write and read one collection. Errors are `RequestFailed`; the outcome of a write is then unknown."""

    def add(self, ids: Sequence[str], vectors: Floats, records: Sequence[Record]) -> None:
        """Add records; ids that exist keep their first value."""
        ...

    def get(self, ids: Sequence[str]) -> dict[str, Record]:
        """The records of these ids."""
        ...

    def all(self) -> list[tuple[str, Record]]:
        """Every record, as often as the database says it is there."""
        ...

    def count(self) -> int:
        """Number of records."""
        ...


class HttpDoor:
    """One keep-alive connection, and so one worker, until it breaks; the next call then opens another one."""

    def __init__(self, address: Address, records_path: str = "") -> None:
        self._connection = http.client.HTTPConnection(address.host, address.port, timeout=_TIMEOUT_SECONDS)
        self.records_path = records_path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    @property
    def local_port(self) -> int:
        """The port of our end of the open connection."""
        assert self._connection.sock is not None
        return int(self._connection.sock.getsockname()[1])

    def call(self, method: str, path: str, body: bytes | memoryview | None = None) -> Any:
        """Send one request, again when the server asks for patience, and return the decoded answer.

        Raises:
            RequestFailed: there was no answer, or a refusal.
        """
        while True:
            status, answer, wait = self._exchange(method, path, body)
            if status in (429, 503) and wait is not None:
                time.sleep(wait)
                continue
            if not 200 <= status < 300:
                raise RequestFailed(f"{method} {path} was refused. status={status} body={answer[:300]!r}")
            return orjson.loads(answer) if answer else None

    def _exchange(self, method: str, path: str, body: bytes | memoryview | None) -> tuple[int, bytes, float | None]:
        try:
            self._connection.request(method, path, body, {"Content-Type": "application/json"})
            response = self._connection.getresponse()
            wait = response.getheader("Retry-After")
            return response.status, response.read(), None if wait is None else float(wait)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise RequestFailed(f"{method} {path} got no answer. reason={error!r}") from error

    def create(self, name: str, space: str = "cosine") -> str:
        """Create a collection, or take the one that is there, and go on with it; return the path of its records."""
        body = {"name": name, "get_or_create": True, "configuration": {"hnsw": {"space": space}}}
        self.records_path = f"{COLLECTIONS}/{self.call('POST', COLLECTIONS, orjson.dumps(body))['id']}"
        return self.records_path

    def post(self, verb: str, body: dict[str, Any]) -> Any:
        """Call one of the collection's routes that take a body."""
        return self.call("POST", f"{self.records_path}/{verb}", orjson.dumps(body))

    def add(self, ids: Sequence[str], vectors: Floats, records: Sequence[Record]) -> None:
        """See `Door`."""
        self.post("add", _write_body(ids, vectors, records))

    def upsert(self, ids: Sequence[str], vectors: Floats, records: Sequence[Record]) -> None:
        """Write records whether they exist or not."""
        self.post("upsert", _write_body(ids, vectors, records))

    def update(self, ids: Sequence[str], vectors: Floats, records: Sequence[Record]) -> None:
        """Change documents and metadata of records; their vectors stay what they are, so they are not sent."""
        documents, metadatas = [r.document for r in records], [r.metadata for r in records]
        self.post("update", {"ids": list(ids), "documents": documents, "metadatas": metadatas})

    def delete(self, ids: Sequence[str]) -> None:
        """Delete records."""
        self.post("delete", {"ids": list(ids)})

    def get(self, ids: Sequence[str]) -> dict[str, Record]:
        """See `Door`."""
        answer = self.post("get", {"ids": list(ids), "include": ["documents", "metadatas"]})
        return dict(_pairs(answer))

    def all(self) -> list[tuple[str, Record]]:
        """See `Door`."""
        return _pairs(self.post("get", {"include": ["documents", "metadatas"]}))

    def ids(self) -> list[str]:
        """Ids of every record."""
        return list(self.post("get", {"include": []})["ids"])

    def vectors(self, ids: Sequence[str]) -> dict[str, Floats]:
        """The vectors of these ids."""
        answer = self.post("get", {"ids": list(ids), "include": ["embeddings"]})
        return _vectors(answer)

    def nearest(self, vectors: Floats, count: int) -> list[tuple[list[str], list[float]]]:
        """Ids and distances of the nearest records of each vector."""
        body = {"query_embeddings": vectors.tolist(), "n_results": count, "include": ["distances"]}
        answer = self.post("query", body)
        return list(zip(answer["ids"], answer["distances"], strict=True))

    def count(self) -> int:
        """See `Door`."""
        return int(self.call("GET", f"{self.records_path}/count"))

    def status(self) -> tuple[int, int]:
        """Written or deleted records, ever: applied, and not yet applied."""
        answer = self.call("GET", f"{self.records_path}/indexing_status")
        return int(answer["num_indexed_ops"]), int(answer["num_unindexed_ops"])


def _write_body(ids: Sequence[str], vectors: Floats, records: Sequence[Record]) -> dict[str, Any]:
    return {
        "ids": list(ids),
        "embeddings": [b64encode(row.astype("<f4").tobytes()).decode("ascii") for row in vectors],
        "documents": [record.document for record in records],
        "metadatas": [record.metadata for record in records],
    }


def _pairs(answer: Any) -> list[tuple[str, Record]]:
    columns = (answer["ids"], answer["documents"], answer["metadatas"])
    return [(key, Record(document, metadata)) for key, document, metadata in zip(*columns, strict=True)]


def _vectors(answer: Any) -> dict[str, Floats]:
    rows = answer["embeddings"]
    return {key: np.asarray(row, dtype=np.float32) for key, row in zip(answer["ids"], rows, strict=True)}


def door_of_each_worker(server: LocalServer, records_path: str = "") -> dict[int, HttpDoor]:
    """One connection to each worker, by process id.

    Raises:
        Unavailable: a worker takes no connection.
    """
    found: dict[int, HttpDoor] = {}
    spare: list[HttpDoor] = []
    for _ in range(_CONNECTIONS_MAX):
        door = HttpDoor(server.address, records_path)
        door.call("GET", "/api/v2/heartbeat")
        pid = who_answers(server.port, members(server, "worker"), door.local_port)
        if pid is None or pid in found:
            spare.append(door)
        else:
            found[pid] = door
        if found.keys() >= set(members(server, "worker")):
            break
    for door in spare:
        door.close()
    silent = set(members(server, "worker")) - found.keys()
    if silent:
        raise Unavailable(f"a worker takes no connections. pids={sorted(silent)} tried={_CONNECTIONS_MAX}")
    return found


class EmbeddedDoor:
    """An engine in this process, on the same directory."""

    def __init__(self, directory: Path, collection: str, **options: Any) -> None:
        from chroma_async import PersistentClient

        self._client = PersistentClient(directory, **options)
        self._collection = self._client.get_collection(collection, embedding_function=None)

    def close(self) -> None:
        """Close the engine."""
        self._client.close()

    def use(self, collection: str) -> None:
        """Go on with another collection."""
        self._collection = self._client.get_collection(collection, embedding_function=None)

    def add(self, ids: Sequence[str], vectors: Floats, records: Sequence[Record]) -> None:
        """See `Door`."""
        self._collection.add(list(ids), vectors, [r.metadata for r in records], [r.document for r in records])

    def upsert(self, ids: Sequence[str], vectors: Floats, records: Sequence[Record]) -> None:
        """Write records whether they exist or not."""
        self._collection.upsert(list(ids), vectors, [r.metadata for r in records], [r.document for r in records])

    def update(self, ids: Sequence[str], vectors: Floats, records: Sequence[Record]) -> None:
        """Change documents and metadata of records; a client sends the vectors of new documents with them."""
        self._collection.update(list(ids), vectors, [r.metadata for r in records], [r.document for r in records])

    def delete(self, ids: Sequence[str]) -> None:
        """Delete records."""
        self._collection.delete(list(ids))

    def get(self, ids: Sequence[str]) -> dict[str, Record]:
        """See `Door`."""
        return dict(_pairs(self._collection.get(list(ids), include=["documents", "metadatas"])))

    def all(self) -> list[tuple[str, Record]]:
        """See `Door`."""
        return _pairs(self._collection.get(include=["documents", "metadatas"]))

    def vectors(self, ids: Sequence[str]) -> dict[str, Floats]:
        """The vectors of these ids."""
        return _vectors(self._collection.get(list(ids), include=["embeddings"]))

    def nearest(self, vectors: Floats, count: int) -> list[tuple[list[str], list[float]]]:
        """Ids and distances of the nearest records of each vector."""
        answer = self._collection.query(query_embeddings=vectors, n_results=count, include=["distances"])
        return list(zip(answer["ids"], answer["distances"] or [], strict=True))

    def count(self) -> int:
        """See `Door`."""
        return self._collection.count()


class CommandDoor:
    """The command line: a new process for every call. It adds one record at a time and changes none."""

    def __init__(self, directory: Path, collection: str) -> None:
        self._directory, self._collection = directory, collection
        self._executable = Path(sys.executable).parent / "chroma-async"

    def add(self, ids: Sequence[str], vectors: Floats, records: Sequence[Record]) -> None:
        """See `Door`."""
        for key, vector, record in zip(ids, vectors, records, strict=True):
            written = {
                "--id": key,
                "--embedding": json.dumps([float(number) for number in vector]),
                "--document": record.document,
                "--metadata": json.dumps(record.metadata),
            }
            self._run("add", *itertools.chain.from_iterable(written.items()))

    def get(self, ids: Sequence[str]) -> dict[str, Record]:
        """See `Door`; the command knows no ids, so it reads everything."""
        wanted = set(ids)
        return {key: record for key, record in self.all() if key in wanted}

    def all(self) -> list[tuple[str, Record]]:
        """See `Door`."""
        lines = [json.loads(line) for line in self._run("get", "--limit", str(10**9)).splitlines()]
        return [(line["id"], Record(line["document"], line["metadata"])) for line in lines]

    def count(self) -> int:
        """See `Door`."""
        return int(self._run("count"))

    def _run(self, command: str, *options: str) -> str:
        words = [str(self._executable), command, str(self._directory), self._collection, *options]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_TIMEOUT_SECONDS)
        if done.returncode or done.stderr:
            raise RequestFailed(f"chroma-async {command} failed. code={done.returncode} stderr={done.stderr[-1000:]!r}")
        return done.stdout
