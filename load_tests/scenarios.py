"""The scenarios, one row each in `SCENARIOS`, in the order in which they run.

They speak HTTP only and know nothing of the server but its address; the few that restart it or look at its process
and disk say "unknown" for a server that somebody else started. Those that change data come after those that check
answers against it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from load_tests import bodies
from load_tests.bench import N_RESULTS, Bench, Reading, Workload, percentile_ms
from load_tests.data import Rows, Selection, common_words
from load_tests.errors import WrongAnswer
from load_tests.generator import LaneResult, run_lanes
from load_tests.measures import Measure, Target

FILTERS = {
    "0.1 %": Selection(1000),
    "1 %": Selection(100),
    "10 %": Selection(10),
    "50 %": Selection(2),
    "90 %": Selection(10, negated=True),
}
_UPSERT_BATCH = 10
_UPSERT_INTERVAL_SECONDS = 0.1
_INDEXING_POLL_SECONDS = 0.1
_RESTART_SECONDS_MAX = 120.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row of the table: what it is called, what it does, and the function that does it."""

    name: str
    help: str
    run: Callable[[Bench], list[Measure]]
    default: bool = False


# --- ingest


def ingest(bench: Bench) -> list[Measure]:
    """Add everything, count it, and wait until it is indexed where the server can say."""
    options = bench.options
    batches = partial(bodies.ingest_batches, bench.dataset, options.batch)
    requests = bench.workload.requests("ingest", batches)
    result = bench.run("ingest", bench.lane("add", requests, min(4, len(requests))))
    count = bench.api.count(bench.records_path)
    if count != len(bench.dataset):
        raise WrongAnswer(f"ingest: not everything acknowledged is there. count={count} added={len(bench.dataset)}")
    settled = _seconds_until_indexed(bench, result)
    return [
        Measure(
            name="throughput",
            value=len(bench.dataset) / result.seconds,
            unit="vectors/s",
            better="higher",
            target=Target(10),
        ),
        Measure(name="batch p99", value=percentile_ms(result, 99), unit="ms", better="lower"),
        Measure(name="until indexed", value=settled, unit="s", better="lower"),
    ]


def _seconds_until_indexed(bench: Bench, result: LaneResult) -> float | None:
    """From the first request until the server says that no write waits for an index; None if it does not say so."""
    deadline = time.perf_counter() + bench.options.settle_seconds_max
    while time.perf_counter() < deadline:
        waiting = bench.api.unindexed(bench.records_path)
        if waiting is None:
            return None
        if waiting == 0:
            return time.perf_counter() - result.started_at
        time.sleep(_INDEXING_POLL_SECONDS)
    bench.notes["ingest unindexed"] = float(bench.api.unindexed(bench.records_path) or 0)
    return None


# --- queries


def query(connections: int, target: Target | None, bench: Bench) -> list[Measure]:
    """The ten nearest, without a filter."""
    every_row: Rows = np.ones(len(bench.dataset), dtype=np.bool_)

    def check(number: int, answer: dict[str, Any]) -> float:
        return bench.workload.exact.recall(answer, number, N_RESULTS, "none", lambda: every_row)

    requests = bench.workload.plain_queries()
    reading = Reading(
        name=f"query {connections}",
        call="query",
        connections=connections,
        requests=requests,
        check=check,
        checks=len(requests),
        target=target,
    )
    return reading.run(bench)


def filtered_query(share: str, bench: Bench) -> list[Measure]:
    """The ten nearest among the matches of a metadata filter."""
    selection, workload, name = FILTERS[share], bench.workload, f"filter {share}"

    def check(number: int, answer: dict[str, Any]) -> float:
        match = partial(selection.rows, number, len(workload.dataset))
        return workload.exact.recall(answer, number, N_RESULTS, name, match)

    def encode() -> Iterator[bytes]:
        for number in workload.query_numbers:
            yield bodies.query(workload.dataset, number, N_RESULTS, where=selection.where(number))

    requests = workload.requests(name, encode)
    return Reading(name=name, call="query", connections=4, requests=requests, check=check, target=Target(10)).run(bench)


def text_query(bench: Bench) -> list[Measure]:
    """The ten nearest among the documents that contain a word."""
    workload = bench.workload
    words = common_words(workload.dataset.documents, share=0.01, count=20)

    def word_of(number: int) -> str:
        return words[number % len(words)]

    def check(number: int, answer: dict[str, Any]) -> float:
        word = word_of(number)
        match = partial(_containing, workload.dataset.documents, word)
        return workload.exact.recall(answer, number, N_RESULTS, f"contains {word}", match)

    def encode() -> Iterator[bytes]:
        for number in workload.query_numbers:
            where_document = {"$contains": word_of(number)}
            yield bodies.query(workload.dataset, number, N_RESULTS, where_document=where_document)

    requests = workload.requests("contains", encode)
    return Reading(name="contains", call="query", connections=4, requests=requests, check=check).run(bench)


def _containing(documents: list[str], word: str) -> Rows:
    return np.fromiter((word in document for document in documents), dtype=np.bool_, count=len(documents))


# --- get


def get_ids(bench: Bench) -> list[Measure]:
    """Ten records by id."""
    workload = bench.workload
    count = len(workload.dataset)
    picked: list[list[int]] = np.random.default_rng(11).integers(0, count, (len(workload.query_numbers), N_RESULTS)).tolist()

    def check(number: int, answer: dict[str, Any]) -> None:
        _same_rows(workload, answer, set(picked[number]))

    def encode() -> Iterator[bytes]:
        for rows in picked:
            yield bodies.get(ids=sorted({workload.dataset.ids[row] for row in rows}))

    requests = workload.requests("get ids", encode)
    return Reading(name="get ids", call="get", connections=4, requests=requests, check=check).run(bench)


def get_filter(bench: Bench) -> list[Measure]:
    """All records that a 1 % filter matches."""
    workload, selection = bench.workload, FILTERS["1 %"]

    def check(number: int, answer: dict[str, Any]) -> None:
        _same_rows(workload, answer, set(np.flatnonzero(selection.rows(number, len(workload.dataset))).tolist()))

    def encode() -> Iterator[bytes]:
        for number in range(selection.modulus):
            yield bodies.get(where=selection.where(number))

    requests = workload.requests("get filter", encode)
    return Reading(name="get filter", call="get", connections=4, requests=requests, check=check).run(bench)


def deep_page(bench: Bench) -> list[Measure]:
    """Ten records from beyond nine tenths of the collection."""
    workload = bench.workload
    first, last = len(workload.dataset) * 9 // 10, len(workload.dataset) - N_RESULTS
    offsets = np.linspace(first, last, num=100, dtype=int).tolist()

    def check(_: int, answer: dict[str, Any]) -> None:
        rows = workload.exact.rows(answer["ids"])
        if len(rows) != N_RESULTS:
            raise WrongAnswer(f"a page is not full. records={len(rows)} limit={N_RESULTS}")
        _right_documents(workload, answer, rows)

    def encode() -> Iterator[bytes]:
        for offset in offsets:
            yield bodies.get(limit=N_RESULTS, offset=offset)

    requests = workload.requests("deep page", encode)
    return Reading(name="deep page", call="get", connections=4, requests=requests, check=check).run(bench)


def _same_rows(workload: Workload, answer: dict[str, Any], expected: set[int]) -> None:
    rows = workload.exact.rows(answer["ids"])
    if set(rows) != expected:
        raise WrongAnswer(f"not the records asked for. expected={len(expected)} got={len(rows)}")
    _right_documents(workload, answer, rows)


def _right_documents(workload: Workload, answer: dict[str, Any], rows: list[int]) -> None:
    """Documents and metadata must be those of the ids beside them."""
    for row, document, metadata in zip(rows, answer["documents"], answer["metadatas"], strict=True):
        if document != workload.dataset.documents[row] or metadata["n"] != row:
            raise WrongAnswer(f"a document or metadata is not the id's own. id={workload.dataset.ids[row]!r}")


# --- writes beside reads; from here on the data is no longer what it was


def upserts_beside_queries(bench: Bench) -> list[Measure]:
    """Queries at 4 connections while one writer replaces vectors at a given pace, the same for every server."""
    options, workload = bench.options, bench.workload
    seconds = options.seconds * options.rounds
    name = "upserts beside queries"
    reads = bench.lane("query", workload.plain_queries(), 4, seconds=seconds)
    upserts = workload.requests("upserts", partial(_upserts, workload))
    writes = bench.lane("upsert", upserts, 1, seconds=seconds, interval_seconds=_UPSERT_INTERVAL_SECONDS)
    read, written = run_lanes(bench.api.address, [reads, writes])
    for result in (read, written):
        bench.note(name, result)
    count = bench.api.count(bench.records_path)
    if count != len(workload.dataset):
        raise WrongAnswer(f"{name}: upserts of known ids changed the count. count={count}")
    upserted = written.count * _UPSERT_BATCH / max(written.seconds, seconds)  # a timetable kept ends before the time does
    return [
        Measure(name="queries", value=read.per_second, unit="1/s", better="higher"),
        Measure(name="query p99", value=percentile_ms(read, 99), unit="ms", better="lower"),
        Measure(name="records upserted", value=upserted, unit="1/s", better="higher"),
        Measure(name="upsert p50", value=percentile_ms(written, 50), unit="ms", better="lower"),
        Measure(name="upsert p99", value=percentile_ms(written, 99), unit="ms", better="lower"),
    ]


def _upserts(workload: Workload) -> Iterator[bytes]:
    """Batches that give records scattered over the collection the vectors of their neighbours in the file."""
    rows = np.random.default_rng(13).permutation(len(workload.dataset))[: 200 * _UPSERT_BATCH].tolist()
    for start in range(0, len(rows) - _UPSERT_BATCH + 1, _UPSERT_BATCH):
        batch = rows[start : start + _UPSERT_BATCH]
        others = [(row + 1) % len(workload.dataset) for row in batch]
        yield bodies.write_batch(workload.dataset, batch, vectors_from=others)


# --- the process and its directory


def resources(bench: Bench) -> list[Measure]:
    """Memory of the process tree and size of the directory after all that."""
    local = bench.server.local
    memory = local.memory_bytes() if local else None
    disk = local.disk_bytes() if local else None
    return [
        Measure(name="memory (PSS)", value=_mebibytes(memory), unit="MiB", better="lower"),
        Measure(name="disk", value=_mebibytes(disk), unit="MiB", better="lower"),
    ]


def restart(bench: Bench) -> list[Measure]:
    """From starting the process on its full directory to its first answer to a query."""
    seconds = _restarted(bench) if bench.server.local else None
    return [Measure(name="first query after", value=seconds, unit="s", better="lower")]


def _restarted(bench: Bench) -> float:
    local = bench.server.local
    assert local is not None
    body = bodies.query(bench.dataset, 0, N_RESULTS)
    local.stop()
    started = time.perf_counter()
    local.spawn()
    answer = bench.api.first_answer(f"{bench.records_path}/query", body, _RESTART_SECONDS_MAX)
    seconds = time.perf_counter() - started
    count = bench.api.count(bench.records_path)
    if len(answer["ids"][0]) != N_RESULTS or count != len(bench.dataset):
        raise WrongAnswer(f"restart: records are missing. count={count} ids={answer['ids'][0]}")
    return seconds


def _mebibytes(size: int | None) -> float | None:
    return size / 2**20 if size is not None else None


_FILTER_HELP = "query n_results=10 with a metadata filter that matches {}, 4 connections"

SCENARIOS = (
    Scenario("ingest", "add everything: 4 writers, batches of 500, base64 embeddings", ingest, default=True),
    Scenario("query 1", "query n_results=10, 1 connection", partial(query, 1, None), default=True),
    Scenario("query 16", "query n_results=10, 16 connections", partial(query, 16, Target(3)), default=True),
    *(
        Scenario(
            f"filter {share}",
            _FILTER_HELP.format(share),
            partial(filtered_query, share),
            default=share in ("1 %", "50 %"),
        )
        for share in FILTERS
    ),
    Scenario("contains", "query n_results=10 with $contains of a word in about 1 % of the documents", text_query),
    Scenario("get ids", "get 10 records by id, 4 connections", get_ids),
    Scenario("get filter", "get all records of a 1 % filter, 4 connections", get_filter),
    Scenario("deep page", "get limit=10 beyond 90 % of the collection, 4 connections", deep_page),
    Scenario(
        "upserts beside queries",
        "4 query connections beside one writer that upserts 10 records every 100 ms",
        upserts_beside_queries,
    ),
    Scenario("resources", "memory of the server's process tree, size of its directory", resources),
    Scenario("restart", "stop the server, start it again, time to its first answer", restart),
)


def choose(names: list[str]) -> list[Scenario]:
    """The scenarios of some names, `default` and `all` included, in the order of the table; ingest comes always.

    Raises:
        ValueError: there is no scenario of a name.
    """
    known = {scenario.name for scenario in SCENARIOS} | {"default", "all"}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"no such scenario; take some of {sorted(known)}. names={unknown}")
    return [scenario for scenario in SCENARIOS if _chosen(scenario, names)]


def _chosen(scenario: Scenario, names: list[str]) -> bool:
    wanted = "all" in names or scenario.name in names or ("default" in names and scenario.default)
    return wanted or scenario.name == "ingest"
