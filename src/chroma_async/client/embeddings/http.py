"""What services over HTTP have in common: batches, retries, and vectors out of JSON."""

from __future__ import annotations

import os
import random
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit, urlunsplit

import anyio
import anyio.to_thread
import httpx
import numpy as np
import orjson

from chroma_async.client.embeddings.failures import EmbeddingError, checked_inputs
from chroma_async.client.retry import RetryPolicy, asked_wait_seconds
from chroma_async.model import Vectors

REPEATED_STATUSES: Final = frozenset({408, 409, 429, 500, 502, 503, 504})
"""Embedding changes nothing on the other side, so all that may pass is tried again."""

POLICY: Final = RetryPolicy(retries=4, first_wait_seconds=0.5, wait_seconds_max=8.0)
TIMEOUT_SECONDS: Final = 60.0
QUOTED_CHARACTERS: Final = 300

Body: TypeAlias = Callable[[list[str]], dict[str, Any]]
Read: TypeAlias = Callable[[Any], Sequence[Sequence[float]]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One URL that embeds. `headers` may hold a key, and are in no message. `texts_max` is the size of a request."""

    service: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    texts_max: int = 256
    timeout_seconds: float = TIMEOUT_SECONDS
    policy: RetryPolicy = POLICY

    async def embed(self, inputs: Sequence[Any], body: Body, read: Read) -> Vectors:
        """Return the vectors of n texts, (n, ndim) float32. `body` makes a request of texts, `read` takes vectors out.

        Raises:
            EmbeddingError: no answer, a refusal, or an answer that is none.
            ValueError: something else than a text.
        """
        texts = checked_inputs(inputs)
        if not texts:
            return np.empty((0, 0), dtype=np.float32)
        context = await anyio.to_thread.run_sync(_ssl_context)
        parts: list[Vectors] = []
        async with httpx.AsyncClient(timeout=self.timeout_seconds, verify=context) as client:
            for start in range(0, len(texts), self.texts_max):
                part = texts[start : start + self.texts_max]
                answer = await self._answer(client, body(part))
                parts.append(await anyio.to_thread.run_sync(self._vectors, answer, read, len(part)))
        return np.concatenate(parts)

    async def _answer(self, client: httpx.AsyncClient, body: dict[str, Any]) -> bytes:
        """Ask until there is an answer, a refusal that stands, or no attempt left."""
        content = orjson.dumps(body)
        headers = {**self.headers, "Content-Type": "application/json"}
        attempt = 0
        while True:
            asked: float | None = None
            cause: Exception | None = None
            try:
                answer = await client.post(self.url, content=content, headers=headers)
            except httpx.TransportError as error:
                problem, cause = f"no answer. cause={type(error).__name__}: {error}", error
            else:
                if answer.is_success:
                    return answer.content
                problem, asked = _refusal(answer), asked_wait_seconds(answer.headers.get("retry-after"))
                if answer.status_code not in REPEATED_STATUSES:
                    raise self._failure(problem)
            wait = self.policy.wait_seconds(attempt, asked, random.random())
            if wait is None:
                raise self._failure(f"{problem} attempts={attempt + 1}") from cause
            await anyio.sleep(wait)
            attempt += 1

    def _vectors(self, answer: bytes, read: Read, expected: int) -> Vectors:
        """Runs in a worker thread: an answer may hold a million numbers."""
        try:
            vectors = np.asarray(read(orjson.loads(answer)), dtype=np.float32)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            quoted = answer[:QUOTED_CHARACTERS].decode(errors="replace")
            raise self._failure(f"the answer holds no vectors. body={quoted!r}") from error
        if vectors.ndim != 2 or len(vectors) != expected:
            raise self._failure(f"one vector per text was expected. texts={expected} shape={vectors.shape}")
        return vectors

    def _failure(self, problem: str) -> EmbeddingError:
        return EmbeddingError(f"{self.service} did not embed: {problem} url={without_credentials(self.url)}")


def _refusal(answer: httpx.Response) -> str:
    quoted = " ".join(answer.text[:QUOTED_CHARACTERS].split())
    return f"it was refused. status={answer.status_code} body={quoted!r}"


@cache
def _ssl_context() -> ssl.SSLContext:
    """Made once, and in a worker thread: reading the certificates takes tens of milliseconds."""
    return httpx.create_ssl_context()


def without_credentials(url: str) -> str:
    """Return the URL without user and password, fit for a message or a stored configuration."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def key_variable(given: str | None, standard: str, otherwise: str) -> str:
    """Return the name of the environment's variable that holds the key: the given one, the vendor's if set, or Chroma's."""
    return given or (standard if os.environ.get(standard) else otherwise)


def missing_key(service: str, variable: str) -> EmbeddingError:
    """Return what to say when there is no key."""
    return EmbeddingError(
        f"{service} needs a key: set the environment variable {variable}, or name another, api_key_env_var=..."
    )
