"""The words that everyone speaks: positions, identities, configurations and rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NewType, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt
from msgspec import Struct, field
from msgspec.structs import force_setattr

Lsn = NewType("Lsn", int)
"""Log sequence number: position in the log; 1, 2, 3, ...; 0 is before the first entry."""

CollectionId = NewType("CollectionId", str)
"""UUID of a collection, lower-case with hyphens."""

Space = Literal["l2", "ip", "cosine"]
Precision = Literal["f32", "bf16", "i8"]
Operation = Literal["add", "update", "upsert", "delete"]

Stage = Literal["committed", "applied", "indexed"]
"""How far a write has come. Committed: in the log, at the configured durability, and visible to every later read. Applied:
in the tables and vector files too. Indexed: its vectors have a graph as well, where one is due; few are scanned, exactly."""

STAGES: Final[tuple[Stage, ...]] = ("committed", "applied", "indexed")

Scalar: TypeAlias = str | bool | int | float
MetadataValue: TypeAlias = Scalar | Sequence[Scalar]
Metadata: TypeAlias = Mapping[str, MetadataValue]
MetadataPatch: TypeAlias = Mapping[str, MetadataValue | None]
"""Metadata as a write carries it: a `None` value deletes that field."""

Json: TypeAlias = Any
"""What orjson reads and writes: None, bool, int, float, str, lists and dictionaries of these."""

JsonObject: TypeAlias = dict[str, Any]

Vectors: TypeAlias = npt.NDArray[np.float32]
"""Shape (n, ndim), float32, C-contiguous."""

Slots: TypeAlias = npt.NDArray[np.int64]
"""Positions of records in insertion order, ascending unless said otherwise."""

Mask: TypeAlias = npt.NDArray[np.bool_]

NO_SLOT: Final = -1
"""Where a slot or another position could be, and there is none."""

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1
"""Of the integers in metadata."""

DEFAULT_TENANT = "default_tenant"
DEFAULT_DATABASE = "default_database"
DEFAULT_DATABASE_ID = "00000000-0000-0000-0000-000000000000"


class HnswConfiguration(Struct, frozen=True):
    """What a collection asks of its vector index; names and defaults are Chroma's."""

    space: Space = "l2"
    ef_construction: int = 100
    ef_search: int = 100
    max_neighbors: int = 16
    resize_factor: float | None = 1.2
    """None, which logs of version 0.2.0 and before may hold of a number that JSON can't say, becomes the default."""
    sync_threshold: int = 1000
    batch_size: int = 100
    num_threads: int = 0
    precision: Precision | None = None
    """Of the graph's vectors; None: int8 codes where these tell neighbours apart, else i8 for cosine, bf16 for the others.
    Ours, not Chroma's."""

    def __post_init__(self) -> None:
        if self.resize_factor is None:
            force_setattr(self, "resize_factor", 1.2)


@dataclass(frozen=True, slots=True)
class Tenant:
    name: str
    resource_name: str | None = None


@dataclass(frozen=True, slots=True)
class Database:
    id: str
    name: str
    tenant: str


class Collection(Struct, frozen=True):
    """A collection as the catalog knows it. `dimension` is fixed by the first write that carries a vector."""

    id: CollectionId
    name: str
    tenant: str
    database: str
    metadata: JsonObject | None = None
    hnsw: HnswConfiguration = field(default_factory=HnswConfiguration)
    embedding_function: JsonObject | None = None
    dimension: int | None = None
    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Metadata fields seen so far and their types (`str`, `int`, `float`, `bool`), in order of appearance."""
    schema: JsonObject | None = None
    """The schema that the collection was created with, as it is shown; None: the default one."""
    purges: int = 0
    """How many were asked for, ever; what is done of them, the manifest says."""


class DatabaseAddress(TypedDict):
    tenant: str
    database: str


class CollectionAddress(DatabaseAddress):
    collection_id: CollectionId


def address_of(collection: Collection) -> CollectionAddress:
    """Return the fields by which calls name a collection."""
    return CollectionAddress(tenant=collection.tenant, database=collection.database, collection_id=collection.id)
