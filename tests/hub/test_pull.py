"""Pull loses nothing: what a workspace holds already is kept or the pull is refused."""

from __future__ import annotations

import hub_workspaces as workspaces
import pytest

from realdpo import ids, tables
from realdpo.errors import UserError
from realdpo.publish import pull
from realdpo.publish.pull import DatasetPart, Pull
from realdpo.workspace import Workspace

REPO = "someone/actions"


def offered(made: workspaces.Made, commit: str = "c" * 40) -> Pull:
    """What the Hub would say of this workspace's clips, had they been pushed as they are."""
    paths = sorted(made.workspace.data.glob("*.parquet"))
    files = {f"data/{p.name}": p for p in paths}
    splits = {s: tuple(f for f in files if f"/{s}-" in f) for s in workspaces.SPLITS}
    part = DatasetPart("clips", "clips", splits, dict.fromkeys(splits, ""), ours=True)
    hashes = {f: ids.file_hash(p) for f, p in files.items()}
    return Pull(
        REPO, commit, (part,), {f: p.stat().st_size for f, p in files.items()}, hashes, None
    )


def test_shards_of_ones_own_are_not_replaced(made: workspaces.Made) -> None:
    found = offered(made)
    for part in found.parts:
        pull._refuse_others(found, part, made.workspace)  # the same bytes are no others
        wrong = Pull(
            REPO, "c", found.parts, found.sizes, dict.fromkeys(found.hashes, "0" * 64), None
        )
        with pytest.raises(UserError, match="were not pulled from"):
            pull._refuse_others(wrong, part, made.workspace)
        # What an earlier pull of this dataset wrote may be brought up to date.
        shards = {p.name: p for p in made.workspace.data.glob("*.parquet")}
        pull._remember(made.workspace, REPO, "clips", shards)
        pull._refuse_others(wrong, part, made.workspace)
        other = Pull("someone/else", "c", found.parts, found.sizes, wrong.hashes, None)
        with pytest.raises(UserError, match="someone/else"):
            pull._refuse_others(other, part, made.workspace)


def test_clips_that_no_shard_holds_are_not_replaced(made: workspaces.Made) -> None:
    with pytest.raises(UserError, match="3 clips that are in no shard"):
        pull._refuse_own_clips(made.workspace)
    kept = [
        r for r in tables.read_table(made.workspace.clips, tables.CLIPS).to_pylist() if r["keep"]
    ]
    tables.write_table(made.workspace.clips, tables.from_rows(tables.CLIPS, kept), tables.CLIPS)
    pull._refuse_own_clips(made.workspace)
    pull._refuse_own_clips(Workspace(made.workspace.root / "new"))


def test_captions_made_since_outlive_the_same_pull(made: workspaces.Made) -> None:
    work = made.workspace
    work.clips.unlink()
    pull._rebuild_clips(work, unchanged=True)  # there were no tables: they are made
    rows = tables.read_table(work.clips, tables.CLIPS).to_pylist()
    for row in rows:
        row["prompt"] = "written since"
    tables.write_table(work.clips, tables.from_rows(tables.CLIPS, rows), tables.CLIPS)
    lost = work.clip_file(rows[0]["clip_id"])
    lost.unlink()
    pull._rebuild_clips(work, unchanged=True)
    assert set(tables.read_table(work.clips, tables.CLIPS)["prompt"].to_pylist()) == {
        "written since"
    }
    assert lost.exists()


@pytest.mark.parametrize(
    ("prompt", "lose", "problem"), [("", 1, "no prompt"), ("a man waves", 0, "the winner itself")]
)
def test_a_pair_from_elsewhere_that_teaches_nothing_is_refused_with_its_row(
    made_once: workspaces.Made, prompt: str, lose: int, problem: str
) -> None:
    shard = next(made_once.workspace.pair_data.glob("*.parquet"))
    row = tables.read_table(shard, tables.PAIR_SHARD).to_pylist()[0]
    videos = [row["win"], row["lose"][0]]
    with pytest.raises(UserError, match=problem) as refused:
        pull._row(
            {"prompt": prompt, "win": row["win"], "lose": videos[lose]},
            "pairs",
            "train",
            "x, row 7",
        )
    assert refused.value.message.startswith("x, row 7: ")
