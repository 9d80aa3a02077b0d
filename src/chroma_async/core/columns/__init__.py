"""Metadata as columns: immutable pieces, built from rows, tested as vectors, merged as arrays, mapped from files.

A collection's rows have stable integer *slots*, in insertion order. A *piece* holds the complete metadata of some slots
as of some range of LSNs, and names the slots that died in it; newer pieces override older ones slot by slot. Nothing here
touches a file: bytes go in and out.
"""

from chroma_async.core.columns.build import build
from chroma_async.core.columns.column import Column, Dictionary
from chroma_async.core.columns.format import VERSION, decode, encoded_parts
from chroma_async.core.columns.merge import merge
from chroma_async.core.columns.piece import ColumnPiece

__all__ = ["VERSION", "Column", "ColumnPiece", "Dictionary", "build", "decode", "encoded_parts", "merge"]
