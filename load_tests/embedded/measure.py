"""Gives the data and the questions to a runner in a process of its own, and judges what comes back."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import orjson

from load_tests.bench import N_RESULTS, Options, Workload
from load_tests.data import FILTERS, every_row
from load_tests.embedded.engines import ENGINES, Work
from load_tests.errors import Unavailable, WrongAnswer
from load_tests.measures import Better, Column, Measure

PEERS = tuple(name for name in ENGINES if name != "ours")

_ROOT = Path(__file__).resolve().parents[2]
_SECONDS_MAX = 3600.0
_DISTANCE_TOLERANCE = 1e-2
"""Libraries that store 16 bits a number say distances of that precision."""
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKIO_WORKER_THREADS": "1",
    "LANCE_CPU_THREADS": "1",
}

WORKS = (
    Work("embedded query"),
    Work("embedded query, documents", documents=True),
    *(
        Work(f"embedded filter {share}", modulus=selection.modulus, negated=selection.negated)
        for share, selection in FILTERS.items()
    ),
    Work("embedded query, a view", view=True),
    *(Work(f"embedded query, ef {ef}", ef=ef) for ef in (16, 32, 64, 128, 256)),
)


def peer_python(given: Path | None) -> Path:
    """The interpreter of the peers' environment.

    Raises:
        Unavailable: none was named, or it is not there.
    """
    if given is None or not given.is_file():
        raise Unavailable(
            f"name the python of the peers' environment with --peer-python or PEER_PYTHON; "
            f"`python -m load_tests peers --into DIR` makes one. python={str(given)!r}"
        )
    return given


def require_engine(name: str, python: Path) -> None:
    """Make sure that an interpreter has a peer's package, before anything is measured.

    Raises:
        Unavailable: it does not.
    """
    question = f"from load_tests.embedded.engines import version; print(version({name!r}))"
    answer = subprocess.run([str(python), "-c", question], cwd=_ROOT, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise Unavailable(f"no {name} with that python. python={str(python)!r} reason={answer.stderr.strip()[-300:]!r}")


def measure_embedded(name: str, python: Path, workload: Workload) -> Column:
    """All works that the library can do, in a fresh directory.

    Raises:
        Unavailable: the library is not installed there, or its process failed.
        WrongAnswer: it answered with what the data excludes.
    """
    with _place(workload) as place:
        outcome = run_engine(name, python, place, directory=place / "data", works=WORKS, options=workload.options)
    measures = {"embedded ingest": _ingest(outcome, len(workload.dataset))}
    for work in WORKS:
        if work.name in outcome["works"]:
            measures[work.name] = _judged(name, work, outcome["works"][work.name], workload)
    label = name if name != "ours" else "chroma-async"
    return Column(name, f"{label} {outcome['version']}", measures)


@contextmanager
def _place(workload: Workload) -> Iterator[Path]:
    """A directory with the data as the runner reads it."""
    dataset = workload.dataset
    with tempfile.TemporaryDirectory(prefix="load-test-embedded-") as directory:
        place = Path(directory)
        write_records(place, dataset.ids, dataset.documents, dataset.vectors, dataset.queries)
        yield place


def write_records(place: Path, ids: list[str], documents: list[str], vectors: Any, queries: Any) -> None:
    """Lay the data of a job into its directory."""
    (place / "records.json").write_bytes(orjson.dumps({"ids": ids, "documents": documents}))
    np.save(place / "vectors.npy", vectors)
    np.save(place / "queries.npy", queries)


def run_engine(
    name: str,
    python: Path,
    place: Path,
    *,
    directory: Path,
    works: tuple[Work, ...],
    options: Options,
    collection: str = "",
) -> dict[str, Any]:
    """Run a library on the data in `place` and return what it wrote down.

    It stores the data in `directory` first, or, with the name of a `collection`, asks what is stored there.

    Raises:
        Unavailable: the process failed; the message has the end of what it said.
    """
    job = {
        "engine": name,
        "directory": str(directory),
        "collection": collection,
        "checks": options.checks,
        "seconds": options.seconds,
        "rounds": options.rounds,
        "works": [asdict(work) for work in works],
    }
    (place / "job.json").write_bytes(orjson.dumps(job))
    command = [str(python), "-W", "ignore", "-m", "load_tests.embedded.runner", str(place)]
    with (place / "log").open("wb") as log:
        code = subprocess.run(
            command, cwd=_ROOT, env=os.environ | _ONE_THREAD, stdout=log, stderr=log, timeout=_SECONDS_MAX, check=False
        ).returncode
    if code != 0:
        words = (place / "log").read_text(errors="replace")[-2000:]
        raise Unavailable(f"the process of {name} failed. exit_code={code} python={str(python)!r}\n{words}")
    outcome: dict[str, Any] = orjson.loads((place / "outcome.json").read_bytes())
    return outcome


def our_python() -> Path:
    """The interpreter that has our package: the one that runs the load tests."""
    return Path(sys.executable)


def _ingest(outcome: dict[str, Any], total: int) -> list[Measure]:
    def rate(name: str, seconds: float) -> Measure:
        return Measure(name=name, value=total / seconds, unit="vectors/s", better="higher")

    return [rate("acknowledged", outcome["ingest_seconds"]), rate("indexed", outcome["indexed_seconds"])]


def _judged(engine: str, work: Work, result: dict[str, Any], workload: Workload) -> list[Measure]:
    try:
        recalls = [_recall(work, number, answer, workload) for number, answer in enumerate(result["answers"])]
    except WrongAnswer as error:
        raise WrongAnswer(f"{engine}: {work.name}: {error}") from error
    recall = Measure(name="recall@10", value=float(np.mean(recalls)), unit="", better="higher")
    return [*timings(result["rounds"]), recall]


def timings(rounds: list[dict[str, float]]) -> list[Measure]:
    """Medians of the rounds, in microseconds."""

    def of(name: str, key: str, unit: str, better: Better) -> Measure:
        return Measure(name=name, value=median(each[key] for each in rounds), unit=unit, better=better)

    return [
        of("throughput", "per_second", "1/s", "higher"),
        of("p50", "p50_us", "us", "lower"),
        of("p99", "p99_us", "us", "lower"),
    ]


def _recall(work: Work, number: int, answer: dict[str, Any], workload: Workload) -> float:
    dataset = workload.dataset
    rows = [key if isinstance(key, int) else -1 for key in answer["keys"]]
    ids = [dataset.ids[row] if row >= 0 else key for row, key in zip(rows, answer["keys"], strict=True)]
    chroma_like = {"ids": [ids], "distances": [answer["distances"]]}
    share = work.name.removeprefix("embedded filter ")
    selection = FILTERS.get(share)
    kind = f"filter {share}" if selection else "none"
    match = partial(selection.rows, number, len(dataset)) if selection else partial(every_row, len(dataset))
    recall = workload.exact.recall(chroma_like, number, N_RESULTS, kind, match, tolerance=_DISTANCE_TOLERANCE)
    if answer["documents"] is not None:
        own = [dataset.documents[row] for row in workload.exact.rows(ids)]
        if answer["documents"] != own:
            raise WrongAnswer(f"documents are not those of the ids. ids={ids[:3]}")
    return recall
