"""The wheel: one import package, with its templates and its model, that runs from anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_version_is_the_same_everywhere() -> None:
    import realdpo

    version = realdpo.__version__
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", tmp_path],
        cwd=ROOT,
        check=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    page = (tmp_path / "reference" / "api" / "index.html").read_text(encoding="utf-8")
    assert "realdpo.curate.ingest" in page
    assert "whole settings, instead of single ones" in page


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Built from a copy: setuptools leaves a build folder whose stale files would get in.
    source = tmp_path_factory.mktemp("source")
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.split(b"\0")
    for name in filter(None, tracked):
        original = ROOT / name.decode()
        if original.is_file():
            copy = source / name.decode()
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(original.read_bytes())
    out = tmp_path_factory.mktemp("dist")
    # The wheel is built from the source distribution, as pip does with one from an index.
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *out.iterdir()], check=True)
    (made,) = out.glob("*.whl")
    return made


@pytest.mark.slow
def test_the_wheel_holds_realdpo_and_nothing_beside_it(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"realdpo"}
    inside = {name for name in names if name.startswith("realdpo/")}
    for wanted in (
        "realdpo/py.typed",
        "realdpo/report.html.j2",
        "realdpo/curate/actions.toml",
        "realdpo/demo/tiny/model/model_index.json",
    ):
        assert wanted in inside
    assert any(n.startswith("realdpo/data_cards/") and n.endswith(".j2") for n in inside)
    assert any(n.startswith("realdpo/demo/tiny/") and n.endswith(".safetensors") for n in inside)
    # Every Python file of the mapped folders is there: a forgotten sub-package would be missed.
    for folder in ("curate", "pairs", "train", "realdpo"):
        for file in (ROOT / folder).rglob("*.py"):
            relative = file.relative_to(ROOT).as_posix()
            expected = relative if folder == "realdpo" else f"realdpo/{relative}"
            assert expected in inside


@pytest.mark.slow
def test_an_installed_wheel_runs_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "env"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    packages = Path(
        sysconfig.get_path("purelib", vars={"base": str(environment), "platbase": str(environment)})
    )
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", packages, wheel],
        check=True,
    )
    # The dependencies are several gigabytes; lend the ones that this test itself runs with.
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    program = (
        "import sys, realdpo, realdpo.curate, realdpo.pairs, realdpo.train\n"
        "for m in (realdpo, realdpo.curate, realdpo.pairs, realdpo.train): print(m.__file__)\n"
        "from realdpo.cli import main\n"
        "sys.argv = ['realdpo', 'doctor', '--json']; main()\n"
    )
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [python, "-c", program], cwd=tmp_path, env=own, capture_output=True, text=True, check=True
    )
    for line in result.stdout.splitlines()[:4]:
        assert line.startswith(str(packages))
    for name in ("train", "pairs", "curate"):
        assert not (packages / name).exists()
