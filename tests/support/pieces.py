"""Column pieces as bytes."""

from __future__ import annotations

from chroma_async.core.columns import ColumnPiece, encoded_parts


def encode(piece: ColumnPiece) -> bytes:
    return b"".join(encoded_parts(piece))
