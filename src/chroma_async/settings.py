"""Every setting is a frozen value with a default, a unit in its name and a line of help."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, TypeVar

T = TypeVar("T")

Durability = Literal["commit", "interval", "off"]
Missing = Literal["include", "exclude"]


def setting(default: T, help_text: str) -> T:
    """A field with its line of help; `describe` reads it."""
    field_value: Any = field(default=default, metadata={"help": help_text})
    return field_value  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What an engine may be told; everything else is a constant beside the code that needs it."""

    durability: Durability = setting(
        "commit",
        "when a write is acknowledged: after its fsync (commit), before one that follows soon (interval), "
        "or without one (off)",
    )
    sync_interval_seconds: float = setting(
        1.0, "with durability interval: seconds that an acknowledged write may wait for its fsync; more than 0"
    )
    allow_reset: bool = setting(False, "whether clients may delete everything by reset()")
    allow_network_file_system: bool = setting(
        False, "whether a directory on a network file system is opened; right only where one machine alone uses it"
    )
    missing: Missing | None = setting(
        None,
        "whether $ne, $nin, $not_contains and $not_regex match records that lack the field or the document, where a request "
        "does not say it; by default not for chroma_async's clients and the API v1, but for Chroma's",
    )
    unapplied_bytes_max: int = setting(64 * 2**20, "bytes of acknowledged, not yet applied entries before writes wait")
    disk_reserve_bytes: int = setting(
        32 * 2**20,
        "free bytes on the disk below which only deletions are taken, so that the compactor has room to free some",
    )
    log_retention_bytes: int | None = setting(
        2**20,
        "bytes of applied entries that stay in the log for feeds of changes, the newest of them; null: no limit; 0: none",
    )
    log_retention_seconds: float | None = setting(
        None, "how old an applied entry may become that stays in the log for feeds of changes; null: no limit"
    )
    apply_bytes_max: int = setting(32 * 2**20, "bytes of entries that the compactor applies in one step")
    graph_rows_min: int = setting(65_536, "vectors without a graph before one is built; fewer are scanned exactly")
    segment_rows_max: int | None = setting(
        None,
        "vectors in a segment before it is sealed and another one begins; null: 262,144, in a server up to twice as many "
        "where they have fewer than 768 dimensions",
    )
    index_threads: int = setting(2, "threads that build a graph")
    reader_threads: int = setting(4, "threads that run searches and scans")
    row_cache_bytes: int = setting(8 * 2**20, "bytes of rows that a process keeps of results of queries; 0: none")
    brief_seconds: float = setting(
        0.0, "reads that have been taking less run on the event loop, others in a thread; 0: all of them in threads"
    )
    follow_interval_seconds: float = setting(0.05, "how often an idle process looks for entries of other processes")
    lock_interval_seconds: float = setting(0.5, "how often a process asks whether it may compact")


SERVED: Final = EngineSettings(brief_seconds=0.01)
"""What the engine of a server is told by default. A worker's loop has nothing to do but answer requests, so a read that is
over soon may run on it. With a limit of half of this, busy workers could get stuck in threads that fight for the
interpreter."""

HttpServer = Literal["hypercorn", "uvicorn"]
LogLevel = Literal["debug", "info", "warning", "error"]
AccessLogForm = Literal["text", "json"]
ProxyHeaders = Literal["x-forwarded", "forwarded"]


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What a server may be told about listening, processes and HTTP."""

    host: str = setting("127.0.0.1", "address or name of the interface to listen on")
    port: int = setting(8000, "TCP port to listen on; 0 takes a free one")
    workers: int = setting(2, "processes that answer requests; one more compacts")
    http_server: HttpServer = setting("hypercorn", "who speaks HTTP: hypercorn, or uvicorn (an extra)")
    body_bytes_max: int = setting(40 * 2**20, "bytes of the largest request body; larger ones get status 413")
    body_timeout_seconds: float = setting(60.0, "how long a client may pause while it sends a body; then status 408")
    keep_alive_seconds: float = setting(120.0, "how long an idle connection stays open")
    graceful_seconds: float = setting(25.0, "how long requests may go on after a stop was asked for")
    ingest_streams_max: int = setting(64, "ingest streams that a worker takes at the same time; more get status 429")
    ingest_idle_seconds: float = setting(600.0, "how long an ingest stream may go without a whole line before it is ended")
    cors_origins: tuple[str, ...] = setting((), "origins that browsers may call from; * for every one")
    access_log: AccessLogForm | None = setting(None, "how every request is logged, as text or json; by default not at all")
    log_level: LogLevel = setting("info", "least severe level that is logged")
    unix_socket: str | None = setting(
        None, "path of a unix socket to listen on, instead of host and port; its owner and group may connect"
    )
    root_path: str = setting(
        "", "path under which a proxy offers the server, such as /chroma; taken off requests that have it"
    )
    trusted_proxies: tuple[str, ...] = setting(
        (), "addresses, networks (10.0.0.0/8) and unix (every unix socket) whose forwarding headers are believed"
    )
    proxy_headers: ProxyHeaders = setting(
        "x-forwarded", "which forwarding headers trusted proxies set: X-Forwarded-For and its kin, or Forwarded (RFC 7239)"
    )
    tls_certificate: str | None = setting(
        None, "PEM file of the server's certificate and its chain; the server then speaks TLS"
    )
    tls_key: str | None = setting(None, "PEM file of the certificate's key, without a password")
    tls_client_ca: str | None = setting(None, "PEM file of CAs; clients must then show a certificate of one of them")
    head_seconds: float = setting(20.0, "how long the head of a request may take to arrive, from its first byte")
    requests_per_second: float | None = setting(
        None, "requests that each identity, or else each address, may send to a worker in a second; more get status 429"
    )
    concurrency: int | None = setting(
        None, "requests of each identity, or else each address, that a worker answers at once; more get status 429"
    )
    feeds_max: int = setting(1000, "feeds of changes that a worker has open at once; more get status 429")
    request_ids: bool = setting(
        False, "whether every answer names its request's id, X-Request-Id; an access log does that too"
    )
    metrics: bool = setting(False, "whether GET /metrics answers with what all processes have counted, for Prometheus")
    drain_seconds: float = setting(
        0.5, "how long requests are still accepted after a stop was asked for, while /readyz says that it comes"
    )


TokenHeader = Literal["any", "authorization", "x-chroma-token"]


@dataclass(frozen=True, slots=True)
class AuthSettings:
    """Whom a server lets in. With no provider (a file of users or tokens, JWTs, or a trusted proxy) everybody."""

    basic_file: str | None = setting(None, "users with passwords: an htpasswd file, as htpasswd -B makes it")
    basic_lines: tuple[str, ...] = setting((), "lines of such a file, from the variables of Chroma")
    token_file: str | None = setting(None, "tokens, hashed: a file of lines that `chroma-async auth token` makes")
    token_digests: tuple[str, ...] = setting((), "SHA-256 of single tokens, of CHROMA_ASYNC_AUTH_TOKEN for one")
    token_header: TokenHeader = setting("any", "header of tokens: authorization (Bearer), x-chroma-token, or any of the two")
    roles_file: str | None = setting(
        None, "what users may do: a file of one JSON object a line; without it all of them may do everything"
    )
    jwt_jwks: str | None = setting(None, "public keys of JWTs (JWKS): a file or an https URL")
    jwt_issuer: str | None = setting(None, "issuer that JWTs must name")
    jwt_audience: str | None = setting(None, "audience that JWTs must be for")
    jwt_algorithms: tuple[str, ...] = setting(("RS256", "ES256"), "algorithms that JWTs may be signed with")
    jwt_name_claim: str = setting("sub", "claim of a JWT that names the user")
    jwt_groups_claim: str = setting("groups", "claim of a JWT that names the user's groups")
    proxy_header: str | None = setting(None, "header in which a trusted proxy names the user")
    audit_log: str | None = setting(
        None, "file that gets every accepted write (who, what, when), one JSON object a line; needs an --auth- option"
    )
    chroma_tokens_file: str | None = setting(None, "Chroma's YAML file of users and tokens")
    chroma_tokens: str | None = setting(None, "the same from a variable, with hashes")
    chroma_roles_file: str | None = setting(None, "Chroma's YAML file of roles and users")
    chroma_roles: str | None = setting(None, "the same from a variable")


def describe(settings: object) -> list[tuple[str, Any, str]]:
    """Return name, value and help of each setting."""
    return [(entry.name, getattr(settings, entry.name), entry.metadata["help"]) for entry in fields(settings)]  # type: ignore[arg-type]
