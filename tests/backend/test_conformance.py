"""The onnx package's own backend tests, all of them, less what is excluded by name and reason.

An exclusion that starts to pass fails the run.
"""

from __future__ import annotations

import os
import re
import tempfile
from functools import cache

import numpy as np
import pytest

pytest.importorskip("onnx.backend.test")

# The runner makes a folder per model there, also for the models that lie in the onnx package itself.
os.environ.setdefault("ONNX_MODELS", tempfile.mkdtemp(prefix="onnx-models-"))

import torch
from onnx import numpy_helper
from onnx.backend.test import BackendTest

from qonnx_torch.backend import QonnxTorchBackend, prepare
from qonnx_torch.errors import UnsupportedModelError
from qonnx_torch.testing import KINDS, BackendCase, backend_cases

STRINGS = "its inputs or outputs are strings, which torch has no tensors of"
DRAWS = "its expected values are what NumPy's generator draws; the specification defines no sequence"
IMAGES = "decoding images takes a library of image formats"
TRAINING = "Gradient differentiates a part of the graph around it; it is imported by no one"
ROUNDING = "its expected values are rounding errors: "

EXCLUDED: dict[str, str] = {
    **dict.fromkeys(
        [
            "test_ai_onnx_ml_label_encoder_string_int",
            "test_ai_onnx_ml_label_encoder_string_int_no_default",
            "test_ai_onnx_ml_label_encoder_tensor_mapping",
            "test_ai_onnx_ml_label_encoder_tensor_value_only_mapping",
            "test_equal_string",
            "test_equal_string_broadcast",
            "test_regex_full_match_basic",
            "test_regex_full_match_email_domain",
            "test_regex_full_match_empty",
            "test_string_concat",
            "test_string_concat_broadcasting",
            "test_string_concat_empty_string",
            "test_string_concat_utf8",
            "test_string_concat_zero_dimensional",
            "test_string_split_basic",
            "test_string_split_consecutive_delimiters",
            "test_string_split_empty_string_delimiter",
            "test_string_split_empty_tensor",
            "test_string_split_maxsplit",
            "test_string_split_no_delimiter",
            "test_strnormalizer_export_monday_casesensintive_lower",
            "test_strnormalizer_export_monday_casesensintive_nochangecase",
            "test_strnormalizer_export_monday_casesensintive_upper",
            "test_strnormalizer_export_monday_empty_output",
            "test_strnormalizer_export_monday_insensintive_upper_twodim",
            "test_strnormalizer_nostopwords_nochangecase",
        ],
        STRINGS,
    ),
    **dict.fromkeys(
        [
            "test_bernoulli",
            "test_bernoulli_double",
            "test_bernoulli_double_expanded",
            "test_bernoulli_expanded",
            "test_bernoulli_seed",
            "test_bernoulli_seed_expanded",
            "test_training_dropout",
            "test_training_dropout_default",
            "test_training_dropout_default_mask",
            "test_training_dropout_mask",
        ],
        DRAWS,
    ),
    **dict.fromkeys(
        [
            "test_image_decoder_decode_bmp_rgb",
            "test_image_decoder_decode_jpeg2k_rgb",
            "test_image_decoder_decode_jpeg_bgr",
            "test_image_decoder_decode_jpeg_grayscale",
            "test_image_decoder_decode_jpeg_rgb",
            "test_image_decoder_decode_png_rgb",
            "test_image_decoder_decode_pnm_rgb",
            "test_image_decoder_decode_tiff_rgb",
            "test_image_decoder_decode_webp_rgb",
        ],
        IMAGES,
    ),
    "test_attention_4d_causal_fp16_expanded": ROUNDING
    + "Softmax in float16 rounds at each of its steps there, and once here and in onnxruntime",
    **dict.fromkeys(
        ["test_dft_inverse", "test_dft_inverse_opset19"],
        ROUNDING + "2e-7 from NumPy's transform, where the result is 0 and 1e-7 is allowed",
    ),
    "test_loop16_seq_none": "the runner takes the length of the 0-d tensor that it expects, and fails",
    **dict.fromkeys(
        [
            "test_resize_downsample_scales_cubic_align_corners",
            "test_resize_downsample_scales_linear_align_corners",
        ],
        "its coordinates divide by the new length before it is rounded down; the specification and "
        "onnxruntime take the length that the result has",
    ),
}
"""Node case -> why it cannot pass."""

INCOMPATIBLE: dict[str, str] = {
    **dict.fromkeys(
        [
            "test_strnorm_model_monday_casesensintive_lower",
            "test_strnorm_model_monday_casesensintive_nochangecase",
            "test_strnorm_model_monday_casesensintive_upper",
            "test_strnorm_model_monday_empty_output",
            "test_strnorm_model_monday_insensintive_upper_twodim",
            "test_strnorm_model_nostopwords_nochangecase",
        ],
        STRINGS,
    ),
    **dict.fromkeys(["test_gradient_of_add", "test_gradient_of_add_and_mul"], TRAINING),
}
"""Case of another kind -> why it cannot be imported; the runner skips it."""


def _cases() -> dict[str, type]:
    suite = BackendTest(QonnxTorchBackend, __name__)
    for name in EXCLUDED:
        suite.xfail(f"^{name}_(cpu|cuda)$")
    cases = suite.test_cases
    if not QonnxTorchBackend.supports_device("CUDA"):
        for case in cases.values():
            for name in [n for n in vars(case) if n.startswith("test_") and n.endswith("_cuda")]:
                delattr(case, name)
    return cases


_CASES = _cases()
globals().update(_CASES)


@cache
def cases(kind: str = "node") -> dict[str, BackendCase]:
    return {case.name: case for case in backend_cases(kind)}


def test_every_exclusion_names_a_case() -> None:
    names = {n.rpartition("_")[0] for case in _CASES.values() for n in vars(case) if n.startswith("test_")}
    assert set(EXCLUDED) | set(INCOMPATIBLE) <= names


def test_strings_are_what_is_excluded_for_strings() -> None:
    named = {name for name, reason in {**EXCLUDED, **INCOMPATIBLE}.items() if reason == STRINGS}
    assert named == {c.name for kind in KINDS for c in cases(kind).values() if c.has_strings}


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "node"])
def test_no_other_model_is_skipped(kind: str) -> None:
    """The runner skips what the backend calls incompatible, which would hide it."""
    for case in cases(kind).values():
        assert QonnxTorchBackend.is_compatible(case.model) == (case.name not in INCOMPATIBLE), case.name


@pytest.mark.parametrize("reason", [STRINGS, IMAGES, TRAINING])
def test_what_is_not_supported_is_refused_by_name(reason: str) -> None:
    for name in [n for n, r in {**EXCLUDED, **INCOMPATIBLE}.items() if r == reason]:
        model = next(cases(kind)[name].model for kind in KINDS if name in cases(kind))
        with pytest.raises(UnsupportedModelError) as raised:
            prepare(model)
        operator = model.graph.node[-1].op_type
        assert re.search(rf"STRING|strings?|{operator}", str(raised.value)), name


@pytest.mark.parametrize("name", [n for n, r in EXCLUDED.items() if r == DRAWS])
def test_random_cases_have_the_right_type_and_share(name: str) -> None:
    """What can be told of them: shapes, dtypes, and which values there are, how often."""
    case = cases()[name]
    inputs, expected = case.data_sets[0]
    torch.manual_seed(0)
    prepared = prepare(case.model)
    found = [prepared.run(inputs) for _ in range(200)] if "seed" not in name else [prepared.run(inputs)]
    for outputs in found:
        for a, b in zip(outputs, expected, strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
    first = np.stack([np.asarray(outputs[0], np.float64) for outputs in found])
    if "bernoulli" in name:
        assert set(np.unique(first)) <= {0.0, 1.0}
        if len(found) > 1:
            np.testing.assert_allclose(first.mean(0), inputs[0], atol=0.15)
        return
    ratio = float(inputs[1]) if len(inputs) > 1 else 0.5
    kept = first != 0
    scaled = np.broadcast_to(inputs[0] / (1 - ratio), first.shape)
    np.testing.assert_allclose(first[kept], scaled[kept], rtol=1e-6)
    if len(found) > 1:
        np.testing.assert_allclose(kept.mean(), 1 - ratio, atol=0.03)
    if name.endswith("_mask"):
        np.testing.assert_array_equal(np.stack([o[1] for o in found]), kept)


def test_the_loop_that_the_runner_cannot_compare() -> None:
    case = cases()["test_loop16_seq_none"]
    for inputs, expected in case.data_sets:
        case.check(prepare(case.model).run(inputs), expected)


def test_what_only_rounding_tells_apart_is_within_two_units() -> None:
    for name in [n for n, r in EXCLUDED.items() if r.startswith(ROUNDING)]:
        case = cases()[name]
        for inputs, expected in case.data_sets:
            for a, b in zip(prepare(case.model).run(inputs), expected, strict=True):
                unit = np.finfo(b.dtype).eps * np.abs(b).max()
                np.testing.assert_allclose(a, b, rtol=0, atol=2 * float(unit))


def test_the_parser_of_tensors_gives_what_the_runner_feeds() -> None:
    """`qonnx_torch.testing` reads the files that the runner reads."""
    case = cases("simple")["test_single_relu_model"]
    inputs, expected = case.data_sets[0]
    assert isinstance(inputs[0], np.ndarray)
    assert len(expected) == len(case.model.graph.output)
    assert numpy_helper.from_array(expected[0]).dims == [1, 2]
