"""A write larger than all that may wait to be applied was refused for ever, with the advice to try again."""

from pathlib import Path

import numpy as np

from chroma_async import PersistentClient
from chroma_async.settings import EngineSettings


def test_a_write_larger_than_the_bound_goes_alone(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((200, 64)).astype(np.float32)
    assert rows.nbytes > 20_000
    with PersistentClient(tmp_path, engine=EngineSettings(unapplied_bytes_max=20_000)) as client:
        made = client.create_collection("large", embedding_function=None)
        for first in range(0, 600, 200):
            made.add([str(first + row) for row in range(200)], rows)
        assert made.count() == 600
