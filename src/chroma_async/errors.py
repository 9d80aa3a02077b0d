"""Every error of the project, with all that any layer needs to know about it.

    ChromaError
    ├── InvalidArgumentError          400  a value that the caller must change
    │   ├── InvalidDimensionException 400
    │   ├── InvalidUUIDError          400
    │   └── DuplicateIDError          400
    ├── MalformedRequestError         422  well-formed JSON of the wrong shape
    ├── UnsupportedMediaTypeError     415
    ├── PayloadTooLargeError          413
    ├── BatchSizeExceededError        413
    ├── AuthorizationError            401
    ├── ChromaAuthError               403
    ├── ForbiddenError                403  reset without permission
    ├── NotFoundError                 404
    ├── UniqueConstraintError         409
    ├── IDAlreadyExistsError          409  only so that programs for Chroma can name it
    ├── StreamGapError                409  a part of an ingest stream that does not follow what the server has of it
    ├── StreamTakenError              409  another session sends to the ingest stream
    ├── GoneError                     410  a position in the change feed whose changes are not kept any more
    ├── NotYetVisibleError            504  a read that names an LSN which the log did not reach in time
    ├── InvalidHTTPVersion            400  only so that programs for Chroma can name it
    ├── RateLimitError                429  retryable: wait and send again
    ├── QuotaError                    400
    ├── UnimplementedError            501
    ├── InsufficientStorageError      507  retryable: no room on the disk; nothing of the write was kept
    ├── UnavailableError              503  retryable: the engine refuses writes, or is stopping
    │   ├── ResourceLimitError        503  retryable: read-only disk, no file handles, or no memory
    │   └── DirectoryReplacedError    503  another directory is in the place of the server's; not retryable
    ├── ServerUnreachableError        503  retryable: no answer from the named hop
    │   └── ForeignAnswerError        503  what answered is not a server that has this call; not retryable
    └── InternalError                 500
        └── VersionMismatchError      500
    LogError                               the log's own errors; the engine turns them into the above
    ├── LogConflict                        somebody else appended first
    ├── LogTruncated                       the asked-for entries are gone
    ├── LogHole                            an LSN is missing
    ├── LogReset                           this is another log than the one remembered
    └── LogCorrupt                         an entry does not match its checksum
    FormatError                            a directory or file that this version can't read
    StorageCorrupt                         a file of a collection does not match its checksum
    BackupError                            a backup that is not whole, or a place that can't take one
    ExchangeError                          a file that can't be imported, or exported to
    Superseded                             another compactor works on this directory; this one stops

The wire name is what Chroma's clients look up; server and client read the same table (`from_wire`).
"""

from typing import ClassVar


class ChromaError(Exception):
    """Base of all errors that a caller of the API can receive."""

    wire_name: ClassVar[str] = "ChromaError"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    retry_after_seconds: int = 1

    def __init__(self, message: str = "", *, retry_after_seconds: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        if retry_after_seconds is not None:
            self.retry_after_seconds = retry_after_seconds

    def code(self) -> int:
        """HTTP status, under the name that Chroma gives it."""
        return self.status

    @classmethod
    def name(cls) -> str:
        """Wire name, under the name that Chroma gives it."""
        return cls.wire_name


class InvalidArgumentError(ChromaError):
    """A value that the caller must change; the message says what is allowed."""

    wire_name = "InvalidArgumentError"
    status = 400


class InvalidDimensionException(InvalidArgumentError):
    """An embedding whose length is not the collection's dimension."""


class InvalidUUIDError(InvalidArgumentError):
    """A collection id that is not a UUID."""


class DuplicateIDError(InvalidArgumentError):
    """The same id twice in one call of our own client."""


class MalformedRequestError(ChromaError):
    """A request body of valid JSON whose fields have the wrong types, or are missing."""

    status = 422


class UnsupportedMediaTypeError(ChromaError):
    """A body that is not sent as JSON."""

    status = 415


class PayloadTooLargeError(ChromaError):
    """A body larger than the server takes, or a write larger than an entry of the log; send less at once."""

    status = 413


class BatchSizeExceededError(ChromaError):
    """More records in one call than the server takes; send fewer at once."""

    wire_name = "BatchSizeExceededError"
    status = 413


class AuthorizationError(ChromaError):
    """Who calls is not known, or not believed; check the credentials."""

    wire_name = "AuthorizationError"
    status = 401


class ChromaAuthError(ChromaError):
    """Who calls is known, and may not do this."""

    wire_name = "AuthError"
    status = 403


class ForbiddenError(ChromaError):
    """The server does not allow this call to anybody, such as a reset."""

    status = 403


class NotFoundError(ChromaError):
    """No tenant, database or collection of that name or id."""

    wire_name = "NotFoundError"
    status = 404


class UniqueConstraintError(ChromaError):
    """The name is taken. On the wire Chroma calls this `ChromaError`, with status 409."""

    status = 409


class IDAlreadyExistsError(ChromaError):
    """Nobody raises it, nor does Chroma any more: `add` leaves the records of known ids as they are."""

    wire_name = "IDAlreadyExists"
    status = 409


class StreamGapError(ChromaError):
    """Lines are missing between what the server has of an ingest stream and what was sent: ask where to go on."""

    wire_name = "StreamGapError"
    status = 409


class StreamTakenError(ChromaError):
    """Another session sends to this ingest stream since; one of the two must stop, or take a stream of its own."""

    wire_name = "StreamTakenError"
    status = 409


class GoneError(ChromaError):
    """The changes after this position are not kept any more, or are another log's: begin again from a snapshot."""

    wire_name = "GoneError"
    status = 410


class NotYetVisibleError(ChromaError):
    """A read named an LSN (`min_lsn`) that the log did not reach in the time it had; `wait_seconds` gives it more."""

    wire_name = "NotYetVisibleError"
    status = 504


class InvalidHTTPVersion(ChromaError):
    """Nobody raises it, nor does Chroma any more."""

    wire_name = "InvalidHTTPVersion"
    status = 400


class RateLimitError(ChromaError):
    """Too much is waiting; come back after the time that `Retry-After` says."""

    wire_name = "RateLimitError"
    status = 429
    retryable = True


class QuotaError(ChromaError):
    """A limit that is set for the caller was reached."""

    wire_name = "QuotaError"
    status = 400


class UnimplementedError(ChromaError):
    """A part of Chroma's API that this server does not offer."""

    status = 501


class UnavailableError(ChromaError):
    """The engine refuses this for now: it is stopping, or a write met an unexplained I/O error."""

    status = 503
    retryable = True


class DirectoryReplacedError(UnavailableError):
    """Another directory is where the server's data was: moved away, removed, or restored from a backup. Restart it."""

    retryable = False


class InsufficientStorageError(ChromaError):
    """No room on the server's disk: free some, then send it again. Nothing of the write was kept; reads go on."""

    wire_name = "InsufficientStorageError"
    status = 507
    retryable = True
    reason = "disk_full"
    retry_after_seconds = 5


class ResourceLimitError(UnavailableError):
    """The machine lacks something for this call: the disk is read-only, or file handles or memory are used up."""

    wire_name = "ResourceLimitError"
    retry_after_seconds = 5

    def __init__(self, message: str = "", *, reason: str = "", retry_after_seconds: int | None = None) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)
        self.reason = reason


class ServerUnreachableError(ChromaError):
    """No answer from the server; the message names the hop that failed."""

    status = 503
    retryable = True


class ForeignAnswerError(ServerUnreachableError):
    """Something else answered than a server that has this call: check host, port and path. Asking again won't help."""

    retryable = False


class InternalError(ChromaError):
    """A mistake of the server's own; its log has the details."""

    wire_name = "InternalError"
    status = 500


class VersionMismatchError(InternalError):
    """Client and server do not speak the same version."""

    wire_name = "VersionMismatchError"


class LogError(Exception):
    """Base of what a LogStore raises."""


class LogConflict(LogError):
    """Entries were appended by somebody else since the named LSN: catch up, decide again."""


class LogTruncated(LogError):
    """The entries asked for are below the oldest kept one: take the state from a projection."""


class LogHole(LogError):
    """An LSN is missing in the middle of the log: stop, and say so to a person."""


class LogReset(LogError):
    """The log has another identity than the one that was remembered."""


class LogCorrupt(LogError):
    """An entry does not match its checksum, or has a version that is not known.

    `lsn` and `collection` are given where the damage is in one entry of one collection: the rest can be read on.
    """

    def __init__(self, message: str = "", *, lsn: int | None = None, collection: str | None = None) -> None:
        super().__init__(message)
        self.lsn = lsn
        self.collection = collection


class FormatError(Exception):
    """A data directory or file that this version can't or mustn't open."""


class Superseded(Exception):
    """Another compactor has published since this one read the manifest: it must not publish any more."""


class StorageCorrupt(Exception):
    """A file of a collection is missing, too short, or does not match its checksum."""


class ExchangeError(Exception):
    """A file or database that can't be imported, or a kind of file that can't be written here."""


class BackupError(Exception):
    """A backup that is not whole, or a place that can't take one; the message says which, and what to do."""


def _subclasses(cls: type[ChromaError]) -> list[type[ChromaError]]:
    return [cls, *(found for child in cls.__subclasses__() for found in _subclasses(child))]


def from_wire(name: str, status: int, message: str) -> ChromaError:
    """Return the error that a server meant: the class of that name and status, else the nearest one."""
    classes = _subclasses(ChromaError)
    both = [cls for cls in classes if cls.wire_name == name and cls.status == status]
    named = [cls for cls in classes if cls.wire_name == name and name != ChromaError.wire_name]
    same_status = [cls for cls in classes if cls.status == status]
    chosen = next(iter([*both, *named, *same_status]), ChromaError)
    return chosen(message)
