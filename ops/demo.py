"""What ops/demo.sh does with its servers: some load, then every query of the dashboard.

demo.py load URL AUTHORITY USER PASSWORD     write and read for a while, and make some mistakes
demo.py ask PROMETHEUS DASHBOARD             answer each query of the dashboard; exit code 1 if one has no series
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from chroma_async import HttpClient, Settings
from chroma_async.errors import AuthorizationError, NotFoundError

LOAD_SECONDS = 6.0
RATE_INTERVAL = "10s"
ASK_SECONDS_MAX = 20.0
DIMENSION = 64


def load(url: str, authority: str, user: str, password: str) -> None:
    chance = random.Random(6)
    settings = Settings(chroma_server_ssl_verify=authority)
    queries = records = 0
    with HttpClient(url, auth=(user, password), settings=settings) as client:
        films = client.get_or_create_collection("films")
        end = time.monotonic() + LOAD_SECONDS
        while time.monotonic() < end:
            ids = [f"{records + row}" for row in range(50)]
            films.add(
                ids=ids,
                embeddings=[_vector(chance) for _ in ids],
                metadatas=[{"year": chance.randint(1900, 2026)} for _ in ids],
            )
            records += len(ids)
            for _ in range(5):
                films.query(query_embeddings=[_vector(chance)], n_results=5, where={"year": {"$gte": 1960}})
                queries += 1
            with contextlib.suppress(NotFoundError):
                client.get_collection("none-of-that-name")
    with contextlib.suppress(AuthorizationError), HttpClient(url, auth=(user, "wrong"), settings=settings) as stranger:
        stranger.list_collections()
    print(f"load: {records} records written, {queries} queries answered")


def _vector(chance: random.Random) -> list[float]:
    return [chance.uniform(-1, 1) for _ in range(DIMENSION)]


def ask(prometheus: str, dashboard: str) -> int:
    failed = 0
    with httpx.Client(base_url=prometheus) as http:
        for title, query in _queries(json.loads(Path(dashboard).read_text())):
            series = _answer(http, query)
            failed += not series
            print(f"{title}: {'NO SERIES' if not series else ''}")
            print(f"    {query}")
            for labels, value in series:
                print(f"    {labels or '{}'} {value:g}")
    print(f"dashboard: {failed} queries without an answer")
    return 1 if failed else 0


def _queries(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", RATE_INTERVAL).replace("$instance", ".*")


def _answer(http: httpx.Client, query: str) -> list[tuple[str, float]]:
    """Ask until there are series whose values are numbers: some are not there at once."""
    end = time.monotonic() + ASK_SECONDS_MAX
    while True:
        answer = http.get("/api/v1/query", params={"query": query}).json()
        if answer["status"] != "success":
            print(f"    {answer.get('error')}")
            return []
        found = [(_labels(row["metric"]), float(row["value"][1])) for row in answer["data"]["result"]]
        series = [(labels, value) for labels, value in found if math.isfinite(value)]
        if series or time.monotonic() > end:
            return series
        time.sleep(0.5)


def _labels(metric: dict[str, str]) -> str:
    return "{" + ", ".join(f'{name}="{value}"' for name, value in metric.items()) + "}"


if __name__ == "__main__":
    if sys.argv[1] == "load":
        load(*sys.argv[2:])
    else:
        sys.exit(ask(*sys.argv[2:]))
