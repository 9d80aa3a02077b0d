"""What users say about an ingest, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, get_args

from chroma_async.client.cells import OPERATIONS
from chroma_async.client.checks import checked_count
from chroma_async.client.ingest_report import LineErrorCallback
from chroma_async.client.mapping import ColumnMapping
from chroma_async.client.sources import FileFormat, SourceOptions
from chroma_async.errors import InvalidArgumentError
from chroma_async.protocol.ingest import OnError, check_stream_name

LINGER_SECONDS: Final = 0.1
RETRY_SECONDS: Final = 60.0
CONCURRENCY: Final = 4

PART_LINES_MAX: Final = 2000
PART_BYTES_MAX: Final = 2 * 2**20
EMBEDDED_LINES_MAX: Final = 256
"""Lines of a part whose documents are embedded on the way: one call of the embedding function has as many."""


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """As the methods of a collection take them."""

    stream_id: str | None = None
    on_error: OnError = "continue"
    on_line_error: LineErrorCallback | None = None
    embedding_concurrency: int | None = None
    linger_seconds: float = LINGER_SECONDS
    retry_seconds: float = RETRY_SECONDS
    progress: bool = False

    def __post_init__(self) -> None:
        if self.on_error not in get_args(OnError):
            raise ValueError(f"on_error must be one of {', '.join(get_args(OnError))}. got={self.on_error!r}")
        if self.stream_id is not None:
            try:
                check_stream_name(self.stream_id, "stream_id")
            except (InvalidArgumentError, TypeError) as error:
                raise ValueError(str(error)) from error
        if self.embedding_concurrency is not None:
            checked_count(self.embedding_concurrency, "embedding_concurrency", 1)
        for name in ("linger_seconds", "retry_seconds"):
            value: Any = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be a number of seconds, 0 or more. got={value!r}")


def checked_source_options(mapping: Any, op: Any, file_format: FileFormat | None, delimiter: str | None) -> SourceOptions:
    """Return how a source is to be understood.

    Raises:
        ValueError: an operation or format that there is not, a delimiter of several characters, or a wrong mapping.
    """
    if op not in OPERATIONS:
        raise ValueError(f"op must be one of add, update, upsert, delete. got={op!r}")
    if file_format is not None and file_format not in get_args(FileFormat):
        raise ValueError(f"format must be one of {', '.join(get_args(FileFormat))}. got={file_format!r}")
    if delimiter is not None and len(delimiter) != 1:
        raise ValueError(f"delimiter must be one character. got={delimiter!r}")
    return SourceOptions(ColumnMapping(mapping), op, file_format, delimiter)
