"""The commands that start a server, ask it, and look into collections; the others are imported when they are asked for.

What these import beyond this, they import when they run: `version` and `--help` answer at once.
"""

from __future__ import annotations

import gc
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from chroma_async.cli.auth import auth_settings
from chroma_async.cli.config import config_command
from chroma_async.cli.console import EXIT_FAILED, Number, fail
from chroma_async.cli.lazy import LazyGroup
from chroma_async.cli.options import place_options
from chroma_async.cli.retention import retention_settings
from chroma_async.cli.run_options import chosen, name_variables, run_options
from chroma_async.settings import SERVED, EngineSettings, ServerSettings

_PACKAGE: Final = "chroma-async"
_VERSION: Final = "chroma-async %(version)s"

_ELSEWHERE: Final = "chroma_async.cli."
_HOMES: Final = {
    "audit": _ELSEWHERE + "audit:audit",
    "auth": _ELSEWHERE + "auth:auth",
    "backup": _ELSEWHERE + "backup:backup",
    "export": _ELSEWHERE + "transfer:export_collection",
    "flush": _ELSEWHERE + "progress:flush",
    "import": _ELSEWHERE + "transfer:import_collection",
    "import-chroma": _ELSEWHERE + "import_chroma:import_chroma",
    "inspect": _ELSEWHERE + "progress:inspect",
    "load": _ELSEWHERE + "load:load",
    "purge": _ELSEWHERE + "verify:purge",
    "rebuild": _ELSEWHERE + "verify:rebuild",
    "reindex": _ELSEWHERE + "verify:reindex",
    "restore": _ELSEWHERE + "backup:restore",
    "verify": _ELSEWHERE + "verify:verify",
}


@click.group(cls=LazyGroup, homes=_HOMES, context_settings={"show_default": True, "max_content_width": 100})
@click.version_option(package_name=_PACKAGE, message=_VERSION, help="Print the version and exit.")
def app() -> None:
    """An async-first vector database that speaks Chroma's API."""


_PATH = click.argument("path", type=click.Path(path_type=Path))
_COLLECTION = click.argument("collection")


@app.command()
@run_options
@click.pass_context
def run(context: click.Context, /, path: Path, log_retention: str, **options: Any) -> None:
    """Serve a data directory until told to stop."""
    given = context.get_parameter_source("sync_interval_seconds")
    if given is not ParameterSource.DEFAULT and options["durability"] != "interval":
        fail(f"--sync-interval is for --durability interval. durability={options['durability']!r}")
    gc.disable()
    from chroma_async.server.run import run_server
    from chroma_async.server.start_error import StartError

    gc.enable()
    engine = replace(SERVED, **chosen(EngineSettings, options), **retention_settings(log_retention))
    server = ServerSettings(**chosen(ServerSettings, options))
    try:
        code = run_server(path, engine, server, auth=auth_settings(context))
    except StartError as error:
        fail(str(error))
    sys.exit(code)


name_variables(run)
app.add_command(config_command(run))


@app.command()
def version() -> None:
    """Print the version."""
    import importlib.metadata

    click.echo(_VERSION % {"version": importlib.metadata.version(_PACKAGE)})


@app.command()
@click.option(
    "--url",
    default=f"http://localhost:{ServerSettings().port}",
    help="Where the server listens, with its path if it has one.",
)
@click.option("--unix-socket", type=click.Path(path_type=Path), help="Unix socket on which it listens.")
@click.option("--timeout", type=Number(0.1), default=5.0, help="Seconds to wait for an answer.")
def healthcheck(url: str, unix_socket: Path | None, timeout: float) -> None:
    """Ask a server whether it can read and write.

    The exit code is 0 if so. A server that wants credentials for it is asked only whether it is ready.
    """
    import httpx

    transport = None if unix_socket is None else httpx.HTTPTransport(uds=str(unix_socket))
    try:
        with httpx.Client(transport=transport, timeout=timeout) as client:
            response = client.get(f"{url.rstrip('/')}/api/v2/healthcheck")
            if response.status_code in (401, 403):  # it is there, and asks for credentials: what follows needs none
                response = client.get(f"{url.rstrip('/')}/readyz")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        fail(f"no answer. url={url!r} ({error or type(error).__name__})", EXIT_FAILED)
    if not response.is_success:
        fail(f"not healthy. url={url!r} status={response.status_code}", EXIT_FAILED)
    if b'"is_log_client_ready":false' in response.content.replace(b" ", b""):
        fail(f"it reads, but refuses writes; its log says why. url={url!r}", EXIT_FAILED)
    click.echo("healthy")


@app.command()
@_PATH
@_COLLECTION
@place_options
def count(path: Path, collection: str, tenant: str, database: str) -> None:
    """Print the number of records of a collection."""
    from chroma_async.cli.directory import Dispatcher, get_collection, with_engine
    from chroma_async.model import address_of
    from chroma_async.protocol import CountRecords

    async def ask(engine: Dispatcher) -> int:
        found = await get_collection(engine, tenant, database, collection)
        return (await engine.dispatch(CountRecords(**address_of(found)))).count

    click.echo(with_engine(path, ask))


@app.command()
@_PATH
@_COLLECTION
@click.option("--limit", type=click.IntRange(0), default=10, help="Number of records to print.")
@click.option("--offset", type=click.IntRange(0), default=0, help="Number of records to skip.")
@place_options
def get(path: Path, collection: str, limit: int, offset: int, tenant: str, database: str) -> None:
    """Print records, oldest first, one JSON object a line."""
    from chroma_async.cli.directory import Dispatcher, get_collection, with_engine
    from chroma_async.model import address_of
    from chroma_async.protocol import GetRecords
    from chroma_async.protocol.results import Columns, metadata_object

    async def ask(engine: Dispatcher) -> Columns:
        found = await get_collection(engine, tenant, database, collection)
        return (await engine.dispatch(GetRecords(**address_of(found), limit=limit, offset=offset))).columns

    columns = with_engine(path, ask)
    documents, metadatas = columns.documents or [], columns.metadatas or []
    for record_id, document, metadata in zip(columns.ids, documents, metadatas, strict=True):
        record = {"id": record_id, "document": document, "metadata": metadata_object(metadata)}
        click.echo(json.dumps(record, ensure_ascii=False))


@app.command()
@_PATH
@_COLLECTION
@click.option("--id", "record_id", required=True, help="Id of the record.")
@click.option("--embedding", required=True, help="Vector as a JSON list of numbers.")
@click.option("--document", help="Text of the record.")
@click.option("--metadata", help="Metadata as a JSON object.")
@click.option("--create", is_flag=True, help="Create the collection, and the data directory, if it is not there.")
@place_options
def add(
    path: Path,
    collection: str,
    record_id: str,
    embedding: str,
    document: str | None,
    metadata: str | None,
    create: bool,
    tenant: str,
    database: str,
) -> None:
    """Add a record; an id that exists keeps its first value."""
    from chroma_async.cli.directory import Dispatcher, get_collection, with_engine
    from chroma_async.model import address_of
    from chroma_async.protocol import AddRecords, CreateCollection
    from chroma_async.protocol.embeddings import EmbeddingBatch, from_lists

    vector = _parse_json(embedding, list, "--embedding must be a JSON list of numbers")
    fields = None if metadata is None else _parse_json(metadata, dict, "--metadata must be a JSON object")

    async def write(engine: Dispatcher) -> None:
        if create:
            found = await engine.dispatch(
                CreateCollection(tenant=tenant, database=database, name=collection, get_or_create=True)
            )
        else:
            found = await get_collection(engine, tenant, database, collection)
        batch = EmbeddingBatch(from_lists([vector], "embedding"))
        call = AddRecords(**address_of(found), ids=[record_id], embeddings=batch, documents=[document], metadatas=[fields])
        await engine.dispatch(call)

    with_engine(path, write, create=create)


def _parse_json(text: str, kind: type[Any], demand: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError as error:
        fail(f"{demand}. got={text!r} ({error})")
    if not isinstance(value, kind):
        fail(f"{demand}. got={text!r}")
    return value
