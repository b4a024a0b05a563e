"""If, Loop, Scan and SequenceMap: what they compute, train and trace to, against onnxruntime."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import onnx.parser
import pytest
import torch
from torch import nn
from torch.export import Dim

import qonnx_torch as qt
from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops.standard.control_flow import if_, loop
from qonnx_torch.ops.standard.scan import scan, scan_8, sequence_map


def tensors(inputs):
    return [[*map(torch.from_numpy, x)] if isinstance(x, list) else torch.from_numpy(x) for x in inputs]


def run(module, inputs) -> tuple[Any, ...]:
    result = module(*tensors(inputs))
    return result if isinstance(result, tuple) else (result,)


def arrays(results) -> list[Any]:
    return [arrays(r) if isinstance(r, list) else r.detach().numpy() for r in results]


def assert_equal(actual, expected) -> None:
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        if isinstance(e, list):
            assert isinstance(a, list)
            assert_equal(a, e)
        else:
            a = torch.as_tensor(a).detach().numpy()
            assert (a.dtype, a.shape) == (e.dtype, e.shape)
            np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6)


# After a graph break, and in the graphs that it keeps for data, torch looks at gradients that are not there.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")


@pytest.fixture
def reference(in_onnxruntime):
    """What onnxruntime gives for a model; with function bodies where there are QONNX operators."""

    def outputs(model, inputs):
        if any(o.domain for o in model.opset_import):
            model = qt.export_qonnx(qt.import_model(model), functions=True)
        return in_onnxruntime(model, inputs)

    return outputs


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


# -- imported modules --------------------------------------------------------------------------------


def test_values_equal_onnxruntime(subgraph_case, reference):
    module = qt.import_model(subgraph_case.model)
    for inputs in subgraph_case.inputs:
        assert_equal(run(module, inputs), reference(subgraph_case.model, inputs))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_compute_the_same(subgraph_case, copied):
    module = qt.import_model(subgraph_case.model)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.25)
    twin = copied(module)
    assert list(twin.state_dict()) == list(module.state_dict())
    for inputs in subgraph_case.inputs:
        assert_equal(run(twin, inputs), arrays(run(module, inputs)))


def test_compiled_values_are_the_same(subgraph_case, reference):
    compiled = torch.compile(qt.import_model(subgraph_case.model), backend="aot_eager")
    for inputs in subgraph_case.inputs:
        assert_equal(run(compiled, inputs), reference(subgraph_case.model, inputs))


@pytest.mark.parametrize(
    "name",
    [
        "if_constant",
        "if_data",
        "if_gives_shape",
        "if_in_loop",
        "if_shape",
        "if_two_results",
        "loop_int32",
        "loop_iterations",
        "loop_no_iteration",
        "loop_over_rows",
        "loop_sequence",
        "map_sequence",
        "scan",
        "scan_axes",
        "scan_map",
        "scan_recurrent",
        "while_shape",
    ],
)
def test_what_hangs_on_no_data_compiles_to_one_graph(name, subgraph_case_of, reference):
    case = subgraph_case_of(name)
    compiled = torch.compile(qt.import_model(case.model), backend="aot_eager", fullgraph=True)
    for inputs in case.inputs:
        assert_equal(run(compiled, inputs), reference(case.model, inputs))


def test_state_is_nested_under_the_node_and_its_attribute(subgraph_case_of):
    module = qt.import_model(subgraph_case_of("loop_in_if").model)
    assert set(module.state_dict()) == {
        "w",
        "y.then_branch.b",
        "y.then_branch.a.body.q",
        "y.then_branch.a.body.z3.else_branch.r",
    }
    state = {key: torch.full_like(value, 0.5) for key, value in module.state_dict().items()}
    module.load_state_dict(state)
    assert all(bool((value == 0.5).all()) for value in module.state_dict().values())


@pytest.mark.parametrize("taken", [True, False])
def test_gradients_reach_the_branch_that_ran_and_what_it_captured(taken, subgraph_case_of):
    case = subgraph_case_of("if_data")
    module = qt.import_model(case.model)
    x = torch.from_numpy(case.inputs[0][0]).requires_grad_()
    module(x, torch.tensor(taken)).sum().backward()
    own = {"y.then_branch.b": taken, "y.else_branch.b2": not taken, "w": True}
    parameters = dict(module.named_parameters())
    assert {name: parameters[name].grad is not None for name in own} == own
    assert x.grad is not None


def test_gradients_of_a_loop_are_those_of_its_iterations(subgraph_case_of):
    case = subgraph_case_of("loop_over_rows")
    module = qt.import_model(case.model)
    x = torch.from_numpy(case.inputs[0][0])
    module(x)[0].sum().backward()  # y = sum of rows times q
    torch.testing.assert_close(module.y.body.q.grad, x.sum(0))


def test_training_learns_weights_in_a_subgraph(subgraph_case_of):
    case = subgraph_case_of("scan_recurrent")
    module = qt.import_model(case.model).train()
    inputs = tensors(case.inputs[0])
    target = torch.full((4, 3), 0.3)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = ((module(*inputs)[1] - target) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_train_and_eval_reach_the_subgraphs(subgraph_case_of):
    case = subgraph_case_of("if_normalized")
    module = qt.import_model(case.model)
    inputs = tensors(case.inputs[0])
    before = {k: v.clone() for k, v in module.state_dict().items()}
    module.train()(*inputs)
    changed = [k for k, v in module.state_dict().items() if not torch.equal(v, before[k])]
    assert changed == ["m", "v", "y.then_branch.m2", "y.then_branch.v2"]  # captured statistics, and own
    assert "m" in dict(module.named_buffers())
    assert not any(m.training for m in module.eval().modules())


def test_quantizers_in_subgraphs_own_what_the_graph_around_them_has(subgraph_case_of):
    case = subgraph_case_of("if_quantized")
    config = qt.TrainingConfig(
        activations=qt.QuantizerTraining(gradient="lsq", scale="step"),
        weights=qt.QuantizerTraining(gradient="pass", scale="statistics"),
    )
    module = qt.import_model(case.model, training=config).train()
    weights, activations = (module.get_submodule(f"y.then_branch.{n}") for n in ("qw", "r2"))
    assert (weights.gradient, weights.scale_kind) == ("pass", "statistics")  # of a captured weight
    assert (activations.gradient, activations.scale_kind) == ("lsq", "step")
    module(*tensors(case.inputs[0])).square().sum().backward()
    assert all(p.grad is not None for p in activations.parameters())
    assert module.w.grad is not None


def test_a_loop_that_hangs_on_data_breaks_the_graph_but_compiles(subgraph_case_of, reference):
    case = subgraph_case_of("while_data")
    module = qt.import_model(case.model)
    with pytest.raises((torch._dynamo.exc.Unsupported, torch._dynamo.exc.UserError)):
        torch.compile(module, backend="aot_eager", fullgraph=True)(*tensors(case.inputs[0]))
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="aot_eager")
    assert_equal(run(compiled, case.inputs[0]), reference(case.model, case.inputs[0]))


# -- torch.export ------------------------------------------------------------------------------------


def exported(module, inputs, **options):
    return torch.export.export(module, tuple(tensors(inputs)), **options)


def operators(program) -> set[str]:
    names = {"cond", "while_loop", "scan"}
    return names & {getattr(n.target, "__name__", "") for n in program.graph.nodes}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(("name", "kept"), [("if_data", "cond"), ("while_data", "while_loop")])
def test_an_export_keeps_what_hangs_on_data(name, kept, strict, subgraph_case_of, reference):
    case = subgraph_case_of(name)
    program = exported(qt.import_model(case.model), case.inputs[0], strict=strict)
    assert operators(program) == {kept}
    for inputs in case.inputs:
        assert_equal(run(program.module(), inputs), reference(case.model, inputs))


@pytest.mark.parametrize("name", ["if_constant", "loop_over_rows", "loop_int32", "scan", "scan_axes"])
def test_an_export_unrolls_what_is_static(name, subgraph_case_of, reference):
    case = subgraph_case_of(name)
    program = exported(qt.import_model(case.model), case.inputs[0])
    assert not operators(program)
    assert_equal(run(program.module(), case.inputs[0]), reference(case.model, case.inputs[0]))


@pytest.mark.parametrize("gradients", [True, False])
def test_an_export_keeps_a_scan_over_a_dynamic_length(gradients, subgraph_case_of, reference):
    case = subgraph_case_of("scan_recurrent")
    dims = ({}, {0: Dim("T", min=2)})
    with torch.set_grad_enabled(gradients):
        program = exported(qt.import_model(case.model), case.inputs[0], dynamic_shapes=dims)
    assert operators(program) == {"scan"}
    for inputs in case.inputs:
        assert_equal(run(program.module(), inputs), reference(case.model, inputs))


# -- the functions -----------------------------------------------------------------------------------


def test_a_condition_has_one_element_of_any_shape():
    branches = {"then_branch": lambda x: (x,), "else_branch": lambda x: (-x,)}
    x = torch.ones(2)
    for shape in ((), (1,), (1, 1)):
        assert if_(torch.ones(shape, dtype=torch.bool), **branches, captured=(x,))[0] is x
        assert torch.equal(if_(torch.zeros(shape, dtype=torch.bool), **branches, captured=(x,))[0], -x)
    assert if_((True,), **branches, captured=(x,))[0] is x
    with pytest.raises(InvalidModelError, match=r"shape \(2,\); it must have one element"):
        if_(torch.ones(2, dtype=torch.bool), **branches, captured=(x,))


LOOPS = [  # M, cond, the body's condition -> iterations
    (3, None, lambda i: True, 3),
    (torch.tensor(3), None, lambda i: True, 3),
    (torch.tensor([3]), True, lambda i: True, 3),
    ((3,), torch.tensor(True), lambda i: torch.tensor(True), 3),
    (5, True, lambda i: i < 1, 2),
    (5, None, lambda i: i < 1, 2),  # a break, as onnxscript writes it
    (None, True, lambda i: torch.tensor(i < 3), 4),
    (None, None, lambda i: i < 3, 4),
    (5, False, lambda i: True, 0),
    (0, True, lambda i: True, 0),
    (-2, True, lambda i: True, 0),
    (None, torch.tensor([False]), lambda i: True, 0),
]


@pytest.mark.parametrize(("M", "cond", "goes_on", "iterations"), LOOPS)
def test_a_loop_ends_by_number_or_condition(M, cond, goes_on, iterations):
    def body(i, condition, v):
        assert condition is True
        return goes_on(i), v + 1, v * 2

    declared = [(torch.float32, (2,))]
    v, elements = loop(M, cond, torch.zeros(2), body=body, scan_outputs=declared)
    assert torch.equal(v, torch.full((2,), float(iterations)))
    assert torch.equal(elements, 2 * torch.arange(iterations).float()[:, None].expand(iterations, 2))


def test_no_iteration_gives_empty_scan_outputs_of_the_declared_type():
    def body(i, condition, v):
        return True, v, v.half(), i

    declared = [(torch.float16, (2,)), (torch.int64, ())]
    _, first, second = loop(0, None, torch.zeros(2), body=body, scan_outputs=declared)
    assert (first.shape, first.dtype) == ((0, 2), torch.float16)
    assert (second.shape, second.dtype) == ((0,), torch.int64)


def test_dimensions_that_are_not_declared_are_those_that_the_body_would_give():
    def body(i, condition, v):
        return True, v, torch.stack([v, v])

    for declared in ((torch.float32, ("A", "B")), (torch.float32, None), (None, None)):
        assert loop(0, None, torch.zeros(3), body=body, scan_outputs=[declared])[1].shape == (0, 2, 3)


def test_undeclared_dimensions_that_nothing_tells_are_0():
    def body(i, condition, v):
        raise RuntimeError("no such thing")

    assert loop(0, None, torch.zeros(3), body=body, scan_outputs=[(None, (None, 4))])[1].shape == (0, 0, 4)


def test_a_scan_stacks_along_any_axis_in_either_direction():
    x = torch.arange(6.0).reshape(2, 3)

    def body(state, column):
        return state + column, state * column

    options = {"body": body, "num_scan_inputs": 1, "scan_input_axes": [1]}
    final, out = scan(torch.zeros(2), x, **options)
    assert torch.equal(final, x.sum(1))
    assert torch.equal(out, torch.stack([torch.zeros(2), x[:, 0] * x[:, 1], x[:, :2].sum(1) * x[:, 2]]))
    _, backwards = scan(torch.zeros(2), x.flip(1), **options, scan_input_directions=[1])
    assert torch.equal(backwards, out)
    _, turned = scan(torch.zeros(2), x, **options, scan_output_axes=[-1], scan_output_directions=[1])
    assert torch.equal(turned, out.flip(0).T)


def test_a_scan_over_nothing_gives_nothing():
    declared = [(torch.float32, (2,))]
    options = {"body": lambda s, e: (s, e), "num_scan_inputs": 1, "scan_outputs": declared}
    final, out = scan(torch.ones(2), torch.zeros(0, 2), **options)
    assert torch.equal(final, torch.ones(2))
    assert out.shape == (0, 2)
    assert scan(torch.ones(2), torch.zeros(0, 2), **options, scan_output_axes=[1])[1].shape == (2, 0)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ((torch.zeros(2, 3), torch.zeros(3, 3)), {"num_scan_inputs": 2}, "different lengths"),
        ((torch.zeros(2, 3),), {"num_scan_inputs": 1, "scan_input_axes": [2]}, "no axis 2"),
        ((torch.zeros(2, 3),), {"num_scan_inputs": 1, "scan_input_axes": [0, 1]}, "2 numbers for 1 tensors"),
    ],
)
def test_scan_inputs_that_do_not_fit_are_refused(inputs, options, message):
    with pytest.raises(InvalidModelError, match=message):
        scan(*inputs, body=lambda *e: e, **options)


def test_a_batch_of_sequences_ends_each_at_its_length():
    x = torch.arange(8.0).reshape(2, 4, 1)

    def body(state, element):
        return state + element, state + element

    final, out = scan_8(None, torch.zeros(2, 1), x, body=body, num_scan_inputs=1)
    assert final.flatten().tolist() == [6, 22]
    assert torch.equal(out, x.cumsum(1))
    lengths = torch.tensor([4, 2])
    final, out = scan_8(lengths, torch.zeros(2, 1), x, body=body, num_scan_inputs=1, directions=[1])
    assert final.flatten().tolist() == [6, 9]  # what onnxruntime gives
    assert out.squeeze(-1).tolist() == [[3, 5, 6, 6], [5, 9, 0, 0]]


def test_a_sequence_map_goes_over_all_sequences_at_once():
    first, second = [torch.ones(2), torch.zeros(3)], [torch.tensor(2.0), torch.tensor(3.0)]
    sums, shapes = sequence_map(
        first, second, torch.tensor(1.0), body=lambda a, b, t: (a + b + t, torch.tensor(a.shape))
    )
    assert [s.tolist() for s in sums] == [[4.0, 4.0], [4.0, 4.0, 4.0]]
    assert [s.tolist() for s in shapes] == [[2], [3]]
    with pytest.raises(InvalidModelError, match=r"different lengths \[2, 1\]"):
        sequence_map(first, second[:1], body=lambda a, b: (a + b,))


def test_a_map_over_no_elements_gives_empty_sequences(subgraph_case_of):
    case = subgraph_case_of("map_sequence")
    assert qt.import_model(case.model)([], torch.ones(3)) == []


def test_modules_of_ones_own_can_stand_for_subgraphs():
    class Scaled(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.tensor(factor))

        def forward(self, x):
            return (x * self.factor,)

    module = qt.nn.If(then_branch=Scaled(2.0), else_branch=Scaled(3.0), captured=1)
    assert module(torch.tensor(False), torch.ones(1))[0].item() == 3
    assert set(module.state_dict()) == {"then_branch.factor", "else_branch.factor"}
    assert repr(module).startswith("If(\n  captured=1")


def test_a_compiled_branch_with_integer_results_trains():
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        g (float[2] x, bool c) => (float[2] y, int64 n) <float[2] w = {1, 2}> {
            y, n = If(c) <then_branch = t () => (float[2] a, int64 i) { a = Mul(x, w)
                                                                       i = ArgMax <keepdims = 0> (x) },
                          else_branch = e () => (float[2] b, int64 j) { b = Add(x, w)
                                                                       j = ArgMin <keepdims = 0> (x) }>
        }""")
    module = qt.import_model(model)
    y, n = torch.compile(module, backend="aot_eager")(torch.tensor([3.0, 4.0]), torch.tensor(True))
    y.sum().backward()
    assert (y.tolist(), n.item(), module.w.grad.tolist()) == ([3, 8], 1, [3, 4])
