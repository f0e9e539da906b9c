"""A Hub repository of bare videos: files without a table, under the licence of its card."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import PurePosixPath
from urllib.parse import quote

from realdpo.curate.source.film import SourceFilm
from realdpo.curate.sources import EXTENSIONS
from realdpo.errors import UserError

SCHEME = "hf://"


def list_hub_films(address: str) -> list[SourceFilm]:
    """Every video of hf://datasets/owner/name[@revision], or hf://owner/name for a model's.

    A public repository's files are given as https addresses of the commit that is now its head,
    a private or gated one's as hf:// addresses, which send the user's token. Raises UserError
    when the repository cannot be read.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.hf_api import RepoFile

    kind, name, revision = _parsed(address)
    api = HfApi(library_name="realdpo")
    # Its network errors are those of its own HTTP library, which are siblings of this one.
    failures: tuple[type[Exception], ...] = (HfHubHTTPError, OSError, ValueError)
    failures += tuple(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception))
    try:
        info = api.repo_info(name, repo_type=kind, revision=revision)
        entries = list(api.list_repo_tree(name, repo_type=kind, revision=info.sha, recursive=True))
    except failures as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{address} cannot be read: {said}",
            "check the name; for a private repository, set HF_TOKEN or run `hf auth login`",
        ) from None
    card = getattr(info, "card_data", None)
    stated = (card.get("license") if card else None) or next(
        (t.partition(":")[2] for t in getattr(info, "tags", ()) or () if t.startswith("license:")),
        "",
    )
    stated = stated if isinstance(stated, str) else " and ".join(stated)
    folder = "" if kind == "model" else f"{kind}s/"
    page = f"{api.endpoint}/{folder}{name}"
    closed = bool(info.private or getattr(info, "gated", False))
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    found = []
    for entry in entries:
        if not isinstance(entry, RepoFile):
            continue
        if os.path.splitext(entry.path)[1].lower() not in EXTENSIONS:
            continue
        address = (
            f"{SCHEME}{folder}{name}@{info.sha}/{entry.path}"
            if closed
            else f"{page}/resolve/{info.sha}/{quote(entry.path)}"
        )
        found.append(
            SourceFilm(
                provider="hub",
                id=f"{folder}{name}/{entry.path}",
                url=address,
                page=f"{page}/blob/{info.sha}/{quote(entry.path)}",
                title=PurePosixPath(entry.path).stem.replace("_", " ").replace("-", " "),
                author=name.partition("/")[0],
                keywords=PurePosixPath(entry.path).parts[:-1],
                licences=(stated,) if stated else (),
                license_text=f"{stated} (of the repository, by its card)" if stated else "",
                license_url=page,
                bytes=entry.size,
                sha256=entry.lfs.sha256 if entry.lfs else "",
                retrieved_at=now,
            )
        )
    return found


def _parsed(address: str) -> tuple[str, str, str | None]:
    path, _, revision = address.removeprefix(SCHEME).strip("/").partition("@")
    kind, parts = "model", path.split("/")
    if parts[0] in ("datasets", "spaces"):
        kind, parts = parts[0][:-1], parts[1:]
    if len(parts) != 2 or not all(parts):
        raise UserError(
            f"{address} is not the address of a repository",
            "write hf://datasets/OWNER/NAME, without a file name",
        )
    return kind, "/".join(parts), revision or None
