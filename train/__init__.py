"""Train on clips or preference pairs. You can call the package: `realdpo.train(work, ...)`.

The objective works without the rest: `from realdpo.train import objective` in your own loop.
"""

from __future__ import annotations

import sys
import types
from typing import Any


class _Room(types.ModuleType):
    """A module that is also the function `realdpo.api.train`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from realdpo.api import train

        return train(*args, **kwargs)


sys.modules[__name__].__class__ = _Room
