"""`audit`: who wrote what."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chroma_async.cli.console import in_loop, print_table

if TYPE_CHECKING:
    from chroma_async.engine.audit import AuditLine

_NS: int = 10**9


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--collection", help="Only this one: a name, or an id.")
@click.option("--after", type=click.IntRange(0), default=0, help="Only entries after this LSN.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def audit(path: Path, collection: str | None, after: int, as_json: bool) -> None:
    """Print who wrote what, from the log of a data directory.

    PATH may be in use. The log keeps an entry until it was applied: usually for seconds. A server's --audit-log keeps what
    this can't show.
    """
    from chroma_async.cli.directory import require_directory

    require_directory(path)
    lines = in_loop(lambda: _read(path, collection, after))
    if as_json:
        import msgspec

        for line in lines:
            click.echo(msgspec.json.encode(_as_json(line)).decode())
    else:
        _print(lines)


async def _read(path: Path, collection: str | None, after: int) -> list[AuditLine]:
    from chroma_async.core.catalog import Catalog
    from chroma_async.engine.audit import audit as read_audit
    from chroma_async.engine.directory import check_version
    from chroma_async.model import Lsn
    from chroma_async.wal import SqliteLog

    check_version(path)
    log = await SqliteLog.open(path, create=False)
    try:
        chosen = None
        if collection is not None:
            catalog = Catalog.from_rows((await log.catalog()).rows)
            chosen = _chosen(catalog, collection)
        if after > log.barrier():
            raise ValueError(f"the log ends before that LSN. after={after} newest={log.barrier()}")
        return [line async for line in read_audit(log, after=Lsn(after), collection=chosen)]
    finally:
        await log.close()


def _chosen(catalog: Any, collection: str) -> Any:
    """The id that is meant. One that the catalog does not know may be of a deleted collection."""
    named = [
        item
        for tenant in catalog.tenants()
        for database in catalog.databases(tenant.name)
        for item in catalog.collections(tenant.name, database.name)
        if collection in (item.name, item.id)
    ]
    if len(named) > 1:
        found = ", ".join(f"{item.tenant}/{item.database}: {item.id}" for item in named)
        raise ValueError(f"several collections have that name; give the id of one. {found}")
    if named:
        return named[0].id
    if collection.count("-") == 4:
        return collection
    raise ValueError(f"no collection of that name; give the id of a deleted one. collection={collection!r}")


def _time(line: AuditLine) -> str:
    moment = datetime.fromtimestamp(line.time_ns // _NS, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{line.time_ns % _NS // 1000:06d}Z"


def _as_json(line: AuditLine) -> dict[str, Any]:
    return {
        "lsn": line.lsn,
        "time": _time(line),
        "author": line.author,
        "event": line.event,
        "collection": line.collection,
        "records": line.records,
        "name": line.name,
    }


def _print(lines: list[AuditLine]) -> None:
    from rich.table import Table

    table = Table("lsn", "time", "author", "event", "collection", "records", "name")
    for line in lines:
        records = "" if line.records is None else str(line.records)
        event = line.event or "(applied)"
        table.add_row(
            str(line.lsn), _time(line), line.author or "-", event, line.collection or "-", records, line.name or ""
        )
    print_table(table)
