"""Answers about the server itself."""

from __future__ import annotations

from typing import Any, Final

from chroma_async.core.events import EverythingDeleted
from chroma_async.engine.handlers.registry import Context, handles
from chroma_async.engine.writer import Append, Decision, Proposal
from chroma_async.errors import ForbiddenError
from chroma_async.model import DEFAULT_DATABASE, DEFAULT_DATABASE_ID, DEFAULT_TENANT
from chroma_async.protocol import CheckHealth, GetIdentity, GetPreflight, GetVersion, Heartbeat, Reset
from chroma_async.protocol.system import Identity

API_VERSION: Final = "1.0.0"
"""What Chroma's server answers, whatever its release."""

MAX_BATCH_SIZE: Final = 41_666
"""Advertised, not enforced: large enough for every integration's chunks."""


@handles(Heartbeat)
async def heartbeat(context: Context, call: Heartbeat) -> int:
    return context.seams.clock.now_ns()


@handles(GetVersion)
async def version(context: Context, call: GetVersion) -> str:
    return API_VERSION


@handles(CheckHealth)
async def health(context: Context, call: CheckHealth) -> dict[str, bool]:
    writes = context.writer.refusal is None and context.writer.limit is None
    return {"is_executor_ready": context.is_ready(), "is_log_client_ready": writes}


@handles(GetPreflight)
async def preflight(context: Context, call: GetPreflight) -> dict[str, Any]:
    return {"max_batch_size": MAX_BATCH_SIZE, "supports_base64_encoding": True}


@handles(GetIdentity)
async def identity(context: Context, call: GetIdentity) -> Identity:
    return Identity("", DEFAULT_TENANT, [DEFAULT_DATABASE])


@handles(Reset)
async def reset(context: Context, call: Reset) -> bool:
    if not context.settings.allow_reset:
        raise ForbiddenError(
            "Reset is disabled by config; to allow it, start the server with --allow-reset, or give an embedded client "
            "Settings(allow_reset=True)"
        )
    event = EverythingDeleted(DEFAULT_DATABASE_ID)
    return await context.writer.submit(Proposal(lambda catalog: Decision([Append.of_catalog(event)], lambda lsn: True)))
