"""After a server of ours had run, no other application could be served by Hypercorn in the same process.

Its connections were made as ours, and failed at a setting that only ours have.
"""

from __future__ import annotations

import asyncio
import os
import socket

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from tests.embedding.loopback import serving

from chroma_async.server.with_hypercorn import serve
from chroma_async.settings import ServerSettings

pytestmark = pytest.mark.anyio


async def test_another_application_is_served_after_ours() -> None:
    app = Starlette(routes=[Route("/", lambda _: PlainTextResponse("here"))])
    stop = asyncio.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = asyncio.ensure_future(serve(app, ServerSettings(), os.dup(listening.fileno()), stop))
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"http://127.0.0.1:{listening.getsockname()[1]}/")).text == "here"
        stop.set()
        await ours
    with serving(app) as url:
        async with httpx.AsyncClient() as client:
            assert (await client.get(url)).text == "here"
