"""push-hub: plan what becomes public, check whether it may, upload it, and verify that it arrived.

A push is one commit. Files are uploaded first, invisible to readers. Then data, card and split
information appear together, or not at all. Files that the repository already has are not sent
again. So the same command continues after an interruption, and an unchanged push sends nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import realdpo
from realdpo import ids, integrity, licences, report, waiting
from realdpo.errors import UserError
from realdpo.files import write_bytes
from realdpo.progress import progress_bar, say
from realdpo.publish import dataset_card, markdown, model_card, published
from realdpo.publish.config import PushConfig
from realdpo.publish.published import Shards
from realdpo.workspace import Workspace

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

LARGEST_FILE = 50_000_000_000
"""Bytes of one file that the Hub's storage limits allow."""
LARGEST_ROW_GROUP = 300_000_000
"""Bytes of a row group. The Hub's viewer does not show a Parquet file with larger ones."""
MOST_FILES = 25_000
"""Large files that one commit may hold, as huggingface_hub documents it."""
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each new attempt after an error of the network or the server."""

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
"""Environment variables that switch the Hub off in its libraries."""
_ON = ("1", "ON", "YES", "TRUE")

TAG = "realdpo"
"""Tag in the header of every card that a push writes. It marks repositories from realdpo."""

RepoType = Literal["dataset", "model"]


@dataclass(frozen=True)
class File:
    """One file of a repository: its path there, and the place of its bytes."""

    path: str
    source: Path | bytes

    @property
    def size(self) -> int:
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size

    def same_as(self, remote: RepoFile) -> bool:
        """Whether the repository holds these bytes: by SHA-256 if they are large, else git's id."""
        if self.size != remote.size:
            return False
        if remote.lfs is not None:
            return remote.lfs.sha256 == self._sha256()
        data = self.source if isinstance(self.source, bytes) else self.source.read_bytes()
        return remote.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324 - as git names its files

    def _sha256(self) -> str:
        if isinstance(self.source, bytes):
            return ids.bytes_hash(self.source)
        return ids.file_hash(self.source)


@dataclass(frozen=True)
class Problem:
    """A reason not to publish something. `override` names the setting that allows it."""

    text: str
    hint: str
    override: str = ""


@dataclass(frozen=True)
class PushPlan:
    """Everything that one repository would hold, and the problems with it."""

    repo: str
    repo_type: RepoType
    files: tuple[File, ...]
    shards: tuple[Shards, ...]
    problems: tuple[Problem, ...]
    overridden: tuple[Problem, ...]
    readme: str

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class Pushed:
    """The result of a push: commit, address, and the files sent."""

    repo: str
    repo_type: RepoType
    commit: str
    url: str
    uploaded: tuple[str, ...]
    deleted: tuple[str, ...]
    unchanged: int
    bytes: int


# -- planning: reads the workspace only ------------------------------------------------------------


def plan_push(workspace: Workspace, repo: str, config: PushConfig) -> tuple[PushPlan, ...]:
    """Plan what would be public, one plan per repository. Reads the workspace and no network.

    Raises UserError if the name is not owner/name, or if the workspace lacks a requested part.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo) or len(repo) > 96:
        raise UserError(f"{repo} is not the name of a repository", "write it as owner/name")
    there = published.publishable_parts(workspace)
    wanted = there if config.what == "all" else (config.what,)
    if not wanted:
        raise UserError(
            f"{workspace.root} has nothing to publish yet",
            f"start with: realdpo curate ingest FOOTAGE -w {workspace.root}",
        )
    plans = []
    if configs := [name for name in wanted if name != "model"]:
        plans.append(_dataset_plan(workspace, repo, configs, config))
    if "model" in wanted:
        plans.append(_model_plan(workspace, repo, config, linked=bool(configs)))
    return tuple(plans)


def _dataset_plan(
    workspace: Workspace, repo: str, configs: Sequence[str], config: PushConfig
) -> PushPlan:
    shards = tuple(published.published_shards(workspace, name) for name in configs)
    for part in shards:
        integrity.require_shards((p for paths in part.files.values() for p in paths), part.kind)
    found = [*licence_problems(shards), *audit_problems(workspace, shards), *size_problems(shards)]
    problems, overridden = _sorted_out(found, config)
    card = dataset_card.dataset_card(
        workspace, shards, repo, [problem.text for problem in overridden]
    )
    data = [
        File(f"{part.folder}/{path.name}", path)
        for part in shards
        for paths in part.files.values()
        for path in paths
    ]
    return PushPlan(
        repo, "dataset", _with_card(data, card), shards, problems, overridden, card.readme
    )


def _model_plan(workspace: Workspace, repo: str, config: PushConfig, linked: bool) -> PushPlan:
    run = published.run_folder(workspace, config.run or None)
    weights = run / "weights"
    paths = sorted(
        path for path in weights.rglob("*") if path.is_file() and not path.name.startswith(".")
    )
    if unsafe := [
        path for path in paths if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")
    ]:
        raise UserError(
            f"{unsafe[0]} is not safetensors",
            "realdpo publishes only safetensors weights: convert it or remove it",
        )
    card = model_card.model_card(workspace, run, repo, config.dataset or (repo if linked else ""))
    data = [
        File(path.relative_to(weights).as_posix(), path)
        for path in paths
        if path.name != "README.md"
    ]
    data += [File(f"export/{path.name}", path) for path in model_card.exported_files(run)]
    problems = tuple(
        Problem(
            f"{file.path} is larger than the Hub accepts ({dataset_card.size_text(file.size)})",
            "save the weights in shards",
        )
        for file in data
        if file.size > LARGEST_FILE
    )
    return PushPlan(repo, "model", _with_card(data, card), (), problems, (), card.readme)


def _with_card(data: Iterable[File], card: dataset_card.Card) -> tuple[File, ...]:
    extra = [File(path, content) for path, content in card.files.items()]
    return (*data, *extra, File("README.md", card.readme.encode()))


def licence_problems(shards: Sequence[Shards]) -> list[Problem]:
    """One problem for each licence that is missing or does not allow sharing changed copies."""
    clips: dict[licences.Licence, set[str]] = {}
    for part in shards:
        facts = part.facts()
        for text, clip in zip(
            facts["license"].to_pylist(), facts["clip_id"].to_pylist(), strict=True
        ):
            clips.setdefault(licences.read_licence(text), set()).add(clip)
    return [
        Problem(
            f"{len(who):,} {'clip' if len(who) == 1 else 'clips'}, licence {licence.name!r}: "
            f"{licence.problem}",
            "state the licence in the manifest of the sources, drop those sources, or use "
            "--allow-unlicensed (the card will say so)",
            "allow_unlicensed",
        )
        for licence, who in sorted(clips.items(), key=lambda item: item[0].name)
        if licence.problem
    ]


def audit_problems(workspace: Workspace, shards: Sequence[Shards]) -> list[Problem]:
    """A problem if the pairs were never audited, or if the audit found a shortcut."""
    if all(part.config != "pairs" for part in shards):
        return []
    audit = dataset_card.read_audit(workspace)
    if audit is None:
        return [
            Problem(
                "the pairs were never audited",
                f"run: realdpo pairs audit -w {workspace.root}",
                "allow_shortcut",
            )
        ]
    if dataset_card.audit_says_shortcut(audit):
        return [
            Problem(
                "the audit of the pairs found a shortcut: winners and losers can be told apart "
                "without looking at motion",
                "build the pairs again without it, or use --allow-shortcut (the card will say so)",
                "allow_shortcut",
            )
        ]
    return []


def size_problems(shards: Sequence[Shards]) -> list[Problem]:
    """Problems with the Hub's limits: bytes per file and per row group, files per commit."""
    import pyarrow.parquet as pq

    again = "make the shards again with a smaller size"
    found = []
    paths = [path for part in shards for paths in part.files.values() for path in paths]
    if len(paths) > MOST_FILES:
        found.append(
            Problem(
                f"{len(paths):,} shards are more than the Hub accepts in one commit",
                "make larger shards",
            )
        )
    for path in paths:
        if path.stat().st_size > LARGEST_FILE:
            found.append(Problem(f"{path} is larger than the Hub accepts", again))
        metadata = pq.ParquetFile(path).metadata
        largest = max(
            (metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)),
            default=0,
        )
        if largest > LARGEST_ROW_GROUP:
            found.append(
                Problem(
                    f"{path} has a row group of {dataset_card.size_text(largest)}, too large for "
                    "the Hub's viewer",
                    again + ", smaller row groups, or shorter clips",
                )
            )
    return found


def _sorted_out(
    found: Sequence[Problem], config: PushConfig
) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    allowed = [p for p in found if p.override and getattr(config, p.override)]
    return tuple(p for p in found if p not in allowed), tuple(allowed)


def refuse_plans(plans: Sequence[PushPlan]) -> None:
    """Raise UserError if these plans have a problem."""
    problems = [problem for item in plans for problem in item.problems]
    if problems:
        raise UserError(
            "not published: " + "; ".join(problem.text for problem in problems),
            "; ".join(dict.fromkeys(problem.hint for problem in problems)),
        )


# -- access ----------------------------------------------------------------------------------------


def connect_hub() -> HfApi:
    """The Hub with the user's login (HF_TOKEN or `hf auth login`, HF_ENDPOINT).

    Raises UserError if an environment variable switches the Hub's libraries offline.
    """
    from huggingface_hub import HfApi, constants, get_token

    named = [name for name in OFFLINE if os.environ.get(name, "").upper() in _ON]
    if named or constants.HF_HUB_OFFLINE:
        named = named or ["HF_HUB_OFFLINE"]
        raise UserError(
            f"{' and '.join(named)} forbids access to the Hub", "unset it and try again"
        )
    return HfApi(token=get_token(), library_name="realdpo", library_version=realdpo.__version__)


def write_cards(workspace: Workspace, repo: str, config: PushConfig) -> list[Path]:
    """Render the cards that a push would publish, under reports/. Returns the files."""
    written = []
    for plan in plan_push(workspace, repo, config):
        folder = workspace.reports / f"card-{plan.repo_type}"
        for file in plan.files:
            if isinstance(file.source, bytes):
                write_bytes(folder / file.path, file.source)
        page = report.render_page(repo.split("/")[-1], markdown.card_sections(plan.readme, folder))
        report.write_page(folder / "card.html", page)
        written += [folder / "README.md", folder / "card.html"]
    return written


def check_access(api: HfApi, plans: Sequence[PushPlan], config: PushConfig) -> str:
    """Ask the Hub whether the token may write to the repositories. Returns the account's name.

    Also refuses a public repository if a private one was asked for, and data that this push would
    leave without a card. Raises UserError before anything is uploaded.
    """
    from huggingface_hub.errors import LocalTokenNotFoundError

    try:
        with explain_hub_errors("asking the Hub who owns this token"):
            who = retry_call(lambda: api.whoami())
    except LocalTokenNotFoundError:
        raise UserError(
            "no token for the Hub was found", "run `hf auth login` or set HF_TOKEN"
        ) from None
    for item in plans:
        if reason := write_refusal(who, item.repo, config.pr):
            raise UserError(
                f"the token of {who.get('name', 'this account')} cannot write to {item.repo}: "
                f"{reason}",
                "make one that can at https://huggingface.co/settings/tokens, then run `hf auth "
                "login`",
            )
        _check_existing(api, item, config)
    return str(who.get("name", ""))


def write_refusal(who: Mapping[str, Any], repo: str, pr: bool = False) -> str:
    """The reason why this account's token cannot write to `repo`, or an empty string.

    `who` is the Hub's answer to whoami-v2. Anybody may open a pull request in any repository.
    """
    token = (who.get("auth") or {}).get("accessToken") or {}
    owner = repo.split("/")[0].lower()
    role = token.get("role")
    if role == "read":
        return "it is a read token"
    if role == "fineGrained":
        for scope in (token.get("fineGrained") or {}).get("scoped", []):
            name = str((scope.get("entity") or {}).get("name", "")).lower()
            named = name in (owner, repo.lower()) or name.endswith("/" + repo.lower())
            wanted = {"repo.write"} | ({"discussion.write"} if pr else set())
            if named and wanted & set(scope.get("permissions", [])):
                return ""
        return "it is fine-grained and has no write permission there"
    if pr or owner == str(who.get("name", "")).lower():
        return ""
    for org in who.get("orgs") or []:
        if owner == str(org.get("name", "")).lower():
            return (
                ""
                if org.get("roleInOrg", "write") != "read"
                else f"its role in {org['name']} is read"
            )
    return f"the account is neither {repo.split('/')[0]} nor a member of it"


def _check_existing(api: HfApi, item: PushPlan, config: PushConfig) -> None:
    """Raise UserError if the content of the repository forbids this push."""
    from huggingface_hub.errors import RepositoryNotFoundError

    with explain_hub_errors(f"looking at {item.repo}"):
        try:
            info: Any = retry_call(lambda: api.repo_info(item.repo, repo_type=item.repo_type))
        except RepositoryNotFoundError:
            return
        remote = retry_call(lambda: _tree(api, item, config.revision or "main")) or {}
    if config.private and not info.private:
        raise UserError(
            f"{item.repo} exists already and is public",
            "make it private in its settings on the Hub, or choose another name",
        )
    managed = _managed(item, remote)
    if managed and TAG not in (info.tags or ()):
        raise UserError(
            f"{item.repo} holds files that realdpo did not put there ({min(managed)}), and this "
            "push "
            "would replace or remove them",
            "choose another name",
        )
    for folder in {"data", "pairs"} - {part.folder for part in item.shards} if item.shards else ():
        if any(path.startswith(f"{folder}/") for path in remote):
            raise UserError(
                f"{item.repo} holds {folder}/ as well, which this push would leave without a card",
                "push both together with --what all, or choose another repository",
            )


# -- upload ----------------------------------------------------------------------------------------


def push_repository(api: HfApi, item: PushPlan, config: PushConfig) -> Pushed:
    """Upload the missing files and publish everything in one commit.

    Every attempt compares with the repository again. If only the answer was lost, the next attempt
    finds the work done. Raises UserError if the Hub refuses or does not answer.
    """
    with explain_hub_errors(f"pushing to {item.repo}"):
        retry_call(
            lambda: api.create_repo(
                item.repo, repo_type=item.repo_type, private=config.private or None, exist_ok=True
            )
        )
        if config.revision and not config.revision.startswith("refs/"):
            retry_call(
                lambda: api.create_branch(
                    item.repo, branch=config.revision, repo_type=item.repo_type, exist_ok=True
                )
            )
        found: Pushed = retry_call(lambda: _push_once(api, item, config))
        return found


def _push_once(api: HfApi, item: PushPlan, config: PushConfig) -> Pushed:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    revision = config.revision or "main"
    head = api.repo_info(item.repo, repo_type=item.repo_type, revision=revision).sha
    remote = _tree(api, item, revision) or {}
    new = [f for f in item.files if f.path not in remote or not f.same_as(remote[f.path])]
    stale = sorted(_managed(item, remote) - {file.path for file in item.files})
    where = f"{api.endpoint}/{'datasets/' if item.repo_type == 'dataset' else ''}{item.repo}"
    unchanged = len(item.files) - len(new)
    if not new and not stale:
        return Pushed(item.repo, item.repo_type, str(head), where, (), (), unchanged, 0)

    additions = [CommitOperationAdd(file.path, _source(file)) for file in new]
    total = sum(file.size for file in new)
    with progress_bar("upload", total=total, unit="bytes") as advance, _quiet_hub():
        for at in range(0, len(additions), config.workers):
            batch = additions[at : at + config.workers]
            api.preupload_lfs_files(
                item.repo,
                batch,
                repo_type=item.repo_type,
                revision=revision,
                create_pr=config.pr,
                num_threads=config.workers,
                free_memory=False,
            )
            advance(sum(file.size for file in new[at : at + config.workers]))
        commit = api.create_commit(
            item.repo,
            [*additions, *(CommitOperationDelete(path) for path in stale)],
            commit_message=_message(item),
            repo_type=item.repo_type,
            revision=revision,
            create_pr=config.pr,
            parent_commit=head,
        )
    return Pushed(
        item.repo,
        item.repo_type,
        commit.oid,
        commit.pr_url or where,
        tuple(file.path for file in new),
        tuple(stale),
        unchanged,
        total,
    )


def _source(file: File) -> str | bytes:
    return file.source if isinstance(file.source, bytes) else str(file.source)


def _message(item: PushPlan) -> str:
    if item.repo_type == "model":
        return "Weights and card"
    return "Data and card: " + ", ".join(
        f"{sum(part.rows.values()):,} {part.config}" for part in item.shards
    )


def _managed(item: PushPlan, remote: Iterable[str]) -> set[str]:
    """Files of the repository that a push makes, and removes if they are no longer part of it."""
    folders = tuple(f"{part.folder}/" for part in item.shards)
    return {
        path
        for path in remote
        if path in dataset_card.PICTURES
        or (path.startswith(folders) if folders else path.endswith(".safetensors"))
    }


def _tree(api: HfApi, item: PushPlan, revision: str) -> dict[str, RepoFile] | None:
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.hf_api import RepoFile

    try:
        entries = list(
            api.list_repo_tree(
                item.repo, recursive=True, revision=revision, repo_type=item.repo_type
            )
        )
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return None
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


# -- verification ----------------------------------------------------------------------------------


def verify_push(api: HfApi, item: PushPlan, commit: str, samples: int = 8) -> dict[str, Any]:
    """Load the pushed revision back and compare it with the workspace.

    First compares the size and hash that the Hub states for every file. Then reads through the Hub
    as any user would: each shard's rows and columns, the splits and features that `datasets` finds,
    and the SHA-256 of sampled videos (datasets) or of the weights (models). Returns the
    comparisons. Raises UserError that names the first difference.
    """
    with explain_hub_errors(f"reading {item.repo} back"):
        remote = retry_call(lambda: _tree(api, item, commit)) or {}
        for file in item.files:
            if file.path not in remote:
                raise _differs(item, f"{file.path} is missing")
            if not file.same_as(remote[file.path]):
                raise _differs(item, f"{file.path} has other bytes")
        if extra := _managed(item, remote) - {file.path for file in item.files}:
            raise _differs(item, f"{min(extra)} is there but not part of this push")
        compared: dict[str, Any] = {"files": len(item.files)}
        for part in item.shards:
            compared[part.config] = retry_call(
                lambda part=part: _verify_shards(api, item, part, commit, samples)
            )
        if item.repo_type == "model":
            compared["weights"] = retry_call(lambda: _verify_weights(api, item, commit))
    return compared


def _verify_shards(
    api: HfApi, item: PushPlan, part: Shards, commit: str, samples: int
) -> dict[str, Any]:
    import datasets
    import pyarrow.parquet as pq
    from huggingface_hub import HfFileSystem

    hub = HfFileSystem(endpoint=api.endpoint, token=api.token)
    rows: dict[str, int] = {}
    local = [(split, path) for split, paths in part.files.items() for path in paths]
    each = max(1, -(-samples // len(local)))
    checked = 0
    for split, path in local:
        with hub.open(f"datasets/{item.repo}@{commit}/{part.folder}/{path.name}", "rb") as handle:
            theirs, ours = pq.ParquetFile(handle), pq.ParquetFile(path)
            if not theirs.schema_arrow.equals(ours.schema_arrow, check_metadata=True):
                raise _differs(item, f"{part.folder}/{path.name} has other columns")
            if theirs.metadata.num_rows != ours.metadata.num_rows:
                raise _differs(
                    item, f"{part.folder}/{path.name} has {theirs.metadata.num_rows} rows"
                )
            rows[split] = rows.get(split, 0) + theirs.metadata.num_rows
            if checked < samples:
                group = ours.metadata.num_row_groups // 2
                columns = [name for name in part.kind.features if name != "first_frame"]
                pair = [
                    file.read_row_group(group, columns=columns)[:each] for file in (theirs, ours)
                ]
                hashes = [[_hashes(row) for row in table.to_pylist()] for table in pair]
                if hashes[0] != hashes[1]:
                    raise _differs(item, f"{part.folder}/{path.name} has other videos")
                checked += sum(len(row) for row in hashes[0])
    loaded = datasets.load_dataset(
        item.repo, part.config, revision=commit, streaming=True, token=api.token
    )
    expected = datasets.Features.from_arrow_schema(part.schema)
    if set(loaded) != set(part.files):
        raise _differs(item, f"datasets finds the splits {sorted(loaded)} of {part.config}")
    for split, data in loaded.items():
        if data.features != expected:
            raise _differs(item, f"datasets finds other features in {part.config}, {split}")
    return {"rows": rows, "columns": len(expected), "videos": checked}


def _verify_weights(api: HfApi, item: PushPlan, commit: str) -> dict[str, int]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="realdpo-") as folder:
        checked = {}
        for file in item.files:
            if file.path.endswith(".safetensors"):
                copy = Path(
                    api.hf_hub_download(item.repo, file.path, revision=commit, local_dir=folder)
                )
                if ids.file_hash(copy) != file._sha256():
                    raise _differs(item, f"{file.path} came back with other bytes")
                checked[file.path] = copy.stat().st_size
                copy.unlink()
    return checked


def _hashes(row: Any) -> list[str]:
    """SHA-256 of every video of a row, in order."""
    if isinstance(row, dict) and set(row) == {"bytes", "path"}:
        return [ids.bytes_hash(row["bytes"] or b"")]
    values = row.values() if isinstance(row, dict) else row or []
    return [digest for value in values for digest in _hashes(value)]


def _differs(item: PushPlan, what: str) -> UserError:
    return UserError(
        f"{item.repo} is not what was pushed: {what}",
        "push again; realdpo sends only the files that differ",
    )


# -- the network -----------------------------------------------------------------------------------


def retry_call(call: Any) -> Any:
    """Call a function, and call it again after a pause if the network or the server failed."""
    for wait in (*WAITS, None):
        try:
            return call()
        except Exception as error:
            asked = _passing(error)
            if asked is None or wait is None or asked > waiting.LONGEST:
                raise
            pause = max(wait, waiting.seconds_to_wait(1, asked)) if asked else wait
            say(
                f"the Hub did not answer correctly ({clean_message(error)}); trying again in "
                f"{pause:.0f} s"
            )
            time.sleep(pause)
    raise AssertionError("unreachable")


def _passing(error: BaseException) -> float | None:
    """Seconds to wait, as the server asks, if the error is temporary. Else None."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    # The base class is that of the HTTP library in use (it has changed between releases), and
    # also of its connection errors, which have no response.
    http_error = HfHubHTTPError.__bases__[0]
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        if response is not None:
            # 409 and 412: another commit came first, and the next attempt builds on it.
            if waiting.is_passing(response.status_code) or response.status_code in (409, 412):
                return waiting.retry_after(response.headers) or 0.0
            return None
        if isinstance(seen, OfflineModeIsEnabled):
            return None
        if isinstance(seen, (http_error, ConnectionError, TimeoutError)):
            return 0.0
        seen = seen.__cause__ or seen.__context__
    return None


@contextlib.contextmanager
def explain_hub_errors(doing: str) -> Iterator[None]:
    """Turn errors of the network and of the Hub into one line with a way out."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        yield
    except (UserError, LocalTokenNotFoundError):
        raise
    except Exception as error:
        status = next(
            (
                e.response.status_code
                for e in _chain(error)
                if getattr(e, "response", None) is not None
            ),
            None,
        )
        known = isinstance(error, (HfHubHTTPError.__bases__[0], OSError, RuntimeError, ValueError))
        if status is None and _passing(error) is None and not known:
            raise
        hints = {
            401: "the token is invalid or has expired: run `hf auth login`",
            403: "the token lacks a permission: change it at https://huggingface.co/settings/tokens",
            404: "check the name; a private repository also needs a token that may read it",
            413: "make smaller shards",
            429: "the Hub asks to slow down: run the same command later; it continues from here",
        }
        raise UserError(
            f"{doing} failed: {clean_message(error)}",
            hints.get(status or 0, "run the same command again; it continues from here"),
        ) from None


def _chain(error: BaseException | None) -> Iterator[Any]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def clean_message(error: BaseException) -> str:
    """The innermost message in one line, without tokens and without signed addresses."""
    *_, inner = _chain(error)
    shown = error if getattr(error, "response", None) is not None else inner
    text = " ".join(str(shown).split()) or type(shown).__name__
    text = re.sub(r"\bhf_\w{4,}|\bBearer \S+", "***", text)
    text = re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]+", r"\1", text)
    return text[:300]


@contextlib.contextmanager
def _quiet_hub() -> Iterator[None]:
    """Hide huggingface_hub's own progress bars while ours is shown."""
    import huggingface_hub

    utils: Any = huggingface_hub.utils  # it does not export these by name
    if utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()
