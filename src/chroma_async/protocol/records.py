"""Calls about records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, Generic, Literal, TypeVar, cast

import numpy as np
import orjson

from chroma_async.core.where import Missing
from chroma_async.errors import InvalidArgumentError, MalformedRequestError
from chroma_async.model import STAGES, Lsn, Operation, Stage
from chroma_async.protocol.call import COLLECTION, DATABASE, Call, Route, WireResponse
from chroma_async.protocol.embeddings import EMPTY_VECTOR, EmbeddingBatch, require_finite, unequal_lengths
from chroma_async.protocol.explain import PREFIX
from chroma_async.protocol.metadata import CheckedMetadatas, check_metadatas
from chroma_async.protocol.results import (
    CountResult,
    DeleteResult,
    FlushResult,
    GetResult,
    IndexingStatus,
    QueryResult,
    WriteResult,
    decode_flush,
    decode_get,
    decode_query,
    encode_get,
    encode_query,
)
from chroma_async.protocol.validation import (
    check_database_in_path,
    check_lsn,
    check_unsigned,
    check_wait_seconds,
    is_visible_ascii,
    parse_collection_id,
)

R = TypeVar("R")
Include = Literal["distances", "documents", "embeddings", "metadatas", "uris"]
ReadLevel = Literal["index_and_wal", "index_only", "index_and_bounded_wal"]

GET_INCLUDE: Final[tuple[Include, ...]] = ("documents", "metadatas")
QUERY_INCLUDE: Final[tuple[Include, ...]] = ("documents", "metadatas", "distances")
LSN_HEADER: Final = "chroma-async-lsn"
REACHED_HEADER: Final = "chroma-async-reached"

KEY_LENGTH_MAX: Final = 255
KEY_RULE: Final = f"1 to {KEY_LENGTH_MAX} visible ASCII characters, without spaces"

WAIT_SECONDS: Final = 30.0

READ_WAIT_SECONDS: Final = 10.0
"""How long a read waits for the LSN that it names, if it does not say."""


class RecordsCall(Call[R], Generic[R], frozen=True, kw_only=True):
    """A call on one collection, addressed by UUID within its tenant and database."""

    tenant: str
    database: str
    collection_id: str

    def validate(self) -> None:
        check_database_in_path(self.database)
        parse_collection_id(self.collection_id)

    def validate_fields(self) -> None:
        """Check the body. Chroma does so after it has found the collection, so a missing one is reported first.

        Raises:
            InvalidArgumentError, MalformedRequestError: what is wrong and what is allowed.
        """


class Waiting:
    """What calls have in common whose answer may wait until writes are further than in the log. The fields are their own."""

    __slots__ = ()
    wait: Stage | None
    wait_seconds: float | None

    @property
    def patience_seconds(self) -> float:
        """How long the answer may take beyond the time for the work itself."""
        if self.wait is None or self.wait == "committed":
            return 0.0
        return WAIT_SECONDS if self.wait_seconds is None else self.wait_seconds

    def validate_wait(self) -> None:
        """Check the fields.

        Raises:
            InvalidArgumentError: a time that is none, or too long.
        """
        check_wait_seconds(self.wait_seconds)


def is_key(text: str) -> bool:
    """Whether a text can be the key of a write."""
    return len(text) <= KEY_LENGTH_MAX and is_visible_ascii(text)


class Keyed:
    """What writes have in common that may carry a key, so that the same one, sent again, is not carried out again."""

    __slots__ = ()
    idempotency_key: str | None

    def validate_key(self) -> None:
        """Check the field.

        Raises:
            InvalidArgumentError: a key that could not travel in a header, or is too long.
        """
        key = self.idempotency_key
        if key is not None and not is_key(key):
            raise InvalidArgumentError(f"an Idempotency-Key has {KEY_RULE}. got={key[:80]!r}")


class Reading:
    """What reads have in common: how new what they see must be, and how far it must have come. The fields are their own.

    A read sees all that was acknowledged before it was sent; `min_lsn` makes that sure for what the caller knows from
    elsewhere, through a server that may be behind. `read_level` `index_only` leaves out what the background work has not
    applied yet; the other two are one here.
    """

    __slots__ = ()
    read_level: ReadLevel | None
    min_lsn: Lsn | None
    wait_seconds: float | None

    @property
    def is_of_applied(self) -> bool:
        """Whether the read leaves out what is not applied yet."""
        return self.read_level == "index_only"

    @property
    def patience_seconds(self) -> float:
        """How long the answer may take beyond the time for the work itself."""
        if self.min_lsn is None:
            return 0.0
        return READ_WAIT_SECONDS if self.wait_seconds is None else self.wait_seconds

    def validate_reading(self) -> None:
        """Check the fields.

        Raises:
            InvalidArgumentError: an LSN that is none, a time that is none, or too long.
        """
        check_lsn(self.min_lsn)
        check_wait_seconds(self.wait_seconds)


class WriteRecords(Keyed, Waiting, RecordsCall[WriteResult], frozen=True, kw_only=True):
    """A batch of records; the parallel lists have one item per id."""

    operation: ClassVar[Operation]
    takes_key: ClassVar = True
    ids: list[str]
    embeddings: EmbeddingBatch | None
    documents: list[str | None] | None = None
    metadatas: list[dict[str, Any] | None] | None = None
    uris: list[str | None] | None = None
    wait: Stage | None = None
    wait_seconds: float | None = None
    idempotency_key: str | None = None

    def validate(self) -> None:
        super().validate()
        self.validate_wait()
        self.validate_key()

    def checked_metadatas(self) -> CheckedMetadatas:
        """Check the body, as other calls do in `validate_fields`, and return what was found out about the metadata."""
        if self.embeddings is not None and self.embeddings.refusal is not None:
            raise self.embeddings.refusal
        checked = check_metadatas(self.metadatas or (), nulls_allowed=self.operation != "add")
        if self.operation != "update" and (self.embeddings is None or self.embeddings.rows is not None):
            raise MalformedRequestError(
                f"{PREFIX}embeddings: data did not match any variant of untagged enum EmbeddingsPayload: "
                f"{self.operation} needs a vector for each id"
            )
        if self.embeddings is not None:
            vectors = self.embeddings.vectors
            if len(vectors) and vectors.shape[1] == 0:
                raise InvalidArgumentError(f"{EMPTY_VECTOR}. place=embeddings[0]")
            require_finite(vectors, self.embeddings.rows)
        return checked

    def validate_lengths(self) -> None:
        """Check that the lists are parallel and no id is empty; Chroma does so after it has looked at the collection."""
        columns = {"documents": self.documents, "uris": self.uris, "metadatas": self.metadatas}
        lengths = {name: len(column) for name, column in columns.items() if column is not None}
        if self.embeddings is not None:
            lengths["embeddings"] = self.embeddings.count
        if any(length != len(self.ids) for length in lengths.values()):
            found = " ".join(f"{name}={length}" for name, length in {"ids": len(self.ids), **lengths}.items())
            raise InvalidArgumentError(f"Inconsistent number of IDs, embeddings, documents, URIs and metadatas. {found}")
        if "" in self.ids:
            raise InvalidArgumentError(f"Empty ID, ID must have at least one character. place=ids[{self.ids.index('')}]")

    @classmethod
    def encode_result(cls, result: WriteResult) -> WireResponse:
        return WireResponse(status=cls.route.status, body=b"{}", headers=_progress_headers(result))

    @classmethod
    def decode_result(cls, response: WireResponse) -> WriteResult:
        return WriteResult(lsn=lsn_of(response.headers), reached=_reached(response.headers))


def _progress_headers(result: WriteResult | DeleteResult) -> Mapping[str, str]:
    return {} if result.lsn is None else {LSN_HEADER: str(result.lsn), REACHED_HEADER: result.reached}


def _lsn_headers(result: GetResult | QueryResult | CountResult) -> Mapping[str, str]:
    return {} if result.lsn is None else {LSN_HEADER: str(result.lsn)}


def _reached(headers: Mapping[str, str]) -> Stage:
    """What a server does not say is what an answer means anyway."""
    text = headers.get(REACHED_HEADER)
    for stage in STAGES:
        if stage == text:
            return stage
    return "committed"


def lsn_of(headers: Mapping[str, str]) -> Lsn | None:
    """Return the LSN that an answer names; None where it names none."""
    text = headers.get(LSN_HEADER)
    return Lsn(int(text)) if text is not None and text.isdecimal() else None


class AddRecords(WriteRecords, frozen=True, kw_only=True):
    """Add records; an id that exists keeps its first value."""

    route: ClassVar = Route("POST", COLLECTION + "/add", status=201)
    operation: ClassVar[Operation] = "add"
    safe_to_repeat: ClassVar = True
    embeddings: EmbeddingBatch


class UpsertRecords(WriteRecords, frozen=True, kw_only=True):
    """Add or replace records; metadata merges field by field."""

    route: ClassVar = Route("POST", COLLECTION + "/upsert")
    operation: ClassVar[Operation] = "upsert"
    embeddings: EmbeddingBatch


class UpdateRecords(WriteRecords, frozen=True, kw_only=True):
    """Change records; unknown ids are ignored."""

    route: ClassVar = Route("POST", COLLECTION + "/update")
    operation: ClassVar[Operation] = "update"
    vectors_may_be_null: ClassVar = True
    embeddings: EmbeddingBatch | None = None


class FilteredCall(RecordsCall[R], Generic[R], frozen=True, kw_only=True):
    """A call with filters, and a word about records that lack the field a filter names, or the document.

    `missing` is what the request says. Where it says nothing the engine's setting counts, and where there is none
    `missing_default`, which tells kinds of API apart: our clients and the first API say "exclude"; Chroma's clients, who do
    not know the field, get what Chroma 1.5.9 does.
    """

    missing: Missing | None = None
    missing_default: Missing = "include"

    def missing_by(self, setting: Missing | None) -> Missing:
        """Return whether negative operators match such records; `setting` is the engine's."""
        return self.missing or setting or self.missing_default


class DeleteRecords(Keyed, Waiting, FilteredCall[DeleteResult], frozen=True, kw_only=True):
    """Delete by ids, by filter, or by both (their intersection)."""

    route: ClassVar = Route("POST", COLLECTION + "/delete")
    takes_key: ClassVar = True
    ids: list[str] | None = None
    where: Any = None
    where_document: Any = None
    limit: int | None = None
    wait: Stage | None = None
    wait_seconds: float | None = None
    idempotency_key: str | None = None

    def validate(self) -> None:
        super().validate()
        self.validate_wait()
        self.validate_key()

    def validate_fields(self) -> None:
        check_unsigned(self.limit, "limit")
        filtered = self.where is not None or self.where_document is not None
        if self.ids == [] and not filtered:
            raise InvalidArgumentError("Validation error: ids, where: Either ids or where must be specified")
        if self.limit is not None and not filtered:
            raise InvalidArgumentError(
                "Validation error: limit, where: limit can only be specified when a where clause is provided"
            )

    @classmethod
    def encode_result(cls, result: DeleteResult) -> WireResponse:
        body = orjson.dumps({"deleted": result.deleted})
        return WireResponse(status=200, body=body, headers=_progress_headers(result))

    @classmethod
    def decode_result(cls, response: WireResponse) -> DeleteResult:
        deleted = orjson.loads(response.body).get("deleted", 0)
        return DeleteResult(deleted=deleted, lsn=lsn_of(response.headers), reached=_reached(response.headers))


class GetRecords(Reading, FilteredCall[GetResult], frozen=True, kw_only=True):
    """Records by ids, filters, or all, in insertion order."""

    route: ClassVar = Route("POST", COLLECTION + "/get")
    safe_to_repeat: ClassVar = True
    ids: list[str] | None = None
    where: Any = None
    where_document: Any = None
    limit: int | None = None
    offset: int | None = None
    include: Sequence[Include] = GET_INCLUDE
    read_level: ReadLevel | None = None
    min_lsn: Lsn | None = None
    wait_seconds: float | None = None

    def validate(self) -> None:
        super().validate()
        self.validate_reading()

    def validate_fields(self) -> None:
        check_unsigned(self.limit, "limit")
        check_unsigned(self.offset, "offset")

    @classmethod
    def encode_result(cls, result: GetResult) -> WireResponse:
        return WireResponse(status=200, body=encode_get(result), headers=_lsn_headers(result))

    @classmethod
    def decode_result(cls, response: WireResponse) -> GetResult:
        return decode_get(response.body, lsn_of(response.headers))


class QueryRecords(Reading, FilteredCall[QueryResult], frozen=True, kw_only=True):
    """The nearest records to each query vector, of shape (queries, ndim), nearest first."""

    route: ClassVar = Route("POST", COLLECTION + "/query")
    safe_to_repeat: ClassVar = True
    query_embeddings: np.ndarray
    n_results: int | None = None
    ids: list[str] | None = None
    where: Any = None
    where_document: Any = None
    include: Sequence[Include] = QUERY_INCLUDE
    read_level: ReadLevel | None = None
    min_lsn: Lsn | None = None
    wait_seconds: float | None = None

    def validate(self) -> None:
        super().validate()
        self.validate_reading()

    def validate_fields(self) -> None:
        check_unsigned(self.n_results, "n_results")
        if self.query_embeddings.dtype == object:
            lengths = [len(row) for row in self.query_embeddings.tolist()]
            raise unequal_lengths(lengths, range(len(lengths)), "query_embeddings")
        if np.isnan(self.query_embeddings).any():
            raise InvalidArgumentError("Validation error: query_embeddings: Embeddings must not contain NaN values")

    @classmethod
    def encode_result(cls, result: QueryResult) -> WireResponse:
        return WireResponse(status=200, body=encode_query(result), headers=_lsn_headers(result))

    @classmethod
    def decode_result(cls, response: WireResponse) -> QueryResult:
        return decode_query(response.body, lsn_of(response.headers))


class CountRecords(Reading, RecordsCall[CountResult], frozen=True, kw_only=True):
    """Number of live records."""

    route: ClassVar = Route("GET", COLLECTION + "/count", query=("read_level", "min_lsn", "wait_seconds"))
    safe_to_repeat: ClassVar = True
    read_level: ReadLevel | None = None
    min_lsn: Lsn | None = None
    wait_seconds: float | None = None

    def validate(self) -> None:
        super().validate()
        self.validate_reading()

    @classmethod
    def encode_result(cls, result: CountResult) -> WireResponse:
        return WireResponse(status=200, body=str(result.count).encode(), headers=_lsn_headers(result))

    @classmethod
    def decode_result(cls, response: WireResponse) -> CountResult:
        return CountResult(count=int(response.body), lsn=lsn_of(response.headers))


class GetIndexingStatus(RecordsCall[IndexingStatus], frozen=True, kw_only=True):
    """How far the background work on this collection has come."""

    route: ClassVar = Route("GET", COLLECTION + "/indexing_status")
    safe_to_repeat: ClassVar = True

    @classmethod
    def encode_result(cls, result: IndexingStatus) -> WireResponse:
        names = ("op_indexing_progress", "num_unindexed_ops", "num_indexed_ops", "total_ops")
        return WireResponse(status=200, body=orjson.dumps({name: getattr(result, name) for name in names}))

    @classmethod
    def decode_result(cls, response: WireResponse) -> IndexingStatus:
        fields = cast("dict[str, Any]", orjson.loads(response.body))
        return IndexingStatus(fields["num_indexed_ops"], fields["num_unindexed_ops"])


class FlushCollection(Waiting, RecordsCall[FlushResult], frozen=True, kw_only=True):
    """Fsync the log, and wait until all that was acknowledged before is applied, or indexed; Chroma has nothing like it."""

    route: ClassVar = Route("POST", COLLECTION + "/flush")
    safe_to_repeat: ClassVar = True
    wait: Stage | None = "applied"
    wait_seconds: float | None = None

    def validate(self) -> None:
        super().validate()
        self.validate_wait()

    @classmethod
    def decode_result(cls, response: WireResponse) -> FlushResult:
        return decode_flush(response.body)


class FlushDatabase(Waiting, Call[FlushResult], frozen=True, kw_only=True):
    """The same for all collections of a database."""

    route: ClassVar = Route("POST", DATABASE + "/flush")
    safe_to_repeat: ClassVar = True
    tenant: str
    database: str
    wait: Stage | None = "applied"
    wait_seconds: float | None = None

    def validate(self) -> None:
        check_database_in_path(self.database)
        self.validate_wait()

    @classmethod
    def decode_result(cls, response: WireResponse) -> FlushResult:
        return decode_flush(response.body)
