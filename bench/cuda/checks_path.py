"""Adds native/test/cuda to the path on import: the kernels' calls from PyTorch and the reference of their checks."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / 'native' / 'test' / 'cuda'))
