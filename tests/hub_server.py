"""A Hugging Face Hub on the loopback interface, for tests over real HTTP: reading, and commits to model repositories.

    root/datasets/acme/clips/...      is the dataset repository acme/clips
    root/models/acme/lam/...          is the model repository acme/lam

A repository has one commit, named after what it holds, known also as "main". Clients have to see HF_ENDPOINT before
they import huggingface_hub, so run them in a subprocess with `HubServer.environment`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_API = re.compile(
    r"/api/(?P<kind>datasets|models)/(?P<id>[^/]+/[^/]+)(?:/(?P<what>revision|tree|paths-info)/(?P<rest>.+))?"
)
_WRITE = re.compile(r"/api/models/(?P<id>[^/]+/[^/]+)/(?P<what>preupload|commit)/main")
_RESOLVE = re.compile(r"/(?P<kind>datasets/)?(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


@dataclass(frozen=True)
class Request:
    """One request and its response: `sent` counts the bytes of the body, `range` is the header's value."""

    method: str
    path: str
    range: str | None
    status: int
    sent: int


class HubServer:
    """Serves the repositories below `root` while it is open as a context manager, and keeps a log of `requests`.

    >>> with HubServer(tmp_path) as hub:  # doctest: +SKIP
    ...     subprocess.run([sys.executable, "-c", "..."], env=hub.environment(tmp_path / "home"))
    ...     hub.sent(".parquet")
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.requests: list[Request] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """The variables for a client process: this Hub, its caches below `home`, nothing of the user's."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE_"))}
        own = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        return inherited | own

    def sent(self, ending: str = "") -> int:
        """Bytes sent so far of files whose names end so."""
        return sum(each.sent for each in self.requests if "/resolve/" in each.path and each.path.endswith(ending))

    def commit(self, kind: str, repo_id: str) -> str:
        """The repository's commit, 40 hex digits: a hash of all names and contents."""
        digest = hashlib.sha1()
        for name, path in self.files(kind, repo_id).items():
            digest.update(f"{name}\0{_etag(path)}\0".encode())
        return digest.hexdigest()

    def files(self, kind: str, repo_id: str) -> dict[str, Path]:
        """The repository's files by name, sorted; none where there is no such repository."""
        folder = self.root / kind / repo_id
        return {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        if self.path == "/api/repos/create":
            name = json.loads(body)
            repo_id = f"{name['organization']}/{name['name']}" if name.get("organization") else name["name"]
            self._json({"url": f"{self.hub.url}/{repo_id}"})
            return
        if match := _WRITE.fullmatch(urlsplit(self.path).path):
            self._write(match["id"], match["what"], body)
            return
        is_json = "json" in self.headers.get("Content-Type", "")
        self._answer(json.loads(body)["paths"] if is_json else parse_qs(body).get("paths", []))

    def log_message(self, *args: Any) -> None:
        """Quiet: the log is `HubServer.requests`."""

    def _answer(self, paths: list[str] | None = None) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        if match := _RESOLVE.fullmatch(path):
            self._file("datasets" if match["kind"] else "models", match["id"], match["revision"], match["file"])
        elif match := _API.fullmatch(path):
            recursive = parse_qs(url.query).get("recursive", ["false"])[0].lower() in ("true", "1")
            self._api(
                match["kind"], match["id"], match["what"] or "revision", match["rest"] or "main", paths, recursive
            )
        else:
            self._error("EntryNotFound")

    def _write(self, repo_id: str, what: str, body: str) -> None:
        """The two calls of an upload: every file is regular, none goes through large file storage."""
        if what == "preupload":
            asked = json.loads(body)["files"]
            self._json({"files": [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in asked]})
            return
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                path = self.hub.root / "models" / repo_id / line["value"]["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(base64.b64decode(line["value"]["content"]))
        commit = self.hub.commit("models", repo_id)
        self._json({"commitUrl": f"{self.hub.url}/{repo_id}/commit/{commit}", "commitOid": commit, "success": True})

    def _api(self, kind: str, repo_id: str, what: str, rest: str, paths: list[str] | None, recursive: bool) -> None:
        revision, _, below = rest.partition("/")
        files = self._repository(kind, repo_id, revision)
        if files is None:
            return
        if what == "revision":
            commit = self.hub.commit(kind, repo_id)
            info = {"id": repo_id, "sha": commit, "private": False, "gated": False, "disabled": False, "tags": []}
            self._json(info | {"siblings": [{"rfilename": name} for name in files]})
        elif what == "tree" and below and not any(name.startswith(f"{below}/") for name in files):
            self._error("EntryNotFound")
        else:
            entries = _entries(files)
            if paths is not None:
                chosen = [entry for entry in entries if entry["path"] in paths]
            else:
                inside = [entry for entry in entries if entry["path"].startswith(f"{below}/" if below else "")]
                depth = below.count("/") + bool(below)
                chosen = [entry for entry in inside if recursive or entry["path"].count("/") == depth]
            self._json(chosen)

    def _file(self, kind: str, repo_id: str, revision: str, name: str) -> None:
        files = self._repository(kind, repo_id, revision)
        if files is None:
            return
        if name not in files:
            self._error("EntryNotFound")
            return
        data = files[name].read_bytes()
        headers = {"ETag": f'"{_etag(files[name])}"', "X-Repo-Commit": self.hub.commit(kind, repo_id)}
        headers |= {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            self._send(HTTPStatus.OK, data, headers)
            return
        start, stop = int(asked[1]), min(int(asked[2] or len(data) - 1) + 1, len(data))
        if start >= stop:
            self._send(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"", {"Content-Range": f"bytes */{len(data)}"})
            return
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        self._send(HTTPStatus.PARTIAL_CONTENT, data[start:stop], headers)

    def _repository(self, kind: str, repo_id: str, revision: str) -> dict[str, Path] | None:
        """The files at a revision; None where an error was sent instead."""
        files = self.hub.files(kind, repo_id)
        if not files:
            self._error("RepoNotFound")
            return None
        if revision not in ("main", self.hub.commit(kind, repo_id)):
            self._error("RevisionNotFound")
            return None
        return files

    def _error(self, code: str) -> None:
        self._send(HTTPStatus.NOT_FOUND, b"", {"X-Error-Code": code, "X-Error-Message": code})

    def _json(self, value: Any) -> None:
        self._send(HTTPStatus.OK, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: HTTPStatus, body: bytes, headers: dict[str, str]) -> None:
        sent = 0 if self.command == "HEAD" else len(body)
        self.hub.requests.append(
            Request(self.command, unquote(urlsplit(self.path).path), self.headers.get("Range"), int(status), sent)
        )
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        if sent:
            self.wfile.write(body)


def _entries(files: dict[str, Path]) -> list[dict[str, Any]]:
    """A tree's files and folders, as the API lists them."""
    folders = {parent.as_posix() for name in files for parent in Path(name).parents if parent.as_posix() != "."}
    entries = [{"type": "directory", "path": folder, "size": 0, "oid": "0" * 40} for folder in sorted(folders)]
    entries += [
        {"type": "file", "path": name, "size": path.stat().st_size, "oid": _etag(path)} for name, path in files.items()
    ]
    return entries
