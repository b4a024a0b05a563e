"""Operators of the domain ai.onnx.ml that compute on tensors; those on strings and maps are not supported."""

from qonnx_torch.ops.ml import features, labels, linear, svm, trees

__all__ = ["features", "labels", "linear", "svm", "trees"]
