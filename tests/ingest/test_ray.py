"""Ray: two nodes give the bytes of one process; dead workers and nodes lose nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_ingest import SETTINGS, outputs

from realdpo import engine
from realdpo.curate import analyse
from realdpo.curate.config import ShotSettings
from realdpo.curate.ingestion import ingest_footage
from realdpo.workspace import Workspace

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 << 20}
    # A worker imports what the driver can import, the tests' own steps among it.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    )
    nodes = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    nodes.add_node(**node)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def unlucky(row: tuple[int, str]) -> int:
    """Squares; the worker that gets 5 first dies of it, and 7 cannot be done."""
    number, folder = row
    flag = Path(folder) / f"{number}.tried"
    if number == 5 and not flag.exists():
        flag.touch()
        os._exit(1)
    if number == 7:
        raise ValueError("seven")
    time.sleep(0.2)
    return number * number


@pytest.mark.slow
def test_a_killed_worker_and_a_killed_node_lose_nothing(cluster: Any, tmp_path: Path) -> None:
    second = cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
    rows = [(n, str(tmp_path)) for n in range(30)]
    found = {}
    for outcome in engine.run_rows(unlucky, rows, engine="ray", address=cluster.address):
        found[outcome.row[0]] = outcome
        if len(found) == 6:
            cluster.remove_node(second, allow_graceful=False)
    assert sorted(found) == list(range(30))
    assert (tmp_path / "5.tried").exists()
    assert found[5].value == 25
    assert {n for n, o in found.items() if o.error} == {7}
    assert found[7].error == "ValueError: seven"


@pytest.mark.slow
def test_the_analysis_is_the_same_bytes_as_here(
    cluster: Any, footage: Path, tmp_path: Path
) -> None:
    files = [p for p in sorted((footage / "good").iterdir()) if p.suffix in (".mp4", ".mkv")]
    tasks = [
        analyse.AnalysisTask(str(n), str(path), ShotSettings(), 1) for n, path in enumerate(files)
    ]
    saved: dict[str, list[bytes]] = {}
    for where in ("serial", "ray"):
        outcomes = engine.run_rows(
            analyse.analyse_source, tasks, engine=where, address=cluster.address
        )
        by_id = {outcome.row.source_id: outcome.value for outcome in outcomes}
        saved[where] = []
        for task in tasks:
            path = tmp_path / where / task.source_id
            value = by_id[task.source_id]
            assert value is not None
            analyse.save_analysis(path, value)
            saved[where].append(path.read_bytes())
    assert saved["ray"] == saved["serial"]


@pytest.mark.slow
def test_a_whole_ingest_is_the_same_bytes_as_here(
    cluster: Any, footage: Path, tmp_path: Path
) -> None:
    good = [str(footage / "good")]
    here, there = Workspace(tmp_path / "here"), Workspace(tmp_path / "there")
    kept = ingest_footage(here, good, replace(SETTINGS, engine="local"))
    on_ray = ingest_footage(there, good, replace(SETTINGS, engine="ray", address=cluster.address))
    assert on_ray == kept
    assert kept["kept"] > 0
    assert outputs(there) == outputs(here)
