"""QuantizeLinear and DequantizeLinear as quantizers that train.

The integers between a QuantizeLinear and its DequantizeLinear have no gradient. Before a graph is built,
`fuse_qdq` rewrites the file's nodes:

1. QuantizeLinear -> (Clip, Max, Min) -> DequantizeLinear of the same parameters becomes one quantizer:
   QONNX's Quant, or FloatQuant for the types of 8 and 4 bit floats, where these compute the same numbers;
   else QuantizeDequantizeLinear, an operator of this project that exports as the pair again. They compute the
   same numbers for every finite x and, in integers, for an infinite one. (A zero may have the other sign. NaN
   passes through a quantizer, ONNX leaves it undefined; a FloatQuant makes NaN of an infinite x / scale, as
   qonnx does, where the pair saturates.)
2. An integer constant that DequantizeLinear reads becomes the float tensor that it stands for, under its own
   name, with a quantizer behind it; but only where that gives the same bits for every element. Where several
   read it with other parameters, each has its floats; where others read the integers, these are quantized
   from the floats again, by a QuantizeLinear.
3. Operators that only move elements (Reshape, Transpose, MaxPool, ...) between the two run on the floats; on
   the integers as well, where something else reads what they give.
4. DynamicQuantizeLinear -> DequantizeLinear becomes a quantizer with the computed parameters.

Parameters may be computed from constants (`chains`). Integers that are an output of the graph, or of which
another operator makes use, are still made by the QuantizeLinear, beside the quantizer. Everything else stays
as it is: other parameters on the two sides, scales computed from data, blocks of small floats; `what_stays`
says where that stops a weight's training.
"""

from .fusing import fuse_qdq, refuse_own_operators

__all__ = ["fuse_qdq", "refuse_own_operators"]
