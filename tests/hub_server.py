"""A small Hugging Face Hub on loopback, with faults to order.

It answers the requests that ``huggingface_hub`` makes to pull and push model repositories:
downloads with ranges and with the redirect of large files, LFS uploads, atomic commits, branches,
tags and pull requests. Nothing is kept but in memory. ``python tests/hub_server.py`` serves until
Ctrl-C.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["Fault", "HubServer", "Request"]

TOKEN = "hf_test"
LFS_SUFFIXES = (".safetensors", ".bin")
LFS_SIZE = 10 * 2**20


class Request(NamedTuple):
    """A request that was answered, and the bytes of content that were sent."""

    method: str
    path: str
    status: int
    sent: int
    range: str | None
    token: str | None


@dataclass
class Fault:
    """What goes wrong with requests whose "METHOD path" matches a regular expression.

    Attributes
    ----------
    pattern : str
    times : int
        How often.
    status : int or None
        Answered instead.
    drop_after : int or None
        Bytes of content after which the connection is closed.
    corrupt : bool
        Whether the first bytes of the content are changed.
    size : int or None
        Declared in place of the true size.
    stream : int or None
        Bytes sent without a declared length, whatever the content.
    headers : mapping
        Of the answer, in place of its own.
    silent : float
        Seconds before the answer; it may be given up.
    before : callable or None
        Called before the request is answered, as if somebody else had been quicker.
    """

    pattern: str
    times: int = 1
    status: int | None = None
    drop_after: int | None = None
    corrupt: bool = False
    size: int | None = None
    stream: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    silent: float = 0.0
    before: Callable[[], object] | None = None


class Blob(NamedTuple):
    """A file of a commit."""

    oid: str  # of git
    sha256: str
    size: int
    lfs: bool


@dataclass
class Commit:
    oid: str
    files: dict[str, Blob]
    title: str


@dataclass
class Repository:
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pull_requests: dict[str, str] = field(default_factory=dict)

    def find(self, revision: str) -> Commit | None:
        for refs in (self.branches, self.tags, self.pull_requests):
            if revision in refs:
                return self.commits[refs[revision]]
        return self.commits.get(revision)


class HubServer:
    """The server; a context manager that serves in a thread.

    Attributes
    ----------
    url : str
        To pass as endpoint, or to set ``HF_ENDPOINT`` to.
    requests : list of Request
    faults : list of Fault
    """

    def __init__(self, port: int = 0) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        self.closing = threading.Event()  # ends the silences
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._server.daemon_threads = True
        port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{port}"
        # Large files come from another host, to which no client may send its token.
        self.cdn = f"http://localhost:{port}/cdn"

    def __enter__(self) -> HubServer:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def serve_forever(self) -> None:
        """Serve in this thread."""
        self._server.serve_forever()

    # For tests

    def create(self, repo_id: str, *, private: bool = False) -> Repository:
        with self.lock:
            repository = self.repositories[repo_id] = Repository(private)
            first = self._commit(repository, {}, "initial commit")
            repository.branches["main"] = first.oid
            return repository

    def put(
        self,
        repo_id: str,
        files: Mapping[str, bytes | None],
        branch: str = "main",
        *,
        private: bool = False,
    ) -> str:
        """Commit files (None deletes one), make the repository if need be; returns the commit."""
        with self.lock:
            if repo_id not in self.repositories:
                self.create(repo_id, private=private)
            repository = self.repositories[repo_id]
            content = dict(repository.find(branch).files)
            for path, data in files.items():
                content.pop(path, None)
                if data is not None:
                    content[path] = self.store(path, data)
            commit = self._commit(repository, content, "put")
            repository.branches[branch] = commit.oid
            return commit.oid

    def get(self, repo_id: str, path: str, revision: str = "main") -> bytes:
        return self.objects[self.repositories[repo_id].find(revision).files[path].sha256]

    def paths(self, repo_id: str, revision: str = "main") -> list[str]:
        return sorted(self.repositories[repo_id].find(revision).files)

    def head(self, repo_id: str, revision: str = "main") -> str:
        return self.repositories[repo_id].find(revision).oid

    def fail(self, pattern: str, status: int | None = None, **kwargs: Any) -> Fault:
        """Order a `Fault`."""
        self.faults.append(Fault(pattern, status=status, **kwargs))
        return self.faults[-1]

    def reset(self) -> None:
        """Forget the requests and the faults, not the repositories."""
        self.requests.clear()
        self.faults.clear()

    def downloads(self) -> list[str]:
        """Paths inside repositories of the content that was fetched, in order."""
        return [
            re.sub(r".*/resolve/[^/]+/", "", r.path)
            for r in self.requests
            if r.method == "GET" and "/resolve/" in r.path and r.status in (200, 206, 302)
        ]

    @property
    def sent(self) -> int:
        return sum(request.sent for request in self.requests)

    # Storage

    def store(self, path: str, data: bytes) -> Blob:
        sha256 = hashlib.sha256(data).hexdigest()
        self.objects[sha256] = data
        oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        return Blob(oid, sha256, len(data), path.endswith(LFS_SUFFIXES) or len(data) > LFS_SIZE)

    def _commit(self, repository: Repository, files: dict[str, Blob], title: str) -> Commit:
        n = len(repository.commits)
        text = json.dumps([n, id(repository), sorted((p, b.sha256) for p, b in files.items())])
        commit = Commit(hashlib.sha1(text.encode()).hexdigest(), files, title)
        repository.commits[commit.oid] = commit
        return commit


class _Answer(NamedTuple):
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}

    @classmethod
    def json(cls, value: Any, status: int = 200, **headers: str) -> _Answer:
        return cls(
            status, json.dumps(value).encode(), {"Content-Type": "application/json", **headers}
        )

    @classmethod
    def error(cls, status: int, code: str, message: str = "") -> _Answer:
        headers = {"X-Error-Code": code, "X-Error-Message": message or code}
        return cls.json({"error": message or code}, status, **headers)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        self.query = parse_qs(url.query, keep_blank_values=True)
        path = unquote(url.path)
        authorization = self.headers.get("Authorization") or ""
        self.token = authorization.removeprefix("Bearer ") or None
        fault = self._fault(f"{self.command} {path}")
        if fault is not None and fault.before is not None:
            fault.before()
        if fault is not None:
            self.hub.closing.wait(fault.silent)
        if fault is not None and fault.status is not None:
            answer = _Answer.error(fault.status, "", "as ordered")
        elif self.token not in (None, TOKEN):
            answer = _Answer.error(401, "", "Invalid credentials in Authorization header")
        else:
            answer = self._route(path, body)
        self._send(answer, fault, path)

    def _fault(self, request: str) -> Fault | None:
        with self.hub.lock:
            for fault in self.hub.faults:
                if fault.times > 0 and re.search(fault.pattern, request):
                    fault.times -= 1
                    return fault
        return None

    def _send(self, answer: _Answer, fault: Fault | None, path: str) -> None:
        body, headers = answer.body, dict(answer.headers)
        if fault is not None and fault.corrupt:
            body = bytes(byte ^ 0xFF for byte in body[:64]) + body[64:]
        if fault is not None and fault.size is not None:
            name = "X-Linked-Size" if "X-Linked-Size" in headers else "Content-Length"
            headers[name] = str(fault.size)
        if fault is not None:
            headers |= fault.headers
        wanted = self.headers.get("Range")
        status, total = answer.status, len(body)
        if status == 200 and (match := re.fullmatch(r"bytes=(\d+)-(\d*)", wanted or "")):
            start, stop = int(match[1]), int(match[2] or total - 1) + 1
            status, body = 206, body[start:stop]
            headers["Content-Range"] = f"bytes {start}-{start + len(body) - 1}/{total}"
        send = self.command != "HEAD"
        stop = len(body) if send else 0
        if fault is not None and fault.drop_after is not None:
            stop = min(stop, fault.drop_after)
        with self.hub.lock:  # before the client can see the end of the answer
            self.hub.requests.append(Request(self.command, path, status, stop, wanted, self.token))
        self.send_response(status)
        if fault is not None and fault.stream is not None and send:
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            with contextlib.suppress(OSError):
                for _ in range(fault.stream // 2**16):
                    self.wfile.write(bytes(2**16))
            return
        headers.setdefault("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:stop])
        if send and int(headers["Content-Length"]) != stop:
            self.wfile.flush()
            self.close_connection = True

    # Routes

    def _route(self, path: str, body: bytes) -> _Answer:
        method = "GET" if self.command == "HEAD" else self.command
        for route, handle in _ROUTES:
            if match := re.fullmatch(route, f"{method} {path}"):
                with self.hub.lock:
                    return handle(self, *match.groups(), body=body)
        return _Answer.error(404, "", f"no route {method} {path}")

    def _repository(self, repo_id: str) -> Repository | None:
        repository = self.hub.repositories.get(repo_id)
        hidden = repository is not None and repository.private and self.token is None
        return None if hidden else repository

    def _find(self, repo_id: str, revision: str) -> tuple[Commit | None, _Answer | None]:
        repository = self._repository(repo_id)
        if repository is None:
            return None, _Answer.error(401 if self.token is None else 404, "RepoNotFound")
        commit = repository.find(revision)
        return commit, None if commit else _Answer.error(404, "RevisionNotFound")

    def resolve(self, repo_id: str, revision: str, path: str, *, body: bytes) -> _Answer:
        commit, error = self._find(repo_id, revision)
        if error:
            return error
        headers = {"X-Repo-Commit": commit.oid}
        blob = commit.files.get(path)
        if blob is None:
            missing = _Answer.error(404, "EntryNotFound")
            return missing._replace(headers={**missing.headers, **headers})
        if not blob.lfs:
            headers["ETag"] = f'"{blob.oid}"'
            return _Answer(200, self.hub.objects[blob.sha256], headers)
        headers |= {
            "ETag": f'"{blob.sha256}"',
            "X-Linked-ETag": f'"{blob.sha256}"',
            "X-Linked-Size": str(blob.size),
            "Location": f"{self.hub.cdn}/{repo_id}/resolve/{commit.oid}/{path}",
        }
        return _Answer(302, b"", headers)

    def cdn(self, repo_id: str, revision: str, path: str, *, body: bytes) -> _Answer:
        blob = self.hub.repositories[repo_id].commits[revision].files[path]
        return _Answer(200, self.hub.objects[blob.sha256], {"ETag": f'"{blob.sha256}"'})

    def info(self, repo_id: str, revision: str | None = None, *, body: bytes) -> _Answer:
        commit, error = self._find(repo_id, revision or "main")
        if error:
            return error
        return _Answer.json(
            {
                "id": repo_id,
                "modelId": repo_id,
                "sha": commit.oid,
                "private": self.hub.repositories[repo_id].private,
                "tags": [],
                "siblings": [{"rfilename": path} for path in sorted(commit.files)],
            }
        )

    def tree(self, repo_id: str, revision: str, *, body: bytes) -> _Answer:
        commit, error = self._find(repo_id, revision)
        return error or _Answer.json([_file(p, b) for p, b in sorted(commit.files.items())])

    def paths_info(self, repo_id: str, revision: str, *, body: bytes) -> _Answer:
        commit, error = self._find(repo_id, revision)
        if error:
            return error
        paths = parse_qs(body.decode()).get("paths", [])
        return _Answer.json([_file(p, commit.files[p]) for p in paths if p in commit.files])

    def refs(self, repo_id: str, *, body: bytes) -> _Answer:
        _, error = self._find(repo_id, "main")
        if error:
            return error
        repository = self.hub.repositories[repo_id]

        def listed(refs: dict[str, str], prefix: str) -> list[dict[str, str]]:
            return [
                {"name": n, "ref": f"{prefix}{n}", "targetCommit": oid} for n, oid in refs.items()
            ]

        return _Answer.json(
            {
                "branches": listed(repository.branches, "refs/heads/"),
                "tags": listed(repository.tags, "refs/tags/"),
                "converts": [],
            }
        )

    def whoami(self, *, body: bytes) -> _Answer:
        if self.token is None:
            return _Answer.error(401, "", "Invalid username or password.")
        return _Answer.json({"type": "user", "name": "tester", "fullname": "T", "orgs": []})

    def create(self, *, body: bytes) -> _Answer:
        if self.token is None:
            return _Answer.error(401, "", "Invalid username or password.")
        data = json.loads(body)
        repo_id = f"{data.get('organization') or 'tester'}/{data['name']}"
        exists = repo_id in self.hub.repositories
        if not exists:
            private = data.get("private") or data.get("visibility") == "private"
            self.hub.create(repo_id, private=bool(private))
        value = {"url": f"{self.hub.url}/{repo_id}", "name": repo_id, "id": repo_id}
        return _Answer.json(value, 409 if exists else 200)

    def validate_yaml(self, *, body: bytes) -> _Answer:
        import yaml

        content = json.loads(body)["content"]
        match = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        try:
            header = yaml.safe_load(match[1]) if match else {}
        except yaml.YAMLError as error:
            return _Answer.json({"errors": [{"message": str(error)}], "warnings": []}, 400)
        errors = [] if isinstance(header, dict) else [{"message": "no mapping"}]
        return _Answer.json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def preupload(self, repo_id: str, revision: str, *, body: bytes) -> _Answer:
        commit, error = self._writable(repo_id, revision)
        if error:
            return error
        answer = []
        for file in json.loads(body)["files"]:
            path, old = file["path"], commit.files.get(file["path"])
            lfs = path.endswith(LFS_SUFFIXES) or file["size"] > LFS_SIZE
            answer.append(
                {
                    "path": path,
                    "uploadMode": "lfs" if lfs else "regular",
                    "shouldIgnore": False,
                    "oid": old and (old.sha256 if old.lfs else old.oid),
                }
            )
        return _Answer.json({"files": answer})

    def lfs_batch(self, repo_id: str, *, body: bytes) -> _Answer:
        objects = []
        for item in json.loads(body)["objects"]:
            entry: dict[str, Any] = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.objects:
                entry["actions"] = {
                    "upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"},
                    "verify": {"href": f"{self.hub.url}/lfs-verify"},
                }
            objects.append(entry)
        return _Answer.json({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str, *, body: bytes) -> _Answer:
        if hashlib.sha256(body).hexdigest() != oid:
            return _Answer.error(400, "", "the content has another hash")
        self.hub.objects[oid] = body
        return _Answer(200)

    def lfs_verify(self, *, body: bytes) -> _Answer:
        return _Answer(200 if json.loads(body)["oid"] in self.hub.objects else 404)

    def commit(self, repo_id: str, revision: str, *, body: bytes) -> _Answer:
        parent, error = self._writable(repo_id, revision)
        if error:
            return error
        repository = self.hub.repositories[repo_id]
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        expected = header.get("parentCommit")
        new_request = "create_pr" in self.query
        if expected and expected != parent.oid and not new_request:
            return _Answer.error(412, "", "A commit has happened since. Please refresh.")
        files = dict(parent.files)
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "file":
                    data = base64.b64decode(value["content"])
                    files[value["path"]] = self.hub.store(value["path"], data)
                case "lfsFile":
                    if value["oid"] not in self.hub.objects:
                        return _Answer.error(400, "", f"{value['path']} was not uploaded")
                    data = self.hub.objects[value["oid"]]
                    files[value["path"]] = self.hub.store(value["path"], data)._replace(lfs=True)
                case "deletedFile":
                    if files.pop(value["path"], None) is None:
                        return _Answer.error(404, "EntryNotFound", "A file with this name ...")
                case "deletedFolder":
                    prefix = value["path"].rstrip("/") + "/"
                    files = {p: b for p, b in files.items() if not p.startswith(prefix)}
        made = self.hub._commit(repository, files, header["summary"])
        answer: dict[str, Any] = {
            "success": True,
            "commitOid": made.oid,
            "commitUrl": f"{self.hub.url}/{repo_id}/commit/{made.oid}",
        }
        if new_request:
            number = len(repository.pull_requests) + 1
            repository.pull_requests[f"refs/pr/{number}"] = made.oid
            answer["pullRequestUrl"] = f"{self.hub.url}/{repo_id}/discussions/{number}"
        elif revision in repository.pull_requests:
            repository.pull_requests[revision] = made.oid
        else:
            repository.branches[revision] = made.oid
        return _Answer.json(answer)

    def _writable(self, repo_id: str, revision: str) -> tuple[Commit | None, _Answer | None]:
        if self.token is None:
            return None, _Answer.error(401, "", "Invalid username or password.")
        return self._find(repo_id, revision)

    def branch(self, repo_id: str, name: str, *, body: bytes) -> _Answer:
        return self._reference(repo_id, name, body, "branches")

    def tag(self, repo_id: str, revision: str, *, body: bytes) -> _Answer:
        data = {"startingPoint": revision}
        return self._reference(repo_id, json.loads(body)["tag"], json.dumps(data).encode(), "tags")

    def _reference(self, repo_id: str, name: str, body: bytes, kind: str) -> _Answer:
        start = (json.loads(body or b"{}") or {}).get("startingPoint") or "main"
        commit, error = self._writable(repo_id, start)
        if error:
            return error
        refs = getattr(self.hub.repositories[repo_id], kind)
        if name in refs:
            return _Answer.error(409, "", f"{name} exists")
        refs[name] = commit.oid
        return _Answer(200)


def _file(path: str, blob: Blob) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": blob.size, "oid": blob.oid}
    if blob.lfs:
        entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 134}
    return entry


_ID = "([^/]+/[^/]+)"
_REVISION = "(refs/pr/[0-9]+|[^/]+)"
_ROUTES: list[tuple[str, Callable[..., _Answer]]] = [
    (f"GET /cdn/{_ID}/resolve/{_REVISION}/(.+)", _Handler.cdn),
    (f"GET /api/models/{_ID}", _Handler.info),
    (f"GET /api/models/{_ID}/revision/(.+)", _Handler.info),
    (f"GET /api/models/{_ID}/tree/(.+)", _Handler.tree),
    (f"POST /api/models/{_ID}/paths-info/(.+)", _Handler.paths_info),
    (f"GET /api/models/{_ID}/refs", _Handler.refs),
    (f"POST /api/models/{_ID}/preupload/(.+)", _Handler.preupload),
    (f"POST /api/models/{_ID}/commit/(.+)", _Handler.commit),
    (f"POST /api/models/{_ID}/branch/(.+)", _Handler.branch),
    (f"POST /api/models/{_ID}/tag/(.+)", _Handler.tag),
    ("GET /api/whoami-v2", _Handler.whoami),
    ("POST /api/repos/create", _Handler.create),
    ("POST /api/validate-yaml", _Handler.validate_yaml),
    (r"POST /([^/]+/[^/]+)\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT /lfs/([0-9a-f]{64})", _Handler.lfs_put),
    ("POST /lfs-verify", _Handler.lfs_verify),
    (f"GET /{_ID}/resolve/{_REVISION}/(.+)", _Handler.resolve),
]


if __name__ == "__main__":
    server = HubServer(8765)
    print(f"HF_ENDPOINT={server.url} HF_TOKEN={TOKEN} HF_HUB_DISABLE_XET=1", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
