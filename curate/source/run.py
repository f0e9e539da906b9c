"""`realdpo curate source`: ask the providers, choose, write the manifest and the page."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from realdpo import waiting
from realdpo.curate import actions
from realdpo.curate.source import archive, commons, hub, page, pexels, pixabay, select, tables, zips
from realdpo.curate.source.client import Client
from realdpo.curate.source.config import PER_ACTION, SourceConfig
from realdpo.curate.source.film import SourceFilm
from realdpo.curate.source.select import FilmCandidate, Group
from realdpo.curate.sources import MANIFESTS
from realdpo.errors import UserError
from realdpo.files import atomic_path, write_text
from realdpo.progress import progress_bar, say
from realdpo.workspace import Workspace

PROVIDERS: Mapping[str, ModuleType] = {
    provider.NAME: provider for provider in (commons, archive, pexels, pixabay)
}
CHOICE = 3
"""Films looked for, for each one that is wanted: balance needs something to choose from."""
OTHER = "(no action named)"
"""The group of listed films whose words speak of no action."""


def source_films(
    workspace: Workspace, where: Sequence[str], config: SourceConfig, to: Path | None = None
) -> dict[str, Any]:
    """Find films and write the manifest, the page, and the list of ids where terms ask for one.

    where: names of providers, hf:// repositories, zips, tables. to: the manifest, .jsonl, .csv or
    .parquet; source/manifest.jsonl of the workspace by default. Returns the summary. Raises
    UserError for what cannot work at all; a provider that fails is named under `failed`.
    """
    check_sourcing(where, config, to)
    with workspace.lock("curate source"):
        found = find_films(workspace, where, config)
        chosen = found.choose(config)
        manifest = to or workspace.root / "source" / "manifest.jsonl"
        rows = [row_of(candidate) for candidate in chosen]
        write_manifest(manifest, rows)
        ids = manifest.with_name(f"{manifest.stem}.ids.jsonl")
        private = [_id_of(row) for row in rows if not row["may_publish"]]
        if private:
            write_text(ids, "".join(f"{json.dumps(row, sort_keys=True)}\n" for row in private))
        else:
            ids.unlink(missing_ok=True)
        summary = found.summary(chosen, config)
        summary |= {
            "workspace": str(workspace.root),
            "manifest": str(manifest),
            "page": str(workspace.reports / "source.html"),
            "ids": str(ids) if private else None,
        }
        page.write_source_page(workspace.reports / "source.html", rows, summary)
    return summary


def check_sourcing(where: Sequence[str], config: SourceConfig, to: Path | None = None) -> None:
    """Raise UserError for what would fail, before anybody is asked anything."""
    select.list_groups(config)
    if to is not None and to.suffix.lower() not in MANIFESTS:
        raise UserError(
            f"{to} is not a manifest: its name must end in {', '.join(sorted(MANIFESTS))}"
        )
    for name in config.endpoints:
        if name not in PROVIDERS:
            raise UserError(
                f"endpoints.{name}: there is no provider {name}",
                f"choose one of: {', '.join(PROVIDERS)}",
            )
    for name in where:
        if name in PROVIDERS:
            if access := getattr(PROVIDERS[name], "access", None):
                access()
            if name == "commons" and "(" not in waiting.user_agent(config.contact):
                raise UserError(
                    "Wikimedia wants to know who asks, and refuses programs that do not identify themselves",
                    f"give a mail or web address with --contact YOU@EXAMPLE.ORG, or set {waiting.CONTACT}",
                )
        elif not name.startswith(hub.SCHEME) and not Path(name).expanduser().is_file():
            raise UserError(
                f"{name} is not a provider, repository or file",
                f"choose a provider ({', '.join(PROVIDERS)}), hf://datasets/OWNER/NAME, a .zip or a table",
            )
        elif not name.startswith(hub.SCHEME):
            suffix = Path(name).suffix.lower()
            if suffix not in (".zip", *MANIFESTS):
                raise UserError(
                    f"{name} is neither a zip nor a table ({', '.join(sorted(MANIFESTS))})"
                )


def plan_searches(where: Sequence[str], config: SourceConfig) -> list[dict[str, Any]]:
    """What would be asked: for every group its searches, and at which providers."""
    check_sourcing(where, config)
    searched = [name for name in where if name in PROVIDERS]
    return [
        {
            "group": group.name,
            "queries": list(group.queries),
            "providers": searched,
            "films": config.per_action or PER_ACTION,
        }
        for group in (select.list_groups(config) if searched else ())
    ]


class Found:
    """What was found so far: candidates, what was left out and why, and who failed."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.candidates: dict[str, list[FilmCandidate]] = {}
        self.searched: set[str] = set()
        self.left_out: Counter[str] = Counter()
        self.failed: dict[str, str] = {}
        self.asked: Counter[str] = Counter()
        self.stored: Counter[str] = Counter()
        self.where: list[str] = []
        self._judged: set[str] = set()
        self._in_group: set[tuple[str, str]] = set()

    def add(
        self, film: SourceFilm, group: str, query: str, rank: int, named: bool, config: SourceConfig
    ) -> bool:
        """Judge a film for a group; True when it is a new candidate there."""
        name = f"{film.provider}:{film.id}"
        if (name, group) in self._in_group:
            return False
        self._in_group.add((name, group))
        rights = select.rights_of(film, config)
        reason = select.reason_against(film, rights, config)
        if reason is not None:
            if name not in self._judged:
                self.left_out[reason] += 1
            self._judged.add(name)
            return False
        self._judged.add(name)
        self._group(group).append(FilmCandidate(film, rights, group, query, rank, named))
        return True

    def _group(self, name: str) -> list[FilmCandidate]:
        if name not in self.candidates:
            self.order.append(name)
        return self.candidates.setdefault(name, [])

    def choose(self, config: SourceConfig) -> list[FilmCandidate]:
        """The films to take; what is the same as a better placed one counts as left out."""
        limits = {
            name: config.per_action or (PER_ACTION if name in self.searched else 0)
            for name in self.order
        }
        everything = [c for name in self.order for c in self.candidates[name]]
        chosen = select.choose_films(everything, self.order, limits, config.hours)
        taken = {f"{c.film.provider}:{c.film.id}" for c in chosen}
        bytes_taken = {key for c in chosen for key in select.same_as(c.film)}
        rest = {f"{c.film.provider}:{c.film.id}": c.film for c in everything}
        for name, film in rest.items():
            if name not in taken:
                same = any(key in bytes_taken for key in select.same_as(film))
                self.left_out[
                    "the same film as another" if same else "more films than you asked for"
                ] += 1
        return chosen

    def summary(self, chosen: Sequence[FilmCandidate], config: SourceConfig) -> dict[str, Any]:
        """Counts of what was taken, by every side that a user balances."""
        films = [candidate.film for candidate in chosen]
        groups = Counter(candidate.group for candidate in chosen)
        wanted = {
            name: config.per_action or (PER_ACTION if name in self.searched else 0)
            for name in self.order
        }
        short = {n: [groups[n], wanted[n]] for n in self.order if groups[n] < wanted[n]}
        return {
            "films": len(films),
            "hours": sum(film.seconds or 0.0 for film in films) / 3600,
            "length_unknown": sum(film.seconds is None for film in films),
            "gigabytes": sum(film.bytes or 0 for film in films) / 1e9,
            "size_unknown": sum(film.bytes is None for film in films),
            "actions": {name: groups[name] for name in self.order},
            "fewer_than_wanted": short if not config.hours else {},
            "not_named": sum(not c.named and c.group != OTHER for c in chosen),
            "providers": _counted(film.provider for film in films),
            "authors": len({film.author.casefold() for film in films if film.author}),
            "author_unknown": sum(not film.author for film in films),
            "licenses": _counted(c.rights.license or "none stated" for c in chosen),
            "not_to_be_published": sum(bool(c.rights.problem) for c in chosen),
            "restrictions": sum(bool(film.restrictions) for film in films),
            "left_out": dict(self.left_out.most_common()),
            "failed": dict(self.failed),
            "terms": [
                PROVIDERS[w].TERMS for w in self.where if w in PROVIDERS and PROVIDERS[w].TERMS
            ],
            "requests": sum(self.asked.values()),
            "answers_kept_from_before": sum(self.stored.values()),
        }


def find_films(workspace: Workspace, where: Sequence[str], config: SourceConfig) -> Found:
    """Ask every provider and read every list; what fails is noted, and the rest goes on."""
    result = Found()
    result.where = list(dict.fromkeys(where))
    wanted = select.list_groups(config)
    searches = [name for name in result.where if name in PROVIDERS]
    if searches:
        result.order = [group.name for group in wanted]
        result.candidates = {name: [] for name in result.order}
        result.searched = set(result.order)
        with (
            progress_bar("search", len(wanted) * len(searches), "searches") as advance,
            contextlib.ExitStack() as stack,
        ):
            clients = {
                name: stack.enter_context(_client(workspace, name, config)) for name in searches
            }
            for group in wanted:
                for name in searches:
                    if name not in result.failed:
                        _search(result, clients[name], PROVIDERS[name], group, config)
                    advance(note=f"{name}: {group.name}")
            for name, client in clients.items():
                result.asked[name], result.stored[name] = client.asked, client.stored
    for name in result.where:
        if name not in PROVIDERS:
            try:
                _listed(result, workspace, name, wanted, config)
            except UserError as error:
                result.failed[name] = error.message
                say(f"{name}: {error.message}")
    return result


def _client(workspace: Workspace, name: str, config: SourceConfig) -> Client:
    provider = PROVIDERS[name]
    return Client(
        name,
        config.endpoints.get(name, provider.ENDPOINT),
        workspace.step("source"),
        pace=config.pace,
        contact=config.contact,
        refresh=config.refresh,
        **(provider.access() if hasattr(provider, "access") else {}),
    )


def _search(
    result: Found, client: Client, provider: ModuleType, group: Group, config: SourceConfig
) -> None:
    """Go through a group's searches until there is enough to choose from."""
    enough = CHOICE * (config.per_action or PER_ACTION)
    have, rank = 0, 0
    try:
        for query in group.queries:
            cursor = None
            for _ in range(config.pages):
                films, cursor = provider.search(client, query, cursor)
                for film in films:
                    named = group.is_named_in(film)
                    new = result.add(film, group.name, query, rank, named, config)
                    have += new and named
                    rank += 1
                if cursor is None or have >= enough:
                    break
            if have >= enough:
                return
    except UserError as error:
        result.failed[provider.NAME] = error.message
        say(f"{provider.NAME}: {error.message}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # The document is JSON of another shape: the API has changed, or it is another server.
        result.failed[provider.NAME] = (
            f"an answer has another shape than the API documents: {error!r}"
        )
        say(f"{provider.NAME}: {result.failed[provider.NAME]}")


def _listed(
    result: Found, workspace: Workspace, name: str, wanted: Sequence[Group], config: SourceConfig
) -> None:
    """Films of a repository, a zip or a table, under what their words name."""
    asked = bool(config.actions or config.words)
    own = [group for group in wanted if group.stems]
    for rank, film in enumerate(_films(workspace, name, config)):
        said = [film.title, *film.keywords, film.description]
        names = [tag for tag in actions.tag_actions(said) if not asked or tag in config.actions]
        names += [group.name for group in own if group.is_named_in(film)]
        if not names and asked:
            if f"{film.provider}:{film.id}" not in result._judged:
                result.left_out["its words name no action or search of yours"] += 1
            continue
        for group in names or [OTHER]:
            result.add(film, group, "", rank, True, config)


def _films(workspace: Workspace, name: str, config: SourceConfig) -> Iterator[SourceFilm]:
    if name.startswith(hub.SCHEME):
        yield from hub.list_hub_films(name)
        return
    path = Path(name).expanduser()
    if path.suffix.lower() == ".zip":
        yield from zips.unpack_zip(path, workspace.root / "source" / "films")
    else:
        yield from tables.read_film_table(path, config.columns)


# --- the manifest -------------------------------------------------------------------------------


def row_of(candidate: FilmCandidate) -> dict[str, Any]:
    """A row of the manifest: what `ingest` reads, and what tells where it comes from."""
    film, rights = candidate.film, candidate.rights
    remote = "://" in film.url
    return {
        "url" if remote else "path": film.url,
        "license": rights.license or None,
        "author": film.author or None,
        "source_url": film.page or (film.url if remote else None),
        "title": film.title or None,
        "keywords": list(film.keywords),
        "retrieved_at": film.retrieved_at,
        "sha256": film.sha256 or None,
        "sha1": film.sha1 or None,
        "bytes": film.bytes,
        "seconds": film.seconds,
        "width": film.width,
        "height": film.height,
        "license_text": film.license_text or None,
        "license_url": film.license_url or None,
        "restrictions": film.restrictions or None,
        "may_publish": not rights.problem,
        "why_not": rights.problem or None,
        "provider": film.provider,
        "provider_id": film.id,
        "action": candidate.group,
        "named": candidate.named,
        "query": candidate.query or None,
        "description": film.description or None,
    }


def write_manifest(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as JSONL, CSV (keywords joined by ";") or Parquet, by the file's ending."""
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        lines = (json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in rows)
        write_text(path, "".join(lines))
        return
    names = [*dict.fromkeys(name for row in rows for name in row)] or ["url"]
    if suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            # A comma inside a keyword would divide it when it is read again.
            words = ";".join(str(w).replace(";", " ").replace(",", " ") for w in row["keywords"])
            writer.writerow({**row, "keywords": words})
        write_text(path, text.getvalue())
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: [row.get(name) for row in rows] for name in names})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)


def _id_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """What may be published of a film whose terms forbid the rest: where to find it again."""
    names = ("provider", "provider_id", "source_url", "action", "query", "retrieved_at")
    return {name: row[name] for name in names}


def describe_searches(planned: Sequence[Mapping[str, Any]], config: SourceConfig) -> str:
    """What `plan_searches` found, as comments below the settings."""
    lines = [f"# {group['group']}: {', '.join(group['queries'])}" for group in planned]
    searches = sum(len(group["queries"]) * len(group["providers"]) for group in planned)
    lines.append(
        f"# {searches} searches at most, of {config.pages} pages at most; no request was sent"
    )
    return "\n".join(lines)


def source_table(result: Mapping[str, Any]) -> str:
    """The summary as lines of text."""
    unknown = f", {result['length_unknown']} of unknown length" if result["length_unknown"] else ""
    size = f"{result['gigabytes']:.2f} GB" + (
        f" and {result['size_unknown']} of unknown size" if result["size_unknown"] else ""
    )
    lines = [
        f"films     {result['films']:>6}   {result['hours']:.2f} h{unknown}, {size}",
        f"actions   {sum(n > 0 for n in result['actions'].values()):>6}   "
        + _listing(result["actions"]),
        f"authors   {result['authors']:>6}"
        + (
            f"   and {result['author_unknown']} films without a stated author"
            if result["author_unknown"]
            else ""
        ),
        f"licences  {len(result['licenses']):>6}   {_listing(result['licenses'])}",
        f"from      {len(result['providers']):>6}   {_listing(result['providers'])}",
    ]
    lines += [f"  left out {n:>6}   {reason}" for reason, n in result["left_out"].items()]
    if short := result["fewer_than_wanted"]:
        few = ", ".join(f"{name} {have} of {want}" for name, (have, want) in [*short.items()][:8])
        more = f" and {len(short) - 8} more" if len(short) > 8 else ""
        lines.append(f"fewer than wanted: {few}{more}")
    if result["not_named"]:
        lines.append(
            f"only the search found {result['not_named']} films: their own words do not name the action"
        )
    lines += result["terms"]
    if result["not_to_be_published"]:
        lines.append(
            f"you may not redistribute {result['not_to_be_published']} films; "
            f"the list that you may publish: {result['ids']}"
        )
    lines += [f"failed: {name}: {why}" for name, why in result["failed"].items()]
    if result["films"]:
        lines.append(f"look at {result['page']}, then:")
        lines.append(f"  realdpo curate ingest {result['manifest']} -w {result['workspace']}")
    return "\n".join(lines)


def sourcing_error(result: Mapping[str, Any]) -> UserError | None:
    """The error that a run ends with when a provider failed or nothing was found, else None."""
    if result["failed"]:
        name, why = next(iter(result["failed"].items()))
        return UserError(
            f"{name} failed: {why}",
            "the manifest holds the other results; to continue, run the same command again",
        )
    if not result["films"]:
        why = next(iter(result["left_out"].items()), None)
        said = f": {why[1]} left out, {why[0]}" if why else ""
        private = any(reason.startswith("licence:") for reason in result["left_out"])
        hint = (
            "to train on films that you may not redistribute, add --private"
            if private
            else "try other search words or looser limits"
        )
        return UserError(f"no film was found that you may use{said}", hint)
    return None


def _counted(names: Iterator[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())


def _listing(counts: Mapping[str, int], most: int = 6) -> str:
    shown = [f"{n} {name}" for name, n in sorted(counts.items(), key=lambda c: -c[1]) if n][:most]
    more = sum(n > 0 for n in counts.values()) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
