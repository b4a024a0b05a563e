"""The importer over the folder of real models (see the fixture `corpus`): goldens made by qonnx."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import fx

import qonnx_torch as qt
from qonnx_torch.errors import UnsupportedModelError
from qonnx_torch.provenance import value_names

# Scales are powers of two or one, or the last operator rounds: float32 gives the same bits in any order.
EXACT = {
    "bv_cnv_1w2a_dynamo",
    "bv_cnv_2w2a",
    "bv_conv_pot_fixedpoint",
    "bv_sfc_2w2a_dynamo",
    "bv_tfc_1w2a",
    "bv_tfc_2w2a_dynamo",
    "bv_tfc_2w2a_qcdq",
    "exm_bnn_fc_1layer",
    "finn_tfc_w1a1_multithreshold_topk",
    "hb_floatquant_flags",
    "hb_multithreshold",
    "hb_quant_parameters",
    "qonnx_floatquant_fp8",
    "zoo_hist_tfc_2w2a_no_domain",
    "zoo_tfc_1w1a",
    "zoo_tfc_2w2a",
}
# Values that lie on a rounding tie, where another order of summation takes the other integer: how many may.
TIE_FLIPS = {"qonnx_espcn_nn_resize_quant": 2}
REFUSED = {
    "finn_hw_cybsec_mvau": r"4 of 4 nodes .*(\n.*: finn.custom_op.fpgadataflow.hls::MVAU_hls version 1){4}",
}


def samples(folder: Path, sample: int) -> tuple[list[torch.Tensor], list[np.ndarray]]:
    inputs, outputs = np.load(folder / "inputs.npz"), np.load(folder / "outputs.npz")
    return (
        [torch.from_numpy(inputs[f"in{i}_s{sample}"]) for i in range(len(inputs.files) // 2)],
        [outputs[f"out{i}_s{sample}"] for i in range(len(outputs.files) // 2)],
    )


def run(module: Any, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    with torch.no_grad():
        y = module(*inputs)
    return list(y) if isinstance(y, tuple) else [y]


def beyond_tolerance(actual: np.ndarray, expected: np.ndarray) -> int:
    if not expected.size:
        return 0
    tolerance = 1e-5 + 1e-4 * np.nanmax(np.abs(expected.astype(np.float64)))
    return int(np.count_nonzero(~np.isclose(actual, expected, rtol=0, atol=tolerance, equal_nan=True)))


def assert_intermediate_values(corpus: Path) -> None:
    stored = np.load(corpus / "intermediates.npz")
    module = qt.import_model(corpus / "model_clean.onnx")
    onnx_names = value_names(module)
    values: dict[str, torch.Tensor] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            names = onnx_names.get(n, ())
            if len(names) == 1 and isinstance(result, torch.Tensor):
                values[names[0]] = result
            return result

    with torch.no_grad():
        Recorder(module).run(*samples(corpus, 0)[0])
    assert set(stored.files) <= set(values)
    for key in stored.files:
        assert beyond_tolerance(values[key].numpy(), stored[key]) <= TIE_FLIPS.get(corpus.name, 0), key


def test_values_equal_the_golden(corpus: Path) -> None:
    name = corpus.name
    if name in REFUSED:
        with pytest.raises(UnsupportedModelError, match=REFUSED[name]):
            qt.import_model(corpus / "model.onnx")
        return
    module = qt.import_model(corpus / "model.onnx")
    for sample in (0, 1):
        inputs, expected = samples(corpus, sample)
        for a, e in zip(run(module, inputs), expected, strict=True):
            assert a.numpy().dtype == e.dtype
            assert a.shape == e.shape
            if name in EXACT or e.dtype.kind != "f":
                np.testing.assert_array_equal(a.numpy(), e)
            else:
                assert beyond_tolerance(a.numpy(), e) <= TIE_FLIPS.get(name, 0)
    if (corpus / "intermediates.npz").exists():
        assert_intermediate_values(corpus)


@pytest.mark.corpus
@pytest.mark.parametrize(
    "name",
    [
        "bv_tfc_2w2a_dynamo",
        "zoo_tfc_1w1a",
        "bv_cnv_2w2a",
        "bv_mobilenet_v1_w025_4w4a_64",
        "bv_resnet18_w16_4w4a",
    ],
)
def test_captured_whole_with_a_dynamic_batch(name: str, corpus_folder: Path) -> None:
    folder = corpus_folder / name
    if not folder.exists():
        pytest.skip(f"the folder of real models has no {name}")
    module = qt.import_model(folder / "model.onnx", batch="dynamic")
    pairs = [samples(folder, s) for s in (0, 1)]
    x = torch.cat([inputs[0] for inputs, _ in pairs])
    (y,) = run(module, [x])
    assert beyond_tolerance(y.numpy(), np.concatenate([outputs[0] for _, outputs in pairs])) == 0

    program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    for batch in (x, torch.cat([x, x[:1]])):
        (expected,) = run(module, [batch])
        assert torch.equal(run(program.module(), [batch])[0], expected)
    quantizers = [n for n in program.graph.nodes if re.match(r"qonnx_torch\.\w*quant", str(n.target))]
    assert quantizers
    if "tfc" in name or "cnv" in name:  # the others take long; the benchmark compiles them
        torch._dynamo.reset()
        captured = torch.compile(module, fullgraph=True, dynamic=True, backend="eager")
        assert torch.equal(run(captured, [x])[0], y)
