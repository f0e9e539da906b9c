"""What would be published, and what speaks against it: decided before any network."""

from __future__ import annotations

import json

import hub_workspaces as workspaces
import pytest

from realdpo import licences
from realdpo.errors import UserError
from realdpo.publish import hub
from realdpo.publish.hub import PushConfig
from realdpo.workspace import Workspace


def texts(plans: tuple[hub.PushPlan, ...]) -> str:
    return " / ".join(problem.text for plan in plans for problem in plan.problems)


def test_a_plan_lists_every_file_and_ends_with_the_card(made_once: workspaces.Made) -> None:
    (plan,) = hub.plan_push(made_once.workspace, "someone/actions", PushConfig())
    paths = [file.path for file in plan.files]
    assert paths[-1] == "README.md"
    shards = [path for path in paths if path.endswith(".parquet")]
    assert len(shards) == 9
    assert {path.split("/")[0] for path in shards} == {"data", "pairs"}
    assert {
        "images/thumbnails.png",
        "images/scores.png",
        "ATTRIBUTION.md",
        "pairs/audit.json",
    } < set(paths)
    assert plan.problems == ()
    hub.refuse_plans((plan,))


def test_what_selects_the_shards(made_once: workspaces.Made) -> None:
    (plan,) = hub.plan_push(made_once.workspace, "someone/actions", PushConfig(what="pairs"))
    assert [part.config for part in plan.shards] == ["pairs"]
    assert "config_name: clips" not in plan.readme


def test_missing_and_forbidding_licences_are_refused_unless_allowed(made: workspaces.Made) -> None:
    ledger = [workspaces.LEDGER[0] | {"license": text} for text in (None, "CC BY-ND 4.0", "MIT")]
    reledger(made, ledger)
    plans = hub.plan_push(made.workspace, "someone/actions", PushConfig())
    assert "no licence is stated" in texts(plans)
    assert "ND forbids" in texts(plans)
    assert "'MIT'" not in texts(plans)
    with pytest.raises(UserError, match="2 clips, licence 'not stated'") as refused:
        hub.refuse_plans(plans)
    assert "--allow-unlicensed" in str(refused.value.hint)

    allowed = hub.plan_push(made.workspace, "someone/actions", PushConfig(allow_unlicensed=True))
    hub.refuse_plans(allowed)
    head = allowed[0].readme.split("## Load it")[0]
    assert "[!WARNING]" in head
    assert "no licence is stated" in head


def reledger(made: workspaces.Made, ledger: list[dict[str, str | None]]) -> None:
    import pyarrow as pa

    from realdpo import tables

    for path in made.workspace.data.glob("*.parquet"):
        table = tables.read_table(path, tables.DATASET)
        place = workspaces.SPLITS.index(path.name.split("-")[0])
        column = pa.array([ledger[place]["license"]] * table.num_rows, pa.string())
        at = table.schema.get_field_index("license")
        tables.write_table(
            path, table.set_column(at, table.schema.field("license"), column), tables.DATASET
        )
    assert licences.read_licence(ledger[2]["license"]).problem == ""


def test_a_shortcut_or_a_missing_audit_stops_pairs_but_not_clips(made: workspaces.Made) -> None:
    made.workspace.audit.write_text(json.dumps({"verdict": "shortcut"}))
    plans = hub.plan_push(made.workspace, "someone/actions", PushConfig())
    with pytest.raises(UserError, match="shortcut"):
        hub.refuse_plans(plans)
    hub.refuse_plans(hub.plan_push(made.workspace, "someone/actions", PushConfig(what="clips")))
    allowed = hub.plan_push(
        made.workspace, "someone/actions", PushConfig(what="pairs", allow_shortcut=True)
    )
    hub.refuse_plans(allowed)
    assert "found a shortcut" in allowed[0].readme.split("## Load it")[0]

    made.workspace.audit.unlink()
    with pytest.raises(UserError, match="never audited"):
        hub.refuse_plans(hub.plan_push(made.workspace, "someone/actions", PushConfig(what="pairs")))


def test_the_hubs_limits_are_known_before_upload(
    made_once: workspaces.Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "LARGEST_ROW_GROUP", 1000)
    monkeypatch.setattr(hub, "LARGEST_FILE", 10_000)
    plans = hub.plan_push(made_once.workspace, "someone/actions", PushConfig(what="clips"))
    assert "too large for the Hub's viewer" in texts(plans)
    assert "larger than the Hub accepts" in texts(plans)


def test_a_missing_shard_is_noticed(made: workspaces.Made) -> None:
    next(made.workspace.data.glob("train-00001-*.parquet")).unlink()
    with pytest.raises(UserError, match="1 shards of a split that should have 2"):
        hub.plan_push(made.workspace, "someone/actions", PushConfig())


@pytest.mark.parametrize(
    "name", ["actions", "a/b/c", "some one/x", "../x", "someone/", "someone/" + "x" * 99]
)
def test_names_that_no_repository_can_have(name: str, made_once: workspaces.Made) -> None:
    with pytest.raises(UserError, match="not the name of a repository"):
        hub.plan_push(made_once.workspace, name, PushConfig())


def test_an_empty_workspace_says_what_to_do(tmp_path) -> None:
    with pytest.raises(UserError, match="nothing to publish") as nothing:
        hub.plan_push(Workspace(tmp_path), "someone/actions", PushConfig())
    assert "realdpo curate ingest" in str(nothing.value.hint)
    with pytest.raises(UserError, match="holds no shards"):
        hub.plan_push(Workspace(tmp_path), "someone/actions", PushConfig(what="pairs"))
