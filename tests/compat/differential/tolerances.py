"""How a documented difference is taken out of an exchange, and nothing else.

Each of these gives the exchange as it would be without the difference, or None where there is none. `deviations` says which
row of docs/compatibility.md each of them belongs to.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from tests.compat.differential.answers import dropped, flat, refused
from tests.compat.differential.exchange import Answer, Exchange, Json, Request

BAD_PATTERN = re.compile(r"Invalid where (document )?clause: .*\$(not_)?regex: invalid regular expression: ")
BEYOND_RE2 = (
    *("set operations in a class", "classes within a class", "invalid repetition size", "bad repetition operator"),
    *("invalid perl operator", "invalid character class range", "pattern is too large", "a `{` that begins no repetition"),
    r"\< is not supported",
    r"\b beside a letter beyond ASCII is not supported",
    r"\B beside a letter beyond ASCII is not supported",
    "invalid named capture group",
)
BEYOND_RUST = (
    *("Unicode property not found", "Unicode property value not found", "duplicate flag", "duplicate capture group name"),
    *("invalid range boundary, must be a literal", "repetition operator missing expression"),
    "invalid capture group character",
)
MALFORMED = ("Failed to deserialize the JSON body into the target type: ", "Failed to parse the request body as JSON: ")
FAULT = "Validation error: "
KINDS_OF_FAULTS = (
    *(
        "invalid type",
        "invalid value",
        "invalid length",
        "unknown variant",
        "unknown field",
        "missing field",
        "duplicate field",
    ),
    "data did not match",
)

ROUNDING = 1e-5
"""How far distances, and embeddings that were normalised, may be apart: float32 summed in another order."""
LAST_DIGIT = 1e-15
"""How far floats in metadata may be apart, as a part of their size."""


def walk(where: Json) -> Iterator[tuple[str, Json]]:
    """Every field of a filter with each of its operands."""
    for key, value in leaves(where):
        for operand in value.values() if isinstance(value, dict) else [value]:
            yield from ((key, item) for item in (operand if isinstance(operand, list) else [operand]))


def document_tests(request: Request) -> list[tuple[str, str]]:
    """Operators and operands of the tests on documents."""
    where = request.field("where")
    inside = [value for key, value in leaves(where) if key == "#document"]
    found = itertools.chain(leaves(request.field("where_document")), *map(leaves, inside))
    return [(operator, operand) for operator, operand in found if isinstance(operand, str)]


def leaves(where: Json) -> Iterator[tuple[str, Json]]:
    for key, value in where.items() if isinstance(where, dict) else ():
        if key in ("$and", "$or"):
            yield from itertools.chain.from_iterable(map(leaves, value if isinstance(value, list) else []))
        else:
            yield key, value


def bad_filter(exchange: Exchange) -> Exchange | None:
    theirs, ours = exchange.chroma.message, exchange.ours.message
    if theirs in ("Invalid where clause", "Invalid where document clause") and ours.startswith(theirs + ": "):
        return replace(exchange, ours=exchange.ours.with_message(theirs))
    return None


def bad_pattern(exchange: Exchange) -> Exchange | None:
    theirs, ours = exchange.chroma.message, exchange.ours.message
    if theirs.startswith(("Regex syntax errror: ", "Byte pattern is not allowed")) and BAD_PATTERN.match(ours):
        return replace(exchange, ours=exchange.ours.with_message(theirs))
    return None


def beyond_re2(exchange: Exchange) -> Exchange | None:
    understood = exchange.request.verb in ("get", "query") and exchange.chroma.status == 200
    explained = BAD_PATTERN.match(exchange.ours.message)
    if understood and explained and exchange.ours.message[explained.end() :].startswith(BEYOND_RE2):
        return exchange.answered_as_chroma()
    return None


def beyond_rust(exchange: Exchange) -> Exchange | None:
    read = exchange.request.verb in ("get", "query") and exchange.ours.status == 200
    refusal = exchange.chroma.message
    if read and refusal.startswith("Regex syntax errror: ") and refusal.endswith(BEYOND_RUST):
        return exchange.answered_as_chroma()
    return None


def word_boundary(exchange: Exchange) -> Exchange | None:
    """Only documents may be in the way that hold letters beyond ASCII."""
    patterns = [operand for operator, operand in document_tests(exchange.request) if operator in ("$regex", "$not_regex")]
    if not any("\\b" in pattern or "\\B" in pattern for pattern in patterns):
        return None
    sides = [column_by_id(answer, "documents") for answer in (exchange.chroma, exchange.ours)]
    if None in sides:
        return None
    different = sides[0].items() ^ sides[1].items()
    return exchange.answered_as_chroma() if all(text and not text.isascii() for _, text in different) else None


def nul(exchange: Exchange) -> Exchange | None:
    """Chroma may match more with `$contains`, and less without."""
    tests = [operand for operator, operand in document_tests(exchange.request) if operator in ("$contains", "$not_contains")]
    both_answered = (exchange.chroma.status, exchange.ours.status) == (200, 200)
    return exchange.answered_as_chroma() if both_answered and any("\0" in operand for operand in tests) else None


def long_text(exchange: Exchange) -> Exchange | None:
    if refused(500, "LIKE or GLOB pattern too complex")(exchange.chroma) and exchange.ours.status == 200:
        return exchange.answered_as_chroma()
    return None


def deeply_nested(exchange: Exchange) -> Exchange | None:
    if refused(400, "recursion limit exceeded")(exchange.chroma) and exchange.ours.status in (200, 400, 422):
        return exchange.answered_as_chroma()
    return None


def fraction(exchange: Exchange) -> Exchange | None:
    """Only records may be in the way that hold an integer in a field which a fraction is compared with."""
    where = exchange.request.field("where")
    fields = {key for key, operand in walk(where) if is_cut(operand)}
    if not fields or (exchange.chroma.status, exchange.ours.status) != (200, 200):
        return None
    return exchange.answered_as_chroma() if only_these_differ(exchange, fields, int) else None


def large_integer(exchange: Exchange) -> Exchange | None:
    """Only records may be in the way that hold a float in a field which a large integer is compared with."""
    where = exchange.request.field("where")
    fields = {key for key, operand in walk(where) if type(operand) is int and abs(operand) > 2**53}
    if not fields or (exchange.chroma.status, exchange.ours.status) != (200, 200):
        return None
    return exchange.answered_as_chroma() if only_these_differ(exchange, fields, float) else None


def is_cut(operand: Json) -> bool:
    """Whether a number is no integer of 64 bits."""
    is_number = isinstance(operand, int | float) and not isinstance(operand, bool)
    return is_number and not (-(2**63) <= operand < 2**63 and operand == int(operand))


def only_these_differ(exchange: Exchange, fields: set[str], kind: type) -> bool:
    """Whether each record that only one server found holds a number of this kind in one of the fields."""
    sides = [column_by_id(answer, "metadatas") for answer in (exchange.chroma, exchange.ours)]
    if None in sides:
        return False
    one, two = sides
    different = {**one, **two}.keys() - (one.keys() & two.keys())
    held = ([({**one, **two}[record_id] or {}).get(name) for name in fields] for record_id in different)
    return bool(different) and all(any(type(value) is kind for value in values) for values in held)


def column_by_id(answer: Answer, name: str) -> Any:
    """A column of get, or of a single query, by id; None where there is none."""
    columns = [answer.body.get(key) if isinstance(answer.body, dict) else None for key in ("ids", name)]
    return dict(zip(*map(flat, columns), strict=True)) if None not in columns else None


def unknown_id(exchange: Exchange) -> Exchange | None:
    asked_by_id = exchange.request.verb == "query" and exchange.request.field("ids")
    if asked_by_id and refused(500, "Error finding id")(exchange.chroma) and exchange.ours.status == 200:
        return exchange.answered_as_chroma()
    return None


def no_metadata(exchange: Exchange) -> Exchange | None:
    return with_column(exchange, "metadatas", lambda theirs, ours, _: None if theirs == {} and ours is None else theirs)


Part = Callable[[Json, Json, str], Json]
"""What to put in the place of a part of Chroma's answer, given it, ours, and the name under which it stands."""


def along(theirs: Json, ours: Json, part: Part, name: str = "") -> Json:
    """Chroma's JSON value with other parts, where ours has the same form."""
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        return [along(*pair, part, name) for pair in zip(theirs, ours, strict=True)]
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return {key: along(value, ours.get(key), part, key) for key, value in theirs.items()}
    return part(theirs, ours, name)


def with_column(exchange: Exchange, column: str, part: Part) -> Exchange | None:
    """Change a column of Chroma's answer to get or query, or a field of a description."""
    if (exchange.chroma.status, exchange.ours.status) != (200, 200):
        return None
    if not (isinstance(exchange.chroma.body, dict) and isinstance(exchange.ours.body, dict)):
        return None
    theirs, ours = exchange.chroma.body.get(column), exchange.ours.body.get(column)
    changed = along(theirs, ours, part)
    return None if changed == theirs else with_body(exchange, {**exchange.chroma.body, column: changed})


def no_results_wanted(exchange: Exchange) -> Exchange | None:
    asked = exchange.request.verb == "query" and exchange.request.field("n_results") == 0
    if asked and dropped(exchange.chroma) and exchange.ours.status == 200 and not any(exchange.ours.body["ids"]):
        return exchange.answered_as_chroma()
    return None


def rename(exchange: Exchange) -> Exchange | None:
    clash = refused(500, "UNIQUE constraint failed: collections.name")(exchange.chroma)
    if clash and refused(409, "already exists", error="ChromaError")(exchange.ours):
        return exchange.answered_as_chroma()
    return None


def learned_fields(exchange: Exchange) -> Exchange | None:
    """What Chroma's schema knows of a field, ours knows too; it may know more."""

    def widened(theirs: Json, ours: Json) -> Json:
        if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
            return [widened(*pair) for pair in zip(theirs, ours, strict=True)]
        if not (isinstance(theirs, dict) and isinstance(ours, dict) and "schema" in theirs and "schema" in ours):
            return theirs
        known, keys = ours["schema"]["keys"], dict(theirs["schema"]["keys"])
        for key in known:
            if not key.startswith("#"):
                keys[key] = {**known[key], **keys.get(key, {})}
        return {**theirs, "schema": {**theirs["schema"], "keys": keys}}

    return with_body(exchange, widened(exchange.chroma.body, exchange.ours.body))


def malformed_schema(exchange: Exchange) -> Exchange | None:
    if refused(500, "Schema is malformed: missing index configuration")(exchange.chroma) and exchange.ours.status == 200:
        return exchange.answered_as_chroma()
    return None


def no_threads(exchange: Exchange) -> Exchange | None:
    """Take our number for theirs where it is 0, wherever a description has it."""

    def number(theirs: Json, ours: Json, name: str) -> Json:
        return ours if name == "num_threads" and theirs == 0 and ours else theirs

    return with_body(exchange, along(exchange.chroma.body, exchange.ours.body, number))


def with_body(exchange: Exchange, body: Json) -> Exchange | None:
    """Put another body into Chroma's answer, if it is another."""
    return None if body == exchange.chroma.body else replace(exchange, chroma=replace(exchange.chroma, body=body))


def unknown_spann(exchange: Exchange) -> Exchange | None:
    """Only of changes, which change nothing then; a creation makes a collection here, and none there."""
    is_change = exchange.request.method == "PUT" and exchange.ours.status == 200
    if is_change and refused(422, "new_configuration.spann.", "unknown field")(exchange.chroma):
        return exchange.answered_as_chroma()
    return None


def unsupported(exchange: Exchange) -> Exchange | None:
    """Each server refuses, though maybe for another reason."""
    asked = re.search(r"/(search|fork|fork_count|functions/[^/]+|attached_functions/[^/]+/detach)$", exchange.request.path)
    if asked and 400 <= exchange.chroma.status <= 501 and 400 <= exchange.ours.status <= 501:
        return exchange.answered_as_chroma()
    return None


def no_word(exchange: Exchange) -> Exchange | None:
    syntax = refused(400, MALFORMED[1], "expected value at line")(exchange.chroma)
    words = re.search(r": (include\[\d+\]|[\w.#]*\bspace): expected value", exchange.chroma.message)
    if syntax and words and refused(422, MALFORMED[0], words[1])(exchange.ours):
        return exchange.answered_as_chroma()
    # Of an object, Chroma takes the first key for the word.
    if refused(422, ": unknown variant")(exchange.chroma) and refused(422, ": invalid type: map, expected a string")(
        exchange.ours
    ):
        return exchange.answered_as_chroma()
    return None


def list_for_object(exchange: Exchange) -> Exchange | None:
    """Chroma may refuse the list too, for what it holds."""
    if refused(422, "invalid type: sequence, expected a map")(exchange.ours) and exchange.chroma.status >= 400:
        return exchange.answered_as_chroma()
    return None


def empty_name(exchange: Exchange) -> Exchange | None:
    short = refused(400, "database name must be at least 3 characters")(exchange.chroma)
    if short and "/databases//" in exchange.request.path and (exchange.ours.status, exchange.ours.body) == (404, ""):
        return exchange.answered_as_chroma()
    return None


def malformed(exchange: Exchange) -> Exchange | None:
    """Place and kind of a fault agree; of what is no JSON at all, that it is none."""
    theirs, ours = exchange.chroma.message, exchange.ours.message
    no_json = theirs.startswith(MALFORMED[1]) and ours.startswith(MALFORMED[1])
    if no_json or (theirs.startswith(MALFORMED[0]) and place_and_kind(theirs) == place_and_kind(ours)):
        return replace(exchange, ours=exchange.ours.with_message(theirs))
    return None


def place_and_kind(message: str) -> str:
    """The message up to its kind of fault; without its last words, which say where in the body, where it has none."""
    found = re.match(rf".*?: (?:{'|'.join(KINDS_OF_FAULTS)})", message, re.DOTALL)
    return found[0] if found else re.sub(r"( at line \d+ column \d+)?$", "", message)


def several_faults(exchange: Exchange) -> Exchange | None:
    """Ours is one of Chroma's, and may say more."""
    theirs, ours = exchange.chroma.message, exchange.ours.message
    faults = theirs.removeprefix(FAULT).split("\n")
    if len(faults) > 1 and any(ours.startswith(FAULT + fault) for fault in faults):
        return replace(exchange, ours=exchange.ours.with_message(theirs))
    # Chroma checks while it reads, so it may meet a wrong field before the place where the text is no JSON any more.
    if refused(422, MALFORMED[0])(exchange.chroma) and refused(400, MALFORMED[1])(exchange.ours):
        return exchange.answered_as_chroma()
    return None


def says_more(exchange: Exchange) -> Exchange | None:
    theirs, ours = exchange.chroma.message, exchange.ours.message
    details = r"length \[\{(.*)\}\]"
    same_details = [sorted(found[1].split(", ")) for text in (theirs, ours) if (found := re.search(details, text))]
    in_order = len(same_details) == 2 and same_details[0] == same_details[1]
    if theirs and (ours.startswith((theirs + ". ", theirs + ": ", theirs + " ")) or in_order):
        return replace(exchange, ours=exchange.ours.with_message(theirs))
    return None


def listing(exchange: Exchange) -> Exchange | None:
    """Sort lists of collections by name; a page of them, by other ids, holds as many."""
    sides = (exchange.chroma, exchange.ours)
    if not all(isinstance(side.body, list) and are_collections(side.body) for side in sides):
        return None
    theirs, ours = (replace(side, body=sorted(side.body, key=lambda item: item["name"])) for side in sides)
    changed = replace(exchange, chroma=theirs, ours=ours)
    is_page = "limit" in exchange.request.path or "offset" in exchange.request.path
    if is_page and len(theirs.body) == len(ours.body):
        return changed.answered_as_chroma()
    return changed


def are_collections(items: Sequence[Json]) -> bool:
    return bool(items) and all(isinstance(item, dict) and "configuration_json" in item for item in items)


def rounding(exchange: Exchange) -> Exchange | None:
    close = nearly(ROUNDING, ROUNDING)
    distances = with_column(exchange, "distances", close)
    return with_column(distances or exchange, "embeddings", close) or distances


def last_digit(exchange: Exchange) -> Exchange | None:
    close = nearly(LAST_DIGIT, 0.0)
    return with_column(exchange, "metadatas", close) or with_column(exchange, "metadata", close)


def nearly(relative: float, absolute: float) -> Part:
    """Takes our float for Chroma's where they are that near to one another."""

    def part(theirs: Json, ours: Json, _: str) -> Json:
        both_floats = isinstance(theirs, float) and isinstance(ours, float)
        return ours if both_floats and math.isclose(theirs, ours, rel_tol=relative, abs_tol=absolute) else theirs

    return part


def ties(exchange: Exchange) -> Exchange | None:
    """Put our rows into Chroma's order where their distances are equal.

    The last group of equal distances may be cut off by n_results at other rows; there as many of them count.
    """
    asked = exchange.request.verb == "query" and (exchange.chroma.status, exchange.ours.status) == (200, 200)
    if not asked or not exchange.chroma.body["distances"] or not exchange.ours.body["distances"]:
        return None
    theirs, ours = exchange.chroma.body, exchange.ours.body
    names = [key for key in ("ids", "documents", "metadatas", "embeddings", "uris", "distances") if ours[key]]
    columns = {key: [list(rows) for rows in ours[key]] for key in names}
    for query, (wanted, distances) in enumerate(zip(theirs["ids"], theirs["distances"], strict=True)):
        if len(ours["ids"]) <= query or len(ours["ids"][query]) != len(wanted) or None in distances:
            continue
        for rows in equally_distant(distances):
            there, here = wanted[rows], ours["ids"][query][rows]
            if sorted(there) == sorted(here):
                order = [rows.start + here.index(record_id) for record_id in there]
                for key in names:
                    columns[key][query][rows] = [ours[key][query][row] for row in order]
            elif rows.stop == len(wanted):
                for key in names:
                    if key != "distances":
                        columns[key][query][rows] = theirs[key][query][rows]
    changed = {**ours, **columns}
    return None if changed == ours else replace(exchange, ours=replace(exchange.ours, body=changed))


def equally_distant(distances: Sequence[float]) -> list[slice]:
    starts = [0, *(row for row, (a, b) in enumerate(itertools.pairwise(distances), 1) if b - a > ROUNDING)]
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], len(distances)], strict=True) if start < stop]
