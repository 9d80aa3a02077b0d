"""What schemathesis has to be told of lines of JSON: of a body it makes one, of an answer it checks the last."""

from __future__ import annotations

import json
from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def line(context: Any, value: Any) -> bytes:
    del context
    return json.dumps(value).encode() + b"\n"


@schemathesis.deserializer("application/x-ndjson")
def last_line(context: Any, response: Any) -> Any:
    del context
    return json.loads(response.content.splitlines()[-1])
