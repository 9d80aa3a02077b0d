"""Space: what was replaced or deleted gives its bytes back while processes run."""

from __future__ import annotations

from pathlib import Path

from load_tests.limits.churn import churned_bytes, directory_bytes, write_round
from tests.support.waiting import wait_until

from chroma_async import PersistentClient
from chroma_async.settings import EngineSettings


def test_churn_of_the_same_ids_ends_within_twice_the_live_size(tmp_path: Path) -> None:
    """`python -m load_tests.limits.churn` does it for 10,000 ids and 100 rounds."""
    live = churned_bytes(tmp_path / "live", 2_000, 1)
    churned = churned_bytes(tmp_path / "churned", 2_000, 20)
    assert churned <= 2 * live, f"churned={churned} live={live}"


def test_a_deleted_collection_gives_its_bytes_back_while_it_is_open(tmp_path: Path) -> None:
    client = PersistentClient(tmp_path, engine=EngineSettings(durability="off"))
    client.create_collection("stays")
    client.create_collection("churn")
    write_round(client, 5_000, 0)
    collection = client.get_collection("churn")
    collection.query(query_embeddings=[0.0] * 64, n_results=1)  # its files are open and mapped
    client.delete_collection("churn")

    def files() -> list[tuple[str, int]]:
        return sorted((path.name, path.stat().st_size) for path in tmp_path.rglob("*") if path.is_file())

    wait_until(lambda: directory_bytes(tmp_path) <= 1_000_000, tell=files)
    client.close()
