"""Running modules over data, and showing that they compute what a reference computes."""

from .data import Data, TensorSpec, input_specs
from .report import LayerResult, OutputResult, VerificationReport
from .runner import run
from .verifying import verify

__all__ = [
    "Data",
    "LayerResult",
    "OutputResult",
    "TensorSpec",
    "VerificationReport",
    "input_specs",
    "run",
    "verify",
]
