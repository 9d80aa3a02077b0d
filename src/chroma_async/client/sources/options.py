"""How a source is understood, whatever it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from chroma_async.client.mapping import NO_ID, ColumnMapping, Shape
from chroma_async.model import Operation

FileFormat = Literal["ndjson", "csv", "tsv", "parquet", "arrow"]

RUN_LINES: Final = 500
"""A run has no more lines: a source is read in small steps."""


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How a source is understood. `operation` is what lines do that don't say it."""

    mapping: ColumnMapping
    operation: Operation = "upsert"
    format: FileFormat | None = None
    delimiter: str | None = None


def require_id(shape: Shape, names: Sequence[str]) -> None:
    """Refuse a source none of whose columns is the id.

    Raises:
        ValueError: with the columns that there are.
    """
    if shape.id is None or shape.id not in names:
        raise ValueError(f"{NO_ID}. columns={', '.join(names)}")
