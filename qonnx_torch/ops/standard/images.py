"""Decoding images, by Pillow."""

from __future__ import annotations

import io

import numpy as np
import torch
from torch import Tensor

from qonnx_torch.ops._operator import operator

__all__: list[str] = []

_MODES = {"RGB": "RGB", "BGR": "RGB", "Grayscale": "L"}


@operator("ImageDecoder", since_version=20)
def image_decoder(encoded_stream: Tensor, *, pixel_format: str = "RGB") -> Tensor:
    """Returns the pixels of an encoded image: uint8 (height, width, channels).

    Args:
        encoded_stream: uint8 (number of bytes,): the file (BMP, JPEG, JPEG 2000, PNG, PNM, TIFF, WebP).
        pixel_format: `RGB`, `BGR` or `Grayscale`; the channels are 3, 3 or 1. An image that is stored in
            another mode (a palette, grey values) is converted.

    The sizes depend on the data. The pixels lie where `encoded_stream` lies; they are decoded on the CPU.

    Raises:
        ValueError: another pixel format; bytes that are no image, or one of more than 179 million pixels
            (Pillow's guard against decompression bombs).
        ImportError: Pillow is not installed (`pip install qonnx-torch[images]`).

    Source: ONNX ImageDecoder-20.
    """
    if pixel_format not in _MODES:
        raise ValueError(f"ImageDecoder: pixel_format is {pixel_format!r}, not one of {sorted(_MODES)}")
    pixels: Tensor = torch.ops.qonnx_torch.image_decoder(encoded_stream, pixel_format)
    return pixels


@torch.library.custom_op("qonnx_torch::image_decoder", mutates_args=())
def _image_decoder(encoded_stream: Tensor, pixel_format: str) -> Tensor:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise ImportError("ImageDecoder takes Pillow: pip install qonnx-torch[images]") from None
    encoded = encoded_stream.cpu().numpy().tobytes()
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            pixels = np.array(image.convert(_MODES[pixel_format]))
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"ImageDecoder: {len(encoded)} bytes that Pillow cannot read as an image: {error}"
        ) from None
    if pixel_format == "BGR":
        pixels = pixels[:, :, ::-1]
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return torch.from_numpy(np.ascontiguousarray(pixels)).to(encoded_stream.device)


@_image_decoder.register_fake
def _(encoded_stream: Tensor, pixel_format: str) -> Tensor:
    context = torch.library.get_ctx()
    height, width = context.new_dynamic_size(), context.new_dynamic_size()
    return encoded_stream.new_empty((height, width, 1 if pixel_format == "Grayscale" else 3))
