"""Pushing against a Hub that refuses, fails, hangs up and forgets to answer."""

from __future__ import annotations

import dataclasses
from typing import Any

import hub_workspaces as workspaces
import loopback_hub
import pyarrow.parquet as pq
import pytest

from realdpo import tables
from realdpo.errors import UserError
from realdpo.publish import hub as pushing
from realdpo.publish.hub import PushConfig

REPO = "someone/actions"
CONFIG = PushConfig(workers=1)


@pytest.fixture(scope="module")
def plan(made_once: workspaces.Made) -> pushing.PushPlan:
    return pushing.plan_push(made_once.workspace, REPO, CONFIG)[0]


def published(hub: loopback_hub.Hub, revision: str = "main") -> set[str]:
    return set(hub.files(REPO, revision=revision)) - {".gitattributes"}


def titles(hub: loopback_hub.Hub) -> list[str]:
    return hub.repos["datasets", REPO].titles


# -- access --------------------------------------------------------------------------------------

_SCOPE = {"entity": {"type": "user", "name": "someone"}, "permissions": ["repo.write"]}


@pytest.mark.parametrize(
    ("who", "repo", "pr", "may"),
    [
        (loopback_hub.token_of("someone"), REPO, False, True),
        (loopback_hub.token_of("someone", "read"), REPO, False, False),
        (loopback_hub.token_of("else"), REPO, False, False),
        (loopback_hub.token_of("else"), REPO, True, True),
        (loopback_hub.token_of("else", orgs=("someone",)), REPO, False, True),
        (loopback_hub.token_of("someone", "fineGrained", scoped=[]), REPO, False, False),
        (loopback_hub.token_of("someone", "fineGrained", scoped=[_SCOPE]), REPO, False, True),
        (
            loopback_hub.token_of(
                "someone", "fineGrained", scoped=[_SCOPE | {"permissions": ["repo.content.read"]}]
            ),
            REPO,
            False,
            False,
        ),
        (
            loopback_hub.token_of("someone", "fineGrained", scoped=[_SCOPE]),
            "other/actions",
            False,
            False,
        ),
    ],
)
def test_who_may_write_where(who: dict[str, Any], repo: str, pr: bool, may: bool) -> None:
    assert (pushing.write_refusal(who, repo, pr) == "") is may


def test_a_token_that_cannot_write_is_said_before_anything_is_sent(
    hub: loopback_hub.Hub, api: Any, plan: pushing.PushPlan
) -> None:
    hub.tokens[loopback_hub.TOKEN] = loopback_hub.token_of("someone", "read")
    with pytest.raises(UserError, match="read token") as refused:
        pushing.check_access(api, (plan,), CONFIG)
    assert loopback_hub.TOKEN not in str(refused.value)
    assert hub.count(r"POST|PUT") == 0


def test_an_invalid_token_is_one_line(
    hub: loopback_hub.Hub, api: Any, plan: pushing.PushPlan
) -> None:
    hub.tokens.clear()
    with pytest.raises(UserError) as refused:
        pushing.check_access(api, (plan,), CONFIG)
    assert "hf auth login" in str(refused.value.hint)
    assert loopback_hub.TOKEN not in str(refused.value) + str(refused.value.hint)
    assert "\n" not in str(refused.value)


def test_private_is_not_quietly_public(
    hub: loopback_hub.Hub, api: Any, plan: pushing.PushPlan
) -> None:
    config = dataclasses.replace(CONFIG, private=True)
    assert pushing.check_access(api, (plan,), config) == "someone"
    pushing.push_repository(api, plan, config)
    assert hub.repos["datasets", REPO].private
    pushing.check_access(api, (plan,), config)
    hub.repos["datasets", REPO].private = False
    with pytest.raises(UserError, match="exists already and is public"):
        pushing.check_access(api, (plan,), config)


def test_pairs_on_the_hub_are_not_left_without_a_card(
    hub: loopback_hub.Hub, api: Any, plan: pushing.PushPlan, made_once: workspaces.Made
) -> None:
    pushing.push_repository(api, plan, CONFIG)
    clips = PushConfig(what="clips")
    with pytest.raises(UserError, match="holds pairs/ as well"):
        pushing.check_access(api, pushing.plan_push(made_once.workspace, REPO, clips), clips)


def test_somebody_elses_dataset_is_not_overwritten(
    hub: loopback_hub.Hub, api: Any, plan: pushing.PushPlan
) -> None:
    repo = loopback_hub.Repo("datasets", private=False)
    hub.repos["datasets", REPO] = repo
    hub.small["c" * 40] = b"theirs"
    repo.commit("main", {"data/train-00000-of-00001.parquet": loopback_hub.Blob(6, "c" * 40)}, "x")
    with pytest.raises(UserError, match="realdpo did not put there"):
        pushing.check_access(api, (plan,), CONFIG)


# -- upload --------------------------------------------------------------------------------------


def test_one_commit_holds_everything_and_a_second_push_sends_nothing(
    hub: loopback_hub.Hub, api: Any, plan: pushing.PushPlan
) -> None:
    first = pushing.push_repository(api, plan, CONFIG)
    assert published(hub) == {file.path for file in plan.files}
    assert len(titles(hub)) == 2  # the Hub's own first commit, and ours
    assert set(first.uploaded) == published(hub)
    asked = len(hub.log)
    second = pushing.push_repository(api, plan, CONFIG)
    assert (second.uploaded, second.bytes, second.unchanged) == ((), 0, len(plan.files))
    assert second.commit == first.commit
    assert not any(method == "PUT" or "/commit/" in path for method, path in hub.log[asked:])


def test_a_push_that_stops_half_way_shows_nothing_and_goes_on(
    hub: loopback_hub.Hub, api: Any, plan: pushing.PushPlan
) -> None:
    large = sum(file.path.endswith((".parquet", ".png")) for file in plan.files)
    hub.fail(r"PUT /lfs/", 403, times=999)
    hub.faults[0].times = 0
    original = hub.fault

    def after_four(request: str) -> Any:
        if request.startswith("PUT /lfs/") and hub.count("PUT /lfs/") > 4:
            hub.faults[0].times = 1
        return original(request)

    hub.fault = after_four
    with pytest.raises(UserError, match="403"):
        pushing.push_repository(api, plan, CONFIG)
    assert published(hub) == set()
    assert len(hub.large) == 4

    hub.fault = lambda request: None
    before = hub.count("PUT /lfs/")
    pushing.push_repository(api, plan, CONFIG)
    assert hub.count("PUT /lfs/") - before == large - 4
    assert published(hub) == {file.path for file in plan.files}
    assert pushing.verify_push(api, dataclasses.replace(plan, shards=()), "main")["files"] == len(
        plan.files
    )


def test_a_slow_down_and_an_outage_pass(
    hub: loopback_hub.Hub, api: Any, plan: pushing.PushPlan
) -> None:
    hub.fail("POST /api/repos/create", 429, headers={"Retry-After": "0"})
    hub.fail("POST .*/preupload/", 503)
    hub.cut("PUT /lfs/")
    hub.fail("POST .*/commit/", 500)
    pushing.push_repository(api, plan, CONFIG)
    assert [fault.times for fault in hub.faults] == [0, 0, 0, 0]
    assert published(hub) == {file.path for file in plan.files}
    assert len(titles(hub)) == 2


def test_a_commit_whose_answer_is_lost_is_not_made_twice(
    hub: loopback_hub.Hub, api: Any, plan: pushing.PushPlan
) -> None:
    hub.lose_answer("POST .*/commit/")
    pushed = pushing.push_repository(api, plan, CONFIG)
    assert hub.faults[0].times == 0
    assert len(titles(hub)) == 2
    assert pushed.commit == hub.repos["datasets", REPO].refs["main"]


def test_somebody_elses_commit_in_between_is_kept(
    hub: loopback_hub.Hub, api: Any, plan: pushing.PushPlan
) -> None:
    seen = []

    def other(handler: loopback_hub.Handler) -> bool:
        repo = hub.repos["datasets", REPO]
        note = loopback_hub.Blob(4, "a" * 40)
        hub.small["a" * 40] = b"note"
        seen.append(
            repo.commit("main", {**repo.commits[repo.refs["main"]], "NOTE.md": note}, "note")
        )
        return False

    hub.faults.append(loopback_hub.Fault("POST .*/commit/", other, 1))
    pushing.push_repository(api, plan, CONFIG)
    assert len(seen) == 1
    assert published(hub) == {file.path for file in plan.files} | {"NOTE.md"}


def test_changed_shards_replace_the_old_ones(
    hub: loopback_hub.Hub, api: Any, made: workspaces.Made
) -> None:
    pushing.push_repository(api, pushing.plan_push(made.workspace, REPO, CONFIG)[0], CONFIG)
    rows = [
        row
        for path in sorted(made.workspace.data.glob("*.parquet"))
        for row in tables.read_table(path, tables.DATASET).to_pylist()
    ]
    workspaces.write_shards(made.workspace.data, rows, tables.DATASET, 1)
    plan = pushing.plan_push(made.workspace, REPO, CONFIG)[0]
    again = pushing.push_repository(api, plan, CONFIG)
    assert published(hub) == {file.path for file in plan.files}
    assert set(again.deleted) == {
        f"data/{split}-0000{i}-of-00002.parquet" for split in workspaces.SPLITS for i in (0, 1)
    }
    assert not any(path.startswith("pairs/") for path in again.uploaded)


def test_branches_and_pull_requests_leave_main_alone(
    hub: loopback_hub.Hub, api: Any, plan: pushing.PushPlan
) -> None:
    pushing.push_repository(api, plan, PushConfig(revision="draft"))
    assert published(hub, "draft") == {file.path for file in plan.files}
    pushed = pushing.push_repository(api, plan, PushConfig(pr=True))
    assert pushed.url.endswith("/discussions/1")
    assert published(hub, "refs/pr/1") == {file.path for file in plan.files}
    assert published(hub) == set()


def test_errors_show_no_token_and_no_signed_address(
    hub: loopback_hub.Hub, api: Any, plan: pushing.PushPlan
) -> None:
    hub.fail("PUT /lfs/", 403, times=99)
    with pytest.raises(UserError) as failed:
        pushing.push_repository(api, plan, CONFIG)
    shown = str(failed.value) + str(failed.value.hint)
    assert "secret" not in shown
    assert loopback_hub.TOKEN not in shown
    assert (
        pushing.clean_message(
            RuntimeError(f"Bearer {loopback_hub.TOKEN} at https://x.org/a?X-Amz-Signature=secret")
        )
        == "*** at https://x.org/a"
    )


# -- verification --------------------------------------------------------------------------------


def test_verification_finds_a_missing_and_a_changed_file(
    hub: loopback_hub.Hub, api: Any, plan: pushing.PushPlan
) -> None:
    commit = pushing.push_repository(api, plan, CONFIG).commit
    bare = dataclasses.replace(plan, shards=())
    pushing.verify_push(api, bare, commit)
    files = hub.repos["datasets", REPO].commits[commit]
    kept = files.pop("ATTRIBUTION.md")
    with pytest.raises(UserError, match=r"ATTRIBUTION\.md is missing"):
        pushing.verify_push(api, bare, commit)
    files["ATTRIBUTION.md"] = dataclasses.replace(kept, oid="b" * 40)
    with pytest.raises(UserError, match=r"ATTRIBUTION\.md has other bytes"):
        pushing.verify_push(api, bare, commit)


@pytest.mark.parametrize(
    ("change", "said"),
    [("video", "has other videos"), ("row", "has 0 rows"), ("column", "has other columns")],
)
def test_verification_reads_the_rows_back(
    change: str, said: str, hub: loopback_hub.Hub, api: Any, plan: pushing.PushPlan, tmp_path
) -> None:
    """The Hub claims the right hash for a shard but serves other bytes."""
    commit = pushing.push_repository(api, plan, CONFIG).commit
    part = plan.shards[0]
    path = part.files["train"][0]
    table = pq.read_table(path)
    if change == "video":
        rows = table.to_pylist()
        rows[0]["video"]["bytes"] = rows[0]["video"]["bytes"][:-1] + b"\0"
        table = type(table).from_pylist(rows, schema=table.schema)
    elif change == "row":
        table = table.slice(0, 0)
    else:
        table = table.drop(["prompt"])
    other = tmp_path / "other.parquet"
    pq.write_table(table, other)
    files = hub.repos["datasets", REPO].commits[commit]
    blob = files[f"data/{path.name}"]
    assert blob.sha256
    hub.large[blob.sha256] = other.read_bytes()
    files[f"data/{path.name}"] = dataclasses.replace(blob, size=other.stat().st_size)
    with pytest.raises(UserError, match=said):
        pushing._verify_shards(api, plan, part, commit, samples=8)


@pytest.mark.parametrize(
    "switch", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"]
)
def test_an_offline_switch_is_said_at_once(monkeypatch: pytest.MonkeyPatch, switch: str) -> None:
    from realdpo.publish import pull

    monkeypatch.setenv(switch, "1")
    for call in (pushing.connect_hub, lambda: pull.plan_pull("someone/set")):
        with pytest.raises(UserError, match=switch):
            call()
