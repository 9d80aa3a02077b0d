"""A feed of changes as whoever listens has it: the next one, its end and why, and leaving it while another task waits."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Self

from chroma_async.engine.changes import Changes, gone
from chroma_async.engine.failures import read_error
from chroma_async.engine.feeds import Feeds
from chroma_async.errors import ChromaError, InternalError, LogReset, LogTruncated
from chroma_async.protocol.changes import Change

logger = logging.getLogger("chroma_async.feed")


class Feed:
    """Changes as they happen: a `ChangeFeed`."""

    def __init__(self, feeds: Feeds, identity: str, changes: Changes) -> None:
        """`identity`: of the log."""
        self.identity = identity
        self._feeds = feeds
        self._changes = changes
        self._reading = changes.read()
        self._ended = False
        self._is_read = False
        feeds.begun()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        """Return the next change.

        Raises:
            GoneError: what follows is not kept any more.
            ChromaError: why else the feed ends.
        """
        self._is_read = True
        try:
            change = await anext(self._reading)
            if self._changes.is_left:  # by another task, while this one read
                await self._reading.aclose()
                raise StopAsyncIteration
        except StopAsyncIteration:
            self._end("stopped" if self._feeds.is_stopped else "over")
            raise
        except Exception as error:
            explained = _explained(error, self._feeds.directory)
            self._end(type(explained).__name__)
            if explained is error:
                raise
            raise explained from error
        finally:
            self._is_read = False
        self._feeds.sent(change)
        return change

    async def aclose(self) -> None:
        """End it. Who waits for the next change, in another task, learns that there is none."""
        self._end("stopped" if self._feeds.is_stopped else "left")
        self._changes.leave()
        if not self._is_read:
            await self._reading.aclose()

    def _end(self, why: str) -> None:
        if not self._ended:
            self._ended = True
            self._feeds.ended(why)


def _explained(error: Exception, directory: Path) -> Exception:
    if isinstance(error, ChromaError | RuntimeError):
        return error
    if isinstance(error, LogTruncated | LogReset):
        return gone(str(error))
    meant = read_error(error, directory)
    if isinstance(meant, InternalError):
        logger.error("feed.failed reason=%r", meant.message)
    return meant or error
