"""ImageDecoder beyond the onnx package's cases: how images are stored, and what is no image."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import torch
from onnx import parser
from PIL import Image

import qonnx_torch as qt

DECODER = """<ir_version: 10, opset_import: ["": 20]>
    decode (uint8[N] encoded) => (uint8[H, W, C] pixels) {{
        pixels = ImageDecoder<pixel_format="{}">(encoded)
    }}"""
PIXELS = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 9


def decoder(pixel_format: str) -> torch.nn.Module:
    return qt.import_model(parser.parse_model(DECODER.format(pixel_format)))


def encoded(image: Image.Image, kind: str = "PNG") -> torch.Tensor:
    file = io.BytesIO()
    image.save(file, kind)
    return torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)


def test_channels() -> None:
    stream = encoded(Image.fromarray(PIXELS))
    np.testing.assert_array_equal(decoder("RGB")(stream).numpy(), PIXELS)
    np.testing.assert_array_equal(decoder("BGR")(stream).numpy(), PIXELS[:, :, ::-1])
    assert decoder("Grayscale")(stream).shape == (2, 3, 1)


def test_stored_in_another_mode() -> None:
    grey = PIXELS[:, :, 0]
    wanted = np.stack([grey] * 3, axis=2)
    np.testing.assert_array_equal(decoder("RGB")(encoded(Image.fromarray(grey))).numpy(), wanted)
    palette = Image.fromarray(PIXELS).quantize(18)
    found = decoder("RGB")(encoded(palette)).numpy()
    np.testing.assert_array_equal(found, np.array(palette.convert("RGB")))


def test_no_image() -> None:
    with pytest.raises(ValueError, match="5 bytes that Pillow cannot read as an image"):
        decoder("RGB")(torch.tensor([1, 2, 3, 4, 5], dtype=torch.uint8))


def test_unknown_pixel_format() -> None:
    with pytest.raises(
        qt.InvalidModelError, match="'pixel_format' is 'CMYK', none of 'RGB', 'BGR', 'Grayscale'"
    ):
        decoder("CMYK")


def test_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2)
    with pytest.raises(ValueError, match="exceeds limit"):
        decoder("RGB")(encoded(Image.fromarray(PIXELS)))


def test_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = encoded(Image.fromarray(PIXELS))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install qonnx-torch\[images\]"):
        decoder("RGB")(stream)


def test_traced_once_for_all_sizes() -> None:
    module = decoder("RGB")
    stream = encoded(Image.fromarray(PIXELS))
    length = torch.export.Dim.AUTO
    program = torch.export.export(module, (stream,), dynamic_shapes=({0: length},)).module()
    large = np.repeat(PIXELS, 4, axis=0)
    np.testing.assert_array_equal(program(encoded(Image.fromarray(large))).numpy(), large)
