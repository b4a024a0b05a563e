"""Where the data of a model lie, and that they are neither copied twice nor lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

import qonnx_torch as qt
from qonnx_torch.errors import InvalidModelError
from qonnx_torch.import_.builder import build
from qonnx_torch.import_.outline import outline
from qonnx_torch.import_.reading import open_model, read_model
from qonnx_torch.import_.tensors import LARGE, TensorStore

MODELS = Path(__file__).resolve().parents[1] / "models"
SIDE = 256  # 256 KiB a matrix of float32: large enough to be left out of messages
RANDOM = np.random.default_rng(0)
WEIGHTS = {f"w{i}": RANDOM.standard_normal((SIDE, SIDE)).astype(np.float32) for i in range(5)}
X = torch.from_numpy(RANDOM.standard_normal((1, SIDE)).astype(np.float32))


def stored(name: str, place: str) -> TensorProto:
    array = WEIGHTS[name]
    if place == "double_data":
        tensor = TensorProto(name=name, data_type=TensorProto.DOUBLE, dims=array.shape)
        tensor.double_data.extend(array.astype(np.float64).ravel())
    elif place == "float_data":
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=array.shape)
        tensor.float_data.extend(array.ravel())
    elif place == "float16":
        tensor = numpy_helper.from_array(array.astype(np.float16), name)
    else:
        tensor = numpy_helper.from_array(array, name)
    return tensor


def model_of(places: list[str]) -> ModelProto:
    """x @ w0 @ w1 ..., with the data of each weight in a place of its own."""
    nodes, initializers, last = [], [], "x"
    for i, place in enumerate(places):
        name, output = f"w{i}", "y" if i == len(places) - 1 else f"h{i}"
        tensor = stored(name, place)
        if place == "constant":
            nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            initializers.append(tensor)
        if tensor.data_type != TensorProto.FLOAT:
            nodes.append(helper.make_node("Cast", [name], [f"{name}_float"], to=TensorProto.FLOAT))
            name = f"{name}_float"
        nodes.append(helper.make_node("MatMul", [last, name], [output]))
        last = output
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, SIDE]) for n in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], initializers)
    # 1 MiB of text: below that, files are parsed whole
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], doc_string="x" * (1 << 20))
    return model


PLACES = ["raw_data", "float_data", "constant", "double_data", "float16"]


def weights_of(module: torch.fx.GraphModule) -> dict[str, torch.Tensor]:
    return {name: tensor.detach() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("source", ["path", "bytes", "proto"])
def test_data_in_the_model(source: str, tmp_path: Path) -> None:
    model = model_of(PLACES)
    content = model.SerializeToString()
    (tmp_path / "m.onnx").write_bytes(content)
    given = {"path": tmp_path / "m.onnx", "bytes": content, "proto": model}[source]
    light, tensors = open_model(given)
    assert all(t in tensors for t in (*light.graph.initializer, light.graph.node[2].attribute[0].t))
    assert len(light.SerializeToString()) < 2 * LARGE + (1 << 20)
    module = qt.import_model(given)
    for name, tensor in weights_of(module).items():
        assert torch.equal(tensor.float(), torch.from_numpy(WEIGHTS[name]).to(tensor.dtype).float())
    assert model.SerializeToString() == content
    assert read_model(given) == model
    exported = qt.export_qonnx(module)
    assert list(exported.graph.initializer) == list(model.graph.initializer)
    assert exported.graph.node == model.graph.node


def test_an_outline_leaves_out_large_tensors_and_nothing_else() -> None:
    content = model_of(PLACES).SerializeToString()
    spans: list[tuple[int, int, str]] = []
    short = outline(lambda a, b: content[a:b], len(content), lambda *s: spans.append(s) or b"")
    assert short is not None
    assert [field for *_, field in spans] == ["raw_data", "raw_data", "float_data", "double_data", "raw_data"]
    again = model_of(PLACES)
    for tensor in (*again.graph.initializer, again.graph.node[2].attribute[0].t):
        for field in ("raw_data", "float_data", "double_data"):
            tensor.ClearField(field)
    assert ModelProto.FromString(short).SerializeToString() == again.SerializeToString()


@pytest.mark.parametrize("path", sorted(MODELS.glob("**/*.onnx")), ids=lambda p: p.stem)
def test_models_without_large_tensors_are_their_own_outline(path: Path) -> None:
    content = path.read_bytes()
    found: list[bytes] = []
    assert outline(lambda a, b: content[a:b], len(content), lambda *_: found.append(b"") or b"") == content
    assert not found


@pytest.mark.parametrize("length", [0, 1, 50, 1 << 20, (1 << 20) + 70_000])
def test_truncated_large_files(length: int, tmp_path: Path) -> None:
    content = model_of(PLACES).SerializeToString()
    for broken in (content[:length], content[: len(content) - length - 1]):
        (tmp_path / "m.onnx").write_bytes(broken)
        for source in (tmp_path / "m.onnx", broken):
            with pytest.raises(InvalidModelError):
                qt.import_model(source)


def test_data_not_packed_are_left_to_protobuf() -> None:
    one = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[LARGE // 2])
    header = one.SerializeToString()
    unpacked = b"\x25\x00\x00\x80\x3f" * (LARGE // 2)  # field 4, four bytes each
    model = model_of(["raw_data"])
    tensor = header + unpacked
    prefix = model.SerializeToString()
    whole = prefix + b"\x3a" + _varint(len(tensor) + 4) + b"\x2a" + _varint(len(tensor)) + tensor
    light, tensors = open_model(whole)
    assert light.graph.initializer[1] not in tensors
    assert tensors.tensor(light.graph.initializer[1]).sum() == LARGE // 2


def _varint(number: int) -> bytes:
    encoded = b""
    while number > 0x7F:
        encoded += bytes([number & 0x7F | 0x80])
        number >>= 7
    return encoded + bytes([number])


def test_a_tensor_with_two_pieces_of_data_is_left_to_protobuf() -> None:
    model = model_of(["raw_data"])
    model.graph.initializer[0].float_data.extend([1.0] * LARGE)
    light, tensors = open_model(model.SerializeToString())
    assert light.graph.initializer[0] not in tensors


def test_large_tensors_that_nothing_reads_come_back(tmp_path: Path) -> None:
    model = model_of(["raw_data"])
    model.graph.initializer.append(stored("w1", "float_data"))
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w2"], value=stored("w2", "raw_data")))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    for source in (tmp_path / "m.onnx", model.SerializeToString(), model):
        exported = qt.export_qonnx(qt.import_model(source)).graph
        assert list(exported.initializer) == list(model.graph.initializer)
        assert list(exported.node) == list(model.graph.node)


def test_large_constants_in_subgraphs_and_functions(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, SIDE]) for n in ("x", "y", "a", "b")]
    in_then = [
        helper.make_node("Constant", [], ["w0"], value=stored("w0", "constant")),
        helper.make_node("MatMul", ["x", "w0"], ["a"]),
    ]
    then = helper.make_graph(in_then, "then", [], values[2:3])
    in_else = [helper.make_node("MatMul", ["x", "w1"], ["b"])]
    other = helper.make_graph(in_else, "else", [], values[3:], [stored("w1", "raw_data")])
    nodes = [
        helper.make_node("Constant", [], ["w2"], value=stored("w2", "constant")),
        helper.make_node("twice", ["x"], ["z"], domain="local"),
        helper.make_node("MatMul", ["z", "w2"], ["v"]),
        helper.make_node("If", ["flag"], ["u"], then_branch=then, else_branch=other),
        helper.make_node("Add", ["u", "v"], ["y"]),
    ]
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    graph = helper.make_graph(nodes, "g", [values[0], flag], values[1:2])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    body = [helper.make_node("Add", ["p", "p"], ["q"])]
    function = helper.make_function("local", "twice", ["p"], ["q"], body, opsets[:1])
    model = helper.make_model(
        graph, opset_imports=opsets, functions=[function], doc_string="x" * (1 << 20), ir_version=10
    )
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    for source in (tmp_path / "m.onnx", model.SerializeToString(), model):
        module = qt.import_model(source)
        for condition, name in ((True, "w0"), (False, "w1")):
            expected = X @ torch.from_numpy(WEIGHTS[name]) + 2 * X @ torch.from_numpy(WEIGHTS["w2"])
            torch.testing.assert_close(module(X, torch.tensor(condition)), expected, rtol=1e-4, atol=1e-4)


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model_of(["raw_data"]).SerializeToString())
    model, tensors = open_model(path)
    path.write_bytes(b"another file")
    with pytest.raises(InvalidModelError, match=r"m\.onnx: changed while it was being read"):
        build(model, tensors)


def test_what_points_into_a_store_is_not_to_be_guessed() -> None:
    model = model_of(["raw_data", "raw_data"])
    light, tensors = open_model(model)
    pointer = light.graph.initializer[0]
    assert pointer in tensors
    assert pointer not in TensorStore()
    with pytest.raises(InvalidModelError, match="external file"):
        qt.import_model(light)


# -- external data -------------------------------------------------------------------------------------


def external(folder: Path, *, offset: int = 0, length: bool = True, location: str = "w.bin") -> Path:
    """A model whose weight lies at an offset of a file beside it."""
    data = WEIGHTS["w0"].tobytes()
    model = model_of(["raw_data"])
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="offset", value=str(offset))
    if length:
        tensor.external_data.add(key="length", value=str(len(data)))
    (folder / "w.bin").write_bytes(bytes(offset) + data)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"


@pytest.mark.parametrize("offset", [0, 4, 4096, 3, 1])
@pytest.mark.parametrize("length", [True, False])
def test_external_data_at_any_offset(offset: int, length: bool, tmp_path: Path) -> None:
    module = qt.import_model(external(tmp_path, offset=offset, length=length))
    assert torch.equal(weights_of(module)["w0"], torch.from_numpy(WEIGHTS["w0"]))
    assert torch.equal(module(X), X @ torch.from_numpy(WEIGHTS["w0"]))


def test_external_data_are_mapped_and_never_written(tmp_path: Path) -> None:
    path = external(tmp_path)
    module = qt.import_model(path)
    parameter = module.get_parameter("w0")
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(tmp_path / "w.bin") in maps.read_text()
    assert parameter.untyped_storage().nbytes() == parameter.nbytes
    before = (tmp_path / "w.bin").read_bytes()
    with torch.no_grad():
        parameter.mul_(2.0)
    assert (tmp_path / "w.bin").read_bytes() == before
    assert torch.equal(parameter.detach(), 2 * torch.from_numpy(WEIGHTS["w0"]))


def test_the_files_may_go_and_be_written_over(tmp_path: Path) -> None:
    path = external(tmp_path)
    module = qt.import_model(path)
    (tmp_path / "w.bin").unlink()
    qt.export_qonnx(module, path)
    path.rename(tmp_path / "other.onnx")
    expected = X @ torch.from_numpy(WEIGHTS["w0"])
    assert torch.equal(module(X), expected)
    assert torch.equal(qt.import_model(tmp_path / "other.onnx")(X), expected)


def test_many_external_files_keep_no_file_open(tmp_path: Path) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("no /proc")
    model = model_of(["raw_data"] * 5)
    onnx.save(
        model,
        tmp_path / "m.onnx",
        save_as_external_data=True,
        all_tensors_to_one_file=False,
        size_threshold=0,
    )
    before = len(list(descriptors.iterdir()))
    module = qt.import_model(tmp_path / "m.onnx")
    assert len(list(descriptors.iterdir())) == before
    for name, tensor in weights_of(module).items():
        assert torch.equal(tensor, torch.from_numpy(WEIGHTS[name]))


def test_links_as_download_caches_have_them(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    external(blobs)
    for name in ("m.onnx", "w.bin"):
        (blobs / name).rename(blobs / f"hash-of-{name}")
        (snapshot / name).symlink_to(Path("..", "..", "blobs", f"hash-of-{name}"))
    assert torch.equal(qt.import_model(snapshot / "m.onnx")(X), X @ torch.from_numpy(WEIGHTS["w0"]))


@pytest.mark.parametrize(("location", "reason"), [
    ("", "no file is named"),
    (".", "no ordinary file"),
    ("missing.bin", "No such file or directory"),
    ("pipe", "no ordinary file"),
    ("device", "not in the model's folder"),
    ("/dev/zero", "not in the model's folder"),
    ("../outside.bin", "not in the model's folder"),
    ("inside/../../outside.bin", "not in the model's folder"),
    ("link.bin", "not in the model's folder"),
    ("nul\0", "null (byte|character)"),
    ("n" * 5000, "File name too long"),
    ("m.onnx", "are not in a file of"),
])  # fmt: skip
def test_places_that_are_refused(location: str, reason: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "inside").mkdir(parents=True)
    path = external(folder, offset=2 << 20, location=location)
    os.mkfifo(folder / "pipe")
    (folder / "device").symlink_to("/dev/zero")
    (tmp_path / "outside.bin").write_bytes((folder / "w.bin").read_bytes())
    (folder / "link.bin").symlink_to(tmp_path / "outside.bin")
    with pytest.raises(InvalidModelError, match=f"of initializer 'w0' cannot be used: .*{reason}") as error:
        qt.import_model(path)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(("key", "value", "reason"), [
    ("offset", "-1", "offset -1 is negative"),
    ("offset", "9" * 5000, r"offset '999.* is no number"),
    ("offset", str(1 << 62), "are not in a file"),
    ("offset", "1", "are not in a file"),
    ("offset", "0x10", "offset '0x10' is no number"),
    ("length", "8", "it is 8 bytes long, but shape and type ask for 262144"),
    ("length", str(1 << 62), "shape and type ask for 262144"),
])  # fmt: skip
def test_ranges_that_are_refused(key: str, value: str, reason: str, tmp_path: Path) -> None:
    path = external(tmp_path)
    model = ModelProto.FromString(path.read_bytes())
    for entry in model.graph.initializer[0].external_data:
        entry.value = value if entry.key == key else entry.value
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InvalidModelError, match=reason):
        qt.import_model(path)


# -- memory --------------------------------------------------------------------------------------------

MEASURE = """
import sys, torch, qonnx_torch as qt
qt.import_model(sys.argv[1], batch=sys.argv[4])
def read(path, key):
    return int(next(line for line in open(path) if line.startswith(key)).split()[1])
before = read("/proc/self/status", "VmRSS")
open("/proc/self/clear_refs", "w").write("5")
source = sys.argv[2] if sys.argv[3] == "path" else open(sys.argv[2], "rb").read()
module = qt.import_model(source, batch=sys.argv[4])
print(read("/proc/self/status", "VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no /proc")
@pytest.mark.parametrize(("place", "source", "batch", "limit"), [
    ("in the file", "path", "keep", 1.3),
    ("in the file", "path", "dynamic", 1.6),
    ("in the file", "bytes", "keep", 2.3),  # the caller's bytes count
    ("beside it", "path", "keep", 0.3),
])  # fmt: skip
def test_peak_memory(place: str, source: str, batch: str, limit: float, tmp_path: Path) -> None:
    small, path = tmp_path / "small.onnx", tmp_path / "m.onnx"
    small.write_bytes(model_of(["raw_data"]).SerializeToString())
    model = model_of(["raw_data"])
    size = 4096  # one matrix of 64 MiB
    weight = numpy_helper.from_array(RANDOM.standard_normal((SIDE, size * 16), dtype=np.float32), "w0")
    model.graph.initializer[0].CopyFrom(weight)
    onnx.save(model, path, save_as_external_data=place == "beside it", location="w.bin")
    command = [sys.executable, "-c", MEASURE, str(small), str(path), source, batch]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(result.stdout) * 1024 < limit * SIDE * size * 16 * 4
