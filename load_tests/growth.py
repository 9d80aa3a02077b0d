"""How cost grows with the number of records: the same questions at one size after another, in one collection.

Records beyond those of the data set are its rows with a little noise. Nothing of them is kept in memory: the true
nearest of a sample of queries are followed while the records are written.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from load_tests import bodies
from load_tests.api import Api
from load_tests.bench import N_RESULTS, Bench, Options, Reading, Workload
from load_tests.data import FILTERS, Dataset, Floats, Selection, noisy, with_numbers
from load_tests.embedded.engines import Work
from load_tests.embedded.measure import our_python, run_engine, timings, write_records
from load_tests.errors import WrongAnswer
from load_tests.measures import Measure
from load_tests.requests import RequestFile
from load_tests.servers import LocalServer, Program, running
from load_tests.targets import Verdict
from load_tests.watch import Seen, watching

KINDS: dict[str, Selection | None] = {"query": None, "filter 1 %": FILTERS["1 %"], "filter 50 %": FILTERS["50 %"]}
SAMPLE = 200
"""Queries that are asked, and whose true nearest are followed."""

_COLLECTION = "load-test-growth"
_BATCH = 500
_CHUNK = 20_000
_KEPT = 40
"""Nearest rows that are followed for each query: the ten, and those that are as near as the tenth."""
_TIE = 1e-6
_DISTANCE_TOLERANCE = 1e-3
_QUIET_SECONDS = 2.0
_QUIET_SHARE = 0.1
_MEBIBYTE = 2**20


@dataclass(slots=True, kw_only=True)
class Size:
    """What was measured with so many records; times in milliseconds. None where it is not known."""

    records: int
    ingest_per_second: float
    """Of the records since the size before, acknowledged; written without a pause."""
    burst_per_second: float
    """Of some more (`burst_between`), acknowledged, written when all before was indexed and asked."""
    busy_retries: int
    settle_seconds: float
    """From the last acknowledgement until all is indexed and the server has nothing left to do."""
    is_settled: bool
    lag_seconds_max: float | None
    p50_ms: dict[str, float] = field(default_factory=dict[str, float])
    recall: dict[str, float] = field(default_factory=dict[str, float])
    unevictable_mib: dict[str, float] = field(default_factory=dict[str, float])
    """The most that a process of each role held since the size before."""
    disk_mib: float = 0.0


@dataclass(slots=True)
class Growth:
    """A run so far."""

    label: str
    sizes: list[Size] = field(default_factory=list[Size])

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self) | {"verdicts": [{"of": name} | asdict(verdict) for name, verdict in self.verdicts()]}

    def verdicts(self) -> Iterator[tuple[str, Verdict]]:
        """What became of each figure between the first size and the last, and what was expected."""
        first, last = self.sizes[0], self.sizes[-1]
        for name, before in first.p50_ms.items():
            times_max = P50_TIMES_MAX["filter" if "filter" in name else "query"]
            times = last.p50_ms[name] / before
            yield f"{name} p50", Verdict(f"{times:.2f} x", f"<= {times_max:g} x", times <= times_max)
        for name in first.recall:
            least = min(size.recall[name] for size in self.sizes)
            yield f"{name} recall@10", Verdict(f"{least:.3f}", f">= {RECALL_MIN}", round(least, 3) >= RECALL_MIN)
        ingest = last.ingest_per_second / first.ingest_per_second, last.burst_per_second / first.burst_per_second
        for name, times in zip(("ingest, acknowledged", "burst, acknowledged"), ingest, strict=True):
            yield name, Verdict(f"{times:.2f} x", f">= {INGEST_TIMES_MIN:g} x", times >= INGEST_TIMES_MIN)
        for role in self.roles:
            most = max(size.unevictable_mib.get(role, 0.0) for size in self.sizes)
            target = f"< {UNEVICTABLE_MIB_MAX} MiB"
            yield f"un-evictable memory, {role}", Verdict(f"{most:,.0f} MiB", target, most < UNEVICTABLE_MIB_MAX)

    @property
    def roles(self) -> list[str]:
        """What the processes did whose memory was looked at, in the order in which they were seen."""
        return list(dict.fromkeys(role for size in self.sizes for role in size.unevictable_mib))


P50_TIMES_MAX = {"query": 3.0, "filter": 6.0}
INGEST_TIMES_MIN = 0.8
UNEVICTABLE_MIB_MAX = 300
RECALL_MIN = 0.97


def sizes_between(first: int, last: int) -> list[int]:
    """`first`, then 1, 2, 5, 10, ... in its decade and those above, up to `last`."""
    steps = [digit * 10**exponent for exponent in range(12) for digit in (1, 2, 5)]
    return [first, *(step for step in steps if first < step < last), *([last] if last > first else [])]


def burst_between(sizes: Sequence[int]) -> int:
    """How many records a burst has: half of the first size, or half of what lies between two sizes where that is less."""
    gaps = [size - before for before, size in pairwise(sizes)]
    return min(sizes[0], *gaps) // 2 if gaps else sizes[0] // 2


class Supply:
    """Records without end: those of a data set, then again with noise. Row i has the id `record-i`, or of another prefix."""

    def __init__(self, base: Dataset, prefix: str = "record") -> None:
        self._base = base
        self._prefix = prefix
        self._random = np.random.default_rng(29)

    def part(self, first: int, count: int) -> Dataset:
        """Rows from `first` on; to be asked for in order, since noise is drawn as it comes."""
        base = self._base
        picked = (np.arange(first, first + count) % len(base)).tolist()
        vectors = base.vectors[picked]
        copies = max(0, len(base) - first)  # from here on
        if copies < count:
            vectors[copies:] = noisy(vectors[copies:], self._random)
        return Dataset(
            name=base.name,
            ids=[f"{self._prefix}-{row}" for row in range(first, first + count)],
            documents=[base.documents[row] for row in picked],
            metadatas=[with_numbers(base.metadatas[row], first + at) for at, row in enumerate(picked)],
            vectors=vectors,
            queries=base.queries,
        )


class Nearest:
    """The true nearest rows of some queries so far, for each kind of question."""

    def __init__(self, queries: Floats) -> None:
        self._queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
        shape = (len(queries), _KEPT)
        self._rows = {kind: np.full(shape, -1, dtype=np.int64) for kind in KINDS}
        self._similarities = {kind: np.full(shape, -np.inf, dtype=np.float32) for kind in KINDS}

    def extend(self, first: int, vectors: Floats) -> None:
        """Take rows from `first` on, `(n, ndim)`, into account."""
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        similarities: NDArray[np.float32] = self._queries @ unit.T
        rows = np.broadcast_to(np.arange(first, first + len(vectors)), similarities.shape)
        for kind, selection in KINDS.items():
            found = similarities
            if selection is not None:
                masks = [selection.rows(query, len(vectors), first=first) for query in range(len(similarities))]
                found = np.where(np.array(masks), similarities, np.float32(-np.inf))
            values = np.concatenate([self._similarities[kind], found], axis=1)
            numbers = np.concatenate([self._rows[kind], rows], axis=1)
            best = np.argsort(-values, axis=1)[:, :_KEPT]
            self._similarities[kind] = np.take_along_axis(values, best, axis=1)
            self._rows[kind] = np.take_along_axis(numbers, best, axis=1)

    def recall(self, kind: str, query: int, ids: Sequence[str], distances: Sequence[float]) -> float:
        """Share of the true ten nearest that an answer has.

        Raises:
            WrongAnswer: a record is repeated or excluded by the filter, or a distance is not the record's.
        """
        answered = [int(each.rpartition("-")[2]) for each in ids]
        selection = KINDS[kind]
        if len(set(answered)) != N_RESULTS:
            raise WrongAnswer(f"{kind}: not ten different records. query={query} ids={list(ids)}")
        if selection is not None and not all(selection.rows(query, 1, first=row)[0] for row in answered):
            raise WrongAnswer(f"{kind}: the answer has records that the filter excludes. query={query}")
        similarities = self._similarities[kind][query]
        true = similarities >= similarities[N_RESULTS - 1] - _TIE
        known = dict(zip(self._rows[kind][query][true].tolist(), similarities[true].tolist(), strict=True))
        for row, distance in zip(answered, distances, strict=True):
            if row in known and abs(1 - known[row] - distance) > _DISTANCE_TOLERANCE:
                raise WrongAnswer(f"{kind}: a distance is not the record's own. query={query} row={row}")
        return sum(row in known for row in answered) / N_RESULTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How far to go. `seconds_max` bounds the run: no size is begun after it, and none waits longer to settle."""

    sizes: list[int]
    seconds_max: float
    options: Options


def grow(program: Program, base: Dataset, plan: Plan, result: Growth, say: Callable[[Size], None]) -> None:
    """Fill a new server, and add each size to `result` as it is measured.

    Raises:
        LoadTestError: requests are refused, or answered wrongly.
    """
    deadline = time.monotonic() + plan.seconds_max
    with running(program) as server, tempfile.TemporaryDirectory(prefix="load-test-growth-") as directory:
        api = Api(server.address)
        records_path = api.create_collection(_COLLECTION)
        workload = Workload(base, plan.options, Path(directory))
        bench = Bench(workload, server, api, records_path)
        run = _Run(bench, server, Supply(base), Nearest(base.queries[:SAMPLE]), deadline, burst_between(plan.sizes))
        for records in plan.sizes:
            if result.sizes and time.monotonic() > deadline:
                return
            size = run.measured(records)
            result.sizes.append(size)
            say(size)


@dataclass(slots=True)
class _Run:
    bench: Bench
    server: LocalServer
    supply: Supply
    nearest: Nearest
    deadline: float
    burst: int
    """Records that are added when a size was asked."""
    records: int = 0
    """That were added."""

    def measured(self, records: int) -> Size:
        """Add records until there are so many, wait until all is done, and ask; then add a few more."""
        bench = self.bench
        with watching(self.server, bench.api, bench.records_path) as watch:
            ingest_per_second, busy_retries = self._added(records)
            settle_seconds, is_settled = self._settle()
            figures = self._over_http()
            seen = watch.take()
        figures |= self._embedded()
        unevictable_mib, disk_mib = self._memory(seen), self.server.disk_bytes() / _MEBIBYTE
        burst_per_second, _ = self._added(records + self.burst)
        self._settle()  # so that the next part begins as the first one did
        return Size(
            records=records,
            ingest_per_second=ingest_per_second,
            burst_per_second=burst_per_second,
            busy_retries=busy_retries,
            settle_seconds=settle_seconds,
            is_settled=is_settled,
            lag_seconds_max=max(seen.lags, default=None),
            p50_ms={name: p50 for name, (p50, _) in figures.items()},
            recall={name: recall for name, (_, recall) in figures.items()},
            unevictable_mib=unevictable_mib,
            disk_mib=disk_mib,
        )

    def _added(self, records: int) -> tuple[float, int]:
        """Add records until there are so many: how many a second were acknowledged, and batches that were sent again."""
        bench, before = self.bench, self.records
        requests = RequestFile.write(bench.workload.directory / "part", self._batches(before, records))
        written = bench.run("ingest", bench.lane("add", requests, min(4, len(requests))))
        self.records = records
        count = bench.api.count(bench.records_path)
        if count != records:
            raise WrongAnswer(f"not everything acknowledged is there. count={count} added={records}")
        return (records - before) / written.seconds, written.busy_retries

    def _batches(self, before: int, records: int) -> Iterator[bytes]:
        for first in range(before, records, _CHUNK):
            part = self.supply.part(first, min(_CHUNK, records - first))
            self.nearest.extend(first, part.vectors)
            yield from bodies.ingest_batches(part, _BATCH)

    def _settle(self) -> tuple[float, bool]:
        """Wait until no write waits for an index and the processes are quiet; how long that took, and whether it came."""
        started, is_settled = time.monotonic(), False
        while not is_settled and time.monotonic() < max(self.deadline, started + 2 * _QUIET_SECONDS):
            busy = self.server.cpu_seconds()
            time.sleep(_QUIET_SECONDS)
            quiet = self.server.cpu_seconds() - busy < _QUIET_SHARE * _QUIET_SECONDS
            is_settled = quiet and not self.bench.api.unindexed(self.bench.records_path)
        return time.monotonic() - started, is_settled

    def _over_http(self) -> dict[str, tuple[float, float]]:
        """p50 and recall of each kind, at one connection."""
        found: dict[str, tuple[float, float]] = {}
        for kind in KINDS:
            requests = self.bench.workload.requests(f"growth {kind}", partial(self._queries, kind))
            check = partial(self._check, kind)
            reading = Reading(name=kind, call="query", connections=1, requests=requests, check=check, checks=SAMPLE)
            found[f"{kind}, HTTP"] = _p50_and_recall(reading.run(self.bench))
        return found

    def _check(self, kind: str, number: int, answer: dict[str, Any]) -> float:
        return self.nearest.recall(kind, number, answer["ids"][0], answer["distances"][0])

    def _queries(self, kind: str) -> Iterator[bytes]:
        for number in range(min(SAMPLE, len(self.bench.dataset.queries))):
            selection = KINDS[kind]
            filters = {"where": selection.where(number)} if selection else {}
            yield bodies.query(self.bench.dataset, number, N_RESULTS, **filters)

    def _embedded(self) -> dict[str, tuple[float, float]]:
        """The same by an embedded client, in one more process on the same directory."""
        works = tuple(Work(kind, modulus=selection.modulus if selection else 0) for kind, selection in KINDS.items())
        with tempfile.TemporaryDirectory(prefix="load-test-growth-") as directory:
            place = Path(directory)
            write_records(place, [], [], np.empty((0, 1), np.float32), self.bench.dataset.queries[:SAMPLE])
            outcome = run_engine(
                "ours",
                our_python(),
                place,
                directory=self.server.directory,
                works=works,
                options=self.bench.options,
                collection=_COLLECTION,
            )
        found: dict[str, tuple[float, float]] = {}
        for kind, done in outcome["works"].items():
            recalls = [
                self.nearest.recall(kind, number, answer["keys"], answer["distances"])
                for number, answer in enumerate(done["answers"])
            ]
            p50 = next(measure.value for measure in timings(done["rounds"]) if measure.name == "p50")
            found[f"{kind}, embedded"] = ((p50 or 0.0) / 1000, float(np.mean(recalls)))
        return found

    @staticmethod
    def _memory(seen: Seen) -> dict[str, float]:
        found: dict[str, float] = {}
        for pid, size in seen.unevictable_bytes.items():
            role = seen.roles.get(pid, "other")
            found[role] = max(found.get(role, 0.0), size / _MEBIBYTE)
        return found


def _p50_and_recall(measures: list[Measure]) -> tuple[float, float]:
    values = {measure.name: measure.value or 0.0 for measure in measures}
    return values["p50"], values["recall@10"]


def print_growth(growth: Growth, facts: dict[str, str], console: Console) -> None:
    """Show machine, sizes, and what became of each figure."""
    for key, value in facts.items():
        console.print(f"{key:10} {value}", highlight=False)
    table = Table(title=growth.label)
    for heading in ("", *(f"{size.records:,}" for size in growth.sizes)):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name in growth.sizes[0].p50_ms:
        table.add_row(f"{name}: p50 ms", *(f"{size.p50_ms[name]:.2f}" for size in growth.sizes))
        table.add_row(f"{name}: recall@10", *(f"{size.recall[name]:.3f}" for size in growth.sizes))
    table.add_row("ingest, acknowledged: vectors/s", *(f"{size.ingest_per_second:,.0f}" for size in growth.sizes))
    table.add_row("burst, acknowledged: vectors/s", *(f"{size.burst_per_second:,.0f}" for size in growth.sizes))
    table.add_row("batches sent again (busy)", *(f"{size.busy_retries:,}" for size in growth.sizes))
    table.add_row("lag at most: s", *(_or_dash(size.lag_seconds_max) for size in growth.sizes))
    table.add_row("until settled: s", *(_settled(size) for size in growth.sizes))
    for role in growth.roles:
        held = (size.unevictable_mib.get(role) for size in growth.sizes)
        table.add_row(f"un-evictable memory, {role}: MiB", *(_or_dash(each) for each in held))
    table.add_row("disk: MiB", *(f"{size.disk_mib:,.0f}" for size in growth.sizes))
    console.print(table)
    verdicts = Table("from the first size to the last", "", "target", "")
    for name, verdict in growth.verdicts():
        verdicts.add_row(name, verdict.ratio, verdict.target, "met" if verdict.met else "missed")
    console.print(verdicts)


def _settled(size: Size) -> str:
    return f"{size.settle_seconds:.0f}" if size.is_settled else f"> {size.settle_seconds:.0f}"


def _or_dash(value: float | None) -> str:
    return f"{value:,.1f}" if value is not None else "-"
