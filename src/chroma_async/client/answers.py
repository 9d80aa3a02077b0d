"""From an HTTP answer, or the lack of one, to a result or an error that names the hop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar, cast

import httpx
import orjson

from chroma_async import errors
from chroma_async.client.address import Address
from chroma_async.client.retry import asked_wait_seconds, may_repeat
from chroma_async.protocol import Call, WireResponse

R = TypeVar("R")

LINE_LENGTH_MAX: Final = 200
NOTHING_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
PLAIN_STATUSES: Final = (401, 403, 413, 429)
"""Statuses that mean the same whoever answers; any other answer without Chroma's JSON is a failed hop."""

WHO_ASKS: Final = {
    401: "a hop before the server wants credentials, or others: what it knows is not what the server knows",
    403: "a hop before the server does not let this through",
}
NOT_THE_SERVER: Final = "this looks like an answer of a proxy, not of the server"


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that did not succeed. `asked_seconds` is the wait that the server asked for."""

    error: errors.ChromaError
    repeatable: bool
    asked_seconds: float | None = None
    cause: Exception | None = None


def read_result(call: Call[R], response: httpx.Response) -> R:
    """Return what the call is answered by.

    Raises:
        ForeignAnswerError: a success without the JSON that the call promises: another server, or a proxy's page.
    """
    headers = {name.lower(): value for name, value in response.headers.items()}
    try:
        return call.decode_result(WireResponse(response.status_code, response.content, headers))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise errors.ForeignAnswerError(_foreign(response)) from error


def read_failure(response: httpx.Response, *, safe_to_repeat: bool) -> Failure:
    """Return the failure that an answer outside 2xx means."""
    spoken = _spoken(response.content)
    has_waited = spoken is not None and spoken[0] == errors.NotYetVisibleError.wire_name  # as long as it was asked to
    return Failure(
        error=_error(response, spoken),
        repeatable=may_repeat(response.status_code, safe_to_repeat) and not has_waited,
        asked_seconds=asked_wait_seconds(response.headers.get("retry-after")),
    )


def _error(response: httpx.Response, spoken: tuple[str, str] | None) -> errors.ChromaError:
    if spoken is not None:
        return errors.from_wire(spoken[0], response.status_code, spoken[1])
    if response.status_code in PLAIN_STATUSES:
        return errors.from_wire("", response.status_code, _foreign(response))
    passes = response.status_code >= 500
    return (errors.ServerUnreachableError if passes else errors.ForeignAnswerError)(_foreign(response))


def _spoken(body: bytes) -> tuple[str, str] | None:
    """Name and message of an error in the server's own form."""
    try:
        decoded = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(decoded, dict):
        return None
    fields = cast("dict[str, object]", decoded)
    name, message = fields.get("error"), fields.get("message")
    return (name.strip(), message) if isinstance(name, str) and isinstance(message, str) else None


def _foreign(response: httpx.Response) -> str:
    first_line = next((line.strip() for line in response.text.splitlines() if line.strip()), "")
    where = response.headers.get("location")
    details = f"url={response.request.url} status={response.status_code} body={first_line[:LINE_LENGTH_MAX]!r}"
    if where is not None:
        return f"redirected, which is not followed; set host to the final address. {details} location={where}"
    if response.status_code in WHO_ASKS:
        return f"{WHO_ASKS[response.status_code]} ({NOT_THE_SERVER}). {details}"
    if response.status_code == 404:
        return f"nothing there speaks this API ({NOT_THE_SERVER}); check host, port and path prefix. {details}"
    return f"{NOT_THE_SERVER}. {details}"


def explain_silence(error: httpx.RequestError, address: Address, timeout: httpx.Timeout, *, safe_to_repeat: bool) -> Failure:
    """Return the failure that no answer means: which hop, which timeout, and whether the call may have been done."""
    nothing_sent = isinstance(error, NOTHING_SENT)
    message = f"{_what_failed(error, timeout)}. server={address.where} url={address.base_url} cause={_cause(error)}"
    if not nothing_sent and not safe_to_repeat:
        message = f"{message}; the call may have been carried out: look before sending it again"
    return Failure(
        error=errors.ServerUnreachableError(message),
        repeatable=nothing_sent or safe_to_repeat,
        cause=error,
    )


def _what_failed(error: httpx.RequestError, timeout: httpx.Timeout) -> str:
    if isinstance(error, httpx.ConnectTimeout):
        return f"no connection within the connect timeout of {timeout.connect} s"
    if isinstance(error, httpx.ReadTimeout):
        return f"no answer within the read timeout of {timeout.read} s; timeout=... raises it"
    if isinstance(error, httpx.WriteTimeout):
        return f"the request could not be sent within the write timeout of {timeout.write} s; timeout=... raises it"
    if isinstance(error, httpx.PoolTimeout):
        return f"no free connection within the pool timeout of {timeout.pool} s; limits=... allows more connections"
    if isinstance(error, httpx.ConnectError):
        return "can't connect; check that the server runs there"
    return "the connection broke before the answer was complete"


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}({str(error)!r})"
