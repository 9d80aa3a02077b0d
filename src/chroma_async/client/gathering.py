"""Lines that wait to become a part of an ingest stream."""

from __future__ import annotations

from chroma_async.client.ingest_options import EMBEDDED_LINES_MAX, PART_BYTES_MAX, PART_LINES_MAX
from chroma_async.client.lines import Lines, without_vectors


class Gathering:
    """Runs of lines, and how much they are together."""

    def __init__(self) -> None:
        self.runs: list[Lines] = []
        self.lines = 0
        self._bytes = 0
        self._texts = 0

    def add(self, run: Lines, size_bytes: int) -> None:
        self.runs.append(run)
        self.lines += len(run)
        self._bytes += size_bytes
        self._texts += len(without_vectors(run))

    @property
    def is_full(self) -> bool:
        """Whether they are enough for a part: in number, in size, or in texts for one call of an embedding function."""
        return self.lines >= PART_LINES_MAX or self._bytes >= PART_BYTES_MAX or self._texts >= EMBEDDED_LINES_MAX
