"""Every row of "Where we answer otherwise" in docs/compatibility.md: requests that show it, and how it is tolerated.

A deviation's example ends with a request that the servers answer differently, each as its row says. Where calls that nobody
chose by hand can meet the difference too, `tolerate` takes it out of an exchange, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tests.compat.differential import tolerances
from tests.compat.differential.answers import Sees, answered, dropped, found, refused, shows
from tests.compat.differential.exchange import Exchange, Json, Request, create, describe, post
from tests.compat.differential.values import deep, ids, records
from tests.compat.wire import ABSENT_UUID


@dataclass(frozen=True)
class Deviation:
    """One row. `spoils` says that its example leaves Chroma's server unfit for other tests."""

    row: str
    example: tuple[Request, ...]
    chroma: Sees
    ours: Sees
    tolerate: Callable[[Exchange], Exchange | None] | None = None
    spoils: bool = False

    def __call__(self, exchange: Exchange) -> Exchange | None:
        return None if self.tolerate is None else self.tolerate(exchange)


def _threads(description: Json) -> int:
    threads: int = description["schema"]["keys"]["#embedding"]["float_list"]["vector_index"]["config"]["hnsw"]["num_threads"]
    return threads


ONE = records(1, metadatas=[{"i": 1, "f": 1.5}], documents=["x"])
SPARSELY_LINKED = {"hnsw": {"ef_search": 1, "max_neighbors": 2, "ef_construction": 2}}
KEY_WITHOUT_INDEX = {"defaults": {}, "keys": {"k": {"string": {}}}}
KEY = {"gcp": "projects/p/locations/l/keyRings/r/cryptoKeys/k"}
PAYLOAD = b'{"ids":["' + b"x" * (41 * 2**20) + b'"]}'


def _one(*requests: Request, **fields: Json) -> tuple[Request, ...]:
    """Requests on a collection `docs` with a single record."""
    return (create("docs", **fields), post("docs", "add", ONE), *requests)


DEVIATIONS: tuple[Deviation, ...] = (
    # Left to each server
    Deviation(
        row="order of listed collections",
        example=(*(create(f"docs-{number}") for number in range(12)), Request("GET", "/collections")),
        chroma=answered(200, lambda body: len(body) == 12),
        ours=answered(200, lambda body: len(body) == 12),
        tolerate=tolerances.listing,
    ),
    Deviation(
        row="order of equal distances",
        example=(
            create("docs"),
            post("docs", "add", {"ids": ids(90), "embeddings": [[number % 3] for number in range(90)]}),
            post("docs", "query", {"query_embeddings": [[0]], "n_results": 80, "include": ["distances"]}),
        ),
        chroma=answered(200),
        ours=answered(200),
        tolerate=tolerances.ties,
    ),
    Deviation(
        row="distances, and embeddings in a cosine space",
        example=(
            create("docs", configuration={"hnsw": {"space": "cosine"}}),
            post("docs", "add", {"ids": ids(40), "embeddings": [[n * 0.37, 1 - n * 0.11, n * 0.05] for n in range(40)]}),
            post("docs", "query", {"query_embeddings": [[0.3, 0.2, 0.1]], "n_results": 40, "include": ["distances"]}),
        ),
        chroma=answered(200),
        ours=answered(200),
        tolerate=tolerances.rounding,
    ),
    # Filters
    Deviation(
        row="a bad `where` or `where_document`",
        example=_one(post("docs", "get", {"where": {"i": {"$gt": "x"}}})),
        chroma=refused(400, "Invalid where clause"),
        ours=refused(400, "Invalid where clause: i.$gt: "),
        tolerate=tolerances.bad_filter,
    ),
    Deviation(
        row="a bad regular expression",
        example=_one(post("docs", "get", {"where_document": {"$regex": "("}})),
        chroma=refused(400, "Regex syntax errror: "),
        ours=refused(400, "Invalid where document clause: $regex: invalid regular expression: "),
        tolerate=tolerances.bad_pattern,
    ),
    Deviation(
        row="what RE2 lacks in a regular expression",
        example=_one(post("docs", "get", {"where_document": {"$regex": "[a-z&&[xyz]]"}})),
        chroma=found("r0"),
        ours=refused(400, "set operations in a class are not supported"),
        tolerate=tolerances.beyond_re2,
    ),
    Deviation(
        row="what RE2 has in a regular expression, and Rust has not",
        example=_one(post("docs", "get", {"where_document": {"$regex": r"\p{^Lu}"}})),
        chroma=refused(400, "Unicode property not found"),
        ours=found("r0"),
        tolerate=tolerances.beyond_rust,
    ),
    Deviation(
        row="`[\\W]` in regular expressions, within a class",
        example=(
            create("docs"),
            post("docs", "add", records(1, documents=["Ⓐ"])),
            post("docs", "get", {"where_document": {"$regex": r"[\W]"}}),
        ),
        chroma=found(),
        ours=found("r0"),
    ),
    Deviation(
        row="word boundaries `\\b` in regular expressions",
        example=(
            create("docs"),
            post("docs", "add", records(1, documents=["café"])),
            post("docs", "get", {"where_document": {"$regex": r"caf\b"}}),
        ),
        chroma=found(),
        ours=found("r0"),
        tolerate=tolerances.word_boundary,
    ),
    Deviation(
        row="a NUL in `$contains` on documents",
        example=_one(post("docs", "get", {"where_document": {"$contains": "x\0"}})),
        chroma=found("r0"),
        ours=found(),
        tolerate=tolerances.nul,
    ),
    Deviation(
        row="`$contains` on documents with a text of about 50,000 bytes or more",
        example=_one(post("docs", "get", {"where_document": {"$contains": "x" * 50_000}})),
        chroma=refused(500, "LIKE or GLOB pattern too complex"),
        ours=found(),
        tolerate=tolerances.long_text,
    ),
    Deviation(
        row="fractions, and numbers beyond 64 bits, compared with integers",
        example=_one(post("docs", "get", {"where": {"i": 1.5}})),
        chroma=found("r0"),
        ours=found(),
        tolerate=tolerances.fraction,
    ),
    Deviation(
        row="integers beyond 2^53 compared with fractions",
        example=(
            create("docs"),
            post("docs", "add", records(1, metadatas=[{"f": 2.0**53}])),
            post("docs", "get", {"where": {"f": 2**53 + 1}}),
        ),
        chroma=found("r0"),
        ours=found(),
        tolerate=tolerances.large_integer,
    ),
    Deviation(
        row="`ids` with an unknown id in `query`",
        example=_one(post("docs", "query", {"query_embeddings": [[0]], "ids": ["r0", "unknown"]})),
        chroma=refused(500, "Error finding id"),
        ours=found("r0"),
        tolerate=tolerances.unknown_id,
    ),
    Deviation(
        row="more than 32,766 ids or `$in` operands",
        example=_one(post("docs", "get", {"ids": ids(32_767)})),
        chroma=refused(500, "too many SQL variables"),
        ours=found("r0"),
    ),
    Deviation(
        row="which records a negative operator matches where the field is missing",
        example=_one(post("docs", "get", {"where": {"absent": {"$ne": 1}}, "missing": "exclude"})),
        chroma=found("r0"),
        ours=found(),
    ),
    Deviation(
        row="string key `{}` of a schema without an index, in a filter",
        example=_one(post("docs", "get", {"where": {"k": {"$ne": "x"}}}), schema=KEY_WITHOUT_INDEX),
        chroma=refused(500, "Schema is malformed"),
        ours=found("r0"),
        tolerate=tolerances.malformed_schema,
    ),
    Deviation(
        row="a test on `chroma:document` in `where`",
        example=_one(post("docs", "get", {"where": {"chroma:document": "x"}})),
        chroma=found("r0"),
        ours=found(),
    ),
    # Records
    Deviation(
        row="messages of refused writes and configurations",
        example=_one(post("docs", "add", {"ids": ["a"], "embeddings": [[1]], "metadatas": [{"$k": 1}]})),
        chroma=lambda answer: answer.message == "Validation error: metadatas: Invalid metadata at index 0",
        ours=refused(400, "Validation error: metadatas: Invalid metadata at index 0. a key must not ", "key='$k'"),
        tolerate=tolerances.says_more,
    ),
    Deviation(
        row="record routes with another tenant or database in the path",
        example=_one(Request("POST", "/api/v2/tenants/elsewhere/databases/nowhere/collections/{docs}/get", {})),
        chroma=found("r0"),
        ours=refused(404, "does not exist"),
    ),
    Deviation(
        row="the last digit of floats in metadata, and the sign of zero",
        example=(
            create("docs"),
            post("docs", "add", records(1, metadatas=[{"f": 1.2895315114105193e-105}])),
            post("docs", "get", {}),
        ),
        chroma=shows("metadatas", {"f": 1.2895315114105191e-105}),
        ours=shows("metadatas", {"f": 1.2895315114105193e-105}),
        tolerate=tolerances.last_digit,
    ),
    Deviation(
        row="metadata of a record that has a URI, or reserved keys, and nothing else",
        example=(create("docs"), post("docs", "add", records(1, uris=["file://a"])), post("docs", "get", {})),
        chroma=shows("metadatas", {}),
        ours=shows("metadatas", None),
        tolerate=tolerances.no_metadata,
    ),
    Deviation(
        row="`chroma:document`, `chroma:uri` as metadata keys",
        example=(
            create("docs"),
            post("docs", "add", records(1, metadatas=[{"chroma:document": "sneaked in", "k": 1}])),
            post("docs", "get", {}),
        ),
        chroma=shows("documents", "sneaked in"),
        ours=shows("documents", None),
    ),
    Deviation(
        row="lists in the metadata of records of a deleted collection",
        example=(
            create("docs"),
            post("docs", "add", records(1, metadatas=[{"tags": ["x"]}])),
            Request("DELETE", "/collections/docs"),
            create("later"),
            post("later", "add", records(1)),
            post("later", "get", {}),
        ),
        chroma=shows("metadatas", {"tags": ["x"]}),
        ours=shows("metadatas", None),
        spoils=True,
    ),
    Deviation(
        row="`n_results: 0` after a fifth of a collection was deleted",
        example=(
            create("docs"),
            post("docs", "add", records(10)),
            post("docs", "delete", {"ids": ids(3)}),
            post("docs", "query", {"query_embeddings": [[0]], "n_results": 0}),
        ),
        chroma=dropped,
        ours=found(),
        tolerate=tolerances.no_results_wanted,
    ),
    Deviation(
        row="dimension of a collection",
        example=(
            create("docs"),
            post("docs", "add", {"ids": [""], "embeddings": [[1, 2, 3]]}),
            post("docs", "add", {"ids": ["a"], "embeddings": [[1, 2]]}),
        ),
        chroma=refused(400, "Collection expecting embedding with dimension of 3, got 2"),
        ours=answered(201),
    ),
    Deviation(
        row="number of results",
        example=(
            create("docs", configuration=SPARSELY_LINKED),
            post("docs", "add", records(1000)),
            post("docs", "query", {"query_embeddings": [[0]], "n_results": 1000, "include": []}),
        ),
        chroma=answered(200, lambda body: len(body["ids"][0]) < 1000),
        ours=answered(200, lambda body: len(body["ids"][0]) == 1000),
    ),
    Deviation(
        row="vectors whose squared length float32 can't hold, in a cosine space",
        example=(
            create("docs", configuration={"hnsw": {"space": "cosine"}}),
            post("docs", "add", {"ids": ["a"], "embeddings": [[3e38, 3e38]]}),
            post("docs", "get", {"include": ["embeddings"]}),
        ),
        chroma=shows("embeddings", None, None),
        ours=shows("embeddings", 3e38, 3e38),
    ),
    Deviation(
        row="a boolean among the numbers of a batch of more than 8,192 numbers with fractions",
        example=(
            create("docs"),
            post("docs", "add", {"ids": ids(8200), "embeddings": [[0.5], [True], *[[1.5]] * 8198]}),
        ),
        chroma=refused(422),
        ours=answered(201),
    ),
    Deviation(
        row="a field given twice in a body of more than 16 KiB",
        example=_one(
            Request(
                "POST",
                "/collections/{docs}/get",
                content=b'{"limit": 0, "limit": 1, "uninteresting": "' + b"x" * 17_000 + b'"}',
                headers={"content-type": "application/json"},
            )
        ),
        chroma=refused(422, "duplicate field `limit`"),
        ours=found("r0"),
    ),
    # Collections
    Deviation(
        row="rename to a taken name",
        example=(create("docs"), create("taken"), Request("PUT", "/collections/{docs}", {"new_name": "taken"})),
        chroma=refused(500, "UNIQUE constraint failed"),
        ours=refused(409, "Collection [taken] already exists"),
        tolerate=tolerances.rename,
    ),
    Deviation(
        row="lists in collection metadata",
        example=(create("docs", metadata={"tags": ["x", "y"]}),),
        chroma=dropped,
        ours=answered(200, lambda body: body["metadata"] == {"tags": ["x", "y"]}),
    ),
    Deviation(
        row="`schema.keys` of written fields",
        example=_one(post("docs", "update", {"ids": ["unknown"], "metadatas": [{"seen": 1}]}), describe("docs")),
        chroma=answered(200, lambda body: "seen" not in body["schema"]["keys"]),
        ours=answered(200, lambda body: "seen" in body["schema"]["keys"]),
        tolerate=tolerances.learned_fields,
    ),
    Deviation(
        row="`cmek` in a schema",
        example=(create("docs", schema={"defaults": {}, "keys": {}, "cmek": KEY}),),
        chroma=answered(200),
        ours=refused(501),
    ),
    Deviation(
        row="unknown fields of `spann`",
        example=(create("docs", configuration={"spann": {"space": "ip", "unknown": 1}}),),
        chroma=refused(422, "configuration.spann.unknown: unknown field `unknown`"),
        ours=answered(200, lambda body: body["configuration_json"]["hnsw"]["space"] == "ip"),
    ),
    Deviation(
        row="unknown fields of `spann` in a change",
        example=_one(Request("PUT", "/collections/{docs}", {"new_configuration": {"spann": {"space": "ip"}}})),
        chroma=refused(422, "new_configuration.spann.space: unknown field `space`"),
        ours=answered(200),
        tolerate=tolerances.unknown_spann,
    ),
    Deviation(
        row="`num_threads: 0`",
        example=(create("docs", configuration={"hnsw": {"num_threads": 0}}),),
        chroma=answered(200, lambda body: _threads(body) == 0),
        ours=answered(200, lambda body: _threads(body) > 0),
        tolerate=tolerances.no_threads,
    ),
    Deviation(
        row="get by a resource name (CRN)",
        example=(Request("GET", "/api/v2/collections/tenant:database:collection"),),
        chroma=dropped,
        ours=refused(404, "Collection [tenant:database:collection] does not exist"),
    ),
    # Server
    Deviation(
        row="`indexing_status`",
        example=_one(Request("GET", "/collections/{docs}/indexing_status")),
        chroma=refused(500, "Method scout_logs is not implemented"),
        ours=answered(200, lambda body: body["total_ops"] == 1),
    ),
    Deviation(
        row="`search`, `fork`, `fork_count`, attached functions",
        example=(Request("GET", f"/collections/{ABSENT_UUID}/fork_count"),),
        chroma=refused(404, "does not exist"),
        ours=refused(501, "Count forks is unsupported for local chroma", error="ChromaError"),
        tolerate=tolerances.unsupported,
    ),
    Deviation(
        row="a list where an object is expected",
        example=_one(post("docs", "delete", [["r0"]])),
        chroma=refused(422),
        ours=refused(422, "invalid type: sequence, expected a map"),
        tolerate=tolerances.list_for_object,
    ),
    Deviation(
        row="no text where one of a few words is expected",
        example=_one(post("docs", "get", {"include": [1]})),
        chroma=refused(400, "Failed to parse the request body as JSON: include[0]: expected value"),
        ours=refused(422, "include[0]: invalid type: integer `1`, expected a string"),
        tolerate=tolerances.no_word,
    ),
    Deviation(
        row="an empty name of a database in a path",
        example=(Request("GET", "/api/v2/tenants/default_tenant/databases//collections"),),
        chroma=refused(400, "database name must be at least 3 characters"),
        ours=lambda answer: (answer.status, answer.body) == (404, ""),
        tolerate=tolerances.empty_name,
    ),
    Deviation(
        row="an empty name of a tenant in a path",
        example=(Request("GET", "/api/v2/tenants//databases"),),
        chroma=answered(200, lambda body: body == []),
        ours=lambda answer: (answer.status, answer.body) == (404, ""),
    ),
    Deviation(
        row="`/docs`",
        example=(Request("GET", "/docs/"),),
        chroma=lambda answer: answer.status == 200 and "swagger" in str(answer.body).lower(),
        ours=lambda answer: answer.status == 200 and "script" not in str(answer.body).lower(),
    ),
    Deviation(
        row="`max_batch_size`",
        example=(Request("GET", "/api/v2/pre-flight-checks"),),
        chroma=answered(200, lambda body: body["max_batch_size"] == 5_461),
        ours=answered(200, lambda body: body["max_batch_size"] == 41_666),
    ),
    Deviation(
        row="bodies beyond 40 MiB",
        example=_one(
            Request("POST", "/collections/{docs}/add", content=PAYLOAD, headers={"content-type": "application/json"})
        ),
        chroma=answered(413, lambda body: body == "Payload too large"),
        ours=refused(413, error="ChromaError"),
    ),
    Deviation(
        row="bodies with JSON nested deeper than 128 levels, which filters reach at 63",
        example=_one(post("docs", "get", {"where": deep(63)})),
        chroma=refused(400, "recursion limit exceeded"),
        ours=found(),
        tolerate=tolerances.deeply_nested,
    ),
    Deviation(
        row="messages about malformed bodies",
        example=_one(post("docs", "get", {"limit": "1"})),
        chroma=refused(422, 'limit: invalid type: string "1", expected u32 at line 1 column 12'),
        ours=refused(422, 'limit: invalid type: string "1", expected u32'),
        tolerate=tolerances.malformed,
    ),
    Deviation(
        row="numbers beyond floats, and bytes that are no UTF-8, in an unknown field of a write",
        example=_one(
            Request("POST", "/collections/{docs}/update", content=b'{"ids": ["r0"], "unknown": ["\xff", 1e400]}'),
        ),
        chroma=answered(200),
        ours=refused(400, "Failed to parse the request body as JSON"),
    ),
    Deviation(
        row="several faults in one request",
        example=_one(post("docs", "add", {"ids": ["a"], "embeddings": [[]], "metadatas": [{"$k": 1}]})),
        chroma=refused(400, "metadatas: Invalid metadata at index 0", "embeddings: Each embedding must"),
        ours=lambda answer: answer.status == 400 and "\n" not in answer.message,
        tolerate=tolerances.several_faults,
    ),
    Deviation(
        row="a query parameter given twice",
        example=_one(Request("GET", "/collections?limit=0&limit=1")),
        chroma=refused(400, "duplicate field `limit`"),
        ours=answered(200, lambda body: len(body) == 1),
    ),
    Deviation(
        row="`/api/v1`",
        example=(Request("GET", "/api/v1/heartbeat"),),
        chroma=refused(410, "The v1 API is deprecated"),
        ours=answered(200, lambda body: "nanosecond heartbeat" in body),
    ),
    Deviation(
        row="more than the API",
        example=_one(post("docs", "upsert", ONE)),
        chroma=lambda answer: answer.lsn is None,
        ours=lambda answer: answer.lsn is not None,
        tolerate=lambda exchange: replace(exchange, ours=replace(exchange.ours, lsn=exchange.chroma.lsn)),
    ),
)
