"""The records of one write, from what a user passes to parallel lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chroma_async.client.cells import to_json
from chroma_async.client.checks import checked_ids, checked_metadatas, checked_texts, listed
from chroma_async.client.lines import Lines
from chroma_async.client.vectors import to_matrix
from chroma_async.model import Operation, Vectors

WHAT_TO_PASS = "pass embeddings=..., or exactly one of documents, images and uris for the embedding function"


@dataclass(frozen=True, slots=True)
class Inputs:
    """What can be embedded: texts, images, or URIs that a data loader turns into images. At most one is wanted."""

    texts: list[Any] | None = None
    images: list[Any] | None = None
    uris: list[Any] | None = None

    def chosen(self, hint: str) -> list[Any] | None:
        """Return the texts or images to embed, None when only URIs are there.

        Raises:
            ValueError: both texts and images, nothing at all, or a None among the inputs.
        """
        if self.texts is not None and self.images is not None:
            raise ValueError(f"both texts and images are given; {hint}")
        found = self.texts if self.texts is not None else self.images
        if found is None and self.uris is None:
            raise ValueError(f"there is nothing to embed; {hint}")
        if any(item is None for item in found or ()):
            raise ValueError(f"None can't be embedded; {hint}")
        return found


@dataclass(frozen=True, slots=True)
class Records:
    """Parallel lists, one item per id; None where the caller gave none. `vectors` has shape (n, ndim), float32."""

    ids: list[str]
    vectors: Vectors | None
    metadatas: list[dict[str, Any] | None] | None
    documents: list[str | None] | None
    images: list[Any] | None
    uris: list[str | None] | None

    @property
    def inputs(self) -> Inputs:
        return Inputs(self.documents, self.images, self.uris)


def checked_records(
    ids: Any, embeddings: Any, metadatas: Any, documents: Any, images: Any, uris: Any, *, nones_allowed: bool = True
) -> Records:
    """Return the records of a write; `nones_allowed`: None in metadata deletes a field.

    Raises:
        ValueError: a list is empty, of another length than the ids, or has an item of a wrong type.
        DuplicateIDError: the same id twice.
    """
    records = Records(
        ids=checked_ids(ids),
        vectors=None if embeddings is None else to_matrix(embeddings, "embeddings"),
        metadatas=checked_metadatas(metadatas, nones_allowed=nones_allowed),
        documents=checked_texts(documents, "documents", nones_allowed=embeddings is not None),
        images=listed_images(images, "images"),
        uris=checked_texts(uris, "uris", nones_allowed=True),
    )
    _require_equal_lengths(records)
    return records


def listed_images(images: Any, name: str) -> list[Any] | None:
    """Return one image (an array) or many as a list."""
    return [images] if hasattr(images, "shape") else listed(images, name)


def _require_equal_lengths(records: Records) -> None:
    columns = {
        "embeddings": records.vectors,
        "metadatas": records.metadatas,
        "documents": records.documents,
        "images": records.images,
        "uris": records.uris,
    }
    lengths = {name: len(column) for name, column in columns.items() if column is not None}
    if any(length != len(records.ids) for length in lengths.values()):
        found = " ".join(f"{name}={length}" for name, length in lengths.items())
        raise ValueError(f"the lists must have one item per id. ids={len(records.ids)} {found}")


def to_lines(records: Records, operation: Operation, vectors: Vectors | None) -> Lines:
    """Return the records of a write as lines of a stream.

    Raises:
        ValueError: a number in the metadata that JSON can't say.
    """
    metadatas = records.metadatas
    return Lines(
        ids=records.ids,
        operations=operation,
        vectors=None if vectors is None else vectors.copy(),  # the caller may use its array again when it has its answer
        documents=records.documents,
        metadatas=None if metadatas is None else [None if fields is None else to_json(fields) for fields in metadatas],
        uris=records.uris,
    )
