"""TLS of the server itself: certificate, key, whose client certificates are asked for, and which protocols are offered."""

from __future__ import annotations

import logging
import os
import ssl
import time
from typing import Final

from chroma_async.server.start_error import StartError
from chroma_async.settings import ServerSettings

PROTOCOLS: Final = {"hypercorn": ("h2", "http/1.1"), "uvicorn": ("http/1.1",)}
"""What each HTTP server speaks, best first (ALPN, RFC 7301)."""

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: forward secrecy and authenticated encryption, as HTTP/2 wants it (RFC 9113, 9.2.2). TLS 1.3 has no others."""

HANDSHAKE_SECONDS: Final = 10.0

LOOK_SECONDS: Final = 1.0
"""How often a handshake looks whether the certificate was renewed."""

logger = logging.getLogger("chroma_async.server")


class TlsError(StartError):
    """Certificate, key or client CA can't be used; the message says which, and what to change."""


class ServerContext(ssl.SSLContext):
    """A context that takes a renewed certificate without a restart: changed files are read before the next handshake."""

    certificate: str
    key: str
    _seen: tuple[float, float]
    _looked_at: float

    def load(self, certificate: str, key: str) -> None:
        """Read the files for the first time."""
        self.certificate, self.key = certificate, key
        self.load_cert_chain(certificate, key, password=_no_password)
        self._seen, self._looked_at = self._changed(), time.monotonic()

    def refresh(self) -> None:
        """Read them again if they have changed. Where the new ones do not fit together, the old ones stay."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        try:
            found = self._changed()
            if found == self._seen:
                return
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key, password=_no_password)
            self.load_cert_chain(self.certificate, self.key, password=_no_password)
        except OSError as error:  # an SSLError is one
            logger.error("certificate.keep reason=%s", " ".join(_reason(error).split()))
            return
        self._seen = found
        logger.info("certificate.load path=%s", self.certificate)

    def _changed(self) -> tuple[float, float]:
        return os.stat(self.certificate).st_mtime, os.stat(self.key).st_mtime


def tls_context(settings: ServerSettings) -> ServerContext | None:
    """Return what a listening socket needs for TLS, None where no certificate is set.

    Raises:
        TlsError: the files can't be read, do not belong together, or only one of them is named.
    """
    certificate, key, client_ca = settings.tls_certificate, settings.tls_key, settings.tls_client_ca
    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        raise TlsError("TLS needs both --tls-certificate and --tls-key")
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(list(PROTOCOLS[settings.http_server]))
    try:
        context.load(certificate, key)
    except (OSError, ssl.SSLError) as error:
        details = f"tls_certificate={certificate!r} tls_key={key!r} ({_reason(error)})"
        raise TlsError(f"certificate and key can't be used; name PEM files that belong together. {details}") from error
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except (OSError, ssl.SSLError) as error:
            details = f"tls_client_ca={client_ca!r} ({_reason(error)})"
            raise TlsError(f"the client CA can't be used; name a PEM file of certificates. {details}") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _no_password() -> str:
    """A server can't ask for one in the middle of its start."""
    raise OSError("the key has a password; store it without one, readable by the server alone")


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
