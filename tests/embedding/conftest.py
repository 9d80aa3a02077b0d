"""The default model, built once, and texts to embed."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from chromadb.utils.embedding_functions import ONNXMiniLM_L6_V2
from tests.api.serving import serving as serving_database
from tests.embedding.build_model import write_model

from chroma_async.client.embeddings import DefaultEmbeddingFunction
from chroma_async.client.embeddings.locate import DIRECTORY_VARIABLE

DATA_VARIABLE = "CHROMA_ASYNC_DATA"
REPOSITORY = Path(__file__).resolve().parents[2]
TEXTS = 300

HANDFUL = [
    "The film was released by Fox Film Corporation on October 13, 1918.",
    "A pianist survives the war in the ruins of Warsaw.",
    "Two astronauts and a computer travel to Jupiter.",
    "",
    "ÜNÏCÖDÉ, 漢字 and \U0001f642",
    "word " * 400,
]


@pytest.fixture(scope="session")
def model_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the model in `onnx`, as in Chroma's cache."""
    root = tmp_path_factory.mktemp("all-MiniLM-L6-v2")
    write_model(root / "onnx")
    return root


@pytest.fixture(scope="session")
def model_dir(model_root: Path) -> Path:
    return model_root / "onnx"


@pytest.fixture(scope="session")
def embed(model_dir: Path) -> DefaultEmbeddingFunction:
    return DefaultEmbeddingFunction(model_dir)


@pytest.fixture(scope="session")
def chroma_embed(model_root: Path) -> ONNXMiniLM_L6_V2:
    """Chroma's own class on the same files."""
    function = ONNXMiniLM_L6_V2()
    function.DOWNLOAD_PATH = model_root
    return function


@pytest.fixture(scope="session")
def known_vectors(chroma_embed: ONNXMiniLM_L6_V2) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Texts and the vectors that others computed of them: the shipped data's, or without it Chroma's."""
    data = REPOSITORY / os.environ.get(DATA_VARIABLE, "../shared/data")
    if not data.is_dir():
        return HANDFUL, np.array(chroma_embed(HANDFUL), dtype=np.float32)
    with gzip.open(data / "movies-50k.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["document"] for line in islice(file, TEXTS)]
    vectors = np.load(data / "movies-50k.f16.npy", mmap_mode="r")[:TEXTS].astype(np.float32)
    return texts, vectors


@pytest.fixture
def installed_model(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model is where the environment says, so that functions without arguments find it."""
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(model_dir))
    return model_dir


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving_database(tmp_path_factory.mktemp("server")) as url:
        yield url
