"""Writes are whole or absent."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from realdpo import files
from realdpo.errors import UserError


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "table"
    files.write_text(target, "old")
    with pytest.raises(RuntimeError), files.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("dies in the middle")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["table"]


def test_written_files_are_readable_by_others_as_the_umask_says(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        files.write_text(tmp_path / "f", "x")
    finally:
        os.umask(old)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o644


def test_a_file_that_cannot_grow_names_the_file_and_the_way_out(tmp_path: Path) -> None:
    # The limit is for this process only; SIGXFSZ would kill it instead of raising.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(UserError, match="big") as caught:
            files.write_bytes(tmp_path / "big", b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    assert caught.value.hint
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_a_file_is_an_error_not_a_loss(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("a file")
    for beneath in ("y", "y/z"):
        with pytest.raises(UserError, match="cannot write"):
            files.write_text(tmp_path / "x" / beneath, "z")
    assert (tmp_path / "x").read_text() == "a file"
    with pytest.raises(UserError, match="Is a directory"):
        files.write_text(tmp_path, "z")
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
@pytest.mark.parametrize("name", ["page.html", "new/page.html"])
def test_a_folder_that_takes_no_files_is_one_clear_line(name: str) -> None:
    with pytest.raises(UserError, match=f"cannot write /proc/{name}") as caught:
        files.write_text(f"/proc/{name}", "z")
    assert caught.value.hint


def test_a_missing_file_inside_the_body_is_not_blamed_on_the_target(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.atomic_path(tmp_path / "f"):
        (tmp_path / "gone").read_text()


def test_killed_writers_never_leave_a_half_file(tmp_path: Path) -> None:
    target = tmp_path / "f"
    program = (
        "import sys; from realdpo.files import write_bytes\n"
        "n = 0\n"
        "while True:\n"
        "    n += 1\n"
        f"    write_bytes({str(target)!r}, bytes([n % 256]) * 3_000_000)\n"
        "    print(n, flush=True)\n"
    )
    for _ in range(5):
        writer = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.01)
        writer.kill()
        writer.wait()
        data = target.read_bytes()
        assert len(data) == 3_000_000
        assert len(set(data)) == 1


def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from realdpo.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as path:\n"
        "    path.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    target = tmp_path / "deep" / "table.parquet"
    subprocess.run([sys.executable, "-c", script, str(target)], check=False)
    [left] = target.parent.iterdir()
    foreign = left.with_name(left.name.replace(f".{files._OWNER}-", ".elsewhere-"))
    foreign.write_text("another machine is writing it")
    (tmp_path / ".notes.tmp").write_text("a person's")
    with files.atomic_path(tmp_path / "mine") as own:
        assert files.sweep_temporary(tmp_path) == 1
        assert own.exists()
    assert not left.exists()
    assert foreign.exists()
    day = time.time() - 25 * 3600
    os.utime(foreign, (day, day))
    assert files.sweep_temporary(tmp_path) == 1
    assert (tmp_path / ".notes.tmp").exists()


def test_a_folder_is_replaced_whole_and_what_a_kill_left_is_put_right(tmp_path: Path) -> None:
    def write(name: str, text: str) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(text)
        return tmp_path / name

    folder = write("run", "one")
    files.replace_folder(write(".run.unfinished", "two"), folder)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    assert (folder / "weights").read_text() == "two"
    # Killed while writing, and killed between the two renames.
    write(".run.unfinished", "half")
    folder.rename(tmp_path / ".run.old")
    files.sweep_folders(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    assert (folder / "weights").read_text() == "two"


@pytest.mark.parametrize("name", ["x" * 240, "长" * 80, "🎬" * 60])
def test_long_names_are_written(tmp_path: Path, name: str) -> None:
    files.write_text(tmp_path / name, "here")
    assert (tmp_path / name).read_text() == "here"


def test_stems_of_texts() -> None:
    long = "一位女士" * 100
    assert files.stem_of("a man waves") == "a man waves"
    assert len(files.stem_of(long).encode()) <= 180
    texts = [long, long + "走", "a/b", "a_b", "", ".", "..", "a\nb", "x" * 181, "x" * 182, "\udc80"]
    stems = [files.stem_of(text) for text in texts]
    assert len(set(stems)) == len(texts)
    assert not any("/" in stem or stem in ("", ".", "..") for stem in stems)
