"""The few calls that prepare and inspect a server; not timed, so plain `http.client` will do."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import orjson

from load_tests.errors import RequestFailed, Unavailable
from load_tests.generator import Address

_COLLECTIONS = "/api/v2/tenants/default_tenant/databases/default_database/collections"
_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Progress:
    """Writes of a collection, ever: those that an index has, and those that it has not yet."""

    indexed: int
    unindexed: int


class Api:
    """Chroma's HTTP API v2 at one address."""

    def __init__(self, address: Address) -> None:
        self.address = address

    def wait_until_up(self, timeout_seconds: float, *, give_up: Callable[[], bool] = lambda: False) -> None:
        """Poll the heartbeat until it answers 200, or `give_up` says that it never will.

        Raises:
            Unavailable: it did not in time.
        """
        started = time.monotonic()
        while time.monotonic() < started + timeout_seconds and not give_up():
            try:
                if self._request("GET", "/api/v2/heartbeat")[0] == 200:
                    return
            except RequestFailed:
                pass  # not listening yet
            time.sleep(_POLL_SECONDS)
        waited = time.monotonic() - started
        raise Unavailable(f"no heartbeat. address={self.address} waited_seconds={waited:.1f}")

    def create_collection(self, name: str) -> str:
        """Create a collection with cosine distance and return the path of its record routes."""
        body = {"name": name, "configuration": {"hnsw": {"space": "cosine"}}}
        return f"{_COLLECTIONS}/{self._call('POST', _COLLECTIONS, body)['id']}"

    def delete_collection(self, name: str) -> None:
        """Delete a collection by name."""
        self._call("DELETE", f"{_COLLECTIONS}/{name}")

    def count(self, records_path: str) -> int:
        """Number of records of a collection."""
        return int(self._call("GET", f"{records_path}/count"))

    def unindexed(self, records_path: str) -> int | None:
        """Number of writes that no index has yet; None when the server does not tell."""
        progress = self.progress(records_path)
        return progress.unindexed if progress else None

    def progress(self, records_path: str) -> Progress | None:
        """How far indexing is; None when the server does not tell."""
        status, body = self._request("GET", f"{records_path}/indexing_status")
        if status != 200:
            return None
        answer = orjson.loads(body)
        return Progress(int(answer["num_indexed_ops"]), int(answer["num_unindexed_ops"]))

    def stream_position(self, records_path: str, stream_id: str) -> int:
        """How many lines of an ingest stream are durable."""
        return int(self._call("GET", f"{records_path}/ingest?stream_id={stream_id}")["position"])

    def vectors(self, records_path: str, ids: list[str]) -> dict[str, list[float]]:
        """Vectors of some records, by id."""
        answer = self._call("POST", f"{records_path}/get", {"ids": ids, "include": ["embeddings"]})
        return dict(zip(answer["ids"], answer["embeddings"], strict=True))

    def first_answer(self, path: str, body: bytes, timeout_seconds: float) -> Any:
        """Repeat a POST until the server answers 200, and return that answer.

        Raises:
            Unavailable: it did not in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            try:
                status, answer = self._request("POST", path, body)
                if status == 200:
                    return orjson.loads(answer)
            except RequestFailed:
                pass  # not listening yet
            time.sleep(_POLL_SECONDS)
        raise Unavailable(f"no answer after the restart. path={path} waited_seconds={timeout_seconds:g}")

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        status, answer = self._request(method, path, orjson.dumps(body) if body is not None else None)
        if not 200 <= status < 300:
            raise RequestFailed(f"{method} {path} was refused. status={status} body={answer[:300]!r}")
        return orjson.loads(answer)

    def _request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.address.host, self.address.port, timeout=60)
        try:
            with closing(connection):
                connection.request(method, path, body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise RequestFailed(f"{method} {path} got no answer. reason={error!r}") from error
