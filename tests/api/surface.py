"""The public surface of a client package, ours or Chroma's, as a table: name to what can be seen of it."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import chromadb
import chromadb.errors
import chromadb.utils.batch_utils
import chromadb.utils.embedding_functions
from chromadb.api.async_client import AsyncAdminClient as TheirAsyncAdminClient
from chromadb.api.async_client import AsyncClient as TheirAsyncClient
from chromadb.api.client import AdminClient as TheirAdminClient
from chromadb.api.client import Client as TheirClient
from chromadb.api.models.AsyncCollection import AsyncCollection as TheirAsyncCollection
from chromadb.api.types import DefaultEmbeddingFunction

import chroma_async
from chroma_async.client.embedding import DefaultEmbedding
from chroma_async.client.settings import WITHOUT_EFFECT

CLASSES: dict[str, tuple[type[Any], type[Any]]] = {
    "ClientAPI": (TheirClient, chroma_async.ClientAPI),
    "AsyncClientAPI": (TheirAsyncClient, chroma_async.AsyncClientAPI),
    "AdminAPI": (TheirAdminClient, chroma_async.AdminAPI),
    "AsyncAdminAPI": (TheirAsyncAdminClient, chroma_async.AsyncAdminAPI),
    "Collection": (chromadb.Collection, chroma_async.Collection),
    "AsyncCollection": (TheirAsyncCollection, chroma_async.AsyncCollection),
    "EmbeddingFunction": (chromadb.EmbeddingFunction, chroma_async.EmbeddingFunction),
    "Schema": (chromadb.Schema, chroma_async.Schema),
    "errors.ChromaError": (chromadb.errors.ChromaError, chroma_async.errors.ChromaError),
}
RECORDS = (
    "FtsIndexConfig",
    "HnswIndexConfig",
    "SpannIndexConfig",
    "VectorIndexConfig",
    "SparseVectorIndexConfig",
    "StringInvertedIndexConfig",
    "IntInvertedIndexConfig",
    "FloatInvertedIndexConfig",
    "BoolInvertedIndexConfig",
    "GetResult",
    "QueryResult",
)
"""Classes of which only the fields matter."""

DEFAULT_FUNCTION = "the default embedding function"
DEFAULT_SETTINGS = "the default settings"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a program can tell of a name. `parameters` may be passed by position: name and default, in order."""

    kind: str
    parameters: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        if self.kind in ("value", "property"):
            return self.kind
        shown = (name if default is inspect.Parameter.empty else f"{name}={default!r}" for name, default in self.parameters)
        return f"{self.kind} ({', '.join(shown)})"


def surface(*, ours: bool) -> dict[str, Seen]:
    """Every public name: `HttpClient`, `Collection.add`, `errors.NotFoundError`, `Settings.allow_reset`."""
    package, errors = (chroma_async, chroma_async.errors) if ours else (chromadb, chromadb.errors)
    found = dict(_module_names(package))
    found |= {f"errors.{name}": Seen("class") for name in _error_classes(errors)}
    for name, pair in CLASSES.items():
        found |= {f"{name}.{member}": seen for member, seen in _members(pair[ours])}
    for name in RECORDS:
        found |= {f"{name}.{field}": Seen("value") for field in _fields(getattr(package, name, None))}
    found |= {f"Settings.{field}": Seen("value") for field in _settings(package.Settings, ours=ours)}
    for module in (package.utils.embedding_functions, package.utils.batch_utils):
        place = module.__name__.partition(".")[2]
        found |= {f"{place}.{name}": _seen_of_export(name, getattr(module, name)) for name in _exported(module)}
    return found


def _exported(module: ModuleType) -> list[str]:
    own = (name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__)
    return list(getattr(module, "__all__", own))


def differences() -> dict[str, str]:
    """What Chroma has and we have not, or what looks otherwise: name, and what each side is. More than Chroma is none."""
    theirs, ours = surface(ours=False), surface(ours=True)
    return {
        name: f"{original} | {ours.get(name, 'absent')}" for name, original in theirs.items() if ours.get(name) != original
    }


def _module_names(package: ModuleType) -> Iterator[tuple[str, Seen]]:
    for name in dir(package):
        value = getattr(package, name)
        if name.startswith("_") or inspect.ismodule(value) or _is_borrowed(value):
            continue
        yield name, _seen_of_export(name, value)


def _is_borrowed(value: Any) -> bool:
    """Whether it came from the standard library: `Path` and its like."""
    return getattr(typing, getattr(value, "_name", None) or "", None) is value or (
        inspect.isclass(value) and value.__module__.split(".")[0] in ("pathlib", "typing")
    )


def _seen_of_export(name: str, value: Any) -> Seen:
    """A constructor is a function at Chroma's, a class with us, which looks the same."""
    if inspect.isfunction(value) or (inspect.isclass(value) and name.endswith("Client")):
        return Seen("callable", _parameters(value))
    return Seen("value")


def _error_classes(module: ModuleType) -> Iterator[str]:
    for name, value in vars(module).items():
        if inspect.isclass(value) and issubclass(value, module.ChromaError):
            yield name


def _members(kind: type[Any]) -> Iterator[tuple[str, Seen]]:
    for name in dir(kind):
        if name.startswith("_") or hasattr(BaseException, name):
            continue
        member = inspect.getattr_static(kind, name)
        function = getattr(kind, name)
        if isinstance(member, property):
            yield name, Seen("property")
        elif callable(function):
            colour = "async method" if inspect.iscoroutinefunction(function) else "method"
            yield name, Seen(colour, _parameters(function))


def _parameters(function: Any) -> tuple[tuple[str, Any], ...]:
    return tuple(
        (found.name, DEFAULT_SETTINGS if found.name == "settings" else _comparable(found.default))
        for found in inspect.signature(function).parameters.values()
        if found.name != "self" and found.kind is not found.KEYWORD_ONLY
    )


def _comparable(default: Any) -> Any:
    """Defaults that mean the same: lists and tuples, the embedding functions. Settings are compared field by field."""
    if isinstance(default, DefaultEmbedding | DefaultEmbeddingFunction):
        return DEFAULT_FUNCTION
    return tuple(default) if isinstance(default, list) else default


def _fields(kind: Any) -> Mapping[str, Any]:
    declared: Mapping[str, Any] = getattr(kind, "model_fields", None) or getattr(kind, "__annotations__", {})
    return {name: annotation for name, annotation in declared.items() if not name.startswith("_") and name != "model_config"}


def _settings(kind: Any, *, ours: bool) -> set[str]:
    if not ours:
        return set(kind.model_fields)
    return {*kind.__dataclass_fields__, *WITHOUT_EFFECT}
