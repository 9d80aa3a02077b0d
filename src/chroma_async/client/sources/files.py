"""Files: which kind they are, and their lines."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, get_args

from chroma_async.client.lines import Lines
from chroma_async.client.sources import delimited, ndjson, tables
from chroma_async.client.sources.options import FileFormat, SourceOptions
from chroma_async.client.sources.text import open_text, unbroken

SUFFIXES: Final[Mapping[str, FileFormat]] = {
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".json": "ndjson",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".ipc": "arrow",
    ".feather": "arrow",
}
HOW_TO_NAME_FORMATS: Final = (
    f"known: {', '.join(SUFFIXES)}, text with .gz too; a format says it otherwise: {', '.join(get_args(FileFormat))}"
)


@contextmanager
def runs_of(path: Path, options: SourceOptions, skip: int) -> Generator[Iterator[Lines]]:
    """Open a file after its first `skip` lines.

    Raises:
        ValueError: its name doesn't say of which kind it is, or it is damaged.
    """
    kind = options.format or format_of(path)
    if kind == "parquet":
        with path.open("rb") as file:
            yield tables.runs_of_parquet(path, file, options, skip)
    elif kind == "arrow":
        with path.open("rb") as file:
            yield tables.runs_of_arrow_file(path, file, options, skip)
    else:
        with open_text(path) as text:
            runs = ndjson.runs_of(text, options, skip) if kind == "ndjson" else delimited.runs_of(text, kind, options, skip)
            yield unbroken(path, runs)


def format_of(path: Path) -> FileFormat:
    """Return what a file is by its name.

    Raises:
        ValueError: its name doesn't say it.
    """
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    found = SUFFIXES.get(suffix.lower())
    if found is None:
        raise ValueError(f"what kind of file is this? {HOW_TO_NAME_FORMATS}. file={str(path)!r}")
    return found
