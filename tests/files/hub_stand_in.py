"""A stand-in for the Hugging Face Hub that speaks to its client over HTTP: models only, one branch, all in memory."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_stand_in"


@dataclass
class Repo:
    """A repository: every commit's number and its files, the latest last."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, changes: dict[str, bytes]) -> str:
        sha = hashlib.sha1(f"{len(self.commits)} {sorted(changes)}".encode()).hexdigest()
        self.commits[sha] = self.files | changes
        return sha

    @property
    def files(self) -> dict[str, bytes]:
        return list(self.commits.values())[-1] if self.commits else {}


class StandIn(ThreadingHTTPServer):
    """The server.

    Attributes:
        repos, blobs: what it holds.
        asked: method and path of every request, and the range of bytes if it names one.
        sizes: sizes that it claims for files instead of their own.
        status: what it answers to everything, if not None.
        full: whether it refuses to store more.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.sizes: dict[str, int] = {}
        self.status: int | None = None
        self.full = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def stand_in() -> Iterator[StandIn]:
    server = StandIn()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Refused(Exception):
    def __init__(self, status: int, code: str = "", message: str = "", body: dict[str, str] | None = None) -> None:
        super().__init__(status, code, message, body or {})


class Answer(BaseHTTPRequestHandler):
    server: StandIn  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
        try:
            if self.server.status is not None:
                raise Refused(self.server.status)
            self._send(200, *self._found(path.strip("/").split("/")))
        except Refused as refused:
            status, code, message, body = refused.args
            self._send(status, body, {"X-Error-Code": code, "X-Error-Message": message})

    do_GET = do_HEAD = do_POST = do_PUT = _answer

    def _send(self, status: int, body: bytes | dict[str, Any], headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _found(self, parts: list[str]) -> tuple[bytes | dict[str, Any], dict[str, str]]:
        match self.command, parts:
            case "POST", ["api", "repos", "create"]:
                return self._create(), {}
            case "POST", ["api", "validate-yaml"]:
                return self._validate(), {}
            case "POST", ["api", "models", user, name, "preupload", "main"]:
                return self._preupload(self._repo(user, name)), {}
            case "POST", [user, name, "info", "lfs", "objects", "batch"]:
                self._repo(user, name.removesuffix(".git"))
                return self._batch(), {}
            case "PUT", ["lfs", oid]:
                data = self._body()
                if self.server.full:
                    raise Refused(403)
                assert hashlib.sha256(data).hexdigest() == oid
                self.server.blobs[oid] = data
                return {}, {}
            case "POST", ["lfs", "verify"]:
                sent = self._json()
                if len(self.server.blobs[sent["oid"]]) != sent["size"]:
                    raise Refused(422)
                return {}, {}
            case "POST", ["api", "models", user, name, "commit", "main"]:
                return self._commit(self._repo(user, name), f"{user}/{name}"), {}
            case "GET", ["api", "models", user, name, *revision]:
                return self._info(self._repo(user, name), f"{user}/{name}", revision[1] if revision else "main"), {}
            case (("GET" | "HEAD"), [user, name, "resolve", revision, *path]):
                return self._file(self._repo(user, name), revision, "/".join(path))
        raise Refused(404)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _json(self) -> Any:
        return json.loads(self._body())

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _repo(self, user: str, name: str) -> Repo:
        repo = self.server.repos.get(f"{user}/{name}")
        if self._token() not in ("", TOKEN):
            raise Refused(401, "", "Invalid credentials in Authorization header")
        if repo is None or (repo.private and not self._token()):
            # the Hub does not tell strangers what exists
            raise Refused(404 if self._token() else 401, "RepoNotFound", "Repository not found")
        return repo

    def _writer(self) -> None:
        if self._token() != TOKEN:
            raise Refused(401, "", "Invalid credentials in Authorization header")

    def _create(self) -> dict[str, Any]:
        asked = self._json()
        self._writer()
        if asked["organization"] == "others":
            raise Refused(403, "", "You don't have the rights to create a model under this namespace")
        repo = f"{asked['organization']}/{asked['name']}"
        if repo in self.server.repos:
            raise Refused(409, body={"url": f"{self.server.url}/{repo}"})
        self.server.repos[repo] = Repo(asked.get("visibility") == "private" or asked.get("private") is True)
        return {"url": f"{self.server.url}/{repo}"}

    def _validate(self) -> dict[str, Any]:
        front = yaml.safe_load(self._json()["content"].split("---\n")[1])
        if not isinstance(front, dict) or "license" not in front:
            raise Refused(400)
        return {"errors": [], "warnings": []}

    def _preupload(self, repo: Repo) -> dict[str, Any]:
        self._writer()
        return {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".png")) else "regular",
                    "shouldIgnore": False,
                }
                for file in self._json()["files"]
            ]
        }

    def _batch(self) -> dict[str, Any]:
        objects = []
        for asked in self._json()["objects"]:
            actions = {
                "upload": {"href": f"{self.server.url}/lfs/{asked['oid']}"},
                "verify": {"href": f"{self.server.url}/lfs/verify"},
            }
            objects.append(asked if asked["oid"] in self.server.blobs else asked | {"actions": actions})
        return {"transfer": "basic", "objects": objects}

    def _commit(self, repo: Repo, name: str) -> dict[str, Any]:
        self._writer()
        changes = {}
        for line in self._body().splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                changes[value["path"]] = self.server.blobs[value["oid"]]
        sha = repo.commit(changes)
        return {"commitUrl": f"{self.server.url}/{name}/commit/{sha}", "commitOid": sha, "success": True}

    def _at(self, repo: Repo, revision: str) -> tuple[str, dict[str, bytes]]:
        if revision == "main":
            return (list(repo.commits) or ["0" * 40])[-1], repo.files
        if revision not in repo.commits:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return revision, repo.commits[revision]

    def _info(self, repo: Repo, name: str, revision: str) -> dict[str, Any]:
        sha, files = self._at(repo, revision)
        siblings = [{"rfilename": path, "size": self.server.sizes.get(path, len(data))} for path, data in files.items()]
        return {"id": name, "sha": sha, "private": repo.private, "siblings": siblings}

    def _file(self, repo: Repo, revision: str, path: str) -> tuple[bytes, dict[str, str]]:
        sha, files = self._at(repo, revision)
        if path not in files:
            raise Refused(404, "EntryNotFound", "Entry not found")
        _, _, last = self.headers.get("Range", "").partition("-")
        sent = files[path][: int(last) + 1 if last else None]
        return sent, {"ETag": f'"{hashlib.sha256(files[path]).hexdigest()}"', "X-Repo-Commit": sha}
