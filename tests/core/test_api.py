"""realdpo from Python: names, types of arguments, what is printed, and what importing costs."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import realdpo
from realdpo import tables
from realdpo.errors import UserError


def test_every_public_name_is_there() -> None:
    for name in realdpo.__all__:
        assert getattr(realdpo, name) is not None
    assert set(realdpo.__all__) <= set(dir(realdpo))
    assert callable(realdpo.train)
    assert callable(realdpo.curate.ingest)
    assert callable(realdpo.pairs.build)
    from realdpo.train import objective

    assert objective.loss is not None
    with pytest.raises(AttributeError, match="no attribute 'tran'"):
        _ = realdpo.tran


def test_importing_realdpo_loads_nothing_heavy() -> None:
    code = "import sys, realdpo; print([n for n in ('torch', 'pandas', 'pyarrow', 'cv2', 'pydantic') if n in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_a_workspace_s_tables_are_data_frames(tmp_path: Path) -> None:
    work = realdpo.Workspace(str(tmp_path))
    assert work == realdpo.Workspace(tmp_path)
    assert realdpo.Workspace.of(work) is work
    assert work.clips == tmp_path / "clips.parquet"
    with pytest.raises(UserError, match=r"clips\.parquet is not there"):
        work.clips.to_pandas()
    rows = [{"clip_id": "a", "keep": True, "luma.mean": 3.0}, {"clip_id": "b", "keep": False}]
    table = tables.from_rows(tables.CLIPS, rows)
    tables.write_table(work.clips, table, tables.CLIPS)
    assert list(work.clips.to_pandas().clip_id) == ["a", "b"]
    assert list(work.clips.scores.columns) == ["luma.mean"]
    assert work.clips.scores["luma.mean"].isna().tolist() == [False, True]
    again = pickle.loads(pickle.dumps(work.clips))
    assert again == work.clips
    assert again.to_arrow(["clip_id"]).num_rows == 2


def test_thresholds_are_applied_to_stored_scores(tmp_path: Path) -> None:
    work = realdpo.Workspace(tmp_path)
    rows = [
        {"clip_id": name, "status": "ok", "luma.mean": luma, "motion.subject": 1.0}
        | {"motion.camera_confidence": 1.0}
        for name, luma in (("dark", 30.0), ("bright", 90.0))
    ]
    tables.write_table(work.clips, tables.from_rows(tables.CLIPS, rows), tables.CLIPS)
    tried = realdpo.curate.apply_thresholds(work, {"luma.mean_min": 50}, write=False)
    assert (tried["kept"], tried["dropped"]) == (1, {"luma.mean": 1})
    assert not work.clips.to_pandas().keep.any()
    assert realdpo.curate.apply_thresholds(work, {"luma.mean_min": "off"})["kept"] == 2
    assert work.clips.to_pandas().keep.all()
    with pytest.raises(UserError, match="luma.meen_min"):
        realdpo.curate.apply_thresholds(work, {"luma.meen_min": 50})


@pytest.mark.parametrize(
    "call",
    [
        lambda work: realdpo.curate.apply_thresholds(work),
        lambda work: realdpo.curate.ingest(work, "nowhere.mp4"),
        lambda work: realdpo.curate.ingest(work, ["nowhere.mp4"], target="wan9"),
        lambda work: realdpo.pairs.build(work, losers=0),
        lambda work: realdpo.pairs.build(work, looser=3),
        lambda work: realdpo.train(work, preset="nobody"),
        lambda work: realdpo.train(work, objective="dop"),
        lambda work: realdpo.evaluate(work, systems={"base": "nowhere/nothing"}),
    ],
)
def test_mistakes_are_errors_of_ours_and_nothing_is_printed(
    call, tmp_path, capfd, monkeypatch
) -> None:
    monkeypatch.setattr("realdpo.progress._speaks", False)
    with pytest.raises(realdpo.UserError):
        call(tmp_path / "work")
    assert capfd.readouterr() == ("", "")
