"""A Hub on loopback: the HTTP routes that huggingface_hub and datasets use, over a store in memory.

It keeps commits, branches, pull requests, large files and tokens as the real one does as far as a
client can see. `fail`, `cut` and `slow` make it misbehave. Also runs by itself:

    python tests/hub/loopback_hub.py 8790
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_abcdefghijklmnop"
LARGE = 10_000_000
BINARY = (".parquet", ".png", ".mp4", ".safetensors", ".bin")


def token_of(
    name: str, role: str = "write", orgs: tuple[str, ...] = (), scoped: Any = None
) -> dict[str, Any]:
    """What whoami-v2 answers for a token."""
    token: dict[str, Any] = {"displayName": "test", "role": role}
    if scoped is not None:
        token["fineGrained"] = {"global": [], "scoped": scoped}
    return {
        "type": "user",
        "name": name,
        "orgs": [{"name": org, "roleInOrg": "write"} for org in orgs],
        "auth": {"type": "access_token", "accessToken": token},
    }


@dataclass(frozen=True)
class Blob:
    """A file's content: git's id of it, and its SHA-256 when it is kept as a large file."""

    size: int
    oid: str
    sha256: str | None = None


@dataclass
class Repo:
    kind: str  # datasets | models
    private: bool
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    titles: list[str] = field(default_factory=list)

    def commit(self, ref: str, files: dict[str, Blob], title: str) -> str:
        oid = hashlib.sha1(
            repr((sorted(files), ref, len(self.commits), title)).encode()
        ).hexdigest()
        self.commits[oid] = files
        self.refs[ref] = oid
        self.titles.append(title)
        return oid

    def at(self, revision: str) -> str | None:
        oid = self.refs.get(revision, revision)
        return oid if oid in self.commits else None


@dataclass
class Fault:
    pattern: str
    act: Callable[[Handler], bool]  # True: the request is dealt with
    times: int


class Hub:
    """The store, its faults and a log of what was asked."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.large: dict[str, bytes] = {}
        self.small: dict[str, bytes] = {}
        self.tokens: dict[str, dict[str, Any]] = {}
        self.log: list[tuple[str, str]] = []
        self.received = 0  # bytes of large files
        self.faults: list[Fault] = []
        self.seconds_per_upload = 0.0
        self.address = ""
        self.lock = threading.RLock()

    def fail(
        self, pattern: str, status: int, times: int = 1, headers: dict[str, str] | None = None
    ) -> None:
        """Answer requests 'METHOD /path' that match with an error."""

        def act(handler: Handler) -> bool:
            handler.body()
            handler.answer(status, {"error": f"made to fail with {status}"}, headers or {})
            return True

        self.faults.append(Fault(pattern, act, times))

    def cut(self, pattern: str, times: int = 1) -> None:
        """Close the connection in the middle of the request's body."""

        def act(handler: Handler) -> bool:
            handler.rfile.read(int(handler.headers.get("Content-Length", 0)) // 2)
            handler.hang_up()
            return True

        self.faults.append(Fault(pattern, act, times))

    def lose_answer(self, pattern: str, times: int = 1) -> None:
        """Do what is asked, then close the connection instead of answering."""

        def act(handler: Handler) -> bool:
            handler.mute = True
            return False

        self.faults.append(Fault(pattern, act, times))

    def fault(self, request: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, request):
                    fault.times -= 1
                    return fault
        return None

    def count(self, pattern: str) -> int:
        return sum(bool(re.search(pattern, f"{method} {path}")) for method, path in self.log)

    def content(self, blob: Blob) -> bytes:
        return self.large[blob.sha256] if blob.sha256 else self.small[blob.oid]

    def files(self, repo: str, kind: str = "datasets", revision: str = "main") -> dict[str, bytes]:
        found = self.repos[kind, repo]
        return {
            path: self.content(blob) for path, blob in found.commits[found.refs[revision]].items()
        }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    mute = False

    def log_message(self, *args: Any) -> None:
        pass

    def body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def answer(
        self, status: int, content: Any = None, headers: dict[str, str] | None = None
    ) -> None:
        if self.mute:
            self.hang_up()
            return
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def missing(self, code: str) -> None:
        self.answer(404, {"error": code}, {"X-Error-Code": code})

    def who(self) -> dict[str, Any] | None:
        return self.hub.tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def handle_any(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.query = parse_qs(urlsplit(self.path).query)
        self.hub.log.append((self.command, path))
        self.mute = False
        fault = self.hub.fault(f"{self.command} {path}")
        if fault and fault.act(self):
            return
        for pattern, action in ROUTES:
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                action(self, **found.groupdict())
                return
        self.body()
        self.missing("EntryNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    # -- routes ------------------------------------------------------------------------------

    def whoami(self) -> None:
        who = self.who()
        self.answer(200, who) if who else self.answer(401, {"error": "Invalid credentials"})

    def create(self) -> None:
        given = json.loads(self.body())
        who = self.who()
        if who is None or who["auth"]["accessToken"]["role"] == "read":
            self.answer(403, {"error": "no right to create"})
            return
        name = f"{given['organization'] or who['name']}/{given['name']}"
        kind = given.get("type", "model") + "s"
        with self.hub.lock:
            if (kind, name) in self.hub.repos:
                self.answer(
                    409, {"error": "You already created this repo", "url": self.url(kind, name)}
                )
                return
            repo = Repo(kind, given.get("visibility") == "private")
            self.hub.repos[kind, name] = repo
            oid = self.keep_small(b"*.parquet filter=lfs\n")
            repo.commit("main", {".gitattributes": oid}, "initial commit")
        self.answer(200, {"url": self.url(kind, name), "name": name})

    def url(self, kind: str, name: str) -> str:
        prefix = "datasets/" if kind == "datasets" else ""
        return f"http://{self.headers['Host']}/{prefix}{name}"

    def validate(self) -> None:
        content = json.loads(self.body())["content"]
        header = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        try:
            data = yaml.safe_load(header.group(1)) if header else {}
            errors = [] if isinstance(data, dict) else [{"message": "not a mapping"}]
        except yaml.YAMLError as error:
            errors = [{"message": str(error)}]
        self.answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def repo(self, kind: str, name: str) -> Repo | None:
        found = self.hub.repos.get((kind, name))
        if found is None or (found.private and self.who() is None):
            self.body()
            self.missing("RepoNotFound")
            return None
        return found

    def info(self, kind: str, name: str, revision: str = "main") -> None:
        if repo := self.repo(kind, name):
            oid = repo.at(revision)
            if oid is None:
                self.missing("RevisionNotFound")
                return
            self.answer(
                200,
                {
                    "id": name,
                    "sha": oid,
                    "private": repo.private,
                    "downloads": 0,
                    "likes": 0,
                    "tags": self.tags(repo.commits[oid]),
                    "disabled": False,
                    "gated": False,
                    "siblings": [{"rfilename": path} for path in repo.commits[oid]],
                },
            )

    def tags(self, files: dict[str, Blob]) -> list[str]:
        """The tags in the header of the card."""
        card = self.hub.content(files["README.md"]).decode() if "README.md" in files else ""
        header = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
        return yaml.safe_load(header.group(1)).get("tags", []) if header else []

    def entry(self, path: str, blob: Blob) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": path, "size": blob.size, "oid": blob.oid}
        if blob.sha256:
            entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 130}
        return entry

    def tree(self, kind: str, name: str, revision: str, path: str | None = None) -> None:
        if repo := self.repo(kind, name):
            oid = repo.at(revision)
            if oid is None:
                self.missing("RevisionNotFound")
                return
            inside = f"{path.strip('/')}/" if path and path.strip("/") else ""
            whole = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
            rows, folders = [], set()
            for file, blob in sorted(repo.commits[oid].items()):
                if not file.startswith(inside):
                    continue
                parts = file[len(inside) :].split("/")
                folders |= {
                    inside + "/".join(parts[:i])
                    for i in range(1, len(parts) if whole else min(2, len(parts)))
                }
                if whole or len(parts) == 1:
                    rows.append(self.entry(file, blob))
            if inside and not rows and not folders:
                self.missing("EntryNotFound")
                return
            rows += [
                {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
                for folder in sorted(folders)
            ]
            self.answer(200, rows)

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        if repo := self.repo(kind, name):
            raw = self.body()
            oid = repo.at(revision)
            if oid is None:
                self.missing("RevisionNotFound")
                return
            if "json" in self.headers.get("Content-Type", ""):
                paths = json.loads(raw)["paths"]
            else:
                paths = parse_qs(raw.decode()).get("paths", [])
            files = repo.commits[oid]
            rows = []
            for path in paths:
                if path in files:
                    rows.append(self.entry(path, files[path]))
                elif any(file.startswith(f"{path}/") for file in files):
                    rows.append({"type": "directory", "path": path, "oid": "0" * 40, "size": 0})
            self.answer(200, rows)

    def list_refs(self, kind: str, name: str) -> None:
        if repo := self.repo(kind, name):
            branches = [
                {"name": ref, "ref": f"refs/heads/{ref}", "targetCommit": oid}
                for ref, oid in repo.refs.items()
                if not ref.startswith("refs/")
            ]
            self.answer(200, {"branches": branches, "tags": [], "converts": []})

    def branch(self, kind: str, name: str, ref: str) -> None:
        if repo := self.repo(kind, name):
            self.body()
            if ref in repo.refs:
                self.answer(409, {"error": "Reference already exists"})
                return
            repo.refs[ref] = repo.refs["main"]
            self.answer(200, {})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        if repo := self.repo(kind, name):
            given = json.loads(self.body())["files"]
            oid = repo.at(revision)
            if oid is None:
                self.missing("RevisionNotFound")
                return
            files = repo.commits[oid]
            self.answer(
                200,
                {
                    "files": [
                        {
                            "path": file["path"],
                            "shouldIgnore": False,
                            "uploadMode": "lfs"
                            if file["path"].endswith(BINARY) or file["size"] > LARGE
                            else "regular",
                            "oid": (files[file["path"]].sha256 or files[file["path"]].oid)
                            if file["path"] in files
                            else None,
                        }
                        for file in given
                    ]
                },
            )

    def lfs_batch(self, name: str, kind: str | None = None) -> None:
        objects = []
        for item in json.loads(self.body())["objects"]:
            answer = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.large:
                href = f"http://{self.headers['Host']}/lfs/{item['oid']}?signature=secret"
                answer["actions"] = {"upload": {"href": href}}
            objects.append(answer)
        self.answer(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        data = self.body()
        time.sleep(self.hub.seconds_per_upload)
        if hashlib.sha256(data).hexdigest() != oid:
            self.answer(400, {"error": "wrong bytes"})
            return
        with self.hub.lock:
            self.hub.large[oid] = data
            self.hub.received += len(data)
        self.answer(200, {})

    def keep_small(self, data: bytes) -> Blob:
        oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        self.hub.small[oid] = data
        return Blob(len(data), oid)

    def make_commit(self, kind: str, name: str, revision: str) -> None:
        if repo := self.repo(kind, name):
            lines = [json.loads(line) for line in self.body().splitlines()]
            who = self.who()
            pr = self.query.get("create_pr") == ["1"]
            if who is None or (who["auth"]["accessToken"]["role"] == "read" and not pr):
                self.answer(403, {"error": "no right to write"})
                return
            with self.hub.lock:
                head = repo.at(revision)
                if head is None:
                    self.missing("RevisionNotFound")
                    return
                files, title = dict(repo.commits[head]), ""
                for line in lines:
                    value = line["value"]
                    if line["key"] == "header":
                        title = value["summary"]
                        if value.get("parentCommit") not in (None, head):
                            self.answer(412, {"error": "A commit has happened since"})
                            return
                    elif line["key"] == "file":
                        files[value["path"]] = self.keep_small(base64.b64decode(value["content"]))
                    elif line["key"] == "lfsFile":
                        data = self.hub.large.get(value["oid"])
                        if data is None:
                            self.answer(400, {"error": f"{value['path']}: no such large file"})
                            return
                        oid = hashlib.sha1(value["oid"].encode()).hexdigest()
                        files[value["path"]] = Blob(len(data), oid, value["oid"])
                    elif line["key"] == "deletedFile":
                        files.pop(value["path"], None)
                number = 1 + sum(ref.startswith("refs/pr/") for ref in repo.refs)
                ref = f"refs/pr/{number}" if pr else revision
                oid = repo.commit(ref, files, title)
            url = self.url(kind, name)
            self.answer(
                200,
                {
                    "success": True,
                    "commitOid": oid,
                    "commitUrl": f"{url}/commit/{oid}",
                    "hookOutput": "",
                    **({"pullRequestUrl": f"{url}/discussions/{number}"} if pr else {}),
                },
            )

    def resolve(self, name: str, revision: str, path: str, kind: str | None = None) -> None:
        if repo := self.repo("datasets" if kind else "models", name):
            oid = repo.at(revision)
            if oid is None:
                self.missing("RevisionNotFound")
                return
            blob = repo.commits[oid].get(path)
            if blob is None:
                self.missing("EntryNotFound")
                return
            data = self.hub.content(blob)
            headers = {
                "ETag": f'"{blob.sha256 or blob.oid}"',
                "X-Repo-Commit": oid,
                "Accept-Ranges": "bytes",
                "X-Linked-Size": str(blob.size),
                "X-Linked-Etag": f'"{blob.sha256 or blob.oid}"',
            }
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if asked and self.command == "GET":
                start, end = int(asked[1]), min(int(asked[2] or blob.size - 1), blob.size - 1)
                if start >= blob.size:
                    self.answer(416, b"", {"Content-Range": f"bytes */{blob.size}"})
                    return
                headers["Content-Range"] = f"bytes {start}-{end}/{blob.size}"
                self.answer(206, data[start : end + 1], headers)
                return
            self.answer(200, data, headers)


_API = r"/api/(?P<kind>datasets|models)/(?P<name>[^/]+/[^/]+)"
_REPO = r"/(?:(?P<kind>datasets)/)?(?P<name>[^/]+/[^/]+?)"
# A revision is one path part, or the three of refs/pr/N once its %2F are decoded.
_REV = r"(?P<revision>refs/(?:pr|convert)/[^/]+|[^/]+)"
ROUTES: list[tuple[str, Any]] = [
    (r"GET /api/whoami-v2", Handler.whoami),
    (r"POST /api/repos/create", Handler.create),
    (r"POST /api/validate-yaml", Handler.validate),
    (rf"GET {_API}", Handler.info),
    (rf"GET {_API}/revision/{_REV}", Handler.info),
    (rf"GET {_API}/tree/{_REV}(?P<path>/.*)?", Handler.tree),
    (rf"POST {_API}/paths-info/{_REV}", Handler.paths_info),
    (rf"GET {_API}/refs", Handler.list_refs),
    (rf"POST {_API}/branch/(?P<ref>.+)", Handler.branch),
    (rf"POST {_API}/preupload/{_REV}", Handler.preupload),
    (rf"POST {_API}/commit/{_REV}", Handler.make_commit),
    (rf"POST {_REPO}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    (r"PUT /lfs/(?P<oid>[0-9a-f]{64})", Handler.lfs_put),
    (rf"(?:GET|HEAD) {_REPO}/resolve/{_REV}/(?P<path>.+)", Handler.resolve),
]


@contextmanager
def running(port: int = 0) -> Iterator[tuple[Hub, str]]:
    """Yield the hub and its address; it serves from threads until the block ends."""
    hub = Hub()
    handler = type("BoundHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    server.handle_error = lambda *args: None  # clients that were killed
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    with running(int(sys.argv[1]) if len(sys.argv) > 1 else 8790) as (served, address):
        served.tokens[TOKEN] = token_of("someone")
        print(f"HF_ENDPOINT={address} HF_TOKEN={TOKEN} HF_HUB_DISABLE_XET=1", flush=True)
        threading.Event().wait()
