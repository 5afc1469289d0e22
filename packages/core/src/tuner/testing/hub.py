"""A hub on loopback: the endpoints that the hub's client needs to publish and to download, kept in memory.

The client is the real one. Tests point it here by `LoopbackHub.environment` in a process of its own, or by
`LoopbackHub.adopt` in theirs.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

import yaml

from tuner.testing.hub_state import OWNER, READ_TOKEN, WRITE_TOKEN, LoopbackHub, Repository
from tuner.testing.servers import Quiet, address_of, serving

LICENSES = {"apache-2.0", "mit", "other"}
_LARGE = (".safetensors", ".png", ".bin")
_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


@contextmanager
def loopback_hub() -> Iterator[LoopbackHub]:
    """Serve a hub inside the block."""
    hub = LoopbackHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.address = address_of(server)
    with serving(server):
        try:
            yield hub
        finally:
            hub.answering.set()


class _Handler(Quiet, BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def _serve(self) -> None:
        path = unquote(urlparse(self.path).path)
        body = self._body()
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.hub.requests.append((self.command, path))
        if token:
            self.hub.tokens.add(token)
        status = self.hub.fault(self.command, path)
        if status is not None:
            self._answer(status, {"error": "as the test asked for"})
            return
        self.hub.answering.wait()
        for method, pattern, answer in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method.split():
                answer(self, token, body, *match.groups())
                return
        self._answer(404, {"error": "Not found"})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _whoami(self, token: str, body: bytes) -> None:
        if token not in (WRITE_TOKEN, READ_TOKEN):
            self._answer(401, {"error": "Invalid username or password."})
            return
        role = "write" if token == WRITE_TOKEN else "read"
        self._answer(200, {"type": "user", "name": OWNER, "orgs": [], "auth": {"accessToken": {"role": role}}})

    def _create(self, token: str, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked.get('organization') or OWNER}/{asked['name']}"
        if name in self.hub.repositories:
            self._answer(409, {"error": "You already created this model repo", "url": f"{self.hub.address}/{name}"})
        elif token != WRITE_TOKEN or not name.startswith(f"{OWNER}/"):
            self._answer(403, {"error": "You don't have the rights to create a model under this namespace"})
        else:
            self.hub.repositories[name] = Repository({".gitattributes": b""}, ["initial commit"])
            self._answer(200, {"url": f"{self.hub.address}/{name}", "name": name})

    def _validate(self, token: str, body: bytes) -> None:
        found = _FRONT_MATTER.match(json.loads(body)["content"])
        problems = card_problems(yaml.safe_load(found[1])) if found else ["empty or missing yaml metadata"]
        answer = {"errors": [{"message": problem} for problem in problems], "warnings": []}
        self._answer(400 if problems else 200, answer)

    def _preupload(self, token: str, body: bytes, name: str, revision: str) -> None:
        if self._writable(token, name):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(_LARGE) else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})

    def _batch(self, token: str, body: bytes, name: str) -> None:
        if self._writable(token, name):
            objects = [
                {**wanted, "actions": {"upload": {"href": f"{self.hub.address}/objects/{wanted['oid']}"}}}
                for wanted in json.loads(body)["objects"]
            ]
            self._answer(200, {"transfer": "basic", "objects": objects})

    def _store(self, token: str, body: bytes, digest: str) -> None:
        if hashlib.sha256(body).hexdigest() != digest:
            self._answer(400, {"error": "the content has another hash"})
            return
        self.hub.objects[digest] = body
        self._answer(200, b"")

    def _commit(self, token: str, body: bytes, name: str, revision: str) -> None:
        if not self._writable(token, name):
            return
        repository, message = self.hub.repositories[name], ""
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository.files[value["path"]] = self.hub.objects[value["oid"]]
            else:
                self._answer(400, {"error": f"{line['key']} is not served"})
                return
        repository.commits.append(message)
        url = f"{self.hub.address}/{name}/commit/{repository.head}"
        self._answer(200, {"success": True, "commitUrl": url, "commitOid": repository.head})

    def _writable(self, token: str, name: str) -> bool:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._missing("RepoNotFound")
            return False
        if token != WRITE_TOKEN or not repository.writable:
            self._answer(403, {"error": "you don't have write access to this repository"})
            return False
        return True

    def _missing(self, code: str) -> None:
        self._answer(404, {"error": code}, {"X-Error-Code": code})

    def _info(self, token: str, body: bytes, name: str, revision: str = "main") -> None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._missing("RepoNotFound")
            return
        siblings = [{"rfilename": path} for path in repository.files]
        self._answer(200, {"id": name, "sha": repository.head, "siblings": siblings})

    def _tree(self, token: str, body: bytes, name: str, revision: str) -> None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._missing("RepoNotFound")
            return
        files = repository.files.items()
        self._answer(
            200,
            [
                {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for path, data in files
            ],
        )

    def _resolve(self, token: str, body: bytes, name: str, revision: str, path: str) -> None:
        repository = self.hub.repositories.get(name)
        if repository is None or path not in repository.files:
            self._missing("RepoNotFound" if repository is None else "EntryNotFound")
            return
        data = repository.files[path]
        etag = hashlib.sha256(data).hexdigest()
        self._answer(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": repository.head})


def card_problems(data: Any) -> list[str]:
    """Return what the hub would refuse in a model card's front matter."""
    if not isinstance(data, dict):
        return ["the metadata is no object"]
    problems = []
    if data.get("license", "mit") not in LICENSES:
        problems.append(f'"license" {data["license"]!r} is not known')
    base = data.get("base_model")
    if base is not None and not (isinstance(base, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", base)):
        problems.append('"base_model" is no repository')
    if not all(isinstance(tag, str) for tag in data.get("tags", [])):
        problems.append('"tags" must be texts')
    widgets = data.get("widget", [])
    if not all(isinstance(widget.get("text"), str) and "url" in widget.get("output", {}) for widget in widgets):
        problems.append('"widget" needs texts and outputs')
    return problems


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", r"/api/whoami-v2", _Handler._whoami),
    ("POST", r"/api/repos/create", _Handler._create),
    ("POST", r"/api/validate-yaml", _Handler._validate),
    ("POST", rf"/api/models/{_NAME}/preupload/(.+)", _Handler._preupload),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler._batch),
    ("PUT", r"/objects/([0-9a-f]{64})", _Handler._store),
    ("POST", rf"/api/models/{_NAME}/commit/(.+)", _Handler._commit),
    ("GET HEAD", rf"/api/models/{_NAME}/tree/([^/]+)", _Handler._tree),
    ("GET HEAD", rf"/api/models/{_NAME}(?:/revision/([^/]+))?", _Handler._info),
    ("GET HEAD", rf"/{_NAME}/resolve/([^/]+)/(.+)", _Handler._resolve),
]
