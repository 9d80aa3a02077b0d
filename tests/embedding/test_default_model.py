"""The default model's numbers: those that others computed, and exactly Chroma's."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from chromadb.utils.embedding_functions import ONNXMiniLM_L6_V2
from tests.embedding.conftest import HANDFUL

from chroma_async.client.embeddings import DefaultEmbeddingFunction, EmbeddingError
from chroma_async.client.embeddings.minilm import MiniLm

Vectors = npt.NDArray[np.float32]


def cosine_distances(left: Vectors, right: Vectors) -> Vectors:
    products = np.einsum("nd,nd->n", left, right)
    return 1.0 - products / (np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1))


def test_vectors_agree_with_those_that_others_computed(
    embed: DefaultEmbeddingFunction, known_vectors: tuple[list[str], Vectors]
) -> None:
    texts, expected = known_vectors
    distances = cosine_distances(embed(texts), expected)
    assert len(distances) == len(texts)
    assert distances.max() < 1e-2
    assert distances.mean() < 1e-3


def test_vectors_equal_those_of_chromas_own_class(
    embed: DefaultEmbeddingFunction, chroma_embed: ONNXMiniLM_L6_V2, known_vectors: tuple[list[str], Vectors]
) -> None:
    texts = HANDFUL + known_vectors[0][:4]
    ours, theirs = embed(texts), np.array(chroma_embed(texts))
    assert ours.shape == theirs.shape == (len(texts), 384)
    assert ours.dtype == np.float32
    assert np.abs(ours - theirs).max() < 1e-5


def test_vectors_have_length_one_and_do_not_depend_on_their_neighbours(embed: DefaultEmbeddingFunction) -> None:
    together = embed(HANDFUL)
    assert np.linalg.norm(together, axis=1) == pytest.approx(1.0, abs=1e-6)
    alone = np.concatenate([embed([text]) for text in HANDFUL])
    assert np.abs(together - alone).max() < 1e-5


def test_only_the_first_256_tokens_count(embed: DefaultEmbeddingFunction) -> None:
    assert embed.max_tokens() == 256
    whole = "word " * 254
    short, full, longer = embed(["word " * 200 + "cat", whole, whole + "cat " * 50])
    assert np.abs(full - longer).max() < 1e-6
    assert np.abs(full - short).max() > 1e-3


def test_no_texts_give_no_vectors_and_need_no_model(tmp_path: Path) -> None:
    assert DefaultEmbeddingFunction(tmp_path)([]).shape == (0, 384)


def test_something_else_than_a_text_is_refused(embed: DefaultEmbeddingFunction) -> None:
    with pytest.raises(ValueError, match=r"texts only\. item 1 is bytes"):
        embed(["a", b"b"])  # type: ignore[list-item]


@pytest.fixture
def another_name_for_the_model(model_dir: Path, tmp_path: Path) -> Path:
    """A directory that this process has loaded nothing from."""
    link = tmp_path / "model"
    link.symlink_to(model_dir)
    return link


def test_threads_that_begin_together_load_the_model_once(
    another_name_for_the_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    functions = [DefaultEmbeddingFunction(another_name_for_the_model) for _ in range(4)]
    with caplog.at_level(logging.INFO, "chroma_async.embeddings"), ThreadPoolExecutor(4) as pool:
        vectors = list(pool.map(lambda function: function(["the same text"]), functions))
    assert all(np.array_equal(vectors[0], other) for other in vectors)
    loads = [record for record in caplog.records if record.getMessage().startswith("model.loaded")]
    assert len(loads) == 1


def test_a_directory_without_the_model_is_named_with_advice(tmp_path: Path) -> None:
    with pytest.raises(EmbeddingError, match=r"needs model\.onnx and tokenizer\.json.*CHROMA_ASYNC_MODEL_DIR") as refusal:
        DefaultEmbeddingFunction(tmp_path)(["text"])
    assert str(tmp_path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_broken_model_is_reported_in_one_line(model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    (tmp_path / "tokenizer.json").write_bytes((model_dir / "tokenizer.json").read_bytes())
    with pytest.raises(EmbeddingError, match="can't load all-MiniLM-L6-v2; replace the files") as refusal:
        DefaultEmbeddingFunction(tmp_path)(["text"])
    assert "\n" not in str(refusal.value)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory in which nothing is cached yet."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_chromas_cache_is_used_where_it_is(home: Path, model_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs = home / ".cache" / "chroma" / "onnx_models"
    theirs.mkdir(parents=True)
    (theirs / "all-MiniLM-L6-v2").symlink_to(model_root)
    with caplog.at_level(logging.INFO, "chroma_async.embeddings"):
        assert MiniLm(None).embed(["a text"]).shape == (1, 384)
    assert caplog.messages == [f"model.loaded name=all-MiniLM-L6-v2 directory={theirs}/all-MiniLM-L6-v2/onnx"]


def test_a_broken_cache_of_chroma_is_passed_over_for_our_own(
    home: Path, model_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = home / ".cache" / "chroma" / "onnx_models" / "all-MiniLM-L6-v2" / "onnx"
    theirs.mkdir(parents=True)
    for name in ("model.onnx", "tokenizer.json"):
        (theirs / name).write_text("half-written")
    ours = home / ".cache" / "chroma_async"
    ours.mkdir()
    (ours / "all-MiniLM-L6-v2").symlink_to(model_root)
    with caplog.at_level(logging.INFO, "chroma_async.embeddings"):
        assert MiniLm(None).embed(["a text"]).shape == (1, 384)
    skipped, loaded = caplog.messages
    assert skipped.startswith(f"model.skipped directory={theirs}")
    assert loaded.endswith(f"directory={ours}/all-MiniLM-L6-v2/onnx")
