"""Sourcing: four APIs on loopback in, a manifest with licences out."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import loopback_services
import pyarrow.parquet as pq
import pytest
from loopback_services import Services
from typer.testing import CliRunner

from realdpo.cli import app
from realdpo.curate import sources
from realdpo.curate.downloads import download_film
from realdpo.curate.source import client, run
from realdpo.curate.source.config import SourceConfig
from realdpo.errors import UserError
from realdpo.workspace import Workspace


def settings(services: Services, **about: Any) -> SourceConfig:
    endpoints = dict.fromkeys(run.PROVIDERS, services.address)
    return SourceConfig(**{"actions": ("dancing",), "pace": 0, "endpoints": endpoints, **about})


def rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(result["manifest"]).read_text().splitlines()]


def test_a_row_says_where_a_film_is_from_and_what_it_allows(
    services: Services, work: Workspace
) -> None:
    loopback_services.fill(services)
    result = run.source_films(work, ["commons", "archive"], settings(services))
    by_title = {row["title"]: row for row in rows(result)}
    tango = by_title["Tango dancing in the street"]
    assert tango["author"] == "Ana & López"  # HTML out, entities read, what is hidden left out
    assert tango["description"] == "Two people dance a tango"
    assert tango["keywords"] == ["Tango", "Videos of dancing"]  # not how files are sorted
    assert tango["license"] == "CC-BY-SA-4.0"
    assert tango["license_text"] == "Creative Commons Attribution-Share Alike 4.0"
    assert tango["license_url"] == "https://creativecommons.org/licenses/by-sa/4.0"
    assert tango["restrictions"] == "personality"
    assert (tango["action"], tango["query"], tango["named"]) == ("dancing", "dancing", True)
    assert tango["url"] == services.film("a.mp4")
    assert tango["source_url"].endswith("/wiki/File:Tango%20dancing%20in%20the%20street.webm")
    assert (tango["seconds"], tango["width"], tango["height"]) == (12.5, 1280, 720)
    assert tango["retrieved_at"].endswith("Z")
    assert by_title["Dance class"]["license"] == "CC0-1.0"
    assert by_title["Dancing under two licences"]["license"] == "CC-BY-SA-3.0"  # one may choose
    assert "public domain" in result["licenses"] or "CC-PDM-1.0" in result["licenses"]
    folk = by_title["Folk dance"]
    assert folk["license"] == "CC-BY-3.0"
    assert folk["author"] == "Prelinger; Ministry"
    assert folk["url"] == f"{services.address}/download/folk-dance-1950/d.mp4"  # no derivative
    left = " ".join(result["left_out"])
    assert "not one we know" in left
    assert "no licence is stated" in left
    assert "ND forbids" in left
    assert "no redistribution" in left  # of an address that says CC BY, and `rights` that do not
    assert result["left_out"]["no downloadable file"] == 2  # gone, and dark
    assert len(by_title) == result["films"] == 5


def test_the_manifest_is_what_ingest_reads_in_every_format(
    services: Services, work: Workspace, tmp_path: Path
) -> None:
    loopback_services.fill(services)
    found = {}
    for ending in ("jsonl", "csv", "parquet"):
        path = tmp_path / f"m.{ending}"
        run.source_films(work, ["commons", "archive"], settings(services), path)
        found[ending] = sources.find_footage([str(path)])
    assert found["jsonl"] == found["parquet"] == found["csv"]
    tango = next(c for c in found["csv"] if c.title == "Tango dancing in the street")
    assert tango.license == "CC-BY-SA-4.0"
    assert tango.keywords == ("Tango", "Videos of dancing")
    path = download_film(tango.path, tmp_path / "d", max_bytes=1 << 20, sha1=tango.sha1)
    assert path.read_bytes() == services.films["a.mp4"]
    with pytest.raises(UserError, match="sha1"):
        download_film(services.film("b.mp4"), tmp_path, max_bytes=1 << 20, sha1=tango.sha1)


def test_pages_and_half_filled_batches_are_put_together(
    services: Services, work: Workspace
) -> None:
    for number in range(73):  # two pages of 50, of which an answer describes ten
        services.add_commons(f"Dance number {number:02d}", f"{number}.webm", artist=f"A{number}")
    result = run.source_films(work, ["commons"], settings(services, per_action=40))
    assert result["films"] == 40
    assert result["left_out"] == {"more films than you asked for": 33}
    assert [row["title"] for row in rows(result)[:2]] == ["Dance number 00", "Dance number 01"]
    asked = services.count("/w/api.php")
    assert run.source_films(work, ["commons"], settings(services, per_action=60))["films"] == 60
    assert services.count("/w/api.php") == asked + 0  # other limits ask nobody anew
    result = run.source_films(work, ["commons"], settings(services, per_action=60, refresh=True))
    assert services.count("/w/api.php") == 2 * asked
    assert result["answers_kept_from_before"] == 0


def test_archive_pages(services: Services, work: Workspace) -> None:
    for number in range(52):
        services.films[f"{number}.mp4"] = str(number).encode() * 50
        services.add_archive(
            f"dance-{number}",
            f"{number}.mp4",
            title=f"Dance {number}",
            creator=f"C{number}",
            licenseurl="https://creativecommons.org/licenses/by/3.0/",
        )
    result = run.source_films(work, ["archive"], settings(services, per_action=52))
    assert result["films"] == 52
    assert result["licenses"] == {"CC-BY-3.0": 52}
    assert services.count('/advancedsearch.php.*"page": "2"') == 1


def test_of_an_item_one_file_for_each_film_and_not_too_many(
    services: Services, work: Workspace
) -> None:
    originals = [
        {"name": f"part{n}.mpeg", "source": "original", "size": "9", "length": "0:01:05"}
        for n in range(5)
    ]
    smaller = [
        {
            "name": f"part{n}.mp4",
            "source": "derivative",
            "original": f"part{n}.mpeg",
            "size": "5",
            "height": "480",
            "length": "65",
        }
        for n in range(5)
    ]
    services.add_archive(
        "dance-series",
        "",
        title="Dance series",
        files=originals + smaller,
        licenseurl=["http://creativecommons.org/licenses/by/4.0/"],
    )
    found = rows(run.source_films(work, ["archive"], settings(services)))
    assert [row["url"].rpartition("/")[2] for row in found] == [f"part{n}.mp4" for n in range(3)]
    assert [row["seconds"] for row in found] == [65.0] * 3
    assert found[1]["title"] == "Dance series: part1"


def test_stock_sites_stay_out_and_in_private_only_their_ids_are_published(
    services: Services, work: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    loopback_services.fill(services)
    result = run.source_films(work, ["pexels", "pixabay"], settings(services))
    failure = run.sourcing_error(result)
    assert failure is not None
    assert "forbid passing files on" in failure.message
    assert "--private" in str(failure.hint)
    assert result["ids"] is None
    result = run.source_films(work, ["pexels", "pixabay"], settings(services, private=True))
    assert run.sourcing_error(result) is None
    found = {row["provider_id"]: row for row in rows(result)}
    assert found["4000"]["url"] == services.film("a.mp4")  # 1080, not 2160, not a playlist
    assert found["4000"]["title"] == "A woman dancing at home"
    assert found["4000"]["license"] == "Pexels License"
    assert found["9000"]["url"] == services.film("c.mp4")  # `large` has no address
    assert found["9000"]["keywords"] == ["dance", "girl", "street"]
    assert not any(row["may_publish"] for row in rows(result))
    ids = [json.loads(line) for line in Path(result["ids"]).read_text().splitlines()]
    assert {row["provider_id"] for row in ids} == {"4000", "4001", "9000"}
    assert "url" not in ids[0]
    assert sum("collection" in text for text in result["terms"]) == 2
    secrets = (loopback_services.PEXELS_KEY, loopback_services.PIXABAY_KEY)
    told = capsys.readouterr()
    everything = [told.out, told.err, json.dumps(result)]
    everything += [str(p) for p in work.root.rglob("*")]
    everything += [p.read_bytes().decode("latin1") for p in work.root.rglob("*") if p.is_file()]
    assert not any(secret in text for text in everything for secret in secrets)


def test_keys_are_asked_for_before_anything_and_wrong_ones_are_not_shown(
    services: Services, work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIXABAY_API_KEY", "wrong-and-secret")
    result = run.source_films(work, ["pixabay"], settings(services, private=True))
    assert "Invalid or missing API key" in result["failed"]["pixabay"]
    assert "wrong-and-secret" not in json.dumps(result)
    monkeypatch.delenv("PIXABAY_API_KEY")
    with pytest.raises(UserError, match="PIXABAY_API_KEY"):
        run.check_sourcing(["pixabay"], settings(services))
    monkeypatch.delenv("REALDPO_CONTACT")
    with pytest.raises(UserError, match="who asks"):
        run.check_sourcing(["commons"], settings(services))


def test_who_asks_is_said(services: Services, work: Workspace) -> None:
    run.source_films(work, ["commons"], settings(services, contact="https://example.org/bot"))
    assert all(agent.startswith("realdpo/") for agent in services.agents)
    assert all("https://example.org/bot" in agent for agent in services.agents)


def test_busy_servers_are_asked_again_when_they_say(
    services: Services, work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setattr(
        client.Client.__init__,
        "__kwdefaults__",
        {
            **client.Client.__init__.__kwdefaults__,
            "sleep": slept.append,
        },
    )
    loopback_services.fill(services)
    busy = '{"error": {"code": "maxlag", "info": "Waiting for db: 6 seconds lagged", "lag": 6}}'
    services.fail("/w/api.php", 200, text=busy, Retry_After="5")
    services.fail("/w/api.php", 429, Retry_After="7")
    services.fail("/w/api.php", 503)
    services.fail("/advancedsearch", 200, text="<html>Service offline</html>")
    result = run.source_films(work, ["commons", "archive"], settings(services))
    assert not result["failed"]
    assert result["films"] == 5
    assert [round(s) for s in slept if 4 < s < 8] == [5, 7]
    services.fail("/metadata/", 429, Retry_After="86400")
    result = run.source_films(work, ["commons", "archive"], settings(services, refresh=True))
    assert "asks you to wait 86400 s" in result["failed"]["archive"]
    assert result["films"] == 4  # of the others
    failure = run.sourcing_error(result)
    assert failure is not None
    assert "archive failed" in failure.message


def test_a_quota_that_is_used_up_ends_the_asking(services: Services, work: Workspace) -> None:
    loopback_services.fill(services)
    services.quota = {"X-Ratelimit-Remaining": "0", "X-Ratelimit-Reset": "3000"}
    result = run.source_films(work, ["pexels"], settings(services, private=True))
    assert services.count("/v1/videos/search") == 1
    assert "quota is used up for another 50 minutes" in result["failed"]["pexels"]
    assert result["films"] == 2  # what was found is there


@pytest.mark.parametrize("text", ["[]", "3", '{"query": 7}', '{"query": {"pages": [3]}}', '"x"'])
def test_json_of_another_shape_is_told(services: Services, work: Workspace, text: str) -> None:
    services.fail("/w/api.php", 200, text=text)
    result = run.source_films(work, ["commons"], settings(services))
    assert "another shape" in result["failed"]["commons"]


def test_an_api_that_says_no(services: Services, work: Workspace) -> None:
    services.fail("/w/api.php", 200, text='{"error": {"code": "badvalue", "info": "Unrecognized"}}')
    result = run.source_films(work, ["commons"], settings(services))
    assert "Unrecognized" in result["failed"]["commons"]
    result = run.source_films(
        work, ["archive"], settings(services, endpoints={"archive": f"{services.address}/no"})
    )
    assert "404" in result["failed"]["archive"]


def test_filters_say_what_they_left_out(services: Services, work: Workspace) -> None:
    services.add_commons("Dance, small", "a.webm", width=426, height=240)
    services.add_commons("Dance, vertical", "b.webm", width=720, height=1280)
    services.add_commons("Dance, long", "c.webm", duration=3600.0)
    services.add_commons("Dance, short", "d.webm", duration=0.5)
    services.add_commons("Dance, huge", "e.webm", size=5 << 30)
    services.add_commons("Dance, unmeasured", "f.webm", duration=None, width=None, height=None)
    result = run.source_films(work, ["commons"], settings(services))
    assert sorted(row["title"] for row in rows(result)) == ["Dance, unmeasured", "Dance, vertical"]
    assert result["left_out"] == {
        "height below 480": 1,
        "longer than 600 s": 1,
        "shorter than 2 s": 1,
        "more than 2000 MB": 1,
    }
    assert result["length_unknown"] == 1
    only = settings(services, licenses=("cc0-1.0",))
    assert run.source_films(work, ["commons"], only)["films"] == 0
    only = settings(services, licenses=("CC0-1.0", "CC-BY-SA-4.0"))
    assert run.source_films(work, ["commons"], only)["films"] == 2


def test_nothing_is_taken_twice(services: Services, work: Workspace) -> None:
    services.add_commons("Waltz dance at the ball", "a.mp4")
    services.add_archive(
        "waltz",
        "a.mp4",
        title="The waltz dance",
        licenseurl="https://creativecommons.org/licenses/by/4.0/",
    )
    services.add_archive(
        "waltz2",
        "b.mp4",
        title="Waltz dance at the ball",
        licenseurl="https://creativecommons.org/licenses/by/4.0/",
    )
    result = run.source_films(work, ["commons", "archive"], settings(services))
    assert result["films"] == 1  # the same bytes, and the same title and length
    assert result["left_out"] == {"the same film as another": 2}


def test_actions_authors_and_providers_take_turns(services: Services, work: Workspace) -> None:
    for number in range(12):  # one busy author comes first in every search
        services.add_commons(f"Dance of Ann {number}", f"a{number}.webm", artist="Ann")
    for number in range(4):
        services.add_commons(f"Dance of {number}", f"b{number}.webm", artist=f"B{number}")
        services.add_commons(f"Man juggling {number}", f"j{number}.webm", artist=f"J{number}")
        services.films[f"i{number}.mp4"] = bytes([number]) * 30
        services.add_archive(
            f"dance{number}",
            f"i{number}.mp4",
            title=f"Dance, old, {number}",
            creator=f"I{number}",
            licenseurl="https://creativecommons.org/licenses/by/4.0/",
        )
    wanted = settings(services, actions=("dancing", "juggling"), per_action=6)
    result = run.source_films(work, ["commons", "archive"], wanted)
    assert result["actions"] == {"dancing": 6, "juggling": 4}
    assert result["fewer_than_wanted"] == {"juggling": [4, 6]}
    dances = [row for row in rows(result) if row["action"] == "dancing"]
    assert len({row["author"] for row in dances}) == 6
    assert sum(row["provider"] == "archive" for row in dances) == 3
    assert [row["action"] for row in rows(result)[:4]] == ["dancing", "juggling"] * 2
    result = run.source_films(work, ["commons", "archive"], settings(services, hours=50 / 3600))
    assert result["films"] == 4  # of 12.5 s


def test_films_whose_words_name_the_action_come_first(services: Services, work: Workspace) -> None:
    services.add_commons(
        "Village feast", "a.webm", artist="A", categories="x", description="dancefloor"
    )
    services.add_commons("Couple dances", "b.webm", artist="B")
    result = run.source_films(work, ["commons"], settings(services, per_action=1))
    assert [row["title"] for row in rows(result)] == ["Couple dances"]
    result = run.source_films(work, ["commons"], settings(services, per_action=2))
    assert result["not_named"] == 1


def test_own_words(services: Services, work: Workspace) -> None:
    services.add_commons("Man juggles five chainsaws", "a.webm")
    services.add_commons("A chainsaw", "b.webm", description="before juggling")
    services.add_commons("Juggling", "c.webm")
    wanted = settings(services, actions=(), words=("juggl chainsaw", ""))
    found = rows(run.source_films(work, ["commons"], wanted))
    assert {row["title"] for row in found} == {"Man juggles five chainsaws", "A chainsaw"}
    assert {row["action"] for row in found} == {"juggl chainsaw"}


def test_the_page_shows_what_was_found_and_runs_nothing_of_it(
    services: Services, work: Workspace
) -> None:
    evil = services.add_commons("Dance <script>alert(1)</script>", "a.webm", artist="<b>x</b> & y")
    evil["imageinfo"][0]["descriptionurl"] = "javascript:alert(1)"
    result = run.source_films(work, ["commons"], settings(services))
    page = Path(result["page"]).read_text()
    assert "CC-BY-SA-4.0" in page
    assert "x &amp; y" in page
    assert "alert(1)</script>" not in page
    assert 'href="javascript' not in page
    assert "nothing is downloaded yet" in page


def test_the_command(services: Services, tmp_path: Path) -> None:
    loopback_services.fill(services)
    where = [f"--set=endpoints.{name}={services.address}" for name in run.PROVIDERS]
    base = [
        "curate",
        "source",
        "commons",
        "archive",
        "-w",
        str(tmp_path / "w"),
        "--set",
        "pace=0",
        *where,
    ]
    planned = CliRunner().invoke(app, [*base, "--action", "dancing", "--dry-run", "--json"])
    assert json.loads(planned.stdout)["plan"][0]["queries"][0] == "dancing"
    assert not services.log
    assert not (tmp_path / "w").exists()
    done = CliRunner().invoke(
        app, [*base, "--action=dancing", "--license", "CC0-1.0,CC-BY-3.0", "--json"]
    )
    assert done.exit_code == 0, done.output
    assert set(json.loads(done.stdout)["licenses"]) == {"CC0-1.0", "CC-BY-3.0"}
    told = CliRunner().invoke(app, [*base, "--action=dancing"])
    assert "realdpo curate ingest" in told.stdout
    assert (tmp_path / "w" / "config" / "curate-source.toml").exists()
    wrong = CliRunner().invoke(app, [*base, "--action=danicng"])
    assert wrong.exit_code == 1
    assert "did you mean 'dancing'?" in wrong.output


@pytest.mark.parametrize(
    ("where", "about", "said"),
    [
        ("nowhere", {}, "not a provider, repository or file"),
        ("commons", {"per_action": -1}, "per_action"),
        ("commons", {"min_seconds": 9, "max_seconds": 5}, "min_seconds"),
        ("commons", {"columns": {"adress": "x"}}, "adress"),
        ("commons", {"endpoints": {"flickr": "http://x"}}, "flickr"),
        ("commons", {"pages": 0}, "pages"),
    ],
)
def test_what_cannot_work_is_said_at_once(where: str, about: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        run.check_sourcing([where], SourceConfig(**about))


def test_a_table_of_manifest_rows_is_written_for_nothing_found(
    services: Services, work: Workspace, tmp_path: Path
) -> None:
    for ending in ("jsonl", "csv", "parquet"):
        result = run.source_films(work, ["commons"], settings(services), tmp_path / f"m.{ending}")
        assert result["films"] == 0
    assert pq.read_table(tmp_path / "m.parquet").num_rows == 0
    with open(tmp_path / "m.csv", newline="") as handle:
        assert list(csv.DictReader(handle)) == []
