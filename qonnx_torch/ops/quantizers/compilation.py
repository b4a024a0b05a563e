"""What `torch.compile` must be told to compute what eager mode computes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
import torch.compiler.config

from qonnx_torch.errors import QonnxTorchError

__all__ = ["exact_options", "tag_compile_caches"]

_EAGER_NUMERICS = (
    "eager_numerics.division_rounding",  # true division; without it, one that may be off by a unit
    "eager_numerics.disable_ftz",  # denormals stay
    "eager_numerics.use_pytorch_libdevice",  # the powers of two
)


def exact_options() -> dict[str, str | int | bool]:
    """Returns the options with which `torch.compile` should keep the bits of eager mode on CUDA.

        torch.compile(module, options=qonnx_torch.ops.exact_options())

    By default Inductor divides approximately there, and a value near a rounding tie then moves by a whole
    step. On the CPU it divides exactly, with or without these. They have been checked on the CPU only.

    Raises:
        QonnxTorchError: this torch has no such options; run in eager mode on CUDA instead.
    """
    from torch._inductor import config  # slow to import, and seldom needed

    known = config.get_config_copy()
    if missing := [name for name in _EAGER_NUMERICS if name not in known]:
        raise QonnxTorchError(
            f"torch {torch.__version__} has no Inductor option {', '.join(missing)}: compiled for CUDA, the "
            "quantizers may differ from eager mode in the last place; use eager mode, or a newer torch"
        )
    return dict.fromkeys(_EAGER_NUMERICS, True)


def tag_compile_caches() -> None:
    """Makes torch's compile caches on disk tell versions of this package apart.

    They know an operator of `torch.library` by its name and not by what it consists of, and would serve what
    an older version of these files was compiled to.
    """
    if hasattr(torch.compiler.config, "cache_key_tag"):
        digest = hashlib.sha256()
        for source in sorted(Path(__file__).parent.glob("*.py")):
            digest.update(source.read_bytes())
        torch.compiler.config.cache_key_tag += f"qonnx_torch {digest.hexdigest()};"
