"""Fourier transforms and what goes with them. Complex numbers are a last dimension of 2: real, imaginary."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from qonnx_torch.dtypes import torch_dtype
from qonnx_torch.errors import InvalidModelError
from qonnx_torch.ops._operator import operator

__all__: list[str] = []


@operator("DFT", since_version=17, static=("dft_length", "axis"))
def dft(
    input: Tensor, dft_length: int | None = None, axis: int = -2, *, inverse: int = 0, onesided: int = 0
) -> Tensor:
    """Returns the discrete Fourier transform along one axis: sum over n of x_n exp(-2 pi i k n / N).

    The inverse has the other sign and the factor 1 / N.

    Args:
        input: (..., 1) real or (..., 2) complex.
        dft_length: N, to which the signal is cut or padded with zeros; the length of the axis where absent,
            2 (length - 1) for the inverse of a one-sided spectrum.
        axis: any but the last.
        inverse: 1 for the inverse.
        onesided: 1 returns the first N // 2 + 1 frequencies; an inverse takes those and gives a real signal.

    Returns: (..., 2) with N or N // 2 + 1 along the axis; (..., 1) for the inverse of a one-sided spectrum.

    Raises:
        InvalidModelError: the axis of the complex numbers.

    Source: ONNX DFT-20.
    """
    axis = _number(axis) % input.dim()
    if axis == input.dim() - 1:
        raise InvalidModelError("DFT: the last axis holds real and imaginary parts; name another one")
    length = None if dft_length is None else _number(dft_length)
    x = _computable(input)
    real = x.shape[-1] == 1
    if inverse and onesided:
        y: Tensor = torch.fft.irfft(_complex(x), length, axis).unsqueeze(-1)
    elif inverse:
        y = torch.view_as_real(torch.fft.ifft(_complex(x), length, axis))
    elif real and onesided:
        y = torch.view_as_real(torch.fft.rfft(x.squeeze(-1), length, axis))
    else:
        y = torch.view_as_real(torch.fft.fft(x.squeeze(-1) if real else _complex(x), length, axis))
        if onesided:
            y = y.narrow(axis, 0, y.shape[axis] // 2 + 1)
    return y.to(input.dtype)


@operator("STFT", since_version=17, static=("frame_step", "frame_length"))
def stft(
    signal: Tensor,
    frame_step: int,
    window: Tensor | None = None,
    frame_length: int | None = None,
    *,
    onesided: int = 1,
) -> Tensor:
    """Returns the Fourier transforms of overlapping frames of a signal.

    Args:
        signal: (N, L, 1) real or (N, L, 2) complex.
        frame_step: distance of the frames.
        window: (frame_length,), factors on each frame; ones where absent.
        frame_length: that of the window where absent, or L without a window.
        onesided: 1 returns the first frame_length // 2 + 1 frequencies.

    Returns: (N, (L - frame_length) // frame_step + 1, frequencies, 2).

    Raises:
        InvalidModelError: the window is not of frame_length elements.

    Source: ONNX STFT-17.
    """
    x = _computable(signal if signal.dim() > 2 else signal.unsqueeze(-1))
    if frame_length is None:
        length = x.shape[1] if window is None else window.shape[0]
    else:
        length = _number(frame_length)
    if window is not None and window.shape[0] != length:
        raise InvalidModelError(f"STFT: a window of {window.shape[0]} elements, frame_length {length}")
    frames = x.unfold(1, length, _number(frame_step))  # (N, frames, 1 or 2, length)
    if window is not None:
        frames = frames * window.to(x.dtype)
    if x.shape[-1] == 1:
        frames = frames.squeeze(2)
        y = torch.fft.rfft(frames) if onesided else torch.fft.fft(frames)
    else:
        y = torch.fft.fft(_complex(frames.transpose(-1, -2)))
        y = y[..., : length // 2 + 1] if onesided else y
    return torch.view_as_real(y).to(signal.dtype)


@operator("HannWindow", since_version=17, static=("size",), python_only=("like",))
def hann_window(size: int, *, output_datatype: int = 1, periodic: int = 1, like: Any = None) -> Tensor:
    """Returns 1/2 - 1/2 cos(2 pi n / N), N = size, or size - 1 if not periodic. Source: ONNX-17."""
    return _window(size, (0.5, -0.5), output_datatype, periodic, like)


@operator("HammingWindow", since_version=17, static=("size",), python_only=("like",))
def hamming_window(size: int, *, output_datatype: int = 1, periodic: int = 1, like: Any = None) -> Tensor:
    """Returns 25/46 - 21/46 cos(2 pi n / N), N = size, or size - 1 if not periodic. Source: ONNX-17."""
    return _window(size, (25 / 46, -21 / 46), output_datatype, periodic, like)


@operator("BlackmanWindow", since_version=17, static=("size",), python_only=("like",))
def blackman_window(size: int, *, output_datatype: int = 1, periodic: int = 1, like: Any = None) -> Tensor:
    """Returns 0.42 - 0.5 cos(2 pi n / N) + 0.08 cos(4 pi n / N), (size,). Source: ONNX BlackmanWindow-17."""
    return _window(size, (0.42, -0.5, 0.08), output_datatype, periodic, like)


@operator(
    "MelWeightMatrix",
    since_version=17,
    static=("num_mel_bins", "dft_length", "sample_rate", "lower_edge_hertz", "upper_edge_hertz"),
    python_only=("like",),
)
def mel_weight_matrix(
    num_mel_bins: int,
    dft_length: int,
    sample_rate: int,
    lower_edge_hertz: float,
    upper_edge_hertz: float,
    *,
    output_datatype: int = 1,
    like: Any = None,
) -> Tensor:
    """Returns the weights (dft_length // 2 + 1, num_mel_bins) that sum a spectrum into mel bands.

    Each band is a triangle between frequencies that are equidistant on the scale
    mel(f) = 2595 log10(1 + f / 700), rounded down to those of the spectrum; its peak is 1.

    Args:
        num_mel_bins: number of bands.
        dft_length: length of the transform behind the spectrum.
        sample_rate: hertz.
        lower_edge_hertz: lower edge of the lowest band.
        upper_edge_hertz: upper edge of the highest band.
        output_datatype: ONNX element type of the result.
        like: a tensor on whose device the result is.

    Source: ONNX MelWeightMatrix-17.
    """
    bands, length, rate = _number(num_mel_bins), _number(dft_length), _number(sample_rate)
    # float32 until here, float64 from here on: an edge next to an integer falls on the reference's side.
    edges = torch.tensor([_number(lower_edge_hertz), _number(upper_edge_hertz)], dtype=torch.float32)
    mels = (2595 * torch.log1p(edges / 700) / math.log(10)).double()
    step = ((mels[1] - mels[0]) / (bands + 2)).float().double()
    mel = torch.arange(bands + 2, dtype=torch.float64) * step + mels[0]
    hertz = 700 * torch.expm1(mel / 2595 * math.log(10))
    bins = torch.floor((length + 1) * hertz / rate)
    left, center, right = bins[:-2], bins[1:-1], bins[2:]
    row = torch.arange(length // 2 + 1, dtype=torch.float64)[:, None]
    rising = (row - left) / (center - left).clamp(min=1)
    falling = (right - row) / (right - center).clamp(min=1)
    weights = torch.where((row >= left) & (row < center), rising, 0.0)
    weights = torch.where((row > center) & (row < right), falling, weights)
    weights = torch.where(row == center, 1.0, weights)
    return _placed(weights.to(torch_dtype(output_datatype)), like)


def _window(size: Any, factors: tuple[float, ...], output_datatype: int, periodic: int, like: Any) -> Tensor:
    """Returns the sum over k of factors[k] cos(2 pi k n / N) for n from 0 to size - 1."""
    count = _number(size)
    angles = torch.arange(count, dtype=torch.float64) * (2 * math.pi) / (count if periodic else count - 1)
    window = torch.zeros_like(angles)
    for k, factor in reversed(list(enumerate(factors))):
        window = window + factor * torch.cos(k * angles)
    return _placed(window.to(torch_dtype(output_datatype)), like)


def _placed(x: Tensor, like: Any) -> Tensor:
    """Returns x on the device of a tensor, where one is given."""
    return x.to(like.device) if isinstance(like, Tensor) else x


def _number(value: Any) -> Any:
    """Returns a number that a file may also hold as a tensor of one element."""
    return value[0] if isinstance(value, (tuple, list)) else value


def _computable(x: Tensor) -> Tensor:
    """Returns x in a dtype that the transforms have: float32 instead of 16 bits."""
    return x if x.dtype == torch.float64 else x.float()


def _complex(x: Tensor) -> Tensor:
    """Returns (..., 1) or (..., 2) as complex numbers (...)."""
    if x.shape[-1] == 1:
        return torch.complex(x[..., 0], torch.zeros_like(x[..., 0]))
    return torch.view_as_complex(x.contiguous())
