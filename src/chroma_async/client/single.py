"""What there is once."""

from __future__ import annotations


class Single:
    """Has connections, threads or files of this process, so that a copy of it would be no other one."""

    def __reduce__(self) -> str:
        """Refuse a copy, of whatever it belongs to as well.

        Raises:
            TypeError: always.
        """
        raise TypeError("a client, and what belongs to it, can't be copied or pickled; make another one")
