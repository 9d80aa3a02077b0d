"""What an engine asks the world for, behind small protocols: clock, entropy, files, worker threads.

What is only logged, or told to a user of a command, may ask the machine itself.
"""

from msgspec import Struct, field

from chroma_async.seams.clock import Clock, SystemClock
from chroma_async.seams.entropy import Entropy, SeededEntropy, SystemEntropy
from chroma_async.seams.files import Files, SystemFiles
from chroma_async.seams.workers import (
    InlineWorkers,
    NobodyWaits,
    Share,
    ThreadWorkers,
    Workers,
    give_way,
    require_wanted,
    run_in_turn,
    while_wanted,
)

__all__ = [
    "Clock",
    "Entropy",
    "Files",
    "InlineWorkers",
    "NobodyWaits",
    "Seams",
    "SeededEntropy",
    "Share",
    "SystemClock",
    "SystemEntropy",
    "SystemFiles",
    "ThreadWorkers",
    "Workers",
    "give_way",
    "require_wanted",
    "run_in_turn",
    "while_wanted",
]


class Seams(Struct, frozen=True):
    """What an engine is given to act on the world; the defaults are the real one."""

    clock: Clock = field(default_factory=SystemClock)
    entropy: Entropy = field(default_factory=SystemEntropy)
    files: Files = field(default_factory=SystemFiles)
