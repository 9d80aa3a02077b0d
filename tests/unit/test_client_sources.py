"""What files, tables and iterables come to: the same lines, whatever they are."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pybase64
import pytest

from chroma_async.client.ingest_options import checked_source_options
from chroma_async.client.lines import Lines, joined
from chroma_async.client.sources import open_source
from chroma_async.client.sources.text import LINE_BYTES_MAX

COUNT = 1_234


def read(source: Any, skip: int = 0, mapping: dict[str, Any] | None = None, **options: Any) -> Lines:
    reading = checked_source_options(
        mapping, options.pop("op", "upsert"), options.pop("format", None), options.pop("delimiter", None)
    )
    with open_source(source, reading, skip) as items:
        runs = list(items)
    return joined(runs) if runs else Lines([])


def told(lines: Lines) -> list[tuple[Any, ...]]:
    """Each line as a tuple that can be compared."""

    def of(column: list[Any] | None, place: int) -> Any:
        return None if column is None else column[place]

    found = []
    for place, id_ in enumerate(lines.ids):
        metadata = of(lines.metadatas, place)
        vector = lines.vector(place)
        found.append(
            (
                id_,
                lines.operation(place),
                None if vector is None else vector.tolist(),
                of(lines.documents, place),
                None if metadata is None else json.loads(metadata),
                of(lines.uris, place),
            )
        )
    return found


def vector(number: int) -> list[float]:
    return [float(number), 0.5, -1.25]


def row(number: int) -> dict[str, Any]:
    """A line with gaps: every third has no document, every fifth no year."""
    return {
        "id": f"r{number}",
        "embedding": vector(number),
        "document": None if number % 3 == 0 else f'text {number}, "quoted"\nand über',
        "year": None if number % 5 == 0 else 1900 + number % 100,
        "language": "de" if number % 2 else "en",
        "price": number / 4,
        "sold": number % 7 == 0,
    }


EXPECTED = [
    (
        item["id"],
        "upsert",
        item["embedding"],
        item["document"],
        {name: item[name] for name in ("year", "language", "price", "sold") if item[name] is not None},
        None,
    )
    for item in map(row, range(COUNT))
]

TYPES = {"metadata": ["year:int", "language", "price:float", "sold:bool"]}


def table() -> pa.Table:
    rows = [row(number) for number in range(COUNT)]
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("embedding", pa.list_(pa.float32(), 3)),
            ("document", pa.string()),
            ("year", pa.int64()),
            ("language", pa.dictionary(pa.int32(), pa.string())),
            ("price", pa.float64()),
            ("sold", pa.bool_()),
        ]
    )
    return pa.Table.from_pylist(rows, schema=schema)


def ndjson(path: Path, *, base64: bool = False) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for number in range(COUNT):
            line = {name: value for name, value in row(number).items() if value is not None}
            if base64:
                line["embedding"] = pybase64.b64encode_as_string(np.asarray(vector(number), "<f4").tobytes())
            file.write(json.dumps(line) + "\n")
    return path


def lines_of_ndjson(path: Path) -> Path:
    """In the form of the protocol, which is read in another way than what needs a mapping."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(COUNT):
            line = {name: value for name, value in row(number).items() if value is not None}
            fields = {name: line.pop(name) for name in ("year", "language", "price", "sold") if name in line}
            file.write(json.dumps({**line, "metadata": fields}) + "\n")
    return path


def text_of_csv() -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(row(0))
    for number in range(COUNT):
        cells = row(number)
        cells["embedding"] = json.dumps(cells["embedding"])
        writer.writerow("" if cell is None else cell for cell in cells.values())
    return text.getvalue()


def csv_file(path: Path) -> Path:
    path.write_text("\ufeff" + text_of_csv(), encoding="utf-8")
    return path


def csv_packed(path: Path) -> Path:
    path.write_bytes(gzip.compress(text_of_csv().encode()))
    return path


def parquet(path: Path) -> Path:
    pyarrow.parquet.write_table(table(), path, row_group_size=100)
    return path


def arrow_file(path: Path, *, stream: bool) -> Path:
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with new(path, table().schema) as writer:
        writer.write_table(table(), max_chunksize=77)
    return path


def frame() -> pd.DataFrame:
    made = pd.DataFrame([row(number) for number in range(COUNT)])
    return made.astype({"year": "Int64"})


SOURCES: dict[str, Callable[[Path], Any]] = {
    "dictionaries": lambda path: map(row, range(COUNT)),
    "ndjson": lambda path: ndjson(path / "x.ndjson"),
    "ndjson with base64": lambda path: ndjson(path / "x.jsonl", base64=True),
    "ndjson of lines": lambda path: lines_of_ndjson(path / "y.ndjson"),
    "csv": lambda path: csv_file(path / "x.csv"),
    "csv.gz": lambda path: csv_packed(path / "x.csv.gz"),
    "parquet": lambda path: parquet(path / "x.parquet"),
    "arrow file": lambda path: arrow_file(path / "x.arrow", stream=False),
    "arrow stream": lambda path: arrow_file(path / "x.arrows", stream=True),
    "arrow table": lambda path: table(),
    "arrow reader": lambda path: table().to_reader(max_chunksize=301),
    "arrow batches": lambda path: iter(table().to_batches(max_chunksize=301)),
    "pandas": lambda path: frame(),
    "pandas with an index": lambda path: frame().set_index("id"),
}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("skip", [0, 1, 500, 733, COUNT - 1, COUNT, COUNT + 5])
def test_every_kind_of_source_gives_the_same_lines_from_any_one_on(name: str, skip: int, tmp_path: Path) -> None:
    lines = read(SOURCES[name](tmp_path), skip, mapping=TYPES if "csv" in name else None)
    assert told(lines) == EXPECTED[skip:]
    assert not lines.faults


@pytest.mark.parametrize("name", ["ndjson", "csv", "parquet", "pandas", "arrow table"])
def test_a_source_is_read_in_small_runs_that_say_how_far_it_is(name: str, tmp_path: Path) -> None:
    with open_source(SOURCES[name](tmp_path), checked_source_options(None, "upsert", None, None), 0) as items:
        runs = list(items)
    assert max(len(run) for run in runs) <= 500
    shares = [run.share for run in runs]
    assert shares == sorted(shares, key=lambda share: share or 0.0)
    assert shares[-1] == 1.0


def test_a_parquet_file_that_is_gone_on_with_says_how_far_the_whole_of_it_is(tmp_path: Path) -> None:
    table = pa.table({"id": [f"{row}" for row in range(5_000)], "embedding": [[1.0, 2.0]] * 5_000})
    pa.parquet.write_table(table, tmp_path / "x.parquet", row_group_size=1_000)
    with open_source(tmp_path / "x.parquet", checked_source_options(None, "upsert", None, None), 4_200) as items:
        runs = list(items)
    assert sum(len(run) for run in runs) == 800
    assert [run.share for run in runs] == sorted((4_200 + done) / 5_000 for done in np.cumsum([len(run) for run in runs]))


def test_a_packed_file_that_was_cut_off_is_told_by_its_name(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"id": "a", "embedding": [1, 2]}\n' * 20_000)
    for damaged in (whole[:-200], whole[:-8] + b"12345678"):
        (tmp_path / "x.ndjson.gz").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"damaged.*x\.ndjson\.gz"):
            read(tmp_path / "x.ndjson.gz")


def test_a_line_that_is_nested_too_deep_is_a_bad_one_and_a_mark_of_byte_order_is_none(tmp_path: Path) -> None:
    deep = b"[" * 100_000
    (tmp_path / "x.ndjson").write_bytes(
        b'\xef\xbb\xbf{"id": "a"}\n{"id": "b", "metadata": {"x": ' + deep + b'\n{"id": "c"}\n'
    )
    lines = read(tmp_path / "x.ndjson")
    assert lines.ids == ["a", "", "c"]
    assert list(lines.faults) == [1]


def test_a_whole_number_has_no_fraction() -> None:
    lines = read([{"id": "a", "x": 1.5}, {"id": "b", "x": 2.0}], mapping={"metadata": ["x:int"]})
    assert list(lines.faults) == [0]
    assert lines.metadatas is not None
    assert lines.metadatas[1] == b'{"x":2}'


@pytest.mark.parametrize("name", sorted(SOURCES.keys() - {"ndjson of lines"}))
def test_a_mapping_names_the_columns(name: str, tmp_path: Path) -> None:
    mapping = {"id": "language", "document": "id", "metadata": {"when": "year:str"}}
    lines = read(SOURCES[name](tmp_path), mapping=mapping)
    assert told(lines)[:2] == [
        ("en", "upsert", vector(0), "r0", None, None),
        ("de", "upsert", vector(1), "r1", {"when": "1901"}, None),
    ]


def test_vectors_may_be_columns_of_numbers(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("id\ta\tb\tc\n1\t0.5\t1\t-2\n2\t\t\t\n3\t1\t\t2\n4\tx\t1\t2\n")
    lines = read(tmp_path / "x.tsv", mapping={"embedding": ["a", "b", "c"], "metadata": []})
    assert [found if found is None else found.tolist() for found in map(lines.vector, range(4))] == [
        [0.5, 1, -2],
        None,
        None,
        None,
    ]
    assert sorted(lines.faults) == [2, 3]


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float64()),
        pa.list_(pa.float32()),
        pa.large_list(pa.float32()),
        pa.list_(pa.float16()),
        pa.list_(pa.int32()),
        pa.string(),
    ],
)
def test_vectors_of_tables_may_be_of_many_types_with_gaps_and_wrong_ones(kind: pa.DataType) -> None:
    cells: list[Any] = [[1, 2], None, [3, 4], [5, 6, 7], [8, 9]]
    if kind == pa.string():
        cells = [None if cell is None else json.dumps(cell) for cell in cells]
    elif kind.value_type == pa.float16():
        cells = [None if cell is None else np.asarray(cell, dtype=np.float16) for cell in cells]
    made = pa.table({"id": list("abcde"), "embedding": pa.array(cells, type=kind)})
    expected = [[1, 2], None, [3, 4], [5, 6, 7], [8, 9]]
    for skip in range(5):
        lines = read(made, skip)
        assert [None if found is None else found.tolist() for found in map(lines.vector, range(len(lines)))] == expected[
            skip:
        ]
    alike = read(made.filter([True, False, True, False, True]))
    assert isinstance(alike.vectors, np.ndarray)
    assert alike.vectors.tolist() == [[1, 2], [3, 4], [8, 9]]


def test_a_slice_of_fixed_lists_with_gaps_keeps_its_vectors() -> None:
    made = pa.table(
        {"id": list("abcd"), "embedding": pa.array([[1, 2], None, [3, 4], [5, 6]], type=pa.list_(pa.float32(), 2))}
    )
    for start in range(4):
        lines = read(made.slice(start))
        found = [None if found is None else found.tolist() for found in map(lines.vector, range(len(lines)))]
        assert found == [[1, 2], None, [3, 4], [5, 6]][start:]


def test_metadata_as_an_object_as_json_and_beside_other_columns() -> None:
    struct = pa.table({"id": ["a", "b"], "metadata": [{"x": 1, "y": None}, {"x": None, "y": "z"}]})
    text = pa.table({"id": ["a", "b"], "metadata": ['{"x": 1}', '{"y": "z", "gone": null}']})
    beside = pa.table({"id": ["a", "b"], "metadata": [{"x": 1}, {"x": 2}], "tags": [["p"], ["q", "r"]]})
    assert [found[4] for found in told(read(struct))] == [{"x": 1}, {"y": "z"}]
    assert [found[4] for found in told(read(text))] == [{"x": 1}, {"y": "z", "gone": None}]
    assert [found[4] for found in told(read(beside))] == [{"x": 1, "tags": ["p"]}, {"x": 2, "tags": ["q", "r"]}]


def test_cells_of_tables_become_what_metadata_holds() -> None:
    made = pd.DataFrame(
        {
            "id": [1, 2],
            "when": pd.to_datetime(["2024-05-01", None]),
            "count": np.asarray([1, 2], dtype=np.int8),
            "share": np.asarray([0.5, np.nan], dtype=np.float32),
        }
    )
    assert [(found[0], found[4]) for found in told(read(made))] == [
        ("1", {"when": "2024-05-01T00:00:00", "count": 1, "share": 0.5}),
        ("2", {"count": 2}),
    ]


def test_operations_come_from_the_line_or_from_the_whole() -> None:
    made = [{"id": "a", "op": "delete"}, {"id": "b"}, {"id": "c", "op": "erase"}]
    lines = read(made, op="update")
    assert [lines.operation(place) for place in range(2)] == ["delete", "update"]
    assert list(lines.faults) == [2]


# ---- what is wrong


def test_bad_lines_of_files_have_their_own_numbers(tmp_path: Path) -> None:
    (tmp_path / "x.ndjson").write_bytes(
        b'{"id": "a"}\n\n{"id": \n{"id": 5}\n["x"]\n{"id": "\xff"}\n{"id": "b", "metadata": [1]}\n{"id": ""}\n{"id": "last"}'
    )
    lines = read(tmp_path / "x.ndjson")
    assert lines.ids[0] == "a"
    assert lines.ids[3] == "5"
    assert lines.ids[8] == "last"
    assert {place for place, fault in lines.faults.items() if fault} == {2, 4, 5, 6, 7}
    assert lines.faults[1] == ""
    assert "JSON" in lines.faults[2]
    (tmp_path / "x.csv").write_bytes(b"id,document,n\na,one,1\nb,two\n,three,3\n\nd,\xff,4\ne,five,x\n")
    lines = read(tmp_path / "x.csv", mapping={"metadata": ["n:int"]})
    assert sorted(lines.faults) == [1, 2, 3, 4]
    assert "2 cells, and the header 3" in lines.faults[1]
    assert "no id" in lines.faults[2]
    assert "not a valid text" in lines.faults[3]
    assert "column 'n' is no whole number" in lines.faults[4]


def test_a_line_without_an_end_is_not_read_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.ndjson"
    with path.open("wb") as file:
        file.write(b'{"id": "a"}\n"')
        for _ in range(2 * LINE_BYTES_MAX // 2**20 + 1):
            file.write(b"x" * 2**20)
        file.write(b'"\n{"id": "b"}\n')
    lines = read(path)
    assert lines.ids == ["a", "", "b"]
    assert "longer than" in lines.faults[1]


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"ident": "id"}, "unknown field 'ident'"),
        ({"id": "ident"}, "no column 'ident'.*columns=id, text"),
        ({"id": 5}, r"mapping\['id'\] must name a column"),
        ({"id": ["a", "b"]}, r"mapping\['id'\] must name a column"),
        ({"metadata": 5}, r"mapping\['metadata'\] must name"),
        ({"metadata": ["missing:int"]}, "no column 'missing'"),
    ],
)
def test_a_mapping_that_fits_nothing_is_refused(mapping: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("id,text\na,b\n")
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "x.csv", mapping=mapping)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    for name, content, message in (
        ("x.parquet", b"no parquet at all", "no whole Parquet file"),
        ("x.arrow", b"ARROW1 or not", "no whole Arrow file"),
        ("x.csv", b"text\nb\n", "no column is the id"),
        ("x.csv", b'id,text\n"a"b,c\n', "this CSV can't be read"),
        ("x.bin", b"", "what kind of file"),
        ("x.json", b'[{"id": "a"}]\n', "one JSON list"),
        ("x.csv", b"id,text,text\na,b,c\n", "two columns have one name. name='text'"),
        ("x.ndjson", b'{"chroma_async_export": 1, "name": "x"}\n', "chroma-async import"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read(tmp_path / name)
    whole = parquet(tmp_path / "y.parquet").read_bytes()
    (tmp_path / "y.parquet").write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="no whole Parquet file"):
        read(tmp_path / "y.parquet")
    whole = arrow_file(tmp_path / "y.arrows", stream=True).read_bytes()
    (tmp_path / "y.arrows").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="no whole Arrow file"):
        read(tmp_path / "y.arrows")


def test_an_empty_file_has_no_lines(tmp_path: Path) -> None:
    for name, content in (("x.ndjson", b""), ("x.csv", b""), ("x.csv", b"id,text\n")):
        (tmp_path / name).write_bytes(content)
        assert len(read(tmp_path / name)) == 0


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow"])
def test_without_pyarrow_it_is_said_what_to_install(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).write_bytes(b"")
    for module in [module for module in sys.modules if module.partition(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'chroma-async\[arrow\]'"):
        read(tmp_path / name)


def test_a_package_that_another_thread_just_loads_has_made_no_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", types.ModuleType("pyarrow"))
    assert read([{"id": "a", "embedding": [1, 2]}]).ids == ["a"]
