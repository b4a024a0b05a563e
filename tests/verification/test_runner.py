"""run: batches, intermediate values, checks of the data."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import ModelProto, TensorProto, helper
from torch import fx, nn

from qonnx_torch.errors import VerificationError
from qonnx_torch.import_ import import_model
from qonnx_torch.verification import input_specs, run

MODELS = Path(__file__).resolve().parents[1] / "models"
DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
Make = Callable[..., ModelProto]


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    with np.load(DIGITS / "digits.npz") as data:
        return (data["x_test"][:12] / 16).astype(np.float32)


@pytest.fixture
def frozen() -> fx.GraphModule:
    return import_model(DIGITS / "digits_w4a4.onnx")


def identity(
    make_model: Make, shape: tuple[Any, ...] = (2, 3), kind: int = TensorProto.FLOAT
) -> fx.GraphModule:
    model = make_model([helper.make_node("Identity", ["x"], ["y"])], inputs={"x": shape}, input_type=kind)
    return import_model(model)


def test_batches_give_what_single_samples_give(frozen: fx.GraphModule, digits: np.ndarray) -> None:
    with np.load(DIGITS / "golden.npz") as golden:
        expected = golden["logits"][:12]
    result = run(frozen, digits)
    assert list(result) == ["logits"]
    np.testing.assert_allclose(result["logits"], expected, rtol=0, atol=1e-4)
    free = import_model(DIGITS / "digits_w4a4.onnx", batch="dynamic")
    for batch_size in (None, 5, 100):
        np.testing.assert_allclose(
            run(free, digits, batch_size=batch_size)["logits"], expected, rtol=0, atol=1e-4
        )
    assert run(frozen, digits, max_batches=4)["logits"].shape == (4, 10)


def test_progress_counts_batches(frozen: fx.GraphModule, digits: np.ndarray) -> None:
    seen: list[tuple[int, int]] = []
    run(frozen, digits[:3], progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_exposed_values(frozen: fx.GraphModule, digits: np.ndarray) -> None:
    result = run(frozen, digits, expose=["weight_quant", "/act1*Quant_output_0"])
    weights = [n for n in result if "weight_quant" in n]
    activation = next(n for n in result if n.startswith("/act1"))
    assert len(weights) == 3
    assert result[activation].shape == (12, 16, 8, 8)
    # What does not depend on the data is there once, however many batches ran.
    assert {result[n].shape for n in weights} == {(16, 1, 3, 3), (32, 16, 3, 3), (10, 128)}
    assert next(iter(result)) == "logits"


def test_exposed_shapes_are_arrays() -> None:
    module = import_model(MODELS / "legacy_opset9_shape_chain.onnx")
    specs = input_specs(module)
    x = np.zeros([d or 1 for d in specs[0].shape or ()], np.float32)
    result = run(module, np.concatenate([x, x]), expose="*")
    assert all(isinstance(v, np.ndarray) for v in result.values())
    assert any(v.dtype == np.int64 for v in result.values())


def test_names_survive_copies_and_pickles(frozen: fx.GraphModule, digits: np.ndarray) -> None:
    expected = list(run(frozen, digits, expose="*"))
    for module in (copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen))):
        assert list(run(module, digits, expose="*")) == expected


def test_state_is_as_before(frozen: fx.GraphModule, digits: np.ndarray) -> None:
    frozen.train()
    before = {k: v.clone() for k, v in frozen.state_dict().items()}
    switches = torch.backends.cuda.matmul, torch.backends.cudnn
    allowed = [s.allow_tf32 for s in switches]
    run(frozen, digits)
    assert frozen.training
    assert [s.allow_tf32 for s in switches] == allowed
    assert all(torch.equal(v, before[k]) for k, v in frozen.state_dict().items())
    assert torch.is_grad_enabled()


def test_tf32_is_off_and_gradients_too() -> None:
    seen: list[Any] = []

    class Probe(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.extend([torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32])
            seen.extend([torch.is_grad_enabled(), self.training])
            return x

    run(Probe(), np.ones((1, 2)))
    assert seen == [False] * 4


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch before 2.9 has no such switch")
def test_tf32_by_the_newer_switches() -> None:
    # In another process: once these are set, the older ones cannot be read any more.
    script = """
import numpy as np, torch
from qonnx_torch.verification import run
switches = torch.backends.cuda.matmul, torch.backends.cudnn.conv
for switch in switches:
    switch.fp32_precision = "tf32"
class Probe(torch.nn.Module):
    def forward(self, x):
        assert [s.fp32_precision for s in switches] == ["ieee"] * 2
        return x
run(Probe(), np.ones((1, 2)))
assert [s.fp32_precision for s in switches] == ["tf32"] * 2
"""
    subprocess.run([sys.executable, "-c", script], check=True)


# -- checks ----------------------------------------------------------------------------------------


def test_wrong_number_of_inputs() -> None:
    module = import_model(MODELS / "multi_io.onnx")
    first, second = (s.name for s in input_specs(module))
    with pytest.raises(
        VerificationError, match=f"1 input array given, but the model has 2 inputs: '{first}'"
    ):
        run(module, [np.zeros(3, np.float32)])
    with pytest.raises(VerificationError, match=f"input '{second}' is missing"):
        run(module, {first: np.zeros(3, np.float32)})
    with pytest.raises(VerificationError, match="input 'other' is not known: the model's inputs are"):
        run(module, {"other": np.zeros(3, np.float32)})


@pytest.mark.parametrize("shape", [(2,), (2, 4), (2, 3, 1)])
def test_wrong_shape(make_model: Make, shape: tuple[int, ...]) -> None:
    with pytest.raises(VerificationError, match=r"input 'x': shape \(.*\) given, the model takes \(2, 3\)"):
        run(identity(make_model), np.zeros(shape, np.float32))


def test_wrong_batch_says_what_to_do(make_model: Make) -> None:
    with pytest.raises(VerificationError, match=r"must be 2 or a multiple of it.*batch=\"dynamic\""):
        run(identity(make_model), np.zeros((5, 3), np.float32))
    with pytest.raises(VerificationError, match="batch size 4 asked for, but the model takes 2"):
        run(identity(make_model), np.zeros((8, 3), np.float32), batch_size=4)
    assert run(identity(make_model), np.zeros((8, 3), np.float32), batch_size=2)["y"].shape == (8, 3)


def test_free_dimensions_take_anything(make_model: Make) -> None:
    module = identity(make_model, ("n", 3))
    assert input_specs(module)[0].shape == (None, 3)
    assert run(module, np.zeros((5, 3), np.float32))["y"].shape == (5, 3)
    with pytest.raises(VerificationError, match=r"the model takes \(\?, 3\)"):
        run(module, np.zeros((5, 4), np.float32))


def test_no_elements(make_model: Make) -> None:
    with pytest.raises(VerificationError, match="holds no elements"):
        run(identity(make_model, ("n", 3)), np.zeros((0, 3), np.float32))


def test_nan_is_refused_with_its_place(make_model: Make) -> None:
    x = np.zeros((2, 3), np.float32)
    x[1, 2] = x[1, 1] = np.nan
    with pytest.raises(VerificationError, match=r"input 'x': NaN at index \(1, 1\) \(the first of 2\)"):
        run(identity(make_model), x)
    assert np.isnan(run(identity(make_model), x, allow_nan=True)["y"]).sum() == 2


FLOAT, DOUBLE, INT8, INT64, BOOL = (
    TensorProto.FLOAT,
    TensorProto.DOUBLE,
    TensorProto.INT8,
    TensorProto.INT64,
    TensorProto.BOOL,
)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (FLOAT, np.array([0, 255], np.uint8)),
        (FLOAT, np.array([0.5, np.inf], np.float64)),
        (FLOAT, np.array([True, False])),
        (FLOAT, np.array([1.5, 2], ">f4")),
        (FLOAT, np.array([2**24, -7], np.int64)),
        (DOUBLE, np.array([0.1, 0.2], np.float32)),
        (INT64, np.array([3.0, -0.0], np.float32)),
        (INT8, np.array([127, -128], np.int64)),
        (BOOL, np.array([0, 1], np.int64)),
    ],
)
def test_exact_conversions(make_model: Make, kind: int, values: np.ndarray) -> None:
    result = run(identity(make_model, (1, 2), kind), values[None])["y"]
    assert result.dtype == helper.tensor_dtype_to_np_dtype(kind)
    np.testing.assert_array_equal(result[0].astype(np.float64), values.astype(np.float64))


@pytest.mark.parametrize(
    ("kind", "values", "count"),
    [
        (FLOAT, np.array([0.5, 0.1], np.float64), 1),
        (FLOAT, np.array([2**24 + 1, 1], np.int64), 1),
        (FLOAT, np.array([1e300, 1.0], np.float64), 1),
        (INT64, np.array([0.5, np.inf], np.float32), 2),
        (INT8, np.array([128, 0], np.int64), 1),
        (BOOL, np.array([2, 1], np.int64), 1),
    ],
)
def test_lossy_conversions_are_refused(make_model: Make, kind: int, values: np.ndarray, count: int) -> None:
    with pytest.raises(VerificationError, match=rf"cannot hold {count} of 2 values \(first at \(0, "):
        run(identity(make_model, (1, 2), kind), values[None])


def test_rounding_on_request(make_model: Make) -> None:
    x = np.array([[0.1, 0.2]])
    result = run(identity(make_model, (1, 2)), x, cast=True)["y"]
    np.testing.assert_array_equal(result, x.astype(np.float32))
    with pytest.raises(VerificationError, match="cannot hold"):
        run(identity(make_model, (1, 2), INT64), x, cast=True)


def test_things_that_are_no_numbers(make_model: Make, tmp_path: Path) -> None:
    module = identity(make_model, (1, 2))
    with pytest.raises(VerificationError, match="element type <U1 cannot be used"):
        run(module, np.array([["a", "b"]]))
    with pytest.raises(VerificationError, match="data of type int"):
        run(module, 3)  # type: ignore[arg-type]
    with pytest.raises(VerificationError, match=r"none\.npy: no such file"):
        run(module, tmp_path / "none.npy")


def bad_file(kind: str) -> bytes:
    file = io.BytesIO()
    objects = np.array([{}], object)
    if kind in ("text", "empty"):
        return b"no array" if kind == "text" else b""
    if kind == "pickle":
        return pickle.dumps({"a": 1})
    if kind == "objects":
        np.save(file, objects, allow_pickle=True)
    elif kind == "objects in npz":
        np.savez(file, a=objects)
    else:  # "packed", and damaged
        np.savez_compressed(file, a=np.arange(1000) % 7)
        return file.getvalue()[:60] + bytes(20) + file.getvalue()[80:]
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("text", r"it holds no NumPy array; save one with numpy\.save"),
        ("pickle", r"it holds no NumPy array; save one with numpy\.save"),
        ("empty", "it is empty"),
        ("objects", "it holds Python objects; save an array of numbers"),
        ("objects in npz", "it holds Python objects; save an array of numbers"),
        ("packed", ".*"),
    ],
)
def test_unusable_files_are_refused_without_advice_to_unpickle(
    make_model: Make, tmp_path: Path, kind: str, reason: str
) -> None:
    path = tmp_path / ("bad.npz" if kind in ("objects in npz", "packed") else "bad.npy")
    path.write_bytes(bad_file(kind))
    with pytest.raises(
        VerificationError, match=rf"bad\.np.: not a usable .npy or .npz file \({reason}\)$"
    ) as e:
        run(identity(make_model, (1, 2)), path)
    assert "pickle" not in str(e.value)


def test_a_pattern_without_match(make_model: Make, frozen: fx.GraphModule, digits: np.ndarray) -> None:
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(VerificationError, match=r"no intermediate value matches 'conv';.*'y'"):
        run(identity(make_model), x, expose="conv")
    with pytest.raises(VerificationError, match=r"no intermediate value matches 'conv'"):
        run(identity(make_model), x, expose=["y", "conv"])
    for empty in ("", ["y", ""]):
        with pytest.raises(VerificationError, match="an empty pattern"):
            run(identity(make_model), x, expose=empty)
    # Names begin with "/conv1/": a pattern with * stands for the whole name, a plain word for a part of it.
    with pytest.raises(
        VerificationError, match=r"'conv\*' \('conv\*' stands for a whole .* try '\*conv\*'\)"
    ):
        run(frozen, digits, expose="conv*")
    assert list(run(frozen, digits, expose="conv")) == list(run(frozen, digits, expose="*conv*"))


def test_a_failing_node_is_named(make_model: Make) -> None:
    nodes = [helper.make_node("Add", ["x", "b"], ["y"], name="the_add")]
    module = import_model(make_model(nodes, inputs={"x": ("n", "m")}, initializers={"b": [1.0, 2.0]}))
    with pytest.raises(VerificationError, match=r"node 'the_add' \(Add\) failed"):
        run(module, np.zeros((1, 3), np.float32))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("sizes differ:\n  3 and 4\n\nWhile executing %add\nOriginal traceback:\nNone"),
        KeyError("sizes differ: 3 and 4"),
        OverflowError("sizes differ: 3 and 4"),
    ],
)
@pytest.mark.parametrize("expose", ["", "y"])
def test_only_the_first_paragraph_of_an_error_is_shown(
    make_model: Make, monkeypatch: pytest.MonkeyPatch, error: Exception, expose: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    nodes = [helper.make_node("Add", ["x", "b"], ["y"], name="the_add")]
    module = import_model(make_model(nodes, initializers={"b": 1.0}))
    (add,) = (n for n in module.graph.nodes if n.op == "call_function")
    add.target = fail
    module.recompile()
    with pytest.raises(VerificationError) as caught:
        run(module, np.zeros((1, 4), np.float32), expose=[expose] if expose else ())
    text = str(caught.value).replace("'sizes differ: 3 and 4'", "sizes differ: 3 and 4")
    assert text == "node 'the_add' (Add) failed: sizes differ: 3 and 4"


@pytest.mark.parametrize("device", ["nowhere", "cuda:99"])
def test_a_device_that_is_not_there(make_model: Make, device: str) -> None:
    with pytest.raises(VerificationError, match=f"device '{device}'"):
        run(identity(make_model), np.zeros((2, 3), np.float32), device=device)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_leaves_the_module_where_it_is(frozen: fx.GraphModule, digits: np.ndarray) -> None:
    there = run(frozen, digits, device="cuda")["logits"]
    np.testing.assert_allclose(there, run(frozen, digits)["logits"], rtol=1e-4, atol=1e-4)
    assert all(p.device.type == "cpu" for p in frozen.parameters())
