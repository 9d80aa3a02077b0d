"""Runs one example four ways: sync or async, embedded or over HTTP. The example says it once, sync and embedded.

    client = chromadb.PersistentClient(path="db")     client = await chromadb.AsyncHttpClient(host="localhost", port=4711)
    n = collection.count()                            n = await collection.count()

Calls on names that hold a client or a collection are awaited, constructors change their name; nothing else is touched.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import CodeType
from typing import Any, Final, cast

import chroma_async

CONSTRUCTORS: Final = frozenset({"Client", "EphemeralClient", "HttpClient", "PersistentClient"})
AWAITED: Final = frozenset(
    name
    for kind in (chroma_async.AsyncClientAPI, chroma_async.AsyncCollection)
    for name, member in inspect.getmembers(kind, inspect.iscoroutinefunction)
)
HOLDERS: Final = ("client", "collection")
KEPT_OVER_HTTP: Final = frozenset({"tenant", "database", "missing"})


@dataclass(frozen=True, slots=True)
class Colour:
    """How an example is run. `port` is that of a server on localhost, None: embedded."""

    is_async: bool
    port: int | None

    def run(self, source: str, name: str, **given: Any) -> dict[str, Any]:
        """Run an example as a module; return its names. Clients that it leaves open are closed."""
        names: dict[str, Any] = {"__name__": "example", **given}
        code = compile_example(self, source, name)
        if self.is_async:
            asyncio.run(_run_async(code, names))
        else:
            try:
                exec(code, names)
            finally:
                for client in _clients(names):
                    client.close()
        return names


def compile_example(colour: Colour, source: str, name: str) -> CodeType:
    """Return the code of an example in a colour."""
    tree: ast.Module = ast.parse(source)
    if colour.port is not None:
        tree = _OverHttp(colour.port).visit(tree)
    elif "HttpClient" in source:
        tree = _Embedded().visit(tree)
    if colour.is_async:
        tree = _Awaiting().visit(tree)
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT if colour.is_async else 0
    return compile(ast.fix_missing_locations(tree), name, "exec", flags=flags, dont_inherit=True)


async def _run_async(code: CodeType, names: dict[str, Any]) -> None:
    function = cast("Callable[..., Coroutine[Any, Any, None] | None]", eval)
    try:
        running = function(code, names)
        if running is not None:
            await running
    finally:
        for client in _clients(names):
            await client.aclose()


def _clients(names: dict[str, Any]) -> list[Any]:
    kinds = (chroma_async.ClientAPI, chroma_async.AsyncClientAPI)
    return [value for value in names.values() if isinstance(value, kinds)]


def _called(node: ast.Call) -> str | None:
    """The name of what is called: `PersistentClient` of `chromadb.PersistentClient(...)`."""
    function = node.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else None


def _rename(node: ast.Call, name: str) -> None:
    if isinstance(node.func, ast.Attribute):
        node.func.attr = name
    elif isinstance(node.func, ast.Name):
        node.func.id = name


class _Replacing(ast.NodeTransformer, ABC):
    """Replaces the constructors of clients, and what is imported for them."""

    @abstractmethod
    def constructor(self, node: ast.Call) -> None:
        """Replace a call that makes a client."""

    @abstractmethod
    def imported(self, name: str) -> str:
        """Return the name to import instead."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if _called(node) in CONSTRUCTORS:
            self.constructor(node)
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        if node.module == "chroma_async":
            for alias in node.names:
                if alias.name in CONSTRUCTORS:
                    alias.name = self.imported(alias.name)
        return node


class _OverHttp(_Replacing):
    """Any client becomes one of the server at this port."""

    def __init__(self, port: int) -> None:
        self._port = port

    def constructor(self, node: ast.Call) -> None:
        _rename(node, "HttpClient")
        kept = [keyword for keyword in node.keywords if keyword.arg in KEPT_OVER_HTTP]
        node.args = []
        node.keywords = [
            ast.keyword("host", ast.Constant("localhost")),
            ast.keyword("port", ast.Constant(self._port)),
            *kept,
        ]

    def imported(self, name: str) -> str:
        return "HttpClient"


class _Embedded(_Replacing):
    """A client of a server becomes one of a directory."""

    def constructor(self, node: ast.Call) -> None:
        if _called(node) == "HttpClient":
            _rename(node, "PersistentClient")
            node.args = []
            node.keywords = [ast.keyword("path", ast.Constant("served"))]

    def imported(self, name: str) -> str:
        return "PersistentClient" if name == "HttpClient" else name


class _Awaiting(_Replacing):
    """Awaits what is a coroutine."""

    def constructor(self, node: ast.Call) -> None:
        _rename(node, f"Async{_called(node)}")

    def imported(self, name: str) -> str:
        return f"Async{name}"

    def visit_Call(self, node: ast.Call) -> ast.AST:
        constructs = _called(node) in CONSTRUCTORS
        super().visit_Call(node)
        return ast.Await(node) if constructs or self._is_awaited(node) else node

    def _is_awaited(self, node: ast.Call) -> bool:
        function = node.func
        if not isinstance(function, ast.Attribute) or function.attr not in AWAITED:
            return False
        holder = function.value
        return isinstance(holder, ast.Name) and holder.id.endswith(HOLDERS)

    def visit_With(self, node: ast.With) -> ast.AST:
        constructs = any(
            isinstance(item.context_expr, ast.Call) and _called(item.context_expr) in CONSTRUCTORS for item in node.items
        )
        self.generic_visit(node)
        if not constructs:
            return node
        for item in node.items:
            if isinstance(item.context_expr, ast.Await):
                item.context_expr = item.context_expr.value
        return ast.AsyncWith(items=node.items, body=node.body)
