"""`realdpo doctor`: what it finds here, what it says of what is missing, what it never says."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from realdpo import doctor

SECRET = "hf_" + "x" * 34


def test_nothing_needed_is_missing_here(tmp_path: Path) -> None:
    findings = doctor.examine_machine(tmp_path / "not" / "yet")
    assert doctor.can_run(findings), [f for f in findings if f.state == "missing"]
    names = {finding.name for finding in findings}
    assert {"python", "torch", "gpu", "ffmpeg", "tiny model", "disk", "hub token"} <= names
    extras = importlib.metadata.metadata("realdpo").get_all("Provides-Extra") or []
    assert {f"extra {name}" for name in extras} <= names
    assert all(finding.hint for finding in findings if finding.state != "ok")


def test_a_package_too_old_or_absent_is_named() -> None:
    assert doctor._problem("no-such-package-anywhere>=1") == (
        "no-such-package-anywhere is not installed"
    )
    version = importlib.metadata.version("numpy")
    assert doctor._problem("numpy>=999") == f"numpy {version} is not >=999"
    assert doctor._problem("numpy>=1") is None


def test_a_full_disk_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ENOUGH_DISK", 10**18)
    finding = doctor._disk(tmp_path)
    assert finding.state == "missing"
    assert "-w" in (finding.hint or "")


@pytest.mark.slow
def test_the_command_prints_json_and_never_the_token(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "realdpo", "doctor", "--json"],
        env={**os.environ, "HF_TOKEN": SECRET},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["works"] is True
    token = next(f for f in found["findings"] if f["name"] == "hub token")
    assert token["state"] == "ok"
    assert SECRET not in done.stdout + done.stderr
