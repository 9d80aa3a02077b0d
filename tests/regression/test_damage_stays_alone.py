"""Writes to a collection that nobody can apply are bounded by themselves, and hold up no others."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from chroma_async import EngineSettings, PersistentClient
from chroma_async.engine import engine as engine_module
from chroma_async.errors import InternalError
from chroma_async.projections.store import RECORDS_FILE

SETTINGS = EngineSettings(unapplied_bytes_max=50_000, log_retention_bytes=0)


@pytest.mark.parametrize("damage", ["overwritten", "removed"])
def test_writes_to_a_damaged_collection_do_not_hold_up_those_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """They had: what waits for it counted for all, so that after some time every write got 429."""
    monkeypatch.setattr(engine_module, "ROOM_WAIT_SECONDS", 5.0)
    with PersistentClient(tmp_path, engine=SETTINGS) as client:
        broken, sound = (client.create_collection(name, embedding_function=None) for name in ("broken", "sound"))
        for collection in (broken, sound):
            collection.add(["first"], [[1.0, 2.0]], documents=["x"], wait="applied")
    tables = tmp_path / "collections" / str(broken.id) / RECORDS_FILE
    if damage == "overwritten":
        content = bytearray(tables.read_bytes())
        content[100:8000] = bytes(7900)
        tables.write_bytes(content)
    else:
        shutil.rmtree(tables.parent)
    with PersistentClient(tmp_path, engine=SETTINGS) as client:
        broken, sound = (client.get_collection(name, embedding_function=None) for name in ("broken", "sound"))
        for number in range(10):
            broken.add([f"{number}"], [[1.0, 2.0]], documents=["x" * 5_000])
        with pytest.raises(InternalError, match=r"damaged.*verify --repair.* no more may wait"):
            broken.add(["more"], [[1.0, 2.0]], documents=["x"])
        for number in range(30):
            sound.add([f"{number}"], [[1.0, 2.0]], documents=["x" * 5_000])
        assert sound.count() == 31
