"""What a refusal of a malformed body says: the place, what is there, and what is allowed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from chroma_async.protocol import CreateCollection, GetRecords, ModifyCollection
from chroma_async.protocol.collection_json import ConfigurationInput
from chroma_async.protocol.explain import malformed, reason
from chroma_async.protocol.schema import IntType, SchemaInput

HERE = {"tenant": "t", "database": "d", "collection_id": "c"}


def fault(fields: Any, kind: Any) -> msgspec.ValidationError:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(fields, kind, strict=True)
    return caught.value


@pytest.mark.parametrize(
    ("fields", "kind", "expected"),
    [
        ({"include": ["uris", "x"]}, GetRecords, "include[1]: unknown variant `x`, expected one of `distances`, "),
        ({"include": [1]}, GetRecords, "include[0]: invalid type: integer `1`, expected a string"),
        ({"limit": "x"}, GetRecords, 'limit: invalid type: string "x", expected u32'),
        (
            {"name": "n", "configuration": {"hnsw": {"space": "x"}}},
            CreateCollection,
            "configuration.hnsw.space: unknown variant `x`, expected one of `cosine`, `ip`, `l2`",
        ),
        (
            {"name": "n", "configuration": {"hnsw": {"ef_search": 1.5}}},
            CreateCollection,
            "configuration.hnsw.ef_search: invalid type: floating point `1.5`, expected usize",
        ),
        (
            {"new_configuration": {"hnsw": {"x": 1}}},
            ModifyCollection,
            "new_configuration.hnsw.x: unknown field `x`, expected one of `ef_search`, `max_neighbors`, ",
        ),
        (
            {"new_configuration": {"hnsw": {"ef-search": 1}}},
            ModifyCollection,
            "new_configuration.hnsw.ef-search: unknown field `ef-search`, expected one of `ef_search`, ",
        ),
        ({}, CreateCollection, "missing field `name`"),
    ],
    ids=str,
)
def test_refusal_names_place_and_allowed(fields: dict[str, Any], kind: Any, expected: str) -> None:
    whole = {**HERE, **fields}
    message = malformed(fault(whole, kind), whole, kind).message
    assert message.startswith(f"Failed to deserialize the JSON body into the target type: {expected}")


def test_place_within_a_larger_body_comes_first() -> None:
    fields = {"int_inverted_index": {"enabled": True, "config": {"x": 1}}}
    message = malformed(fault(fields, IntType), fields, IntType, "schema.keys.a.int").message
    assert message.endswith("schema.keys.a.int.int_inverted_index.config.x: unknown field `x`, there are no fields")


def test_place_among_the_values_of_a_map_is_found() -> None:
    fields = {"defaults": {}, "keys": {"a": {"float_list": {"vector_index": {"enabled": True, "config": {"space": "x"}}}}}}
    assert reason(fault(fields, SchemaInput), fields, SchemaInput).endswith(
        "float_list.vector_index.config.space: unknown variant `x`, expected one of `cosine`, `ip`, `l2`"
    )


def test_reason_is_the_same_without_the_words_of_the_wire() -> None:
    fields = {"hnsw": {"ef_search": "x"}}
    expected = 'hnsw.ef_search: invalid type: string "x", expected usize'
    assert reason(fault(fields, ConfigurationInput), fields, ConfigurationInput) == expected
