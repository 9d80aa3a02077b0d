"""Hypothesis strategies for requests: sensible ones, and sensible ones with a part that is anything.

The vectors are such that float32 holds them and their distances exactly, and that many distances are equal. What could make
the two servers lastingly different in a documented way is left out: see `deviations`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from tests.compat.differential.exchange import Json

DIMENSION: Final = 2

IDS: Final = (*"abcdefgh", "日本", "a b/c%", "A", "é")
WORDS: Final = ("red", "fox", "Red", "日本語", "100%", "a_b", "x", "line\nbreak", "straße", "")
NEEDLES: Final = ("r", "re", "red", "Red", "fox x", "本", "日本", "%", "_", "a_b", "\n", "ß", "", "nowhere", "x", " ")
PATTERNS: Final = (
    "^red",
    "fox$",
    "(?i)RED",
    r"\d+",
    "x|日",
    "",
    "r.d",
    r"\bfox\b",
    r"\w+ß",
    "(?s)e.b",
    "[^x]",
    r"\p{Han}",
    "(",
    "[a",
)

COLUMNS: Final = ("documents", "metadatas", "embeddings", "uris")

ids = st.sampled_from(IDS)
coordinates = st.integers(-4, 4).map(lambda number: number / 2)
vectors = st.lists(coordinates, min_size=DIMENSION, max_size=DIMENSION)
documents = st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join) | st.text(max_size=6).filter(
    lambda text: "\0" not in text
)
uris = st.sampled_from(["", "file://a", "日"])

integers = st.integers(-3, 3) | st.sampled_from([2**31, 2**53 + 1, 2**63 - 1, -(2**63)])
floats = st.integers(-6, 6).map(lambda number: number / 2) | st.floats(allow_nan=False, allow_infinity=False)
whole_floats = st.integers(-3, 3).map(float)
strings = st.sampled_from(["", "x", "X", "y", "xy", "日本", "1"]) | st.text(max_size=4)


def lists_of(values: SearchStrategy[Any], smallest: int = 1) -> SearchStrategy[list[Any]]:
    return st.lists(values, min_size=smallest, max_size=3)


arrays = lists_of(strings) | lists_of(integers) | lists_of(floats) | lists_of(st.booleans())
fields = st.sampled_from("ifsbmv")
scalars = strings | integers | floats | st.booleans()


def metadatas(*, nulls: bool, lists: bool = True) -> SearchStrategy[Json]:
    """Metadata of a record, or none; no field has a type of its own."""
    values = scalars | arrays if lists else scalars
    return st.none() | st.dictionaries(fields, values | st.none() if nulls else values, max_size=4)


def columns(count: int, values: SearchStrategy[Any]) -> SearchStrategy[Json]:
    return st.none() | st.lists(st.none() | values, min_size=count, max_size=count)


@st.composite
def writes(draw: st.DrawFn, verb: str, *, lists: bool = True) -> dict[str, Json]:
    """The body of an add, an upsert or an update that is accepted."""
    chosen = draw(st.lists(ids, min_size=1, max_size=5))
    count = len(chosen)
    given = st.lists(vectors, min_size=count, max_size=count)
    optional = columns(count, vectors)
    return {
        "ids": chosen,
        "embeddings": draw(optional if verb == "update" else given),
        "documents": draw(columns(count, documents)),
        "metadatas": draw(columns(count, metadatas(nulls=verb != "add", lists=lists))),
        "uris": draw(columns(count, uris)),
    }


@st.composite
def collections_of_records(draw: st.DrawFn) -> dict[str, Json]:
    """One batch with a dozen records, to be filtered."""
    chosen = draw(st.lists(ids, min_size=1, max_size=len(IDS), unique=True))
    return {
        "ids": chosen,
        "embeddings": [draw(vectors) for _ in chosen],
        "documents": [draw(st.none() | documents) for _ in chosen],
        "metadatas": [draw(metadatas(nulls=False)) for _ in chosen],
    }


# ---- filters


def operands(numbers: SearchStrategy[float]) -> SearchStrategy[Json]:
    return strings | integers | numbers | st.booleans()


def conditions(numbers: SearchStrategy[float]) -> SearchStrategy[Json]:
    """Every operator with every operand that it takes."""
    values = operands(numbers)
    several = lists_of(strings) | lists_of(integers) | lists_of(numbers) | lists_of(st.booleans())
    return st.one_of(
        values,
        *(st.fixed_dictionaries({name: values}) for name in ("$eq", "$ne", "$contains", "$not_contains")),
        *(st.fixed_dictionaries({name: integers | numbers}) for name in ("$gt", "$gte", "$lt", "$lte")),
        *(st.fixed_dictionaries({name: several}) for name in ("$in", "$nin")),
    )


def combined(leaves: SearchStrategy[Json]) -> SearchStrategy[Json]:
    def extend(children: SearchStrategy[Json]) -> SearchStrategy[Json]:
        several = st.lists(children, max_size=3)
        return st.one_of(*(st.fixed_dictionaries({name: several}) for name in ("$and", "$or")))

    return st.recursive(leaves, extend, max_leaves=4)


needles = st.sampled_from(NEEDLES) | st.text(max_size=3).filter(lambda text: "\0" not in text)
patterns = st.sampled_from(PATTERNS)
document_tests = st.one_of(
    *(st.fixed_dictionaries({name: needles}) for name in ("$contains", "$not_contains")),
    *(st.fixed_dictionaries({name: patterns}) for name in ("$regex", "$not_regex")),
)
where_documents = combined(document_tests)


def wheres(numbers: SearchStrategy[float] = floats) -> SearchStrategy[Json]:
    """Filters on metadata; `numbers` are the floats that fields are compared with."""
    leaves = st.one_of(
        st.dictionaries(fields, conditions(numbers), min_size=1, max_size=1),
        st.fixed_dictionaries({"#document": document_tests}),
    )
    return combined(leaves)


def maybe(strategy: SearchStrategy[Any]) -> SearchStrategy[Any]:
    return st.none() | strategy


def selections(numbers: SearchStrategy[float] = floats) -> dict[str, SearchStrategy[Json]]:
    """What narrows a get, a query or a deletion."""
    some_ids = st.lists(ids | st.just("unknown"), max_size=5)
    return {"ids": maybe(some_ids), "where": maybe(wheres(numbers)), "where_document": maybe(where_documents)}


# Tolerances look at metadata and documents, so these are always asked for.
includes = st.lists(st.sampled_from(["embeddings", "uris"]), unique=True).map(
    lambda names: ["metadatas", "documents", *names]
)
pages = maybe(st.integers(0, 12))
gets = st.fixed_dictionaries({**selections(), "limit": pages, "offset": pages, "include": includes})
queries = st.fixed_dictionaries(
    {
        **selections(),
        "query_embeddings": st.lists(vectors, min_size=1, max_size=1),
        "n_results": st.none() | st.sampled_from([1, 2, 3, 5, 50]),
        "include": includes.map(lambda names: [*names, "distances"]),
    }
)
deletions = st.fixed_dictionaries(selections(whole_floats)).flatmap(
    lambda body: st.just(body) | pages.map(lambda limit: {**body, "limit": limit})
)


# ---- anything

json_keys = st.sampled_from(
    [*"ifsbmv", "$and", "$or", "$eq", "$ne", "$in", "$gt", "$contains", "$foo", "#document", "k", "#x", ""]
)
json_values = st.recursive(
    st.none() | st.booleans() | integers | floats | strings | st.integers(2**63, 2**70),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(json_keys, children, max_size=2),
    max_leaves=6,
)


def places(value: Json, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a JSON value has parts, itself left out."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield (*path, key)
        yield from places(part, (*path, key))


def with_part(value: Json, path: tuple[Any, ...], part: Json) -> Json:
    """The JSON value with another part at a place."""
    if not path:
        return part
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = with_part(value[path[0]], path[1:], part)
    return copy


def spoilt(bodies: SearchStrategy[Json]) -> SearchStrategy[Json]:
    """Bodies with one part, of any depth, that is anything."""

    @st.composite
    def change(draw: st.DrawFn) -> Json:
        body = draw(bodies)
        return with_part(body, draw(st.sampled_from(list(places(body)))), draw(json_values))

    return change()


# ---- collections

# No more than one fault at a time: which of several is reported depends on where they stand.
counts = st.integers(0, 300) | st.just(2**32)
hnsw_fields: Final = dict.fromkeys(("max_neighbors", "sync_threshold", "batch_size"), counts)
hnsw_updates = st.fixed_dictionaries(
    {"ef_search": counts}, optional={**hnsw_fields, "num_threads": st.integers(1, 9), "resize_factor": coordinates}
)
creation_fields: Final = {"space": st.sampled_from(["l2", "ip", "cosine"]), "ef_construction": counts}
hnsw_inputs = st.tuples(hnsw_updates, st.fixed_dictionaries({}, optional=creation_fields)).map(
    lambda parts: parts[0] | parts[1]
)
spoilt_configurations = st.fixed_dictionaries({"hnsw": spoilt(hnsw_inputs)})
functions = st.sampled_from([None, {"type": "legacy"}, {"type": "known", "name": "mine", "config": {"a": [1]}}])
configurations = st.fixed_dictionaries({"hnsw": hnsw_inputs}, optional={"embedding_function": functions})
collection_metadatas = st.none() | st.dictionaries(
    st.sampled_from(["a", "b", "hnsw:space", "hnsw:M", "hnsw:search_ef"]),
    st.sampled_from(["l2", "ip", "cosine", "x"]) | integers | floats | st.booleans(),
    min_size=1,
    max_size=3,
)
names = st.sampled_from(["docs", "a.b-c_d", "region+docs"])
