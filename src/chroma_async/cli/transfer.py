"""`export` and `import`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import click

from chroma_async.cli.console import in_loop, progress_bar
from chroma_async.cli.options import place_options, server_options

if TYPE_CHECKING:
    from chroma_async.cli.exchange import Definition
    from chroma_async.cli.places import Place
    from chroma_async.model import Collection
    from chroma_async.protocol.results import Columns


@click.command("export")
@click.argument("path", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]")
@click.argument("collection")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--lists", is_flag=True, help="NDJSON with vectors as lists of numbers, not as base64.")
@server_options
@place_options
def export_collection(
    path: tuple[Path, ...],
    collection: str,
    file: Path,
    lists: bool,
    url: str | None,
    header: dict[str, str],
    tenant: str,
    database: str,
) -> None:
    """Write a collection to FILE.

    COLLECTION is one of the data directory PATH, or of a server. FILE is Parquet if it ends with .parquet, else NDJSON.
    """
    from chroma_async.cli.exchange import Definition, new_file
    from chroma_async.cli.places import open_place
    from chroma_async.model import address_of
    from chroma_async.protocol import CountRecords, GetCollection

    if len(path) > 1:
        raise click.UsageError("too many arguments.")
    place = open_place(path[0] if path else None, url, header)

    async def work() -> int:
        done = 0
        async with place as source:
            found = await source.send(GetCollection(tenant=tenant, database=database, name=collection))
            total = (await source.send(CountRecords(**address_of(found)))).count
            with progress_bar() as report, new_file(file, Definition.of(found), lists=lists) as sink:
                async for columns in source.pages(found):
                    if columns.ids:
                        sink.write(columns)
                    done += len(columns.ids)
                    report("exporting", done, max(done, total))
                sink.finish(done)
        return done

    click.echo(f"{file}: {in_loop(work)} records of {collection}")


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--collection", help="Name to give it; by default the one it had.")
@server_options
@place_options
def import_collection(
    file: Path,
    path: Path | None,
    collection: str | None,
    url: str | None,
    header: dict[str, str],
    tenant: str,
    database: str,
) -> None:
    """Read an exported FILE into a collection.

    It is one of the data directory PATH, or of a server, and made if it is not there. After an interruption, run it again.
    """
    from chroma_async.cli.exchange import open_file
    from chroma_async.cli.places import open_place

    place = open_place(path, url, header, create=True)

    async def work() -> tuple[str, int]:
        done = 0
        with open_file(file) as source:
            name = collection or source.definition.name
            pages = source.pages()
            first = next(pages, None)  # before anything is made: nothing is left of a file that has no page
            async with place as opened:
                target = await target_for(opened, source.definition, tenant, database, name)
                with progress_bar() as report:
                    for columns, position, total in chain(() if first is None else (first,), pages):
                        await write(target, columns)
                        done += len(columns.ids)
                        report("importing", position, total)
        return name, done

    name, records = in_loop(work)
    click.echo(f"{name}: {records} records from {file}")


@dataclass(frozen=True, slots=True)
class Target:
    """A collection to write to. `is_new`: it was made by this command, so that nothing is there to compare with."""

    place: Place
    collection: Collection
    is_new: bool


async def target_for(place: Place, definition: Definition, tenant: str, database: str, name: str) -> Target:
    """The collection of that name, made if it is not there.

    Raises:
        ExchangeError: there is one with another space or dimension.
    """
    from chroma_async.errors import ExchangeError, NotFoundError
    from chroma_async.protocol import GetCollection

    try:
        found = await place.send(GetCollection(tenant=tenant, database=database, name=name))
    except NotFoundError:
        return Target(place, await place.send(definition.creation(tenant, database, name)), is_new=True)
    differences = definition.differences(found)
    if differences:
        other = "; ".join(differences)
        raise ExchangeError(f"the collection of that name is another one; import under a new name. name={name!r} {other}")
    return Target(place, found, is_new=False)


async def write(target: Target, columns: Columns) -> int:
    """Make the records of the target equal to these; return how many had to be written.

    What an interrupted import has written already is read and left alone: that is how an import goes on.
    """
    from chroma_async.cli.exchange import missing_in
    from chroma_async.cli.places import EVERYTHING
    from chroma_async.model import address_of
    from chroma_async.protocol import GetRecords

    if not target.is_new:
        call = GetRecords(**address_of(target.collection), ids=columns.ids, include=EVERYTHING)
        columns = missing_in((await target.place.send(call)).columns, columns)
    if columns.ids:
        await _upsert(target.place, target.collection, columns)
    return len(columns.ids)


async def _upsert(place: Place, collection: Collection, columns: Columns) -> None:
    from chroma_async.model import address_of
    from chroma_async.protocol import UpsertRecords
    from chroma_async.protocol.embeddings import EmbeddingBatch
    from chroma_async.protocol.results import metadata_object

    assert columns.embeddings is not None
    await place.send(
        UpsertRecords(
            **address_of(collection),
            ids=columns.ids,
            embeddings=EmbeddingBatch(columns.embeddings),
            documents=columns.documents,
            metadatas=None if columns.metadatas is None else [metadata_object(item) for item in columns.metadatas],
            uris=columns.uris,
        )
    )
