"""Runs one library in this process: `python -m load_tests.embedded.runner DIRECTORY`.

The directory has `job.json` (what to do), `records.json` and two arrays; `outcome.json` is written there. Needs numpy
and the library, nothing else of the load tests' environment.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from load_tests.embedded.engines import ENGINES, Call, Engine, Records, Work, version


def main(place: Path) -> None:
    """Do the job that lies in a directory."""
    job = json.loads((place / "job.json").read_text())
    texts = json.loads((place / "records.json").read_text())
    records = Records(
        ids=texts["ids"],
        documents=texts["documents"],
        vectors=np.load(place / "vectors.npy"),
        queries=np.load(place / "queries.npy"),
    )
    engine: Engine = ENGINES[job["engine"]]()
    outcome: dict[str, Any] = {"version": version(job["engine"]), **_fill(engine, records, job)}
    works = [Work(**fields) for fields in job["works"]]
    done = {work.name: _done(engine, work, len(records.queries), job) for work in works}
    outcome["works"] = {name: result for name, result in done.items() if result is not None}
    (place / "outcome.json").write_text(json.dumps(outcome))


def _fill(engine: Engine, records: Records, job: dict[str, Any]) -> dict[str, float]:
    if job["collection"]:  # one that is there
        engine.open(records, Path(job["directory"]), job["collection"])  # type: ignore[attr-defined]
        return {}
    started = time.perf_counter()
    engine.ingest(records, Path(job["directory"]))
    ingested = time.perf_counter()
    engine.index()
    return {"ingest_seconds": ingested - started, "indexed_seconds": time.perf_counter() - started}


def _done(engine: Engine, work: Work, queries: int, job: dict[str, Any]) -> dict[str, Any] | None:
    """Answers to the first questions, asked once each, which also warm up; then timed rounds through all questions."""
    prepared = engine.prepare(work)
    if prepared is None:
        return None
    call, read = prepared
    answers = [read(call(number)) for number in range(min(job["checks"], queries))]
    rounds = [_round(call, queries, job["seconds"]) for _ in range(job["rounds"])]
    return {"answers": [vars(answer) for answer in answers], "rounds": rounds}


def _round(call: Call, queries: int, seconds: float) -> dict[str, float]:
    latencies: list[float] = []
    deadline = time.perf_counter() + seconds
    for number in itertools.cycle(range(queries)):
        started = time.perf_counter()
        call(number)
        ended = time.perf_counter()
        latencies.append(ended - started)
        if ended > deadline:
            break
    p50, p99 = np.percentile(latencies, [50, 99]).tolist()
    return {"p50_us": p50 * 1e6, "p99_us": p99 * 1e6, "per_second": len(latencies) / sum(latencies)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
