"""One writer at a time, and the second is told who the first is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from realdpo.errors import UserError
from realdpo.workspace import Workspace

HOLD = """
import sys, time
from pathlib import Path
from realdpo.workspace import Workspace
with Workspace(Path(sys.argv[1])).lock("curate ingest"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_run_says_who_holds_it_and_a_killed_holder_lets_go(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    workspace = Workspace(tmp_path)
    with pytest.raises(UserError) as caught, workspace.lock("train"):
        pass
    assert "realdpo curate ingest" in caught.value.message
    assert str(holder.pid) in caught.value.message
    holder.kill()
    holder.wait()
    with workspace.lock("train"):
        pass


def test_a_workspace_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="file"), Workspace(tmp_path / "file").lock("train"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_workspace_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot"), Workspace(tmp_path / "w").lock("train"):
        pass


def test_what_is_missing_names_the_command_that_makes_it(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with pytest.raises(UserError) as caught:
        workspace.require(workspace.clips, "curate ingest FOOTAGE")
    assert caught.value.hint == f"make it with: realdpo curate ingest FOOTAGE -w {tmp_path}"
