"""What an import loads, and what it must leave alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

import chroma_async
from chroma_async.api.types import validate_where, validate_where_document

ENGINE_PARTS = {
    "chroma_async.engine",
    "chroma_async.server",
    "chroma_async.projections",
    "chroma_async.wal",
    "chroma_async.index",
    "aiosqlite",
    "click",
    "hypercorn",
    "numkong",
    "onnxruntime",
    "passlib",
    "prometheus_client",
    "re2",
    "sqlite3",
    "starlette",
    "tokenizers",
    "usearch",
}
CLIENT_PARTS = {"anyio", "chroma_async", "httpx", "msgspec", "numpy", "orjson", "pybase64"}


def imported_by(statement: str) -> list[str]:
    """Modules that a fresh interpreter imports for a statement, outermost last, as `-X importtime` lists them."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", statement], capture_output=True, text=True, check=True, timeout=60
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return [line.rpartition("|")[2].strip() for line in lines[1:]]


def test_the_bare_package_loads_neither_client_nor_dependencies() -> None:
    modules = set(imported_by("import chroma_async"))
    assert "chroma_async" in modules
    assert not {module for module in modules if module.startswith("chroma_async.")}
    assert not modules & (CLIENT_PARTS - {"chroma_async"})


@pytest.mark.parametrize(
    "names", ["AsyncHttpClient", "HttpClient", "AsyncPersistentClient, PersistentClient, EphemeralClient", "wrap, Settings"]
)
def test_a_client_loads_no_engine_and_no_server(names: str) -> None:
    modules = set(imported_by(f"from chroma_async import {names}"))
    assert not modules & ENGINE_PARTS


def test_a_client_loads_only_what_the_base_install_has() -> None:
    code = "import sys; from chroma_async import AsyncHttpClient, HttpClient; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = {name.partition(".")[0] for name in done.stdout.split()} - set(sys.stdlib_module_names)
    brought_by_httpx = {"certifi", "h11", "httpcore", "idna", "sniffio", "typing_extensions", "socksio"}
    optional_of_httpx = {"brotli", "brotlicffi", "zstandard", "click", "pygments", "rich", "markdown_it", "mdurl"}
    unexpected = {name for name in loaded if not name.startswith("_")} - CLIENT_PARTS - brought_by_httpx - optional_of_httpx
    assert unexpected <= {"sitecustomize", "usercustomize", "cython_runtime"}


@pytest.mark.parametrize(
    "name",
    [
        "api.types.Documents", "api.models", "api.ClientAPI", "config.Settings", "errors.NotFoundError",
        "utils.embedding_functions.DefaultEmbeddingFunction", "utils.batch_utils.create_batches",
    ],
)  # fmt: skip
def test_a_name_in_a_module_is_there_without_importing_the_module_first(name: str) -> None:
    code = f"import chroma_async as chromadb; print(chromadb.{name})"
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)


def test_every_public_name_is_there() -> None:
    for name in chroma_async.__all__:
        assert getattr(chroma_async, name) is not None
    assert set(chroma_async.__all__) <= set(dir(chroma_async))
    with pytest.raises(AttributeError, match="NoSuchName"):
        getattr(chroma_async, "NoSuchName")  # noqa: B009


@pytest.mark.parametrize(
    "statement",
    [
        "from chroma_async.api.client import AdminClient, Client, ClientAPI, SharedSystemClient",
        "from chroma_async.api import ServerAPI",
        "from chroma_async.api.types import validate_where, validate_where_document",
        "from chroma_async.utils.embedding_functions.openai_embedding_function import OpenAIEmbeddingFunction",
        "from chroma_async.utils.embedding_functions.ollama_embedding_function import OllamaEmbeddingFunction",
        "from chroma_async.utils.embedding_functions.cohere_embedding_function import CohereEmbeddingFunction",
        "from chroma_async.utils.embedding_functions.sentence_transformer_embedding_function import "
        "SentenceTransformerEmbeddingFunction",
        "import chroma_async; chroma_async.api.client.SharedSystemClient.clear_system_cache()",
    ],
)
def test_what_packages_for_chroma_import_is_where_they_look_for_it(statement: str) -> None:
    """As agno, crewai, mem0 and chroma-haystack do."""
    assert imported_by(statement)


def test_filters_are_checked_by_the_names_of_chroma() -> None:
    validate_where({"year": {"$gt": 1960}})
    validate_where_document({"$contains": "x"})
    with pytest.raises(ValueError, match="unknown"):
        validate_where({"year": {"$over": 1960}})
    with pytest.raises(ValueError, match="where is None"):
        validate_where(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one character"):
        validate_where_document({"$contains": ""})
