"""Live notes: a small web application that takes notes as a stream, finds them by meaning, and shows changes as they happen.

    pip install 'chroma-async[server]'
    NOTES_PATH=./notes hypercorn app:app --bind 127.0.0.1:8080

`NOTES_URL=http://127.0.0.1:8000` uses a server instead of a directory; nothing else changes. See README.md beside this file.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from zlib import crc32

import numpy as np
import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from chroma_async import AsyncClientAPI, AsyncCollection, AsyncHttpClient, AsyncPersistentClient, EmbeddingFunction
from chroma_async.errors import ChromaError, GoneError

DIMENSION = 256
NOTE_BYTES_MAX = 100_000
BAD_LINES_SHOWN = 100
PAGE = Path(__file__).with_name("page.html")


class LetterGroups(EmbeddingFunction):
    """Counts groups of three letters, so that the example needs no model. Put your embedding function in its place."""

    def __call__(self, input: list[str]) -> np.ndarray:  # noqa: A002
        vectors = np.zeros((len(input), DIMENSION), dtype=np.float32)
        for row, text in enumerate(input):
            padded = f"  {text.lower()}  "
            for start in range(len(padded) - 2):
                vectors[row, crc32(padded[start : start + 3].encode()) % DIMENSION] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def client() -> AsyncClientAPI:
    """A client of the server that NOTES_URL names, or of the directory that NOTES_PATH names."""
    url = os.environ.get("NOTES_URL")
    return AsyncHttpClient(url) if url else AsyncPersistentClient(os.environ.get("NOTES_PATH", "./notes"))


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with client() as chroma:
        app.state.notes = await chroma.get_or_create_collection(
            "notes", configuration={"hnsw": {"space": "cosine"}}, embedding_function=LetterGroups()
        )
        yield


def notes_of(request: Request) -> AsyncCollection:
    notes: AsyncCollection = request.app.state.notes
    return notes


async def page(request: Request) -> Response:
    return HTMLResponse(PAGE.read_text())


async def take(request: Request) -> Response:
    """Take notes, one JSON object on each line: `{"id": ..., "text": ..., "author": ...}`. The body may flow for hours.

    With a `stream` in the query a sender whose connection broke sends everything again, and each note is there once.
    """
    stream_id = request.query_params.get("stream")
    bad: list[int] = []
    try:
        async with notes_of(request).ingest(stream_id=stream_id) as stream:
            known, taken, number = stream.position, 0, 0
            async for line in lines_of(request):
                number += 1
                note = parsed(line)
                if note is None:
                    bad = [*bad, number][:BAD_LINES_SHOWN]
                    continue
                taken += 1
                if taken <= known:
                    continue  # of an earlier request of this stream
                metadata = {"author": note["author"]} if note.get("author") else None
                await stream.upsert(note["id"], documents=note["text"], metadatas=metadata)
    except ChromaError as error:
        return JSONResponse({"error": error.message}, status_code=error.status)
    except ValueError as error:
        return JSONResponse({"error": str(error)}, status_code=400)
    answer = {"taken": taken, "known": known, "refused": number - taken, "first_refused_lines": bad, "lsn": stream.lsn}
    return JSONResponse(answer)


async def lines_of(request: Request) -> AsyncIterator[bytes]:
    """The lines of a body, none of them longer than a note may be: of a longer one its beginning, which is no JSON."""
    rest = b""
    async for piece in request.stream():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line
        rest = rest[:NOTE_BYTES_MAX]
    if rest:
        yield rest


def parsed(line: bytes) -> dict[str, str] | None:
    with suppress(orjson.JSONDecodeError):
        note = orjson.loads(line)
        if (
            isinstance(note, dict)
            and all(isinstance(note.get(name), str) and note[name] for name in ("id", "text"))
            and isinstance(note.get("author", ""), str)
        ):
            return note
    return None


async def search(request: Request) -> Response:
    """Return the notes nearest to `q`, of one `author` if asked."""
    text, author = request.query_params.get("q", ""), request.query_params.get("author")
    if not text:
        return JSONResponse({"error": "say what to look for: ?q=..."}, status_code=400)
    found = await notes_of(request).query(query_texts=[text], n_results=10, where={"author": author} if author else None)
    rows = zip(found["ids"][0], (found["documents"] or [[]])[0], (found["distances"] or [[]])[0], strict=True)
    return JSONResponse([{"id": key, "text": document, "distance": float(distance)} for key, document, distance in rows])


async def changes(request: Request) -> Response:
    """Push changes to the browser, which by itself comes back with the id of the last one that it saw."""
    after = request.headers.get("last-event-id")
    if after is not None and not after.isdecimal():
        return JSONResponse({"error": "last-event-id is not one of ours"}, status_code=400)

    async def events() -> AsyncIterator[bytes]:
        watch = notes_of(request).watch(after=after, heartbeats=True)
        try:
            async for change in watch:
                if change.kind == "heartbeat":
                    yield b": alive\n\n"
                    continue
                body = {"kind": change.kind, "ids": change.ids, "texts": change.documents}
                yield b"id: %b\nevent: change\ndata: %b\n\n" % (str(change.cursor).encode(), orjson.dumps(body))
        except GoneError:
            yield b"event: gone\ndata: {}\n\n"  # the page loads again
        finally:
            await watch.aclose()

    return StreamingResponse(events(), media_type="text/event-stream", headers={"cache-control": "no-store"})


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/", page),
        Route("/notes", take, methods=["POST"]),
        Route("/search", search),
        Route("/changes", changes),
    ],
)
