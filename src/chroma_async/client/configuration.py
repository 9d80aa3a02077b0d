"""A collection's configuration as users give it, and as they get it back."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any, Final, TypedDict, TypeVar, cast

import msgspec

from chroma_async.client.embedding import (
    DEFAULT_NAME,
    LEGACY,
    DefaultEmbedding,
    EmbeddingArgument,
    checked_function,
    default_space,
    describe,
    name_of,
    rebuild,
)
from chroma_async.model import Space
from chroma_async.protocol.collection_json import ConfigurationInput, ConfigurationUpdate
from chroma_async.protocol.explain import reason

PACKAGE: Final = __name__.partition(".")[0]
PARTS: Final = ("hnsw", "spann", "embedding_function")

StructT = TypeVar("StructT", bound=msgspec.Struct)


class HnswOptions(TypedDict, total=False):
    """How the index is built and searched, with Chroma's names and defaults. `space` and `ef_construction` can't change."""

    space: Space
    ef_construction: int
    ef_search: int
    max_neighbors: int
    num_threads: int
    resize_factor: float
    sync_threshold: int
    batch_size: int


class CollectionConfiguration(TypedDict, total=False):
    """`embedding_function` is the function itself; the server stores its name and configuration."""

    hnsw: HnswOptions | None
    spann: Mapping[str, Any] | None
    embedding_function: Any


def configured_function(configuration: Mapping[str, Any] | None) -> EmbeddingArgument:
    """Return the embedding function in a configuration; the description of one, as `configuration_json` has it, is built.

    Raises:
        ValueError: it is none, or can't be built here.
    """
    value = _checked(configuration).get("embedding_function")
    if isinstance(value, Mapping):
        return rebuild(cast("Mapping[str, Any]", value))
    return checked_function(value)


def chosen_function(given: EmbeddingArgument, configuration: Mapping[str, Any] | None) -> EmbeddingArgument:
    """Return the embedding function of a new collection: the argument's, or the configuration's.

    Raises:
        ValueError: two different ones.
    """
    configured = configured_function(configuration)
    if configured is None:
        return checked_function(given)
    given_name = name_of(given)
    if given_name is not None and given_name not in ("default", name_of(configured)):
        raise ValueError(
            "two embedding functions are given; pass one, as embedding_function=... or in the configuration. "
            f"argument={given_name!r} configuration={name_of(configured)!r}"
        )
    return configured


def to_input(
    configuration: Mapping[str, Any] | None, function: EmbeddingArgument, metadata: Mapping[str, Any] | None
) -> ConfigurationInput | None:
    """Return the configuration of a new collection, None when nothing is configured.

    An embedding function that prefers a distance gives it to a collection that names none, as with Chroma.

    Raises:
        ValueError: two kinds of index, or an option that is unknown or of a wrong type.
    """
    parts = _index_parts(configuration)
    if len(parts) > 1:
        raise ValueError("hnsw and spann can't both be given in a configuration; a single node has hnsw only")
    space = default_space(function)
    named = "hnsw:space" in (metadata or {}) and not parts
    if space is not None and not named:
        kind = next(iter(parts), "hnsw")
        parts[kind] = {"space": space, **parts.get(kind, {})}
    described = describe(function)
    if not parts and described is None:
        return None
    return _converted({**parts, "embedding_function": described}, ConfigurationInput)


def new_function(configuration: Mapping[str, Any] | None, stored: Mapping[str, Any] | None) -> EmbeddingArgument:
    """Return the embedding function that `modify` gives to a collection, or None.

    Raises:
        ValueError: it is none, or another one than the collection was made with, whose vectors it has.
    """
    function = configured_function(configuration)
    stored_name = None if stored is None else stored.get("name")
    given_name = DEFAULT_NAME if isinstance(function, DefaultEmbedding) else name_of(function)
    if given_name is not None and stored_name is not None and given_name != stored_name:
        raise ValueError(
            "the embedding function of a collection can't be exchanged: vectors of two models don't compare. Make another "
            f"collection. given={given_name!r} stored={stored_name!r}"
        )
    return function


def to_update(configuration: Mapping[str, Any] | None, function: EmbeddingArgument = None) -> ConfigurationUpdate | None:
    """Return what `modify` changes of the configuration; `function` is its embedding function, stored if it has a name.

    Raises:
        ValueError: an option that is unknown, can't change after creation, or is of a wrong type.
    """
    if configuration is None:
        return None
    parts = _index_parts(configuration)
    if "spann" in parts:
        raise ValueError("the index is hnsw; there is no spann to change in the configuration")
    described = describe(function)
    return _converted({**parts, "embedding_function": None if described == LEGACY else described}, ConfigurationUpdate)


def _index_parts(configuration: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    given = _checked(configuration)
    for name in given:
        if name not in PARTS:
            hint = f"did you mean {{'hnsw': {{{name!r}: ...}}}}?" if name in HnswOptions.__annotations__ else ""
            parts = hint or f"its parts are {', '.join(PARTS)}"
            message = f"{name!r} is no part of a configuration, and is ignored; {parts}"
            warnings.warn(message, UserWarning, stacklevel=_level_of_caller())
    found = {name: given[name] for name in ("hnsw", "spann") if given.get(name) is not None}
    return {name: dict(_checked(part, f"configuration[{name!r}]")) for name, part in found.items()}


def _level_of_caller() -> int:
    """How many frames above the one that asks the caller of this package is."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == PACKAGE:
        frame, level = frame.f_back, level + 1
    return level


def _checked(value: Any, name: str = "configuration") -> Mapping[str, Any]:
    """Return a dictionary; None is an empty one."""
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"{name} must be a dict. got={type(value).__name__}")
    return cast("Mapping[str, Any]", value or {})


def _converted(parts: Mapping[str, Any], kind: type[StructT]) -> StructT:
    try:
        return msgspec.convert(parts, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"the configuration is not valid: {reason(error, parts, kind)}") from error
    except UnicodeEncodeError as error:
        raise ValueError(f"the configuration has a text that is none: {error.reason}. got={error.object!r}") from error
