"""Video files: facts (probe), upright frames (decode), exact deterministic clips (encode)."""

from __future__ import annotations

from realdpo.errors import UserError


class MediaError(UserError):
    """A file that cannot be read as video, or frames that cannot be written as one."""
