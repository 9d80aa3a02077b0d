"""The manifest: what it reaches, and what it refuses to be read from."""

from __future__ import annotations

import msgspec
import pytest

from chroma_async.errors import FormatError, StorageCorrupt
from chroma_async.model import Lsn
from chroma_async.projections.manifest import (
    FORMAT,
    GraphRef,
    Manifest,
    PieceRef,
    SegmentRef,
    decode_manifest,
    encode_manifest,
)

FULL = Manifest(
    version=7,
    applied=Lsn(12),
    next_slot=30,
    next_file=5,
    live=20,
    operations=40,
    dimension=3,
    space="cosine",
    pieces=(PieceRef("3.columns", 30, 1),),
    segments=(SegmentRef(1, 20, sealed=True, graph=GraphRef("5-20.usearch", 20, 2)), SegmentRef(4, 10)),
)


def test_manifest_survives_its_encoding() -> None:
    assert decode_manifest(encode_manifest(FULL)) == FULL
    assert decode_manifest(encode_manifest(Manifest())) == Manifest()


def test_manifest_reaches_its_files_and_no_others() -> None:
    assert FULL.files() == {"columns/3.columns", "segments/1", "segments/1/5-20.usearch", "segments/4"}
    assert FULL.rows == 30
    assert Manifest().files() == frozenset()


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"version": "x"}', encode_manifest(FULL)[:-3]])
def test_damaged_manifest_is_refused(raw: bytes) -> None:
    with pytest.raises(StorageCorrupt):
        decode_manifest(raw)


def test_manifest_of_a_newer_release_is_refused() -> None:
    with pytest.raises(FormatError, match="upgrade"):
        decode_manifest(encode_manifest(msgspec.structs.replace(FULL, format=FORMAT + 1)))
