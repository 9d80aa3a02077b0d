"""The default embedding function: its place among the others, and what it needs installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chroma_async import wrap
from chroma_async.client.configuration import to_input
from chroma_async.client.embedding import DEFAULT_DESCRIPTION, DEFAULT_EMBEDDING, describe, rebuild, require_same, resolve
from chroma_async.client.embeddings import (
    CohereEmbeddingFunction,
    DefaultEmbeddingFunction,
    OllamaEmbeddingFunction,
    OpenAIEmbeddingFunction,
    SentenceTransformerEmbeddingFunction,
)
from chroma_async.client.embeddings.locate import named_directory, own_cache

LEGACY = {"type": "legacy"}


def plain(texts: list[str]) -> list[list[float]]:
    return [[1.0] for _ in texts]


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)


def test_the_default_is_stored_as_by_chroma_and_built_from_that() -> None:
    assert describe(DefaultEmbeddingFunction(model_dir="anywhere")) == DEFAULT_DESCRIPTION
    assert isinstance(rebuild(DEFAULT_DESCRIPTION), DefaultEmbeddingFunction)
    stored = to_input(None, DEFAULT_EMBEDDING, None)
    assert stored is not None
    assert (stored.embedding_function, stored.hnsw) == (DEFAULT_DESCRIPTION, None)


def test_none_means_none_and_nothing_means_the_default() -> None:
    assert resolve(None, None) is None
    assert resolve(None, LEGACY) is None
    assert isinstance(resolve(DEFAULT_EMBEDDING, None), DefaultEmbeddingFunction)
    assert isinstance(resolve(DEFAULT_EMBEDDING, DEFAULT_DESCRIPTION), DefaultEmbeddingFunction)
    assert isinstance(resolve(None, DEFAULT_DESCRIPTION), DefaultEmbeddingFunction)


def test_a_function_without_a_name_is_not_taken_for_the_default() -> None:
    assert resolve(DEFAULT_EMBEDDING, LEGACY) is None


def test_the_default_gives_way_to_the_stored_function_and_no_other_does() -> None:
    wrapped = wrap(plain, name="wrapped-for-resolve")
    stored = describe(wrapped)
    given = DefaultEmbeddingFunction()
    assert resolve(DEFAULT_EMBEDDING, stored) is wrapped
    assert resolve(given, stored) is wrapped
    assert resolve(given, None) is given
    assert resolve(given, LEGACY) is given
    assert resolve(plain, stored) is plain
    require_same(given, stored)


@pytest.mark.parametrize("package", ["onnxruntime", "tokenizers"])
def test_a_missing_package_is_named_with_the_command_at_the_first_text(package: str) -> None:
    done = run(f"""
import sys
sys.modules[{package!r}] = None
from chroma_async.client.embeddings import DefaultEmbeddingFunction
function = DefaultEmbeddingFunction()
print("constructed")
function(["text"])
""")
    assert done.stdout == "constructed\n"
    *_, last = done.stderr.strip().splitlines()
    assert last.startswith(f"ImportError: this embedding function needs {package}: pip install 'chroma-async[embeddings]'")


def test_importing_and_constructing_loads_no_vendors_package_and_opens_no_connection() -> None:
    done = run("""
import socket, sys
def refuse(*arguments): raise AssertionError("a connection")
socket.socket.connect = refuse
from chroma_async.client import embeddings
embeddings.DefaultEmbeddingFunction(), embeddings.OllamaEmbeddingFunction()
embeddings.OpenAIEmbeddingFunction(), embeddings.CohereEmbeddingFunction()
embeddings.SentenceTransformerEmbeddingFunction()
print(*{"onnxruntime", "tokenizers", "sentence_transformers", "openai", "ollama", "cohere"} & set(sys.modules))
""")
    assert (done.stdout, done.stderr) == ("\n", "")


def test_our_own_modules_ask_for_rich_only_when_something_is_downloaded() -> None:
    done = run("""
import sys
sys.modules["rich"] = None
from chroma_async.client.embeddings import DefaultEmbeddingFunction
from chroma_async import AsyncHttpClient, EphemeralClient
print("fine")
""")
    assert (done.stdout, done.stderr) == ("fine\n", "")


def test_an_argument_counts_more_than_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CHROMA_ASYNC_MODEL_DIR", str(tmp_path / "environment"))
    assert named_directory(tmp_path / "argument") == tmp_path / "argument"
    assert named_directory(None) == tmp_path / "environment"
    monkeypatch.delenv("CHROMA_ASYNC_MODEL_DIR")
    assert named_directory(None) is None


def test_our_cache_is_where_the_system_keeps_caches() -> None:
    model = Path("chroma_async") / "all-MiniLM-L6-v2"
    assert own_cache({}) == Path.home() / ".cache" / model
    assert own_cache({"XDG_CACHE_HOME": "/caches"}) == Path("/caches") / model


STORED_BY_CHROMA = [
    (
        OpenAIEmbeddingFunction,
        {
            "api_key_env_var": "MY_KEY",
            "model_name": "text-embedding-3-small",
            "organization_id": "org",
            "api_base": "https://example.org/v1",
            "api_type": None,
            "api_version": None,
            "deployment_id": None,
            "default_headers": {"X-Team": "search"},
            "dimensions": 256,
        },
    ),
    (OllamaEmbeddingFunction, {"url": "http://localhost:11434", "model_name": "nomic-embed-text", "timeout": 60}),
    (CohereEmbeddingFunction, {"api_key_env_var": "MY_KEY", "model_name": "embed-english-v3.0"}),
    (
        SentenceTransformerEmbeddingFunction,
        {"model_name": "all-MiniLM-L6-v2", "device": "cpu", "normalize_embeddings": False, "kwargs": {"revision": "main"}},
    ),
]


@pytest.mark.parametrize(("kind", "stored"), STORED_BY_CHROMA)
def test_what_chroma_stored_is_built_and_stored_again_alike(kind: Any, stored: dict[str, Any]) -> None:
    from chromadb.utils.embedding_functions.schemas import validate_config_schema

    built = kind.build_from_config(stored)
    assert built.get_config() == stored
    validate_config_schema(built.get_config(), built.name())
    assert describe(built) == {"type": "known", "name": kind.name(), "config": stored}


def test_secrets_are_not_stored() -> None:
    function = OpenAIEmbeddingFunction(
        api_key="sk-1234",
        api_base="https://user:sk-1234@example.org/v1",
        default_headers={"X-Api-Key": "sk-1234", "Authorization": "sk-1234", "X-Team": "search"},
    )
    stored = function.get_config()
    assert "1234" not in repr(stored)
    assert stored["api_base"] == "https://example.org/v1"
    assert stored["default_headers"] == {"X-Team": "search"}
    assert "1234" not in repr(CohereEmbeddingFunction(api_key="sk-1234").get_config())
    assert "1234" not in repr(OllamaEmbeddingFunction(url="http://me:sk-1234@localhost:11434").get_config())


def test_a_stored_configuration_may_not_run_code_of_strangers() -> None:
    config = {"model_name": "x", "device": "cpu", "normalize_embeddings": False}
    asking = {"trust_remote_code": True}
    places = (
        {"kwargs": asking},
        asking,
        {"model_kwargs": asking},
        {"kwargs": {"tokenizer_kwargs": asking}},
        {"kwargs": {"config_kwargs": {"more": [asking]}}},
        {"trust_remote_code": "yes"},
    )
    for place in places:
        with pytest.raises(ValueError, match="trust_remote_code"):
            SentenceTransformerEmbeddingFunction.build_from_config({**config, **place})
    built = SentenceTransformerEmbeddingFunction.build_from_config({**config, "kwargs": {"trust_remote_code": False}})
    assert built.kwargs == {"trust_remote_code": False}
    with pytest.raises(ValueError, match=r"plain values.*model=object"):
        SentenceTransformerEmbeddingFunction(model=object())


def test_sentence_transformers_is_asked_for_once_and_only_at_the_first_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package itself would bring PyTorch; a stand-in with its signature shows what it is told."""
    (tmp_path / "sentence_transformers.py").write_text("""
import numpy as np
made = []
class SentenceTransformer:
    def __init__(self, model_name_or_path, *, device=None, revision=None):
        made.append((model_name_or_path, device, revision))
    def encode(self, sentences, *, show_progress_bar, convert_to_numpy, normalize_embeddings):
        assert convert_to_numpy and not show_progress_bar
        vectors = np.array([[3.0 * len(text), 4.0 * len(text)] for text in sentences])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if normalize_embeddings else vectors
""")
    function = SentenceTransformerEmbeddingFunction("my-model", revision="v2")
    with pytest.raises(ImportError, match="pip install sentence-transformers"):
        function(["a"])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sentence_transformers", raising=False)
    assert function(["a", "bc"]).tolist() == [[3.0, 4.0], [6.0, 8.0]]
    normalized = SentenceTransformerEmbeddingFunction("my-model", normalize_embeddings=True, revision="v2")
    assert normalized(["a"]).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)]]
    assert sys.modules["sentence_transformers"].made == [("my-model", "cpu", "v2")]
    monkeypatch.delitem(sys.modules, "sentence_transformers")
