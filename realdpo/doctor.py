"""What this machine has and lacks for realdpo, and how to get what is missing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from realdpo.errors import UserError
from realdpo.integrity import workspace_damages
from realdpo.progress import progress_bar
from realdpo.workspace import Workspace

# The demo's workspace, its footage and the libraries' caches stay under this.
ENOUGH_DISK = 2_000_000_000  # bytes


@dataclass(frozen=True)
class MachineFinding:
    """One line of the report. state: ok; missing (nothing works without); absent (optional)."""

    name: str
    state: str
    found: str
    hint: str | None = None


def examine_machine(folder: Path) -> list[MachineFinding]:
    """Look at Python, the libraries, ffmpeg, the GPU, the disk under `folder` and the Hub.

    Nothing is downloaded and no network is used. A token is only said to be there.
    """
    return [
        _python(),
        *_packages(),
        _gpu(),
        _ffmpeg(),
        _tiny(),
        *_extras(),
        _disk(folder),
        _token(),
    ]


def examine_files(workspace: Workspace) -> list[MachineFinding]:
    """Check every file of a workspace that holds a hash: clips, shards, videos of pairs.

    One finding for each that is damaged, with the way out, and one that counts them. Raises
    UserError when a table cannot be read.
    """
    wrong, count = [], 0
    with progress_bar("check", None, "files and rows") as advance:
        for damage in workspace_damages(workspace):
            count += 1
            if damage is not None:
                wrong.append(
                    MachineFinding(
                        "damaged", "missing", f"{damage.path}: {damage.what}", damage.hint
                    )
                )
            advance()
    if not count:
        hint = f"nothing with a hash lies under {workspace.root}"
        return [MachineFinding("stored files", "absent", "none to check", hint)]
    text = f"{count - len(wrong):,} of {count:,} clips, rows and videos are what was written"
    return [*wrong, MachineFinding("stored files", "missing" if wrong else "ok", text)]


def can_run(findings: list[MachineFinding]) -> bool:
    """Whether the main job can run here."""
    return all(finding.state != "missing" for finding in findings)


def _python() -> MachineFinding:
    version = platform.python_version()
    wanted = importlib.metadata.metadata("realdpo")["Requires-Python"] or ""
    from packaging.specifiers import SpecifierSet

    if version not in SpecifierSet(wanted):
        return MachineFinding("python", "missing", version, f"realdpo needs Python {wanted}")
    return MachineFinding("python", "ok", f"{version}, {platform.system()} {platform.machine()}")


def _packages() -> Iterator[MachineFinding]:
    """The libraries that realdpo itself requires, in one line when all are there."""
    wrong = [problem for text, _ in _requirements("") if (problem := _problem(text))]
    for problem in wrong:
        yield MachineFinding("package", "missing", problem, "pip install --upgrade realdpo")
    try:
        import torch
        import torchvision.ops  # noqa: F401 - fails when it does not fit torch
    except (ImportError, OSError, RuntimeError) as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        yield MachineFinding(
            "torch", "missing", text, "install torch and torchvision of one release"
        )
        return
    count = len(list(_requirements("")))
    yield MachineFinding(
        "packages", "ok" if not wrong else "missing", f"{count - len(wrong)} of {count}"
    )
    yield MachineFinding(
        "torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} CPU threads"
    )


def _gpu() -> MachineFinding:
    try:
        import torch
    except (ImportError, OSError):
        return MachineFinding("gpu", "absent", "unknown without torch")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        memory = ", ".join(f"{gpu.name} {gpu.total_memory / 1e9:.0f} GB" for gpu in names)
        return MachineFinding("gpu", "ok", memory)
    if torch.backends.mps.is_available():
        return MachineFinding("gpu", "ok", "Apple Metal")
    return MachineFinding(
        "gpu", "absent", "none", "the tiny model runs on the CPU; the 2B to 14B models need a GPU"
    )


def _ffmpeg() -> MachineFinding:
    from realdpo.media.encode import ffmpeg_exe

    try:
        path = ffmpeg_exe()
    except UserError as error:
        return MachineFinding("ffmpeg", "missing", error.message, error.hint)
    system = shutil.which("ffmpeg")
    return MachineFinding("ffmpeg", "ok", "the system's" if path == system else "of imageio-ffmpeg")


def _tiny() -> MachineFinding:
    from realdpo.models import tiny_folder

    files = list(tiny_folder().rglob("*.safetensors"))
    if not files:
        return MachineFinding(
            "tiny model", "missing", f"no weights in {tiny_folder()}", "reinstall"
        )
    size = sum(file.stat().st_size for file in files)
    return MachineFinding("tiny model", "ok", f"{size / 1e6:.1f} MB")


def _extras() -> Iterator[MachineFinding]:
    """One line for each optional part of the package, as its own metadata lists them."""
    names = importlib.metadata.metadata("realdpo").get_all("Provides-Extra") or []
    for name in sorted(names):
        wrong = [problem for text, _ in _requirements(name) if (problem := _problem(text))]
        if wrong:
            yield MachineFinding(
                f"extra {name}", "absent", "; ".join(wrong), f"pip install 'realdpo[{name}]'"
            )
        else:
            yield MachineFinding(f"extra {name}", "ok", "installed")


def _disk(folder: Path) -> MachineFinding:
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    text = f"{free / 1e9:.0f} GB free under {place}"
    if free < ENOUGH_DISK:
        return MachineFinding(
            "disk", "missing", text, f"free {ENOUGH_DISK / 1e9:.0f} GB, or choose -w"
        )
    return MachineFinding("disk", "ok", text)


def _token() -> MachineFinding:
    from huggingface_hub import get_token

    if get_token():
        where = "HF_TOKEN" if os.environ.get("HF_TOKEN") else "hf auth login"
        return MachineFinding("hub token", "ok", f"there, by {where}")
    return MachineFinding(
        "hub token", "absent", "none", "to publish: hf auth login, or set HF_TOKEN"
    )


def _requirements(extra: str) -> Iterator[tuple[str, str]]:
    """(requirement, name) of the package itself or of one of its extras, for this Python."""
    from packaging.requirements import Requirement

    for text in importlib.metadata.requires("realdpo") or []:
        wanted = Requirement(text)
        named = wanted.marker is not None and re.search(r"\bextra\b", str(wanted.marker))
        if bool(named) != bool(extra):
            continue
        if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
            yield text, wanted.name


def _problem(text: str) -> str | None:
    """Why an installed distribution does not meet a requirement, or None."""
    from packaging.requirements import Requirement

    wanted = Requirement(text)
    try:
        version = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        # OpenCV comes as four distributions; a server has the one without windows.
        if wanted.name == "opencv-python":
            return _problem(text.replace("opencv-python", "opencv-python-headless", 1))
        return f"{wanted.name} is not installed"
    if not wanted.specifier.contains(version, prereleases=True):
        return f"{wanted.name} {version} is not {wanted.specifier}"
    return None
