"""Embedding functions: texts to vectors, on the client only; the server stores a name and a configuration, nothing more.

Anything callable with a list of texts will do, sync or async. One with `name()`, `get_config()` and
`build_from_config(config)` is described in the collection's configuration, and rebuilt by a client that has registered it
under that name. Nothing is ever imported because a configuration names it, but for our own default.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias, TypeVar, cast, overload

from chroma_async.model import Json, JsonObject, Space

EmbeddingCallable: TypeAlias = Callable[[list[Any]], Any]
"""Takes a list of n texts; returns n vectors (lists of numbers, or an (n, ndim) array), or a coroutine that does."""

ClassT = TypeVar("ClassT", bound=type[Any])

LEGACY: Final[Mapping[str, Json]] = {"type": "legacy"}

HOW_TO_PASS: Final = "pass embedding_function=... to the client's method, or vectors: embeddings=... or query_embeddings=..."


DEFAULT_NAME: Final = "default"

DEFAULT_DESCRIPTION: Final[Mapping[str, Json]] = {"type": "known", "name": DEFAULT_NAME, "config": {}}


class DefaultEmbedding:
    """The default of `embedding_function`: none of the caller's. The collection's configuration decides, else it is the
    default model, `chroma_async.client.embeddings.DefaultEmbeddingFunction`; a new collection stores its name.
    """

    def __repr__(self) -> str:
        return "DEFAULT_EMBEDDING"


DEFAULT_EMBEDDING: Final = DefaultEmbedding()

EmbeddingArgument: TypeAlias = EmbeddingCallable | DefaultEmbedding | None


class EmbeddingFunction:
    """A base for embedding functions with a name; deriving from it is a convenience, not a duty.

    `__call__` is to be written. `name`, `get_config` and `build_from_config` raise NotImplementedError until they are, as
    those of Chroma's functions do: collections then don't store how the function is made.

    `__call__` may be `async def`. `embed_query` is for models that embed questions in another way than documents.
    """

    def __class_getitem__(cls, item: Any) -> type[EmbeddingFunction]:
        """`EmbeddingFunction[Documents]`, as functions for Chroma say it, is the class itself."""
        return cls

    def __call__(self, input: list[Any]) -> Any:  # noqa: A002 - the name that Chroma's functions have
        """Return one vector for each of the n inputs, shape (n, ndim)."""
        raise NotImplementedError

    def embed_query(self, input: list[Any]) -> Any:  # noqa: A002
        """Return one vector for each of the n questions; by default the same as for documents."""
        return self(input)

    @staticmethod
    def name() -> str:
        """Name under which clients register it."""
        raise NotImplementedError

    def get_config(self) -> JsonObject:
        """Return what `build_from_config` needs to build an equal one. No secrets: the server stores it."""
        raise NotImplementedError

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> Any:
        raise NotImplementedError

    def default_space(self) -> Space:
        """Distance of a new collection that names none."""
        return "l2"


class WrappedFunction(EmbeddingFunction):
    """A plain callable under a name, see `wrap`."""

    def __init__(self, function: EmbeddingCallable, name: str, query: EmbeddingCallable | None, space: Space) -> None:
        self._function = function
        self._query = query or function
        self._name = name
        self._space: Space = space

    def __call__(self, input: list[Any]) -> Any:  # noqa: A002
        return self._function(input)

    def embed_query(self, input: list[Any]) -> Any:  # noqa: A002
        return self._query(input)

    def name(self) -> str:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._name

    def get_config(self) -> JsonObject:
        return {}

    def default_space(self) -> Space:
        return self._space


Builder: TypeAlias = Callable[[dict[str, Any]], EmbeddingCallable]


def _build_default(config: dict[str, Any]) -> EmbeddingCallable:
    from chroma_async.client.embeddings.default import DefaultEmbeddingFunction

    return DefaultEmbeddingFunction.build_from_config(config)


_registry: Final[dict[str, Builder]] = {DEFAULT_NAME: _build_default}


def wrap(
    function: EmbeddingCallable, *, name: str, query: EmbeddingCallable | None = None, space: Space = "l2"
) -> WrappedFunction:
    """Name a plain callable, sync or async, and register it: collections that were made with it find it again by name.

    `query` embeds questions where the model distinguishes them; `space` is the distance of new collections that name none.
    """
    wrapped = WrappedFunction(cast("EmbeddingCallable", checked_function(function)), name, query, space)
    _registry[name] = lambda config: wrapped
    return wrapped


@overload
def register_embedding_function(ef_class: ClassT) -> ClassT: ...
@overload
def register_embedding_function(ef_class: None = None) -> Callable[[ClassT], ClassT]: ...
def register_embedding_function(ef_class: Any = None) -> Any:
    """Register a class with `name()` and `build_from_config(config)`, both static; usable as a decorator.

    Raises:
        TypeError: one of the two is missing.
    """
    if ef_class is None:
        return register_embedding_function
    build: Any = getattr(ef_class, "build_from_config", None)
    if not callable(getattr(ef_class, "name", None)) or not callable(build):
        raise TypeError(f"an embedding function to register needs name() and build_from_config(config). got={ef_class!r}")
    _registry[ef_class.name()] = cast("Builder", build)
    return ef_class


def checked_function(function: EmbeddingArgument) -> EmbeddingArgument:
    """Return the function.

    Raises:
        ValueError: it can't be called, or is a class rather than one of its objects.
    """
    if isinstance(function, type):
        raise ValueError(f"embedding_function={function.__name__} is a class; make one, such as {function.__name__}(...)")
    if function is None or isinstance(function, DefaultEmbedding) or callable(function):
        return function
    raise ValueError(f"embedding_function must be something that can be called with a list of texts. got={function!r:.200}")


def name_of(function: EmbeddingArgument) -> str | None:
    """Return the name of an embedding function, or None when it has none."""
    name = getattr(function, "name", None)
    if not callable(name):
        return None
    try:
        answer = name()
    except (NotImplementedError, TypeError):
        return None
    return answer if isinstance(answer, str) else None


def describe(function: EmbeddingArgument) -> JsonObject | None:
    """Return what the collection's configuration stores, and register the function's class for this process."""
    if function is None:
        return None
    if isinstance(function, DefaultEmbedding):
        return dict(DEFAULT_DESCRIPTION)
    name = name_of(function)
    config = getattr(function, "get_config", None)
    build = getattr(type(function), "build_from_config", None)
    if name is None or not callable(config) or not callable(build):
        return dict(LEGACY)
    try:
        described: JsonObject = {"type": "known", "name": name, "config": cast("Json", config())}
    except NotImplementedError:
        return dict(LEGACY)
    if not isinstance(function, WrappedFunction):
        _registry[name] = cast("Builder", build)
    return described


def rebuild(described: Mapping[str, Any] | None) -> EmbeddingCallable | None:
    """Return the embedding function that a collection's configuration describes, None when it describes none.

    Raises:
        ValueError: it is not registered here, or can't be built; the message says what to do.
    """
    if described is None or described.get("type") != "known":
        return None
    name = described.get("name")
    build = _registry.get(str(name))
    if build is None:
        raise ValueError(
            f"the collection's embedding function is not registered in this process: register_embedding_function(...), "
            f"or {HOW_TO_PASS}. name={name!r} registered={sorted(_registry)}"
        )
    try:
        return build(described.get("config") or {})
    except Exception as error:
        raise ValueError(f"can't build the collection's embedding function; {HOW_TO_PASS}. name={name!r}") from error


def resolve(given: EmbeddingArgument, stored: Mapping[str, Any] | None) -> EmbeddingCallable | None:
    """Return what embeds the texts of a collection, None when there is nothing.

    The caller's function; but the default gives way to what the collection was made with, as with Chroma. Where nothing is
    stored and the caller named nothing, it is the default.

    Raises:
        ValueError: the stored one is not registered here, or can't be built.
    """
    own = None if isinstance(given, DefaultEmbedding) else given
    stored_name = None if stored is None else stored.get("name")
    if own is not None and (name_of(own) != DEFAULT_NAME or stored_name in (None, DEFAULT_NAME)):
        return own
    return rebuild(DEFAULT_DESCRIPTION if stored is None and given is not None else stored)


def default_space(function: EmbeddingArgument) -> Space | None:
    """Return the distance that the function prefers, if it says so."""
    prefers = getattr(function, "default_space", None)
    if isinstance(function, type) or not callable(prefers) or name_of(function) is None:
        return None
    return cast("Space", prefers())


def query_target(function: EmbeddingCallable) -> EmbeddingCallable:
    """Return what embeds questions: `embed_query` where the function has its own, else the function itself."""
    own = getattr(type(function), "embed_query", None)
    if own is None or own is EmbeddingFunction.embed_query or not inspect.isroutine(own):
        return function
    return cast("EmbeddingCallable", function.embed_query)  # type: ignore[attr-defined]  # pyright: ignore


def require_same(given: EmbeddingArgument, stored: Mapping[str, Any] | None) -> None:
    """Refuse an embedding function other than the one that the collection was made with, and what is none.

    Raises:
        ValueError: both names, or what it is.
    """
    given_name = name_of(checked_function(given))
    stored_name = None if stored is None else stored.get("name")
    if given_name is not None and stored_name is not None and given_name not in (DEFAULT_NAME, stored_name):
        raise ValueError(
            "the collection has another embedding function; leave embedding_function out, or embed yourself and pass "
            f"vectors. given={given_name!r} stored={stored_name!r}"
        )
