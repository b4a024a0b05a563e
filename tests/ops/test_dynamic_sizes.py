"""Window, sampling and normalization operators with free batch and image sizes: eager, exported, compiled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from onnx import ModelProto, helper, numpy_helper

import qonnx_torch as qt

QONNX = "qonnx.custom_op.general"
RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Row:
    op_type: str
    inputs: list[np.ndarray | None] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 22
    outputs: int = 1
    domain: str = ""
    label: str = ""

    def model(self) -> ModelProto:
        names = [f"c{i}" if v is not None else "" for i, v in enumerate(self.inputs)]
        outputs = [f"y{i}" for i in range(self.outputs)]
        node = helper.make_node(self.op_type, ["x", *names], outputs, domain=self.domain, **self.attributes)
        constants = [numpy_helper.from_array(v, n) for n, v in zip(names, self.inputs, strict=True) if n]
        graph = helper.make_graph(
            [node],
            "g",
            [helper.make_tensor_value_info("x", 1, ["n", 4, "h", "w"])],
            [helper.make_empty_tensor_value_info(o) for o in outputs],
            constants,
        )
        imports = [helper.make_opsetid("", self.opset), helper.make_opsetid(QONNX, 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)


def f(*shape: int) -> np.ndarray:
    return RNG.uniform(-2, 2, shape).astype(np.float32)


def numbers(*values: Any) -> np.ndarray:
    return np.array(values, np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


BOXES = [numbers([0, 0, 3, 3], [1, 1, 5, 4]), ints(0, 1)]
SAME = {"strides": [2, 2], "auto_pad": "SAME_UPPER"}
ROWS = [
    Row("Conv", [f(3, 4, 3, 3)], {"pads": [1, 0, 2, 1]}),
    Row("Conv", [f(3, 4, 3, 2)], SAME, label="same"),
    Row("ConvTranspose", [f(4, 3, 3, 3), f(3)], {"pads": [1, 0, 2, 1], "strides": [2, 2]}),
    Row("ConvTranspose", [f(4, 3, 3, 2)], SAME, label="same"),
    Row("MaxPool", [], {"kernel_shape": [3, 2], "ceil_mode": 1, "strides": [2, 2]}),
    Row("MaxPool", [], {"kernel_shape": [3, 2], **SAME}, label="same"),
    Row("MaxPool", [], {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "storage_order": 1}, outputs=2),
    Row("AveragePool", [], {"kernel_shape": [2, 2], "dilations": [2, 1], "pads": [1, 1, 0, 1]}),
    Row("LpPool", [], {"kernel_shape": [2, 2], "p": 3}),
    Row("BatchNormalization", [abs(f(4)) for _ in range(4)], {"training_mode": 1}, outputs=3),
    Row("InstanceNormalization", [f(4), f(4)]),
    Row("LayerNormalization", [f(1)], {"axis": 2}, outputs=3),
    Row("GroupNormalization", [f(2), f(2)], {"num_groups": 2}, opset=18),
    Row("MeanVarianceNormalization"),
    Row("Resize", [None, numbers(1, 1, 1.7, 0.6)], {"mode": "linear"}, label="scales"),
    Row("Resize", [None, numbers(1, 1, 0.5, 0.6)], {"mode": "cubic", "antialias": 1}, label="antialias"),
    Row("Resize", [None, None, ints(7, 9)], {"mode": "cubic", "axes": [2, 3]}, label="sizes"),
    Row("Resize", [None, None, ints(7, 9)], {"mode": "linear", "axes": [2, 3],
        "keep_aspect_ratio_policy": "not_larger"}, label="policy"),
    Row("Resize", [numbers(0.1, 0.2, 0.9, 0.8), None, ints(4, 5)], {"mode": "linear", "axes": [2, 3],
        "coordinate_transformation_mode": "tf_crop_and_resize"}, label="crop"),
    Row("GridSample", [f(2, 3, 5, 2)], {"mode": "nearest", "padding_mode": "reflection"}),
    Row("RoiAlign", BOXES, {"output_height": 2, "output_width": 2, "sampling_ratio": 2}),
    Row("RoiAlign", BOXES, {"output_height": 2, "output_width": 2, "mode": "max"}, label="adaptive"),
    Row("MaxRoiPool", [numbers([0, 0, 0, 3, 3], [1, 1, 1, 5, 4])], {"pooled_shape": [2, 2]}),
    Row("QuantAvgPool2d", [], {"stride": 2, "kernel": 2, "ibits": 4, "obits": 4, "signed": 0}, domain=QONNX),
    Row("Im2Col", [], {"stride": [1, 2], "kernel_size": [2, 2], "input_shape": "()"}, domain=QONNX),
]  # fmt: skip
IDS = [f"{r.op_type} {r.label}".rstrip() for r in ROWS]


def several(y: Any) -> tuple[torch.Tensor, ...]:
    return y if isinstance(y, tuple) else (y,)


def assert_close(actual: Any, expected: Any) -> None:
    for a, e in zip(several(actual), several(expected), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_exported_with_free_sizes(row: Row) -> None:
    module = qt.import_model(row.model())
    small, large = torch.from_numpy(f(2, 4, 6, 7)), torch.from_numpy(f(2, 4, 9, 11))
    free = torch.export.Dim.DYNAMIC
    batch = {} if row.op_type == "GridSample" else {0: free}  # its constant grid has a batch of 2
    exported = torch.export.export(module, (small,), dynamic_shapes=({**batch, 2: free, 3: free},))
    assert_close(exported.module()(large), module(large))


COMPILED = ("Conv same", "ConvTranspose same", "MaxPool", "Resize scales")


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_with_free_sizes(name: str) -> None:
    module = qt.import_model(next(r for r, i in zip(ROWS, IDS, strict=True) if i == name).model())
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((2, 4, 6, 7), (2, 4, 9, 11)):
        x = torch.from_numpy(f(*size))
        assert_close(compiled(x), module(x))


def test_non_max_suppression_exports_with_as_many_rows_as_there_will_be() -> None:
    class Boxes(torch.nn.Module):
        def forward(self, boxes: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            return qt.ops.standard.suppression.non_max_suppression(boxes, scores, 9, 0.3, 0.1)

    def random(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(f(1, count, 4)), torch.from_numpy(f(1, 2, count))

    free = torch.export.Dim.DYNAMIC
    exported = torch.export.export(Boxes(), random(5), dynamic_shapes=({1: free}, {2: free}))
    for count in (1, 20):
        given = random(count)
        assert torch.equal(exported.module()(*given), Boxes()(*given))
