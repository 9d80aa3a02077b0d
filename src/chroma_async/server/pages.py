"""Pages about the API beside it: `/openapi.json` for tools, `/docs` for people. They need no engine, and no other site."""

from __future__ import annotations

import html
import importlib.metadata
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

import orjson
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp

from chroma_async.model import JsonObject
from chroma_async.protocol.openapi import openapi_document
from chroma_async.server.app import DOCS_PATH, OPENAPI_PATH

ROOT_PATHS_MAX: Final = 8

_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>chroma_async {version}</title>
<style>body {{ font-family: sans-serif; margin: 2em; }} td {{ padding: 0.2em 1em 0.2em 0; vertical-align: top; }}</style>
</head>
<body>
<h1>chroma_async {version}</h1>
<p>The calls of Chroma's API that this server answers, for tools in <a href="../openapi.json">openapi.json</a>.</p>
<table>
{rows}
</table>
</body>
</html>
"""


@lru_cache(ROOT_PATHS_MAX)
def pages(root_path: str = "") -> dict[str, ASGIApp]:
    """Return what answers a GET, by path, of a server that clients find under `root_path`."""
    version = importlib.metadata.version("chroma-async")
    document = openapi_document(version)
    if root_path:
        document["servers"] = [{"url": root_path}]
    page = _PAGE.format(version=html.escape(version), rows="\n".join(_rows(document)))
    return {
        OPENAPI_PATH: Response(orjson.dumps(document), media_type="application/json"),
        DOCS_PATH: RedirectResponse(f"{root_path}{DOCS_PATH}/", status_code=303),
        DOCS_PATH + "/": HTMLResponse(page),
    }


def _rows(document: JsonObject) -> Iterator[str]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            cells = (method.upper(), path, operation["summary"])
            yield f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"
