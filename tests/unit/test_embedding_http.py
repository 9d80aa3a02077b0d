"""The adapters of services, each against a server that speaks its protocol."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tests.embedding.loopback import serving

from chroma_async import EphemeralClient, register_embedding_function
from chroma_async.client.embeddings import (
    CohereEmbeddingFunction,
    EmbeddingError,
    OllamaEmbeddingFunction,
    OpenAIEmbeddingFunction,
)

pytestmark = pytest.mark.anyio


def vector(text: str) -> list[float]:
    return [float(text.count("a")), float(text.count("b")), 1.0]


@dataclass
class Service:
    """Speaks OpenAI's, Azure's, Ollama's and Cohere's protocol; `refusals` are answered before anything else."""

    url: str = ""
    requests: list[tuple[Request, dict[str, Any]]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    refusals: list[Response] = field(default_factory=list)
    key: str | None = None

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append((request, body))
        self.times.append(time.monotonic())
        if self.refusals:
            return self.refusals.pop(0)
        if self.key and self.key not in (request.headers.get("authorization"), request.headers.get("api-key")):
            return JSONResponse({"error": {"message": "Incorrect API key"}}, 401)
        return JSONResponse(self._vectors(request.url.path, body))

    def _vectors(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path.endswith("/embeddings"):
            items = [{"index": number, "embedding": vector(text)} for number, text in enumerate(body["input"])]
            return {"object": "list", "data": items[::-1], "model": body["model"]}
        if path == "/api/embed":
            return {"embeddings": [vector(text) for text in body["input"]]}
        assert path == "/v1/embed"
        return {"embeddings": [vector(text) for text in body["texts"]]}

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [body for _, body in self.requests]


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    with serving(Starlette(routes=[Route("/{path:path}", service.answer, methods=["POST"])])) as url:
        service.url = url
        yield service


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for vendor in ("OPENAI", "COHERE"):
        monkeypatch.delenv(f"{vendor}_API_KEY", raising=False)
        monkeypatch.delenv(f"CHROMA_{vendor}_API_KEY", raising=False)


async def test_openai_is_asked_in_its_form_and_answers_in_any_order(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.key = "Bearer sk-1"
    monkeypatch.setenv("MY_KEY", "sk-1")
    function = OpenAIEmbeddingFunction(
        model_name="text-embedding-3-small",
        api_base=f"{service.url}/v1/",
        organization_id="org",
        default_headers={"X-Team": "search"},
        dimensions=3,
        api_key_env_var="MY_KEY",
    )
    vectors = await function(["a", "bb", "ab"])
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [vector("a"), vector("bb"), vector("ab")]
    request, body = service.requests[0]
    assert request.url.path == "/v1/embeddings"
    assert request.headers["openai-organization"] == "org"
    assert request.headers["x-team"] == "search"
    expected = {"model": "text-embedding-3-small", "input": ["a", "bb", "ab"], "encoding_format": "float", "dimensions": 3}
    assert body == expected


async def test_azure_is_asked_at_its_deployment(service: Service) -> None:
    service.key = "azure-key"
    function = OpenAIEmbeddingFunction(
        api_key="azure-key", api_base=service.url, api_type="azure", api_version="2024-02-01", deployment_id="mine"
    )
    assert (await function(["a"])).shape == (1, 3)
    request, _ = service.requests[0]
    assert request.url.path == "/openai/deployments/mine/embeddings"
    assert request.query_params["api-version"] == "2024-02-01"
    with pytest.raises(ValueError, match="azure needs"):
        OpenAIEmbeddingFunction(api_key="azure-key", api_base=service.url, api_type="azure")


async def test_a_compatible_server_needs_no_key_and_openai_does(service: Service) -> None:
    assert (await OpenAIEmbeddingFunction(api_base=service.url)(["a"])).shape == (1, 3)
    assert "authorization" not in service.requests[0][0].headers
    with pytest.raises(EmbeddingError, match="openai needs a key: set the environment variable CHROMA_OPENAI_API_KEY"):
        await OpenAIEmbeddingFunction()(["a"])


async def test_many_texts_travel_in_parts_and_keep_their_order(service: Service) -> None:
    texts = ["a" * (number % 7) + "b" * (number % 5) for number in range(600)]
    vectors = await OpenAIEmbeddingFunction(api_base=service.url)(texts)
    assert vectors.tolist() == [vector(text) for text in texts]
    assert [len(body["input"]) for body in service.bodies] == [256, 256, 88]
    assert (await OpenAIEmbeddingFunction(api_base=service.url)([])).shape == (0, 0)


async def test_ollama_is_asked_in_its_form_also_at_the_old_url(service: Service) -> None:
    for url in (service.url, service.url + "/", service.url + "/api/embeddings"):
        vectors = await OllamaEmbeddingFunction(url=url, model_name="nomic-embed-text")(["a", "b"])
        assert vectors.tolist() == [vector("a"), vector("b")]
    assert [request.url.path for request, _ in service.requests] == ["/api/embed"] * 3
    assert service.bodies == [{"model": "nomic-embed-text", "input": ["a", "b"]}] * 3


async def test_cohere_tells_questions_from_documents(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.key = "Bearer co-1"
    monkeypatch.setenv("COHERE_API_KEY", "co-1")
    monkeypatch.setenv("CO_API_URL", service.url)
    function = CohereEmbeddingFunction(model_name="embed-english-v3.0")
    assert (await function(["a"] * 100)).shape == (100, 3)
    assert (await function.embed_query(["b"])).tolist() == [vector("b")]
    assert [body["input_type"] for body in service.bodies] == ["search_document", "search_document", "search_query"]
    assert [len(body["texts"]) for body in service.bodies] == [96, 4, 1]
    assert CohereEmbeddingFunction(model_name="embed-multilingual-v2.0").default_space() == "ip"


async def test_a_busy_service_is_asked_again_after_the_wait_that_it_names(service: Service) -> None:
    service.refusals = [Response("slow down", 429, {"Retry-After": "1"})]
    assert (await OllamaEmbeddingFunction(url=service.url)(["a"])).shape == (1, 3)
    assert len(service.times) == 2
    assert service.times[1] - service.times[0] >= 1.0


async def test_a_failing_service_is_asked_again(service: Service) -> None:
    service.refusals = [Response("oops", 503)]
    assert (await OllamaEmbeddingFunction(url=service.url)(["a"])).shape == (1, 3)
    assert len(service.requests) == 2


async def test_a_wait_of_more_than_a_minute_is_not_waited_for(service: Service) -> None:
    service.refusals = [Response("tomorrow", 429, {"Retry-After": "86400"})]
    with pytest.raises(EmbeddingError, match=r"status=429 body='tomorrow' attempts=1"):
        await OllamaEmbeddingFunction(url=service.url)(["a"])


async def test_a_refusal_is_reported_at_once_with_the_services_words_and_without_the_key(service: Service) -> None:
    service.key = "Bearer right"
    with pytest.raises(
        EmbeddingError, match=r"openai did not embed: it was refused\. status=401.*Incorrect API key"
    ) as refusal:
        await OpenAIEmbeddingFunction(api_key="sk-wrong", api_base=service.url)(["a"])
    assert "sk-wrong" not in str(refusal.value)
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ({"embeddings": [[1.0]]}, r"one vector per text was expected\. texts=2 shape=\(1, 1\)"),
        ({"embeddings": [[1.0], [1.0, 2.0]]}, "no vectors"),
        ({"embeddings": [["x"], ["y"]]}, "no vectors"),
        ({"error": "what"}, "no vectors.*what"),
        ([], "no vectors"),
    ],
)
async def test_an_answer_that_is_none_is_reported(service: Service, answer: Any, problem: str) -> None:
    service.refusals = [JSONResponse(answer)]
    with pytest.raises(EmbeddingError, match=problem):
        await OllamaEmbeddingFunction(url=service.url)(["a", "b"])


async def test_something_else_than_a_text_is_refused_before_anything_is_sent(service: Service) -> None:
    with pytest.raises(ValueError, match=r"texts only\. item 0 is int"):
        await OllamaEmbeddingFunction(url=service.url)([1])  # type: ignore[list-item]
    assert service.requests == []


def test_a_sync_client_stores_an_adapter_and_a_later_one_finds_it_again(service: Service) -> None:
    register_embedding_function(OllamaEmbeddingFunction)
    with EphemeralClient() as client:
        made = client.create_collection("letters", embedding_function=OllamaEmbeddingFunction(url=service.url))
        made.add(ids=["a", "b"], documents=["aaa", "bbb"])
        found = client.get_collection("letters")
        assert found.query(query_texts=["bb", "aaaa"], n_results=1)["ids"] == [["b"], ["a"]]
        assert found.configuration["hnsw"]["space"] == "cosine"
        assert found.configuration_json["embedding_function"] == {
            "type": "known",
            "name": "ollama",
            "config": {"url": service.url, "model_name": "chroma/all-minilm-l6-v2-f32", "timeout": 60},
        }
