"""What is large: an 8K film goes through ingest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from films import ffmpeg

INGEST = """
import json, sys
from pathlib import Path
from realdpo.curate.config import IngestConfig
from realdpo.curate.ingestion import ingest_footage
from realdpo.workspace import Workspace

# The enlarged picture repeats its pixels, which looks like codec blocks.
limits = {"time.fps_min": 1, "detail.blocking_max": "off"}
funnel = ingest_footage(Workspace(Path(sys.argv[2])), [sys.argv[1]], IngestConfig("tiny", decide=limits))
print(json.dumps(funnel))
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_8k_goes_through(bikes: Path, tmp_path: Path) -> None:
    source = tmp_path / "8k.mp4"
    look = "scale=7680:4320:flags=neighbor,fps=8"
    ffmpeg(
        "-i",
        bikes,
        "-vf",
        look,
        "-frames:v",
        14,
        "-an",
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-refs",
        3,
        "-bf",
        3,
        source,
    )
    command = [sys.executable, "-c", INGEST, str(source), str(tmp_path / "work")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["sources_failed"] == 0
    assert result["kept"] == 1
    [clip] = (tmp_path / "work" / "clips").glob("*.mp4")
    assert clip.stat().st_size > 0
