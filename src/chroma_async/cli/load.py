"""`load`: a file into a collection, from where the last run of the same command ended."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

import click

from chroma_async.cli.console import EXIT_FAILED, EXIT_INTERRUPTED, Number, fail
from chroma_async.cli.options import place_options, server_options
from chroma_async.model import Operation

if TYPE_CHECKING:
    from chroma_async.client._async.client import AsyncClientAPI
    from chroma_async.client._async.collection import AsyncCollection
    from chroma_async.client.ingest_report import IngestReport
    from chroma_async.client.sources import SourceOptions

LISTED_MAX: Final = 10

_SAMPLE_BYTES: Final = 2**20
_ON_ERROR: Final = ("continue", "stop")
_FORMATS: Final = ("ndjson", "csv", "tsv", "parquet", "arrow")


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--collection", required=True, help="Name of the collection.")
@click.option("--path", type=click.Path(path_type=Path), help="Data directory, which others may have open.")
@server_options
@click.option("--create", is_flag=True, help="Create the collection, and the data directory, if it is not there.")
@click.option("--embed", is_flag=True, help="Embed documents that have no vectors, by the collection's embedding function.")
@click.option(
    "--mapping",
    multiple=True,
    metavar="FIELD=COLUMN",
    help="Which column is the id, document, embedding, metadata, uri or op; metadata=year:int,lang names those that are its "
    "fields, with types where they are no texts. Repeatable.",
)
@click.option("--op", type=click.Choice(get_args(Operation)), default="upsert", help="What lines do that don't say it.")
@click.option("--format", "file_format", type=click.Choice(_FORMATS), help="Of a file whose name does not say it.")
@click.option("--delimiter", help="Between the cells of CSV.  [default: a comma]", show_default=False)
@click.option("--on-error", type=click.Choice(_ON_ERROR), default="continue", help="Pass a bad line over, or stop at it.")
@click.option("--embedding-concurrency", type=click.IntRange(1), help="Calls of the embedding function at once.")
@click.option(
    "--retry-seconds",
    type=Number(0.0),
    default=60.0,
    help="How long to try again when there is no answer, no room on the disk, or too much waiting.",
)
@click.option(
    "--stream-id",
    help="Name of the load, by which it goes on.  [default: made of the file, the collection and the options]",
    show_default=False,
)
@place_options
def load(file: Path, path: Path | None, url: str | None, header: dict[str, str], create: bool, **options: Any) -> None:
    """Load a FILE into a collection, each line once.

    FILE is NDJSON, CSV, TSV, Parquet or Arrow; the collection is one of a data directory or of a server. After Ctrl-C, a
    crash or an error run the command again, and it goes on where it ended.
    """
    from chroma_async.cli.directory import require_directory

    if (path is None) == (url is None):
        fail("name a data directory with --path, or a server with --url" + (", not both." if url else "."))
    if path is not None and not create:
        require_directory(path, "; --create makes one")
    mapping = _parsed_mapping(options["mapping"])
    bad = _BadLines()
    report, stream_id = _run(file, lambda: _client(path, url, header, options), mapping, create, options, bad)
    _tell(file, report, stream_id, options, bad)


@dataclass(slots=True)
class _BadLines:
    """The bad lines of the file that are known: how many, and whether some of them lacked a vector only."""

    count: int = 0
    to_embed: bool = False

    def add(self, line: int, message: str) -> None:
        """Print the first ones as they come; the number of all is told at the end."""
        from chroma_async.client.lines import NO_EMBEDDING

        self.count += 1
        self.to_embed |= message == NO_EMBEDDING
        if self.count <= LISTED_MAX:
            click.echo(f"line {line}: {message}", err=True)


def _parsed_mapping(texts: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, columns = text.partition("=")
        if not equals or not columns:
            fail(f"--mapping is FIELD=COLUMN, such as id=key. got={text!r}")
        if name == "metadata":
            found.setdefault(name, []).extend(column for column in columns.split(",") if column)
        elif name.startswith("metadata."):
            fail(f"--mapping metadata=COLUMN,COLUMN:int names the columns that are its fields. got={text!r}")
        else:
            several = columns.split(",") if name == "embedding" else [columns]
            found[name] = columns if len(several) == 1 else several
    return found


def _client(path: Path | None, url: str | None, headers: dict[str, str], options: dict[str, Any]) -> AsyncClientAPI:
    from chroma_async.client._async.client import AsyncHttpClient, AsyncPersistentClient

    place: dict[str, Any] = {"tenant": options["tenant"], "database": options["database"]}
    if url is None:
        assert path is not None
        return AsyncPersistentClient(path, **place)
    return AsyncHttpClient(url, headers=headers, **place)


def _run(
    file: Path, client_of: Any, mapping: dict[str, Any], create: bool, options: dict[str, Any], bad: _BadLines
) -> tuple[IngestReport, str]:
    """Load the file; on Ctrl-C say how far it came, and end."""
    from chroma_async.cli.console import in_loop
    from chroma_async.client._async.ingest import ingest_source
    from chroma_async.client.ingest_options import checked_source_options

    known: dict[str, Any] = {}

    async def work() -> tuple[IngestReport, str, SourceOptions]:
        reading = checked_source_options(mapping, options["op"], options["file_format"], options["delimiter"])
        async with client_of() as client:
            collection = await _collection(client, create, options)
            stream_id = options["stream_id"] or _stream_id(file, collection, mapping, options)
            known["stream"] = stream = collection.ingest(
                stream_id=stream_id,
                on_error=options["on_error"],
                on_line_error=lambda error: bad.add(error.line, error.message),
                embedding_concurrency=options["embedding_concurrency"],
                retry_seconds=options["retry_seconds"],
                progress=True,
            )
            return await ingest_source(stream, file, reading), stream_id, reading

    try:
        report, stream_id, reading = in_loop(work)
        _look_for_bad_lines(file, reading, report.began, options, bad)
        return report, stream_id
    except ImportError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail(f"interrupted after {_position(known):,} lines; the same command goes on. file={str(file)!r}", EXIT_INTERRUPTED)
    except SystemExit:
        if lines := _position(known):
            click.echo(f"what comes before line {lines:,} is loaded; the same command goes on there", err=True)
        raise


def _position(known: dict[str, Any]) -> int:
    """How many lines are known to be loaded."""
    return known["stream"].position if "stream" in known else 0


async def _collection(client: AsyncClientAPI, create: bool, options: dict[str, Any]) -> AsyncCollection:
    from chroma_async.client.embedding import DEFAULT_EMBEDDING

    function: Any = DEFAULT_EMBEDDING if options["embed"] else None
    if create:
        return await client.create_collection(options["collection"], embedding_function=function, get_or_create=True)
    return await client.get_collection(options["collection"], embedding_function=function)


def _look_for_bad_lines(file: Path, reading: SourceOptions, count: int, options: dict[str, Any], bad: _BadLines) -> None:
    """Find those of the first `count` lines, sent by earlier runs, that can be seen to be bad in the file itself."""
    from chroma_async.client.lines import BLANK, NO_EMBEDDING, without_vectors
    from chroma_async.client.sources import open_source

    if not count or not file.is_file():
        return
    begin = 0
    with open_source(file, reading, 0) as items:
        while begin < count and (lines := next(items, None)) is not None:
            if not options["embed"]:
                lines.require_vectors(without_vectors(lines), NO_EMBEDDING)
            for place, fault in sorted(lines.faults.items()):
                if fault != BLANK and begin + place < count:
                    bad.add(begin + place, fault)
            begin += len(lines)


def _stream_id(file: Path, collection: AsyncCollection, mapping: dict[str, Any], options: dict[str, Any]) -> str:
    """Name the load by what it is: the file and what is in it, the collection, and how lines are understood."""
    status = file.stat()
    digest = hashlib.sha256()
    with file.open("rb") as content:
        digest.update(content.read(_SAMPLE_BYTES))
        content.seek(max(0, status.st_size - _SAMPLE_BYTES))
        digest.update(content.read(_SAMPLE_BYTES))
    for part in (
        os.fspath(file.resolve()),
        status.st_size,
        status.st_mtime_ns,
        collection.id,
        sorted(mapping.items()),
        *(options[name] for name in ("op", "file_format", "delimiter", "embed")),
    ):
        digest.update(f"\0{part}".encode())
    return f"load-{digest.hexdigest()[:32]}"


def _tell(file: Path, report: IngestReport, stream_id: str, options: dict[str, Any], bad: _BadLines) -> None:
    name = options["collection"]
    if report.began and not report.lines:
        click.echo(
            f"{file}: all {report.position:,} lines were sent to {name} before; nothing was to do. "
            f"Another --stream-id loads them again. stream_id={stream_id}"
        )
    else:
        if report.began:
            click.echo(f"went on after {report.began:,} lines that were sent before. stream_id={stream_id}")
        click.echo(
            f"{file}: {report.lines:,} lines into {name} in {report.seconds:.1f} s ({report.lines_per_second:,.0f} a second)"
        )
    if bad.count:
        told = "1 line was" if bad.count == 1 else f"{bad.count:,} lines were"
        click.echo(f"{told} bad and passed over; lines are counted from 0, without a header", err=True)
        if not options["embed"] and bad.to_embed:
            click.echo("--embed embeds documents that have no embedding", err=True)
        raise SystemExit(EXIT_FAILED)
