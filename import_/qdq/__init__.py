"""QuantizeLinear and DequantizeLinear as quantizers that train.

The integers between a QuantizeLinear and its DequantizeLinear have no gradient. Before a graph is built,
`fuse_qdq` rewrites the file's nodes:

1. QuantizeLinear -> (Clip) -> DequantizeLinear of the same parameters becomes one quantizer: QONNX's Quant,
   or FloatQuant for the types of 8 and 4 bit floats, where these compute the same numbers; else
   QuantizeDequantizeLinear, an operator of this project that exports as the pair again. They compute the same
   numbers for every x but NaN, which a quantizer passes on and ONNX leaves undefined. (A zero may have the
   other sign; a FloatQuant makes NaN of an infinite x / scale.)
2. An integer constant that only DequantizeLinear reads becomes the float tensor that it stands for, under its
   own name, with a quantizer behind it; but only where that gives the same bits for every element.
3. Operators that only move elements (Reshape, Transpose, MaxPool, ...) between the two run on the floats.
4. DynamicQuantizeLinear -> DequantizeLinear becomes a quantizer with the computed parameters.

Everything else stays as it is: other parameters on the two sides, integers that are a graph output, computed
scales, integers of which another operator makes use (a QuantizeLinear then stays, beside the quantizer).
"""

from .fusing import fuse_qdq, refuse_own_operators

__all__ = ["fuse_qdq", "refuse_own_operators"]
