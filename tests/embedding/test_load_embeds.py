"""`chroma-async load --embed` embeds by the collection's embedding function, the default one if it names none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from chroma_async import PersistentClient
from chroma_async.client.embeddings import DefaultEmbeddingFunction
from chroma_async.client.embeddings.locate import DIRECTORY_VARIABLE

COMMAND = [sys.executable, "-c", "from chroma_async.cli import main; main()", "load"]


def test_documents_of_a_file_are_embedded(model_dir: Path, embed: DefaultEmbeddingFunction, tmp_path: Path) -> None:
    documents = [f"document number {number}" for number in range(40)]
    file = tmp_path / "x.ndjson"
    file.write_text("".join(json.dumps({"id": f"i{n}", "document": text}) + "\n" for n, text in enumerate(documents)))
    options = [str(file), "--collection", "docs", "--path", str(tmp_path / "data"), "--create", "--embed"]
    environment = {**os.environ, DIRECTORY_VARIABLE: str(model_dir)}
    done = subprocess.run([*COMMAND, *options], capture_output=True, text=True, timeout=100, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    with PersistentClient(tmp_path / "data") as client:
        found = client.get_collection("docs", embedding_function=None).get(include=["embeddings", "documents"])
    assert found["documents"] == documents
    np.testing.assert_allclose(found["embeddings"], embed(documents), atol=1e-5)
