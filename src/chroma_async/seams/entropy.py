"""Random choices as an argument."""

from __future__ import annotations

import random
import uuid
from typing import Protocol


class Entropy(Protocol):
    """Makes ids that nobody else makes."""

    def uuid(self) -> str:
        """A new UUID (version 4), lower-case with hyphens."""
        ...


class SystemEntropy:
    """The operating system's randomness."""

    def uuid(self) -> str:
        return str(uuid.uuid4())


class SeededEntropy:
    """The same ids again from the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def uuid(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))
