"""A Hugging Face Hub on loopback, as far as pushing and loading models asks for it, from the public formats.

It keeps whole commits of repositories in memory, large files by their digest, and knows who may write.
Errors bear the headers by which the client of the hub distinguishes them.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKENS = {"hf_writer": "someone", "hf_stranger": "stranger"}


@dataclass
class Repository:
    """Commits by their hash, each with all its files; branches and tags point to them."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        text = "".join(f"{name}{blob_id(content)}" for name, content in sorted(files.items()))
        sha = hashlib.sha1(f"{len(self.commits)}{text}".encode()).hexdigest()
        self.commits[sha], self.refs[branch] = files, sha
        return sha


class Refused(Exception):
    """What the server answers instead, with the header by which the client knows it."""

    def __init__(self, status: int, code: str = "", message: str = "refused") -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Hub(ThreadingHTTPServer):
    """The server; tests look at its repositories and set what is to go wrong."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        # By another name: large files are sent for to another host, which is asked without a token.
        self.large_url = f"http://localhost:{self.server_port}/large"
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.refuse_uploads = False
        self.hold_uploads = False
        self.half_arrived, self.go_on = threading.Event(), threading.Event()


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield hub
        finally:
            hub.go_on.set()
            hub.shutdown()


def blob_id(content: bytes) -> str:
    """What git calls a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(name: str) -> bool:
    return name.endswith(".safetensors")


class Handler(BaseHTTPRequestHandler):
    """One request; the routes are the methods that `ROUTES` names at the end."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        self.body_left = int(self.headers.get("Content-Length") or 0)
        try:
            for verb, pattern, route in ROUTES:
                if self.command in verb.split() and (match := re.fullmatch(pattern, path)):
                    return route(self, **match.groupdict())
            raise Refused(404, message=f"no route for {path}")
        except Refused as error:
            headers = {"X-Error-Code": error.code} if error.code else {}
            self.send(error.status, {"error": str(error)}, {**headers, "X-Error-Message": str(error)})

    do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815

    def send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        self.read()  # what a route had no use for, else it would be taken for the next request
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def read(self, size: int | None = None) -> bytes:
        content = self.rfile.read(self.body_left if size is None else size)
        self.body_left -= len(content)
        return content

    def sent(self) -> Any:
        return json.loads(self.read())

    # Who is there, and what for.

    @property
    def user(self) -> str | None:
        return TOKENS.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def repository(self, repo: str, *, write: bool = False) -> Repository:
        found = self.server.repositories.get(repo)
        if found is None or (found.private and self.user != repo.split("/")[0]):
            # Nobody learns whether a private repository is there.
            raise Refused(404 if self.user else 401, "RepoNotFound", "Repository not found")
        if write:
            self.check_may_write(repo.split("/")[0])
        elif found.gated and self.user != repo.split("/")[0]:
            raise Refused(403, "GatedRepo", f"Access to model {repo} is restricted")
        return found

    def check_may_write(self, owner: str) -> None:
        if self.user is None:
            raise Refused(401, message="Invalid username or password.")
        if self.user != owner:
            raise Refused(403, message=f"You don't have the rights to create a model under {owner!r}")

    def commit_of(self, repo: str, rev: str) -> tuple[str, dict[str, bytes]]:
        repository = self.repository(repo)
        sha = repository.refs.get(rev, rev)
        if sha not in repository.commits:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {rev}")
        return sha, repository.commits[sha]

    # Writing.

    def create(self) -> None:
        asked = self.sent()
        owner = asked["organization"] or self.user
        self.check_may_write(owner)
        repo = f"{owner}/{asked['name']}"
        there = repo in self.server.repositories
        if not there:
            private = asked.get("private") or asked.get("visibility") == "private"
            self.server.repositories[repo] = Repository(private=bool(private))
            self.server.repositories[repo].commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        self.send(409 if there else 200, {"url": f"{self.server.url}/{repo}", "name": repo})

    def validate(self) -> None:
        text = self.sent()["content"]
        self.send(200 if text.startswith("---\n") else 400, {"errors": [], "warnings": []})

    def branch(self, repo: str, name: str) -> None:
        refs = self.repository(repo, write=True).refs
        if name in refs:
            raise Refused(409, message="Reference already exists")
        refs[name] = refs["main"]
        self.send(200, {})

    def tag(self, repo: str, rev: str) -> None:
        sha, _ = self.commit_of(repo, rev)
        self.repository(repo, write=True).refs[self.sent()["tag"]] = sha
        self.send(200, {})

    def preupload(self, repo: str, rev: str) -> None:
        self.repository(repo, write=True)
        names = [file["path"] for file in self.sent()["files"]]
        modes = [
            {"path": name, "uploadMode": "lfs" if is_large(name) else "regular", "shouldIgnore": False}
            for name in names
        ]
        self.send(200, {"files": modes})

    def large_batch(self, repo: str) -> None:
        self.repository(repo, write=True)
        answers = []
        for asked in self.sent()["objects"]:
            answer = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.server.large:
                answer["actions"] = {"upload": {"href": f"{self.server.large_url}/{asked['oid']}"}}
            answers.append(answer)
        self.send(200, {"transfer": "basic", "objects": answers})

    def put_large(self, oid: str) -> None:
        if self.server.refuse_uploads:
            raise Refused(403, message="Request has expired")
        if self.server.hold_uploads:
            self.read(self.body_left // 2)
            self.server.half_arrived.set()
            self.server.go_on.wait()
            self.close_connection = True
            return
        content = self.read()
        if hashlib.sha256(content).hexdigest() != oid:
            raise Refused(400, message="the content is not what its digest says")
        self.server.large[oid] = content
        self.send(200, b"")

    def commit(self, repo: str, rev: str) -> None:
        repository = self.repository(repo, write=True)
        sha, files = self.commit_of(repo, rev)
        lines = [json.loads(line) for line in self.read().splitlines()]
        if lines[0]["value"].get("parentCommit", sha) != sha:
            raise Refused(412, message="A commit has happened since. Please refresh and try again.")
        files = dict(files)
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "deletedFile":
                del files[value["path"]]
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        made = repository.commit(rev, files)
        self.send(200, {"commitUrl": f"{self.server.url}/{repo}/commit/{made}", "commitOid": made})

    # Reading.

    def info(self, repo: str, rev: str | None = None) -> None:
        sha, files = self.commit_of(repo, rev or "main")
        siblings = [{"rfilename": name} for name in sorted(files)]
        self.send(200, {"id": repo, "sha": sha, "siblings": siblings, "tags": [], "private": False})

    def tree(self, repo: str, rev: str) -> None:
        _, files = self.commit_of(repo, rev)
        self.send(
            200,
            [
                {"type": "file", "path": name, "size": len(content), "oid": blob_id(content)}
                for name, content in sorted(files.items())
            ],
        )

    def resolve(self, repo: str, rev: str, name: str) -> None:
        sha, files = self.commit_of(repo, rev)
        if name not in files:
            raise Refused(404, "EntryNotFound", "Entry not found")
        content = files[name]
        headers = {"X-Repo-Commit": sha, "ETag": f'"{blob_id(content)}"'}
        if not is_large(name):
            return self.send_part(content, headers)
        digest = hashlib.sha256(content).hexdigest()
        linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        self.send(302, b"", headers | linked | {"Location": f"{self.server.large_url}/{digest}"})

    def get_large(self, oid: str) -> None:
        self.send_part(self.server.large[oid], {"ETag": f'"{oid}"'})

    def send_part(self, content: bytes, headers: dict[str, str]) -> None:
        """All of a file, or the part that is asked for."""
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if part is None:
            return self.send(200, content, headers | {"Accept-Ranges": "bytes"})
        first, last = int(part[1]), min(int(part[2] or len(content)), len(content) - 1)
        where = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
        self.send(206, content[first : last + 1], headers | where)


_MODEL = r"/api/models/(?P<repo>[^/]+/[^/]+)"
ROUTES = (
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", Handler.validate),
    ("POST", _MODEL + "/branch/(?P<name>.+)", Handler.branch),
    ("POST", _MODEL + "/tag/(?P<rev>.+)", Handler.tag),
    ("POST", _MODEL + "/preupload/(?P<rev>.+)", Handler.preupload),
    ("POST", _MODEL + "/commit/(?P<rev>.+)", Handler.commit),
    ("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", Handler.large_batch),
    ("PUT", "/large/(?P<oid>[0-9a-f]{64})", Handler.put_large),
    ("GET", _MODEL, Handler.info),
    ("GET", _MODEL + "/revision/(?P<rev>.+)", Handler.info),
    ("GET", _MODEL + "/tree/(?P<rev>[^/]+)", Handler.tree),
    ("GET HEAD", r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<name>.+)", Handler.resolve),
    ("GET HEAD", "/large/(?P<oid>[0-9a-f]{64})", Handler.get_large),
)
