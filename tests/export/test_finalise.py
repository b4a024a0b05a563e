"""Imports of the operator domains that a file is written with."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import helper

import qonnx_torch as qt
from qonnx_torch.export.finalise import finalise

GENERAL = "qonnx.custom_op.general"


@pytest.mark.parametrize("version", [None, 13, 18])
def test_channels_last_is_imported_at_the_models_opset(models_folder: Path, version: int | None) -> None:
    module = qt.import_model(models_folder / "channels_last_conv.onnx")
    model = qt.export_qonnx(module, opset_version=version)
    imports = {o.domain: o.version for o in model.opset_import}
    assert imports["qonnx.custom_op.channels_last"] == imports[""] == (version or imports[""])
    assert imports[""] > 1


@pytest.mark.parametrize(("inputs", "declared", "written"), [(5, 2, 1), (5, 1, 1), (6, 1, 2), (6, 3, 3)])
def test_trunc_is_imported_at_the_version_that_its_inputs_tell(
    make_model, inputs: int, declared: int, written: int
) -> None:
    names = ["x", "s", "z", "i", "t", "o"][:inputs]
    node = helper.make_node("Trunc", names, ["y"], domain=GENERAL)
    model = make_model(
        [node], initializers=dict.fromkeys(names[1:], 1.0), imports={"": 13, GENERAL: declared}
    )
    finalise(model, {}, None)
    assert {o.domain: o.version for o in model.opset_import}[GENERAL] == written
