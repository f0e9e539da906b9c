"""Names of the array types that scores pass around."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

# OpenCV's stubs return arrays of any number type, so these names tell the reader, not the checker.
Bytes = npt.NDArray[Any]
Floats = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Columns = Mapping[str, npt.NDArray[Any]]
