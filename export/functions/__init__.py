"""Model-local functions that let plain ONNX runtimes execute QONNX operators with qonnx's numbers.

`attach_functions` gives every QONNX node a `FunctionProto` of standard operators. One operator has several
behaviours (rounding mode, 1-bit width, element types); each is its own function *overload* with a readable
name (`ROUND`, `FLOOR`, `BIPOLAR`, `ROUND_DOUBLE`), so a body holds neither strings nor `If`. `signed`,
`narrow` and similar numbers stay attribute references. The nodes themselves stay QONNX nodes: qonnx, hls4ml
and FINN ignore overloads and functions.

Attach last: version converters and optimizers drop or inline functions, and a pass that edits an attribute, a
bit width or a type leaves the overload stale until `refresh_functions` is called.

Runtimes. onnxruntime resolves overloads from 1.27 on. Older ones ignore them: a file that uses two variants
of one operator loads without complaint and computes both with the same body, hence wrong values. Inline the
functions for those, with onnx_ir's `InlinePass` (`onnx.inliner` of onnx 1.23 forgets the defaults of absent
attributes).

Element types. qonnx computes in NumPy, so every step runs in the NumPy promotion of its operands: float32 `x`
over a float64 scale, or plus an int64 zero point, continues in float64, and the end is cast to float32. Each
body is specialised for the steps that need float64: `ROUND_DOUBLE` does all steps in float64,
`ROUND_DOUBLE_SUM` only the named one. Types come from initializers, constants, declared types and, failing
these, shape inference; a type that stays unknown is taken to be float32. Outputs are float32 unless the model
declares float16, bfloat16 or float64 for them (`..._TO_FLOAT16`).

Known exceptions to equality with qonnx 1.0.0, bit for bit:

* Zeros: graph optimisation may remove `+ 0` (onnxruntime, constant zero point 0); -0.0 then keeps its sign,
  where qonnx gives +0.0. Without optimisation the bits agree.
* Half precision: if *all* floating-point operands are float16 or bfloat16, NumPy rounds each step to that
  type; the functions compute in float32.
* Fractional bit widths need `2 ** width`, which runtimes and NumPy builds may round differently.
* FloatQuant takes `floor(log2(|x|))`, and a float32 log2 rounds up to k for values just below `2 ** k`, which
  shows in the modes CEIL, FLOOR and DOWN. The functions reproduce a *correctly rounded* log2, found equal to
  NumPy's on x86 with and without AVX-512; elsewhere results may differ within a few ulp of `2 ** k`. NumPy's
  AVX-512 `exp2(127)` is one ulp off; it matters only for 0 mantissa bits and `|x| >= 2 ** 127`.
* Trunc version 2 rounds `log2(out_scale / scale)`; in float64 a ratio within an ulp of `2 ** (k + 0.5)` may
  go to the other neighbour.
* Nodes inside another model-local function get their function, too, but onnxruntime 1.32 does not resolve
  overloads there: inline such functions first.
* Channels-last Conv sums in the order of the runtime's own convolution kernel.

Source: QONNX operator specification, qonnx 1.0.0; where text and code disagree, the code.
"""

from __future__ import annotations

from .attaching import attach_functions, refresh_functions, strip_functions

__all__ = ["attach_functions", "refresh_functions", "strip_functions"]
