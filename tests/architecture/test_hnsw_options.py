"""The options of the vector index stand in several forms: the wire's, the users', two of them older. All know the same ones.

Each form has an order of its own, in which refusals name its fields, so they can't be made from one another.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

import msgspec
import pytest

from chroma_async.client.configuration import HnswOptions
from chroma_async.client.schema import HnswIndexConfig
from chroma_async.model import HnswConfiguration
from chroma_async.protocol import schema
from chroma_async.protocol.collection_json import LEGACY_KEYS, HnswInput, HnswUpdate
from chroma_async.protocol.v1 import OLD_HNSW_NAMES

OURS = {"precision"}
CHROMAS = set(HnswConfiguration.__struct_fields__) - OURS
FIXED = {"space", "ef_construction"}


def types_of(kind: type[msgspec.Struct]) -> dict[str, object]:
    return {field.name: field.type for field in msgspec.structs.fields(kind)}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (HnswInput.__struct_fields__, CHROMAS),
        (HnswOptions.__annotations__, CHROMAS),
        (LEGACY_KEYS.values(), CHROMAS),
        (OLD_HNSW_NAMES.values(), CHROMAS),
        (schema.HnswOptions.__struct_fields__, CHROMAS - {"space"}),
        ([field.name for field in fields(HnswIndexConfig)], CHROMAS - {"space"}),
        (HnswUpdate.__struct_fields__, CHROMAS - FIXED),
    ],
    ids=["new", "of users", "in metadata", "of the first API", "in a schema", "in a schema of users", "changed"],
)
def test_every_form_of_the_options_has_all_of_them(names: Iterable[str], expected: set[str]) -> None:
    assert set(names) == expected


@pytest.mark.parametrize("form", [HnswUpdate, schema.HnswOptions])
def test_an_option_is_of_one_type_wherever_it_is_sent(form: type[msgspec.Struct]) -> None:
    types = types_of(HnswInput)
    assert types_of(form) == {name: types[name] for name in form.__struct_fields__}
