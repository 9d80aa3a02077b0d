"""The commands. Whatever they import beyond this, they import when they run: `version` and `--help` answer at once."""

from __future__ import annotations

import importlib.metadata
import json
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from chroma_async.cli.console import EXIT_FAILED, console, fail
from chroma_async.model import DEFAULT_DATABASE, DEFAULT_TENANT
from chroma_async.settings import EngineSettings, ServerSettings

app = typer.Typer(
    help="An async-first vector database that speaks Chroma's API.", no_args_is_help=True, add_completion=False
)

_SERVER = ServerSettings()


class DurabilityChoice(StrEnum):
    """Values of `--durability`."""

    COMMIT = "commit"
    OFF = "off"


class MissingChoice(StrEnum):
    """Values of `--missing`."""

    INCLUDE = "include"
    EXCLUDE = "exclude"


class LogLevelChoice(StrEnum):
    """Values of `--log-level`."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


PathArgument = Annotated[Path, typer.Argument(help="Data directory.")]
CollectionArgument = Annotated[str, typer.Argument(help="Name of the collection.")]
TenantOption = Annotated[str, typer.Option(help="Tenant of the collection.")]
DatabaseOption = Annotated[str, typer.Option(help="Database of the collection.")]


@app.command()
def run(
    path: Annotated[Path, typer.Option(help="Data directory; created if it is not there.")] = Path("./chroma"),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = _SERVER.host,
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port; 0 takes a free one.")] = _SERVER.port,
    workers: Annotated[int, typer.Option(min=1, help="Processes that answer; one more compacts.")] = _SERVER.workers,
    allow_reset: Annotated[bool, typer.Option("--allow-reset", help="Let clients delete everything by reset().")] = False,
    durability: Annotated[
        DurabilityChoice, typer.Option(help="Acknowledge a write after fsync (commit), or before (off).")
    ] = DurabilityChoice.COMMIT,
    missing: Annotated[
        MissingChoice | None,
        typer.Option(
            help="Whether $ne, $nin, $not_contains and $not_regex match records that lack the field or the document, where "
            "a request does not say it; by default not for chroma_async's clients and the API v1, but for Chroma's.",
            show_default=False,
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="Origin that browsers may call from, or *; repeatable.")
    ] = None,
    graceful_seconds: Annotated[
        float, typer.Option(min=0.0, help="How long requests may go on after a stop was asked for.")
    ] = _SERVER.graceful_seconds,
    access_log: Annotated[bool, typer.Option("--access-log", help="Log every request.")] = False,
    log_level: Annotated[LogLevelChoice, typer.Option(help="Least severe level to log.")] = LogLevelChoice.INFO,
) -> None:
    """Serve a data directory until told to stop."""
    from chroma_async.server.run import StartError, run_server

    engine = EngineSettings(
        durability=durability.value, allow_reset=allow_reset, missing=None if missing is None else missing.value
    )
    server = ServerSettings(
        host=host,
        port=port,
        workers=workers,
        graceful_seconds=graceful_seconds,
        cors_origins=tuple(cors_origin or ()),
        access_log=access_log,
        log_level=log_level.value,
    )
    try:
        code = run_server(path, engine, server)
    except StartError as error:
        fail(str(error))
    raise typer.Exit(code)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(f"chroma-async {importlib.metadata.version('chroma-async')}")


@app.command()
def healthcheck(
    url: Annotated[str, typer.Option(help="Where the server listens.")] = f"http://localhost:{_SERVER.port}",
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for an answer.")] = 5.0,
) -> None:
    """Ask a server whether it can read and write; the exit code is 0 if so."""
    import httpx

    try:
        response = httpx.get(f"{url.rstrip('/')}/api/v2/healthcheck", timeout=timeout)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        fail(f"no answer. url={url!r} ({error or type(error).__name__})", EXIT_FAILED)
    if not response.is_success:
        fail(f"not healthy. url={url!r} status={response.status_code}", EXIT_FAILED)
    typer.echo("healthy")


@app.command()
def inspect(
    path: PathArgument,
    tenant: Annotated[list[str] | None, typer.Option(help="Tenant to look into; repeatable.")] = None,
) -> None:
    """List databases and collections with their number of records and dimension."""
    from rich.table import Table

    from chroma_async.cli.directory import collections_of, with_engine

    table = Table("tenant", "database", "collection", "records", "dimension", "space", "id")
    for row in with_engine(path, partial(collections_of, tenants=tenant or [DEFAULT_TENANT])):
        item = row.collection
        if item is None:
            table.add_row(row.tenant, row.database, "-", "", "", "", "")
        else:
            dimension = "-" if item.dimension is None else str(item.dimension)
            table.add_row(row.tenant, row.database, item.name, str(row.records), dimension, item.hnsw.space, item.id)
    console.print(table)


@app.command()
def count(
    path: PathArgument,
    collection: CollectionArgument,
    tenant: TenantOption = DEFAULT_TENANT,
    database: DatabaseOption = DEFAULT_DATABASE,
) -> None:
    """Print the number of records of a collection."""
    from chroma_async.cli.directory import Dispatcher, address, get_collection, with_engine
    from chroma_async.protocol import CountRecords

    async def ask(engine: Dispatcher) -> int:
        found = await get_collection(engine, tenant, database, collection)
        return await engine.dispatch(CountRecords(**address(found)))

    typer.echo(with_engine(path, ask))


@app.command()
def get(
    path: PathArgument,
    collection: CollectionArgument,
    limit: Annotated[int, typer.Option(min=0, help="Number of records to print.")] = 10,
    offset: Annotated[int, typer.Option(min=0, help="Number of records to skip.")] = 0,
    tenant: TenantOption = DEFAULT_TENANT,
    database: DatabaseOption = DEFAULT_DATABASE,
) -> None:
    """Print records, oldest first, one JSON object a line."""
    from chroma_async.cli.directory import Dispatcher, address, get_collection, with_engine
    from chroma_async.protocol import GetRecords
    from chroma_async.protocol.results import Columns, metadata_object

    async def ask(engine: Dispatcher) -> Columns:
        found = await get_collection(engine, tenant, database, collection)
        return (await engine.dispatch(GetRecords(**address(found), limit=limit, offset=offset))).columns

    columns = with_engine(path, ask)
    documents, metadatas = columns.documents or [], columns.metadatas or []
    for record_id, document, metadata in zip(columns.ids, documents, metadatas, strict=True):
        record = {"id": record_id, "document": document, "metadata": metadata_object(metadata)}
        typer.echo(json.dumps(record, ensure_ascii=False))


@app.command()
def add(
    path: PathArgument,
    collection: CollectionArgument,
    record_id: Annotated[str, typer.Option("--id", help="Id of the record.")],
    embedding: Annotated[str, typer.Option(help="Vector as a JSON list of numbers.")],
    document: Annotated[str | None, typer.Option(help="Text of the record.")] = None,
    metadata: Annotated[str | None, typer.Option(help="Metadata as a JSON object.")] = None,
    create: Annotated[bool, typer.Option("--create", help="Create the collection if it is not there.")] = False,
    tenant: TenantOption = DEFAULT_TENANT,
    database: DatabaseOption = DEFAULT_DATABASE,
) -> None:
    """Add a record; an id that exists keeps its first value."""
    from chroma_async.cli.directory import Dispatcher, address, get_collection, with_engine
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
        call = AddRecords(**address(found), ids=[record_id], embeddings=batch, documents=[document], metadatas=[fields])
        await engine.dispatch(call)

    with_engine(path, write)


def _parse_json(text: str, kind: type[Any], demand: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError as error:
        fail(f"{demand}. got={text!r} ({error})")
    if not isinstance(value, kind):
        fail(f"{demand}. got={text!r}")
    return value
