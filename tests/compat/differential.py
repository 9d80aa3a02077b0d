"""Send one random history of calls to two servers, and show the first answer in which they differ.

    python -m tests.compat.differential URL_A URL_B --steps 2000 --seed 7

Statuses, error names, messages and bodies are compared field by field. What may differ lawfully is taken out first:
ids that a server invents, positions and parser prose in messages about malformed bodies, what one message says beyond the
other, the order of equal distances and of listed collections, the fields that a schema learnt from writes (one server counts
writes without effect), and float32 rounding of distances and vectors. The same seed gives the same history.

The generator stays away from the few places where the servers are meant to differ: fractions compared with integers,
unknown ids in a query's id filter, renaming to a taken name, uris without metadata, lists in collection metadata; from
queries for no results at all, which make the reference drop the connection once a fifth of a collection was deleted; and
from lists in the metadata of histories that delete collections, because the reference gives them to records that come later.
For the same reason a reference starts each history with an empty directory, or after a reset.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

Json = Any

TOLERANCE = 1e-5
DIMENSION = 3
IDS = [*"abcdefghijklmnop", "日本", "a b/c%"]
WORDS = ["red", "fox", "Red", "日本語", "100%", "a_b", "x", "line\nbreak", "straße"]
NEEDLES = ["r", "re", "red", "Red", "fox x", "本", "日本", "%", "_", "a_b", "\n", "ß", "", "nowhere"]
PATTERNS = ["^red", "fox$", "(?i)RED", r"\d+", "x|日", "", "r.d", r"\bfox\b"]


@dataclass(frozen=True)
class Call:
    """One request; `{uuid:NAME}` in the path stands for the id that each server gave to that collection."""

    method: str
    path: str
    body: Json = None

    def __str__(self) -> str:
        return f"{self.method} {self.path} {json.dumps(self.body, ensure_ascii=False)}"


class Server:
    """One side: its address, and the ids it invented."""

    def __init__(self, url: str, database: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=60)
        self._ids: dict[str, str] = {}
        self._seen: list[str] = []
        self._root = f"/api/v2/tenants/default_tenant/databases/{database}"
        self._http.post("/api/v2/tenants/default_tenant/databases", json={"name": database}).raise_for_status()

    def answer(self, call: Call) -> tuple[int, Json]:
        path = re.sub(r"\{uuid:(.+?)\}", lambda match: self._ids[match[1]], call.path)
        options = {} if call.body is None else {"json": call.body}
        try:
            response = self._http.request(call.method, self._root + path, **options)
        except httpx.TransportError as error:
            return 0, f"no answer: {error}"
        body = response.json() if response.content else None
        if call.path == "/collections" and call.method == "POST" and response.status_code == 200:
            self._ids[body["name"]] = body["id"]
            if body["id"] not in self._seen:
                self._seen.append(body["id"])
        return response.status_code, self._comparable(body)

    def _comparable(self, body: Json) -> Json:
        """Replace what each server is free to choose."""
        if isinstance(body, dict):
            if "error" in body:
                return {**body, "message": self._comparable_message(body["message"])}
            if "configuration_json" in body:
                body["schema"]["keys"] = {key: types for key, types in body["schema"]["keys"].items() if key.startswith("#")}
            return {
                key: f"<id {self._seen.index(value)}>" if key == "id" else self._comparable(value)
                for key, value in body.items()
                if key != "num_threads"
            }
        if isinstance(body, list):
            items = [self._comparable(item) for item in body]
            return sorted(items, key=lambda item: item["name"]) if _is_collections(items) else items
        return body

    def _comparable_message(self, message: str) -> str:
        for number, identifier in enumerate(self._seen):
            message = message.replace(identifier, f"<id {number}>")
        message = re.sub(r"^Invalid where.*: invalid regular expression", "Regex syntax errror: ", message)
        prose = re.match(r"Failed to (deserialize|parse) [^:]*: |Regex syntax errror: |Failed to parse", message)
        return prose[0] if prose else message


def _is_collections(items: list[Json]) -> bool:
    return bool(items) and all(isinstance(item, dict) and "configuration_json" in item for item in items)


# --- comparing ---


def difference(left: Json, right: Json, path: str = "") -> str | None:
    """The first place where two JSON values differ, or None; 1, 1.0 and true are three values."""
    if type(left) is not type(right):
        return f"{path}: {left!r} != {right!r}"
    if isinstance(left, dict):
        keys = [*left, *(key for key in right if key not in left)]
        missing = object()
        pairs = ((f"{path}.{key}", left.get(key, missing), right.get(key, missing)) for key in keys)
        return next((found for at, one, two in pairs if (found := difference(one, two, at))), None)
    if isinstance(left, list):
        if len(left) != len(right):
            return f"{path}: {left!r} != {right!r}"
        pairs = ((f"{path}[{index}]", one, two) for index, (one, two) in enumerate(zip(left, right, strict=True)))
        return next((found for at, one, two in pairs if (found := difference(one, two, at))), None)
    if isinstance(left, float) and path.startswith((".distances", ".embeddings")):
        return None if math.isclose(left, right, rel_tol=TOLERANCE, abs_tol=TOLERANCE) else f"{path}: {left} != {right}"
    if path == ".message" and isinstance(left, str) and (left.startswith(right) or right.startswith(left)):
        return None  # one says more
    return None if left == right else f"{path}: {left!r} != {right!r}"


def untie(left: Json, right: Json) -> Json:
    """Reorder the rows of `right` so that equally distant ones stand as in `left`.

    The last group of equal distances may be cut off by n_results at different rows, so there `left` is taken as right.
    """
    columns = [key for key in ("ids", "documents", "metadatas", "embeddings", "uris", "distances") if right.get(key)]
    untied = {**right, **{key: [list(rows) for rows in right[key]] for key in columns}}
    for query, (ids, distances) in enumerate(zip(left["ids"], left["distances"], strict=True)):
        if len(right["ids"][query]) != len(ids) or None in distances or not ids:
            continue
        for rows in _equally_distant(distances):
            wanted, found = ids[rows], right["ids"][query][rows]
            if sorted(wanted) == sorted(found):
                order = [rows.start + found.index(record_id) for record_id in wanted]
                for key in columns:
                    untied[key][query][rows] = [right[key][query][row] for row in order]
            elif rows.stop == len(ids):
                for key in columns:
                    if key != "distances":
                        untied[key][query][rows] = left[key][query][rows]
    return untied


def _equally_distant(distances: Sequence[float]) -> list[slice]:
    starts = [0, *(row for row, (a, b) in enumerate(itertools.pairwise(distances), 1) if b - a > TOLERANCE)]
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], len(distances)], strict=True)]


def compare(call: Call, left: tuple[int, Json], right: tuple[int, Json]) -> str | None:
    if left[0] != right[0]:
        return f"status: {left[0]} != {right[0]}"
    one, two = left[1], right[1]
    if call.path.endswith("/query") and left[0] == 200 and one["distances"] and len(one["ids"]) == len(two["ids"]):
        two = untie(one, two)
    return difference(one, two)


# --- generating ---


@dataclass
class Generator:
    """Random calls, most of them sensible; it remembers which collections should exist."""

    random: random.Random
    spaces: dict[str, str] = field(default_factory=dict)
    created: int = 0

    def __post_init__(self) -> None:
        self.has_lists = self.random.random() < 0.5

    def next(self) -> Call:
        if not self.spaces:
            return self._create()
        drops = 0 if self.has_lists else 1
        weighted: dict[Callable[[], Call], int] = {
            **{self._write: 40, self._get: 20, self._query: 20, self._delete: 8, self._count: 4, self._bad: 4},
            **{self._create: 1, self._create_again: 1, self._drop: drops, self._modify: 2, self._describe: 3, self._list: 1},
        }
        return self.random.choices(list(weighted), list(weighted.values()))[0]()

    def _name(self) -> str:
        return self.random.choice(list(self.spaces))

    def _record_path(self, verb: str) -> str:
        return f"/collections/{{uuid:{self._name()}}}/{verb}"

    def _maybe(self, value: Callable[[], Json], chance: float = 0.5) -> Json:
        return value() if self.random.random() < chance else None

    # collections

    def _create(self) -> Call:
        if len(self.spaces) >= 3:
            return self._list() if self.has_lists else self._drop()
        self.created += 1
        name, space = f"collection-{self.created}", self.random.choice(["l2", "ip", "cosine"])
        self.spaces[name] = space
        body: dict[str, Json] = {"name": name, "get_or_create": self.random.random() < 0.5}
        if self.random.random() < 0.5:
            body |= {"metadata": {"hnsw:space": space, "topic": "x", "rate": 1.0}}
        else:
            body |= {"configuration": {"hnsw": {"space": space}}, "metadata": self._maybe(self._metadata) or None}
        return Call("POST", "/collections", body)

    def _create_again(self) -> Call:
        body = {"name": self._name(), "get_or_create": self.random.random() < 0.5, "metadata": {"again": 1}}
        return Call("POST", "/collections", body)

    def _drop(self) -> Call:
        name = self._name()
        del self.spaces[name]
        return Call("DELETE", f"/collections/{name}")

    def _modify(self) -> Call:
        body = self.random.choice(
            [
                {},
                {"new_metadata": {"version": self.random.randrange(9)}},
                {"new_metadata": {}},
                {"new_configuration": {"hnsw": {"ef_search": self.random.randrange(50, 200)}}},
                {"new_configuration": {"hnsw": {"space": "ip"}}},
                {"new_name": "a b"},
            ]
        )
        return Call("PUT", f"/collections/{{uuid:{self._name()}}}", body)

    def _describe(self) -> Call:
        return Call("GET", f"/collections/{self.random.choice([*self.spaces, 'nowhere'])}")

    def _list(self) -> Call:
        return Call("GET", self.random.choice(["/collections", "/collections_count", "/collections?limit=0"]))

    def _count(self) -> Call:
        return Call("GET", self._record_path("count"))

    # records

    def _vector(self) -> list[float]:
        if self.random.random() < 0.03:
            return [0.0] * DIMENSION
        return [float(np.float32(round(self.random.uniform(-2, 2), 4))) for _ in range(DIMENSION)]

    def _scalar(self, key: str) -> Json:
        values: dict[str, Sequence[Json]] = {
            "i": range(-3, 4),
            "f": [-1.5, 0.0, 0.25, 1.0, 1.5, 2.0],
            "s": ["", "x", "X", "y", "xy", "日本"],
            "b": [True, False],
            "m": [1, 1.0, True, "1", 2, "x", False, 0],
        }
        return self.random.choice(values[key])

    def _value(self, key: str) -> Json:
        if key == "list":
            return self.random.choice([[1, 2], ["x", "y"], [1.0, 2.5], [True], ["x"], [2]])
        return self._scalar(key)

    def _metadata(self) -> dict[str, Json]:
        return {key: self._scalar(key) for key in self.random.sample("ifsbm", self.random.randint(1, 4))}

    def _record_metadata(self, nulls: bool) -> Json:
        metadata = self._metadata()
        if self.has_lists and self.random.random() < 0.3:
            metadata["list"] = self._value("list")
        if nulls and self.random.random() < 0.4:
            metadata[self.random.choice([*"ifsbm", "list"])] = None
        return self._maybe(lambda: metadata, 0.9)

    def _document(self) -> Json:
        return self._maybe(lambda: " ".join(self.random.choices(WORDS, k=self.random.randint(0, 4))), 0.8)

    def _some_ids(self) -> list[str]:
        return self.random.choices(IDS, k=self.random.choice([1, 1, 2, 3, 6]))

    def _write(self) -> Call:
        verb = self.random.choice(["add", "upsert", "update"])
        ids = self._some_ids()
        body: dict[str, Json] = {"ids": ids, "embeddings": [self._vector() for _ in ids]}
        if verb == "update" and self.random.random() < 0.5:
            body["embeddings"] = self._maybe(lambda: [self._maybe(self._vector) for _ in ids])
        body["documents"] = self._maybe(lambda: [self._document() for _ in ids], 0.8)
        body["metadatas"] = self._maybe(lambda: [self._record_metadata(nulls=verb != "add") for _ in ids], 0.8)
        return Call("POST", self._record_path(verb), body)

    def _delete(self) -> Call:
        body = self._selection()
        if body.get("where") and self.random.random() < 0.5:
            body["limit"] = self.random.randrange(4)
        return Call("POST", self._record_path("delete"), body)

    def _selection(self) -> dict[str, Json]:
        return {
            "ids": self._maybe(self._some_ids, 0.3),
            "where": self._maybe(self._where, 0.5),
            "where_document": self._maybe(self._where_document, 0.25),
        }

    def _include(self, *more: str) -> list[str]:
        columns = ["documents", "metadatas", "embeddings", "uris"]
        return [*more, *self.random.sample(columns, self.random.randrange(5))]

    def _get(self) -> Call:
        body = {**self._selection(), "include": self._include()}
        body |= {
            "limit": self._maybe(lambda: self.random.randrange(8)),
            "offset": self._maybe(lambda: self.random.randrange(8)),
        }
        return Call("POST", self._record_path("get"), body)

    def _query(self) -> Call:
        vectors = [self._vector() for _ in range(self.random.choice([0, 1, 1, 2]))]
        body = {**self._selection(), "ids": None, "query_embeddings": vectors, "include": self._include("distances")}
        body["n_results"] = self.random.choice([None, 1, 3, 5, 50])
        return Call("POST", self._record_path("query"), body)

    # filters

    def _where(self, depth: int = 2) -> Json:
        if depth and self.random.random() < 0.3:
            children = [self._where(depth - 1) for _ in range(self.random.randrange(4))]
            return {self.random.choice(["$and", "$or"]): children}
        if self.random.random() < 0.1:
            return {"#document": self._where_document(0)}
        key = self.random.choice([*"ifsbm", "list", "ghost"])
        if key == "list":
            return {key: {self.random.choice(["$contains", "$not_contains"]): self.random.choice([1, 1.0, "x", True, 2.5])}}
        typed = "s" if key == "ghost" else key
        operator = self.random.choice(["$eq", "$ne", "$in", "$nin", "$gt", "$gte", "$lt", "$lte", "$contains", None])
        return {key: self._condition(operator, typed)}

    def _condition(self, operator: str | None, key: str) -> Json:
        operand = self._scalar(key)
        if operator is None:
            return operand
        if operator in ("$in", "$nin"):
            same_type = (self._scalar(key) for _ in range(20))
            return {operator: [operand, *itertools.islice((v for v in same_type if type(v) is type(operand)), 2)]}
        return {operator: operand}

    def _where_document(self, depth: int = 1) -> Json:
        if depth and self.random.random() < 0.3:
            children = [self._where_document(depth - 1) for _ in range(self.random.randrange(3))]
            return {self.random.choice(["$and", "$or"]): children}
        if self.random.random() < 0.25:
            return {self.random.choice(["$regex", "$not_regex"]): self.random.choice(PATTERNS)}
        return {self.random.choice(["$contains", "$not_contains"]): self.random.choice(NEEDLES)}

    def _bad(self) -> Call:
        """A call that is refused, or accepted with a shrug."""
        short, long = [1.0] * (DIMENSION - 1), [1.0] * DIMENSION
        verb, body = self.random.choice(
            [
                ("add", {"ids": ["a", "b"], "embeddings": [long]}),
                ("add", {"ids": ["a"], "embeddings": [[]]}),
                ("add", {"ids": ["a", "b"], "embeddings": [long, short]}),
                ("add", {"ids": ["a"]}),
                ("add", {"ids": [], "embeddings": []}),
                ("add", {"ids": ["a"], "embeddings": [long], "metadatas": [{"#k": 1}]}),
                ("add", {"ids": ["a"], "embeddings": [long], "metadatas": [{"k": None}]}),
                ("upsert", {"ids": ["a"], "embeddings": ["AAAA"]}),
                ("upsert", {"ids": ["a"], "embeddings": ["AACAPwAAgD8AAIA/", long]}),
                ("update", {"ids": ["a"]}),
                ("get", {"where": {}}),
                ("get", {"where": {"i": {"$in": []}}}),
                ("get", {"where": {"i": {"$gt": "x"}}}),
                ("get", {"where_document": {}}),
                ("get", {"where_document": {"$regex": "("}}),
                ("get", {"limit": -1}),
                ("get", {"include": ["nope"]}),
                ("get", {"ids": []}),
                ("query", {"query_embeddings": [long, short]}),
                ("query", {"query_embeddings": [long], "ids": []}),
                ("query", {"query_embeddings": [long], "where": {"i": None}}),
                ("query", {}),
                ("delete", {}),
                ("delete", {"ids": []}),
                ("delete", {"ids": ["a"], "limit": 1}),
                ("delete", {"where": {}}),
            ]
        )
        return Call("POST", self._record_path(verb), body)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url_a")
    parser.add_argument("url_b")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--reset", action="store_true", help="delete everything on both servers first")
    parser.add_argument("--history", type=int, default=15, help="calls to show before a difference")
    options = parser.parse_args()
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    database = f"differential-{random.randrange(1 << 60):x}"
    if options.reset:
        for url in (options.url_a, options.url_b):
            httpx.post(url.rstrip("/") + "/api/v2/reset").raise_for_status()
    sides = [Server(url.rstrip("/"), database) for url in (options.url_a, options.url_b)]
    generator, history = Generator(random.Random(seed)), list[Call]()
    for step in range(options.steps):
        history.append(generator.next())
        left, right = (side.answer(history[-1]) for side in sides)
        if found := compare(history[-1], left, right) or (left[0] == 0 and "neither server answered"):
            print(*(f"  {call}" for call in _relevant(history)[-options.history :]), sep="\n")
            print(f"step {step} of seed {seed} differs at {found}\n  A: {left}\n  B: {right}")
            return 1
    print(f"{options.steps} steps of seed {seed}: no difference")
    return 0


def _relevant(history: list[Call]) -> list[Call]:
    """The calls about the collection of the last one that can have changed something, and the last one."""
    last = history[-1]
    found = re.search(r"collection-\d+", last.path)
    about = [call for call in history[:-1] if found is None or re.search(rf"{found[0]}\b", str(call))]
    return [*(call for call in about if not call.path.endswith(("/get", "/query", "/count"))), last]


if __name__ == "__main__":
    sys.exit(main())
