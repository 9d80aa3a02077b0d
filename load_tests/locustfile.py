"""Mixed work for people who use locust; needs nothing of the load tests but this file.

    locust -f load_tests/locustfile.py --host http://127.0.0.1:8000 --headless --users 16 --spawn-rate 16 --run-time 30s

Against any server with Chroma's API v2. It makes a collection of `--records` random vectors, and deletes it in the end.
"""

from __future__ import annotations

import random
from typing import Any

from locust import FastHttpUser, constant, events, task
from locust.runners import WorkerRunner

import requests

_COLLECTIONS = "/api/v2/tenants/default_tenant/databases/default_database/collections"
_NAME = "locust"
_BATCH = 500


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:
    """Options of our own."""
    parser.add_argument("--records", type=int, default=5000, help="Records to store before the test")
    parser.add_argument("--ndim", type=int, default=384, help="Dimensions of the vectors")


@events.test_start.add_listener
def fill(environment: Any, **_: Any) -> None:
    """Make the collection anew. One process does it, the master if there are several."""
    if isinstance(environment.runner, WorkerRunner):
        return
    with Client(environment.host) as client:
        client.delete(f"{_COLLECTIONS}/{_NAME}")
        made = client.post(_COLLECTIONS, json={"name": _NAME, "configuration": {"hnsw": {"space": "cosine"}}})
        made.raise_for_status()
        path = f"{_COLLECTIONS}/{made.json()['id']}"
        options = environment.parsed_options
        for first in range(0, options.records, _BATCH):
            rows = range(first, min(first + _BATCH, options.records))
            client.post(f"{path}/add", json=records(rows, options.ndim)).raise_for_status()


@events.test_stop.add_listener
def clean_up(environment: Any, **_: Any) -> None:
    """Delete the collection."""
    if not isinstance(environment.runner, WorkerRunner):
        with Client(environment.host) as client:
            client.delete(f"{_COLLECTIONS}/{_NAME}")


class Client(requests.Session):
    """A client whose requests are no part of the statistics."""

    def __init__(self, host: str) -> None:
        super().__init__()
        self._host = host

    def request(self, method: str, url: str, **options: Any) -> requests.Response:  # type: ignore[override]
        """Send a request to a path of the host."""
        return super().request(method, f"{self._host}{url}", **options)


def vector(ndim: int) -> list[float]:
    """Random, near the unit sphere."""
    return [random.gauss(0, ndim**-0.5) for _ in range(ndim)]


def records(rows: range, ndim: int) -> dict[str, Any]:
    """Body of an add or upsert."""
    return {
        "ids": [f"record-{row}" for row in rows],
        "embeddings": [vector(ndim) for _ in rows],
        "documents": [f"document number {row}" for row in rows],
        "metadatas": [{"n": row, "n_mod_100": row % 100} for row in rows],
    }


class ChromaUser(FastHttpUser):
    """What readers and writers share."""

    abstract = True

    def on_start(self) -> None:
        """Find the collection."""
        self.options = self.environment.parsed_options
        self.path = f"{_COLLECTIONS}/{self.client.get(f'{_COLLECTIONS}/{_NAME}').json()['id']}"

    def _post(self, call: str, body: dict[str, Any], name: str) -> Any:
        with self.client.post(f"{self.path}/{call}", json=body, name=name, catch_response=True) as response:
            if response.status_code >= 300:
                response.failure(f"status {response.status_code}: {response.text[:200]}")
                return None
            return response.json()


class Reader(ChromaUser):
    """Queries most of the time."""

    wait_time = constant(0)
    weight = 4

    @task(4)
    def query(self) -> None:
        """Ten nearest."""
        self._post("query", {"query_embeddings": [vector(self.options.ndim)], "n_results": 10}, "query")

    @task(2)
    def filtered(self) -> None:
        """Ten nearest among one in a hundred."""
        where = {"n_mod_100": random.randrange(100)}
        body = {"query_embeddings": [vector(self.options.ndim)], "n_results": 10, "where": where}
        self._post("query", body, "query, filter 1 %")

    @task(1)
    def get(self) -> None:
        """Ten records by id."""
        ids = [f"record-{random.randrange(self.options.records)}" for _ in range(10)]
        self._post("get", {"ids": sorted(set(ids))}, "get 10 ids")


class Writer(ChromaUser):
    """Replaces records, ten at a time."""

    wait_time = constant(0.1)
    weight = 1

    @task
    def upsert(self) -> None:
        """Ten records in a row."""
        first = random.randrange(max(1, self.options.records - 10))
        self._post("upsert", records(range(first, first + 10), self.options.ndim), "upsert 10")
