"""Operators whose attributes are learned: they train, and the file gets what they have learned back."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from onnx import ModelProto, helper, numpy_helper

import qonnx_torch as qt
from qonnx_torch.nn import LearnedOperator

TREES: dict[str, Any] = {
    "nodes_treeids": [0] * 3, "nodes_nodeids": [0, 1, 2], "nodes_featureids": [0] * 3,
    "nodes_values": [0.5, 0.0, 0.0], "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
    "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0],
}  # fmt: skip
LEAVES: dict[str, Any] = {
    "tree_roots": [0], "nodes_featureids": [1], "nodes_trueleafs": [1], "nodes_truenodeids": [0],
    "nodes_falseleafs": [1], "nodes_falsenodeids": [1], "leaf_targetids": [0, 1], "n_targets": 2,
    "nodes_modes": numpy_helper.from_array(np.array([0], np.uint8), "m"),
    "nodes_splits": numpy_helper.from_array(np.array([0.25], np.float32), "s"),
    "leaf_weights": numpy_helper.from_array(np.array([1.5, -0.5], np.float32), "w"),
}  # fmt: skip
POOL = {"max_gram_length": 1, "min_gram_length": 1, "max_skip_count": 0, "ngram_counts": [0],
        "ngram_indexes": [1, 0], "pool_int64s": [3, 4]}  # fmt: skip

ROWS: list[tuple[str, int, tuple[str, ...], dict[str, Any]]] = [
    ("LinearRegressor", 1, ("coefficients", "intercepts"),
     {"coefficients": [0.5, -1.0, 2.0, 0.25], "intercepts": [0.5, 1.0], "targets": 2}),
    ("LinearClassifier", 2, ("coefficients", "intercepts"),
     {"coefficients": [0.5, -1.0, 2.0, 0.25], "intercepts": [0.5, 1.0], "classlabels_ints": [4, 7],
      "post_transform": "SOFTMAX"}),
    ("SVMRegressor", 1, ("coefficients", "rho", "support_vectors"),
     {"coefficients": [0.5, -1.0], "rho": [0.25], "support_vectors": [1.0, 0.0, 0.5, 0.5], "n_supports": 2,
      "kernel_type": "RBF", "kernel_params": [0.5, 0.0, 0.0]}),
    ("SVMClassifier", 2, ("coefficients", "rho", "support_vectors"),
     {"coefficients": [0.5, -1.0], "rho": [0.25], "support_vectors": [1.0, 0.0, 0.5, 0.5],
      "vectors_per_class": [1, 1], "classlabels_ints": [0, 1]}),
    ("TreeEnsembleRegressor", 1, ("base_values", "target_weights"),
     TREES | {"n_targets": 1, "target_treeids": [0, 0], "target_nodeids": [1, 2], "target_ids": [0, 0],
              "target_weights": [1.5, -0.5], "base_values": [0.25]}),
    ("TreeEnsembleClassifier", 2, ("class_weights",),
     TREES | {"class_treeids": [0, 0], "class_nodeids": [1, 2], "class_ids": [0, 1],
              "class_weights": [1.5, 0.5], "classlabels_int64s": [4, 7]}),
    ("TreeEnsemble", 1, ("leaf_weights",), LEAVES),
    ("TfIdfVectorizer", 1, ("weights",), POOL | {"mode": "TFIDF", "weights": [2.0, 0.5]}),
]  # fmt: skip
IDS = [row[0] for row in ROWS]


def model(op_type: str, outputs: int, attributes: dict[str, Any]) -> ModelProto:
    names = ["labels", "y"] if outputs == 2 else ["y"]
    domain = "" if op_type == "TfIdfVectorizer" else "ai.onnx.ml"
    node = helper.make_node(op_type, ["x"], names, name="learned", domain=domain, **attributes)
    x = helper.make_tensor_value_info("x", 7 if op_type == "TfIdfVectorizer" else 1, ["n", 2])
    results = [helper.make_tensor_value_info(n, 7 if n == "labels" else 1, None) for n in names]
    imports = [
        helper.make_opsetid("", 17),
        helper.make_opsetid("ai.onnx.ml", 5 if op_type == "TreeEnsemble" else 3),
    ]
    graph = helper.make_graph([node], "g", [x], results)
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def rows_of(op_type: str) -> torch.Tensor:
    if op_type == "TfIdfVectorizer":
        return torch.tensor([[3, 4], [3, 3], [1, 4]])
    return torch.tensor([[0.0, 1.0], [1.0, -1.0], [0.5, 0.25]])


def scores(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    y = module(x)
    return (y[1] if isinstance(y, tuple) else y)[:, -1]


@pytest.mark.parametrize(("op_type", "outputs", "learned", "attributes"), ROWS, ids=IDS)
def test_what_is_learned_trains_and_goes_back(
    op_type: str, outputs: int, learned: tuple[str, ...], attributes: dict[str, Any]
) -> None:
    source = model(op_type, outputs, attributes)
    module = qt.import_model(source)
    assert {n.rpartition(".")[2] for n, _ in module.named_parameters()} == set(learned)
    untouched = qt.export_qonnx(module)
    assert untouched.graph.node[0] == source.graph.node[0]

    x, target = rows_of(op_type), scores(module, rows_of(op_type)).detach() + 0.25
    optimizer = torch.optim.SGD(module.parameters(), 0.05)
    before = (scores(module, x) - target).square().mean()
    before.backward()
    assert all(p.grad is not None and p.grad.any() for p in module.parameters())
    optimizer.step()
    assert (scores(module, x) - target).square().mean() < before

    written = qt.export_qonnx(module)
    assert [n.op_type for n in written.graph.node] == [op_type]
    assert written.graph.node[0] != source.graph.node[0]
    torch.testing.assert_close(scores(qt.import_model(written), x), scores(module, x))


@pytest.mark.parametrize(("op_type", "outputs", "learned", "attributes"), ROWS, ids=IDS)
def test_copies(op_type: str, outputs: int, learned: tuple[str, ...], attributes: dict[str, Any]) -> None:
    module = qt.import_model(model(op_type, outputs, attributes))
    x = rows_of(op_type)
    expected = scores(module, x)
    torch.testing.assert_close(scores(copy.deepcopy(module), x), expected)
    torch.testing.assert_close(scores(pickle.loads(pickle.dumps(module)), x), expected)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(scores(compiled, x), expected)
    other = qt.import_model(model(op_type, outputs, attributes))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(module.state_dict())
    torch.testing.assert_close(scores(other, x), expected)


def test_an_edited_graph_is_written_with_what_was_learned() -> None:
    op_type, outputs, _, attributes = ROWS[0]
    module = qt.import_model(model(op_type, outputs, attributes))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2)
    output = module.graph.output_node()
    with module.graph.inserting_before(output):
        output.args = (module.graph.call_function(torch.relu, output.args),)
    module.recompile()
    written = qt.export_qonnx(module, args=(rows_of(op_type),))
    assert [n.op_type for n in written.graph.node] == ["LinearRegressor", "Relu"]
    torch.testing.assert_close(qt.import_model(written)(rows_of(op_type)), module(rows_of(op_type)))


def test_attributes_of_tensors() -> None:
    weights = numpy_helper.from_array(np.array([0.5, 1.5]), "w")
    attributes = TREES | {
        "n_targets": 1, "target_treeids": [0, 0], "target_nodeids": [1, 2], "target_ids": [0, 0],
        "target_weights_as_tensor": weights,
    }  # fmt: skip
    module = qt.import_model(model("TreeEnsembleRegressor", 1, attributes))
    (learned,) = [m for m in module.modules() if isinstance(m, LearnedOperator)]
    assert learned.learned_attributes() == {"target_weights_as_tensor": (11, (0.5, 1.5))}
    with torch.no_grad():
        next(module.parameters()).add_(1)
    (attribute,) = [a for a in qt.export_qonnx(module).graph.node[0].attribute if a.name.endswith("tensor")]
    np.testing.assert_array_equal(numpy_helper.to_array(attribute.t), [1.5, 2.5])
