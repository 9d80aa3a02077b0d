"""Parts of an ingest stream as bytes: Arrow where pyarrow is installed, else NDJSON. docs/streaming.md describes both."""

from __future__ import annotations

import importlib.util
from typing import Any, Final

import numpy as np
import orjson
import pybase64

from chroma_async.client.arrow import pyarrow
from chroma_async.client.lines import BLANK, Lines, as_matrix
from chroma_async.protocol.ingest import ARROW, NDJSON

NO_ID: Final = ""
"""The id of a line with a fault: the server counts the line, and passes it over as we do."""

_FAULTY: Final = b'{"id":""}\n'


def preferred_type() -> str:
    """Return the content type of parts that is to be tried first."""
    return NDJSON if importlib.util.find_spec("pyarrow") is None else ARROW


def encode(lines: Lines, content_type: str) -> bytes:
    """Return lines as the body of a part."""
    return _arrow(lines) if content_type == ARROW else _ndjson(lines)


def _ndjson(lines: Lines) -> bytes:
    rows: list[bytes] = []
    for place, id_ in enumerate(lines.ids):
        if place in lines.faults:
            rows.append(b"\n" if lines.faults[place] == BLANK else _FAULTY)
            continue
        row: dict[str, Any] = {"id": id_}
        operation = lines.operation(place)
        if operation != "upsert":
            row["op"] = operation
        vector = lines.vector(place)
        if vector is not None:
            row["embedding"] = pybase64.b64encode_as_string(vector.astype("<f4", copy=False).tobytes())
        if lines.documents is not None and lines.documents[place] is not None:
            row["document"] = lines.documents[place]
        if lines.metadatas is not None and (metadata := lines.metadatas[place]) is not None:
            row["metadata"] = orjson.Fragment(metadata)
        if lines.uris is not None and lines.uris[place] is not None:
            row["uri"] = lines.uris[place]
        rows.append(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
    return b"".join(rows)


def _arrow(lines: Lines) -> bytes:
    pa = pyarrow()
    ids = lines.ids
    if lines.faults:
        ids = [NO_ID if place in lines.faults else id_ for place, id_ in enumerate(ids)]
    columns = {"id": pa.array(ids, type=pa.string())}
    if not isinstance(lines.operations, str):
        columns["op"] = pa.array(lines.operations, type=pa.string())
    elif lines.operations != "upsert":
        columns["op"] = pa.array([lines.operations] * len(lines), type=pa.string())
    if lines.vectors is not None:
        columns["embedding"] = _arrow_vectors(pa, lines)
    if lines.documents is not None:
        columns["document"] = pa.array(lines.documents, type=pa.string())
    if lines.metadatas is not None:
        columns["metadata"] = pa.array(lines.metadatas, type=pa.binary()).cast(pa.string())
    if lines.uris is not None:
        columns["uri"] = pa.array(lines.uris, type=pa.string())
    batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _arrow_vectors(pa: Any, lines: Lines) -> Any:
    found = as_matrix(lines.vectors)
    if found is None:
        return pa.array(lines.vectors, type=pa.list_(pa.float32()))
    matrix, there = found
    if not matrix.shape[1]:
        return pa.array(list(matrix), type=pa.list_(pa.float32()))
    flat = pa.array(np.ascontiguousarray(matrix).reshape(-1), type=pa.float32())
    mask = None if there is None else pa.array(np.logical_not(there))
    return pa.FixedSizeListArray.from_arrays(flat, type=pa.list_(pa.float32(), matrix.shape[1]), mask=mask)
