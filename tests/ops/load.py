"""Requests that go on while something else happens, and what became of each."""

from __future__ import annotations

import contextlib
import itertools
import random
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx

COLLECTIONS = "/api/v2/tenants/default_tenant/databases/default_database/collections"
DIMENSION = 8


@dataclass
class Outcome:
    """What came of the requests; `written` are the ids whose write was answered, `slowest_seconds` the longest wait."""

    done: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    written: set[str] = field(default_factory=set)
    slowest_seconds: float = 0.0


class Load:
    """Threads that read and write a collection by raw HTTP, without a retry of their own."""

    def __init__(self, url: str, verify: ssl.SSLContext | bool, *, threads: int = 4, http2: bool = False) -> None:
        self._url = url
        self._verify = verify
        self._http2 = http2
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(threads)]
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self.outcome = Outcome()
        with self._client() as client:
            created = client.post(COLLECTIONS, json={"name": "load", "get_or_create": True})
            self.collection = f"{COLLECTIONS}/{created.json()['id']}"

    @contextlib.contextmanager
    def running(self) -> Iterator[Outcome]:
        for thread in self._threads:
            thread.start()
        try:
            yield self.outcome
        finally:
            self._stopping.set()
            for thread in self._threads:
                thread.join()

    def ids(self) -> set[str]:
        """All ids that the collection has."""
        with self._client() as client:
            return set(client.post(f"{self.collection}/get", json={"include": []}).json()["ids"])

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=self._url, verify=self._verify, http2=self._http2, timeout=60)

    def _work(self, number: int) -> None:
        chance = random.Random(number)
        with self._client() as client:
            for turn in itertools.count():
                if self._stopping.is_set():
                    return
                self._send(client, chance, f"{number}-{turn}")

    def _send(self, client: httpx.Client, chance: random.Random, new_id: str) -> None:
        kind = chance.choice(["query", "query", "get", "count", "add", "upsert", "update", "delete", "collections"])
        vectors = [[chance.random() for _ in range(DIMENSION)]]
        body = {
            "query": {"query_embeddings": vectors, "n_results": 3},
            "get": {"limit": 3},
            "add": {"ids": [new_id], "embeddings": vectors},
            "upsert": {"ids": [new_id], "embeddings": vectors},
            "update": {"ids": ["0-0"], "embeddings": vectors},
            "delete": {"ids": [new_id + "-never"]},
        }.get(kind)
        method = "GET" if body is None else "POST"
        path = COLLECTIONS if kind == "collections" else f"{self.collection}/{kind}"
        began = time.monotonic()
        try:
            answer = client.request(method, path, json=body)
            failure = None if answer.is_success else f"{kind}: {answer.status_code} {answer.text[:200]}"
        except httpx.HTTPError as error:
            failure = f"{kind}: {error!r}"
        with self._lock:
            self.outcome.slowest_seconds = max(self.outcome.slowest_seconds, time.monotonic() - began)
            self.outcome.done[kind] += 1
            if failure is not None:
                self.outcome.failures.append(failure)
            elif kind in ("add", "upsert"):
                self.outcome.written.add(new_id)
