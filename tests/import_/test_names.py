"""ONNX names in the module: reversible, unique, and never executed."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import qonnx_torch as qt
import qonnx_torch.nn as qnn
from qonnx_torch.names import Names, identifier, onnx_name, parameter_paths
from qonnx_torch.provenance import provenance_of, value_names

X = torch.arange(4.0).reshape(1, 4)
WEIRD = [
    "0",
    "inp.1",
    "a'b",
    'a"b',
    "back\\slash",
    "new\nline",
    "tab\t",
    "with space",
    "übung",
    "重み",
    "emoji 🙂",
    "forward",
    "weight",
    "class",
    "provenance",
    "graph",
    "None",
    "%20",
    "~tilde",
    "a::b/c-d",
    "a",
    "a.b",
    "a.b.c",
    "a..b",
    ".",
    ".leading",
    "trailing.",
    "training",
    "_parameters",
    "__init__",
    "self",
    "conv.weight",
    "/layers.0/conv/Constant_output_0",
]
INJECTION = [
    "w\nimport os; os.environ['QONNX_TORCH_PWNED'] = '1'\n",
    "w'); __import__('os').environ.__setitem__('QONNX_TORCH_PWNED', '1'); ('",
    'w"""\n    __import__("os").environ["QONNX_TORCH_PWNED"] = "1"\n"""',
    "{__import__('os').environ.__setitem__('QONNX_TORCH_PWNED', '1')}",
    "w = 1; import os; os.environ['QONNX_TORCH_PWNED'] = '1' #",
]


def sum_model(make_model, names):
    """x + all initializers, one Add node each."""
    nodes, last = [], "x"
    for i, name in enumerate(names):
        output = "y" if i == len(names) - 1 else f"sum {i}"
        nodes.append(helper.make_node("Add", [last, name], [output], name=name))
        last = output
    return make_model(nodes, initializers={name: [float(i)] * 4 for i, name in enumerate(names)})


def test_state_dict_keys_are_the_initializer_names(make_model) -> None:
    module = qt.import_model(sum_model(make_model, WEIRD))
    state = module.state_dict()
    assert {onnx_name(key): value[0].item() for key, value in state.items()} == {
        n: i for i, n in enumerate(WEIRD)
    }
    for plain in ("conv.weight", "a::b/c-d", "0"):
        assert plain in state
    expected = X + sum(range(len(WEIRD)))
    for again in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(again(X), expected)
    fresh = qt.import_model(sum_model(make_model, WEIRD))
    fresh.load_state_dict(state)
    assert [t.name for t in provenance_of(module).tensors] == WEIRD


@given(st.lists(st.text(max_size=12).filter(bool), unique=True, max_size=8))
def test_paths_are_reversible_and_unique(names) -> None:
    paths = parameter_paths(names)
    assert [onnx_name(p) for p in paths.values()] == names
    assert len(set(paths.values())) == len(names)
    root = torch.nn.Module()
    for path in paths.values():  # as the importer registers them: nothing hides anything
        *scopes, leaf = path.split(".")
        owner = root
        for scope in scopes:
            if scope not in owner._modules:
                owner.add_module(scope, torch.nn.Module())
            owner = owner.get_submodule(scope)
        owner.register_buffer(leaf, torch.zeros(()))
    assert set(root.state_dict()) == set(paths.values())


@given(st.lists(st.text(max_size=12), max_size=8))
def test_identifiers_are_identifiers_and_unique(names) -> None:
    taken = Names()
    made = [identifier(n, taken, "node") for n in names]
    assert all(n.isidentifier() for n in made)
    assert len(set(made)) == len(made) == len(taken)


@pytest.mark.parametrize("name", INJECTION)
def test_names_are_never_executed(name, make_model, monkeypatch) -> None:
    monkeypatch.delenv("QONNX_TORCH_PWNED", raising=False)
    quant = quant_node([name, f"s{name}", f"z{name}", f"b{name}"], f"q{name}", name)
    model = make_model(
        [quant, helper.make_node("Add", [f"x{name}", f"q{name}"], [f"y{name}"], name, f"doc {name}")],
        inputs={f"x{name}": (1, 4)},
        outputs=[f"y{name}"],
        initializers={name: [1.0] * 4, f"s{name}": 1.0, f"z{name}": 0.0, f"b{name}": 8.0},
    )
    model.graph.name = model.producer_name = name
    module = qt.import_model(model)
    for again in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(again(X), X + 1)
        repr(again)
        again.print_readable(print_output=False)
    assert "QONNX_TORCH_PWNED" not in __import__("os").environ
    assert onnx_name(next(iter(module.state_dict()))) == name


@pytest.mark.parametrize("name", ["0", "inp.1", "x y", "forward", "import", "self", "weight\n", "ü", "'"])
def test_input_and_output_names(name, make_model) -> None:
    node = helper.make_node("Relu", [name], [f"{name}_out"], name)
    module = qt.import_model(make_model([node], inputs={name: (1, 4)}, outputs=[f"{name}_out"]))
    assert torch.equal(module(X - 2), torch.relu(X - 2))
    assert next(iter(value_names(module).values())) == (name,)


def quant_node(inputs, output, name=""):
    return helper.make_node(
        "Quant", inputs, [output], name, domain="qonnx.custom_op.general", signed=1, narrow=0
    )


@pytest.mark.parametrize("name", ["", "same", "0", "forward", "training"])
def test_unnamed_duplicate_and_reserved_node_names(name, make_model) -> None:
    nodes = [quant_node(["x", "s", "z", "b"], "h", name), quant_node(["h", "s", "z", "b"], "y", name)]
    module = qt.import_model(make_model(nodes, initializers={"s": 0.5, "z": 0.0, "b": 3.0}))
    quantizers = [n for n, m in module.named_modules() if isinstance(m, qnn.Quant)]
    assert len(quantizers) == 2
    assert module(X).tolist() == [[0.0, 1.0, 1.5, 1.5]]


def test_a_quantizer_named_like_an_initializer(make_model) -> None:
    nodes = [quant_node(["w", "s", "z", "b"], "q", "w"), helper.make_node("Add", ["x", "q"], ["y"], "s")]
    module = qt.import_model(make_model(nodes, initializers={"w": [0.4] * 4, "s": 0.25, "z": 0.0, "b": 3.0}))
    assert "w" in module.state_dict()
    assert module(X)[0, 0] == 0.5


def test_provenance_holds_every_name(make_model) -> None:
    nodes = [
        quant_node(["x", "s", "z", "b"], "quantized value", "the quantizer"),
        helper.make_node("Split", ["quantized value"], ["left", "y"], "the split", axis=1, split=[2, 2]),
    ]
    model = make_model(
        nodes,
        initializers={"s": 0.5, "z": 0.0, "b": 3.0},
        outputs=["left", "y"],
        imports={"": 11, "qonnx.custom_op.general": 1},
    )
    module = qt.import_model(model)
    provenance = provenance_of(module)
    named = [(n.name, n.op_type, n.outputs) for n in provenance.nodes if n.index >= 0]
    assert named == [
        ("the quantizer", "Quant", ("quantized value",)),
        ("the split", "Split", ("left", "y")),
    ]
    assert {t.name: t.paths for t in provenance.tensors} == {
        "s": ("the_quantizer.scale",),
        "z": ("the_quantizer.zero_point",),
        "b": ("the_quantizer.bit_width",),
    }
    assert [n for names in value_names(module).values() for n in names] == [
        "x", "quantized value", "left", "y", "left", "y", "left", "y",
    ]  # fmt: skip


def test_initializer_values_survive(make_model) -> None:
    values = np.array([0.1, -0.0, np.inf, np.nan], np.float32)
    model = make_model([helper.make_node("Add", ["x", "w"], ["y"])], initializers={"w": values})
    module = qt.import_model(model)
    stored = module.state_dict()["w"].numpy()
    assert stored.tobytes() == values.tobytes() == numpy_helper.to_array(model.graph.initializer[0]).tobytes()
