"""What a client hands out can be taken apart, compared and copied with the standard library."""

from __future__ import annotations

from dataclasses import asdict, fields, is_dataclass, replace

import orjson
import pytest

from chroma_async import Change, IngestReport
from chroma_async.model import Database, Tenant
from chroma_async.protocol import results
from chroma_async.protocol.system import Identity


@pytest.mark.parametrize(
    "kind",
    [
        Change,
        Database,
        Identity,
        IngestReport,
        Tenant,
        results.FlushResult,
        results.IndexingStatus,
        results.PurgeResult,
        results.WriteResult,
    ],
)
def test_it_is_a_dataclass(kind: type) -> None:
    assert is_dataclass(kind)
    assert fields(kind)


def test_a_change_is_taken_apart_copied_and_written_as_json() -> None:
    change = Change(kind="add", lsn=3, ids=["a"])
    assert asdict(change)["ids"] == ["a"]
    assert replace(change, lsn=4).lsn == 4
    assert orjson.loads(orjson.dumps(change))["kind"] == "add"
