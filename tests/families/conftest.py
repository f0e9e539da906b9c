"""The helpers of the tests of training and pairs are used here as well."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "train"), str(HERE.parent / "pairs"), str(HERE.parent)]
