"""ffmpeg, with which the tests make their films."""

from __future__ import annotations

import subprocess
from pathlib import Path

from realdpo.media.encode import ffmpeg_exe


def ffmpeg(*arguments: str | Path | int) -> None:
    subprocess.run(
        [ffmpeg_exe(), "-v", "error", "-nostdin", "-y", *map(str, arguments)], check=True
    )
