"""What a process counts and measures: one table; the registry is an argument, so two engines do not notice each other.

Names follow Prometheus: base units, `_seconds`, `_bytes`, `_total`. Nothing is counted anywhere but in what is listed here.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

LATENCY_BUCKETS_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
ENTRY_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class AnsweredElsewhere(Exception):
    """Ends a `timed_call` that is not counted, since it did not answer its call: another one does."""


class Metrics:
    """The metrics of one engine."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.calls = Counter(
            "chroma_async_calls_total", "calls answered, by outcome", ["call", "outcome"], registry=self.registry
        )
        self.call_seconds = Histogram(
            "chroma_async_call_seconds",
            "time from call to answer",
            ["call"],
            buckets=LATENCY_BUCKETS_SECONDS,
            registry=self.registry,
        )
        self._answered: dict[str, tuple[Counter, Histogram]] = {}
        """Of each call that was answered: looking for metrics by their labels takes as long as counting."""
        self.append_entries = Histogram(
            "chroma_async_append_entries", "entries in one transaction", buckets=ENTRY_BUCKETS, registry=self.registry
        )
        self.append_seconds = Histogram(
            "chroma_async_append_seconds",
            "time of one transaction, fsync included",
            buckets=LATENCY_BUCKETS_SECONDS,
            registry=self.registry,
        )
        self.sync_seconds = Histogram(
            "chroma_async_sync_seconds",
            "time of one fsync of the log beside writes, with durability interval",
            buckets=LATENCY_BUCKETS_SECONDS,
            registry=self.registry,
        )
        self.committed_lsn = Gauge("chroma_async_committed_lsn", "newest LSN this process knows", registry=self.registry)
        self.applied_lsn = Gauge(
            "chroma_async_applied_lsn", "LSN through which all collections are applied", registry=self.registry
        )
        self.unapplied_entries = Gauge(
            "chroma_async_unapplied_entries", "entries that are not applied yet", registry=self.registry
        )
        self.unapplied_bytes = Gauge(
            "chroma_async_unapplied_bytes", "bytes of entries that are not applied yet", registry=self.registry
        )
        self.lag_seconds = Gauge(
            "chroma_async_lag_seconds",
            "age of the oldest entry that is not applied yet, to about a second",
            registry=self.registry,
        )
        self.unindexed_vectors = Gauge(
            "chroma_async_unindexed_vectors",
            "vectors for which a graph is due, in the collections that this process has open",
            registry=self.registry,
        )
        self.write_limit = Gauge(
            "chroma_async_write_limit",
            "1 while writes are refused because the machine lacks something, by reason",
            ["reason"],
            registry=self.registry,
        )
        self.ingest_lines = Counter(
            "chroma_async_ingest_lines_total",
            "lines of ingest streams that are durable, bad ones too",
            registry=self.registry,
        )
        self.ingest_bad_lines = Counter(
            "chroma_async_ingest_bad_lines_total",
            "lines of ingest streams that were passed over as bad",
            registry=self.registry,
        )

        self.feeds = Gauge(
            "chroma_async_feeds", "feeds of changes that are open", registry=self.registry, multiprocess_mode="livesum"
        )
        self.feed_changes = Counter(
            "chroma_async_feed_changes_total", "changes that feeds have given, heartbeats apart", registry=self.registry
        )
        self.feeds_ended = Counter(
            "chroma_async_feeds_ended_total",
            "feeds that have ended: left by their client, over with what they were of, stopped with the server, or an error",
            ["why"],
            registry=self.registry,
        )

    @contextmanager
    def timed_call(self, name: str) -> Generator[None]:
        """Count a call and its time; an exception counts under its class name."""
        begin = time.perf_counter()
        try:
            yield
        except AnsweredElsewhere:
            raise
        except BaseException as error:
            self.calls.labels(name, type(error).__name__).inc()
            raise
        answered = self._answered.get(name)
        if answered is None:
            answered = self._answered[name] = (self.calls.labels(name, "ok"), self.call_seconds.labels(name))
        counter, seconds = answered
        counter.inc()
        seconds.observe(time.perf_counter() - begin)


class HttpMetrics:
    """The metrics of one HTTP server. `call` is empty for a request that is no call, such as one of an unknown path."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.requests = Counter(
            "chroma_async_http_requests_total", "requests answered, by status", ["call", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "chroma_async_http_request_seconds",
            "time from the head of a request to the end of its answer",
            ["call"],
            buckets=LATENCY_BUCKETS_SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "chroma_async_http_requests_in_flight",
            "requests that are being answered",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.ingest_streams = Gauge(
            "chroma_async_http_ingest_streams",
            "ingest streams that are open",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.received = Counter(
            "chroma_async_http_received_bytes_total", "bytes of the bodies of requests", ["call"], registry=self.registry
        )
        self.sent = Counter(
            "chroma_async_http_sent_bytes_total", "bytes of the bodies of answers", ["call"], registry=self.registry
        )
        self._of: dict[tuple[str, int], tuple[Counter, Histogram, Counter, Counter]] = {}

    def count(self, call: str, status: int, seconds: float, received_bytes: int, sent_bytes: int) -> None:
        """Count a request that is over."""
        found = self._of.get((call, status))
        if found is None:
            of_call = self.seconds.labels(call), self.received.labels(call), self.sent.labels(call)
            found = self._of[call, status] = (self.requests.labels(call, str(status)), *of_call)
        requests, times, received, sent = found
        requests.inc()
        times.observe(seconds)
        if received_bytes:
            received.inc(received_bytes)
        sent.inc(sent_bytes)
