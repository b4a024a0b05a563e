"""`python -m qonnx_torch` is the command line `qonnx-torch`."""

import sys

from qonnx_torch.cli import main

if __name__ == "__main__":
    sys.exit(main())
