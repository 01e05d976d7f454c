"""A hub of one model, as the Hugging Face client speaks to one: its listing, its files, and what was asked for."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

from http_server import answering


class Hub:
    """A model ``OWNER/NAME`` at one commit, whose files are those of a folder.

    Args:
        folder: of the files.
        repo: the model's name.
        token: that a client has to bring; any client may ask if empty.
    """

    def __init__(self, folder: Path, repo: str, token: str = "") -> None:
        self.folder, self.repo, self.token = folder, repo, token
        self.commit = "c0ffee" + 34 * "0"
        self.asked: list[str] = []
        """Method and path of every request, and the proxy's form of it where a proxy was asked."""

    def files(self) -> dict[str, bytes]:
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in self.folder.rglob("*.*")}

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        model, files = f"/api/models/{self.repo}", self.files()
        if path in (f"{model}/revision/main", f"{model}/revision/{self.commit}"):
            return 200, {}, json.dumps({"id": self.repo, "sha": self.commit, "siblings": []}).encode()
        if path == f"{model}/tree/{self.commit}":
            tree = [{"type": "file", "path": name, "size": len(files[name]), "oid": oid(files[name])} for name in files]
            return 200, {}, json.dumps(tree).encode()
        beginning = f"/{self.repo}/resolve/{self.commit}/"
        if path.startswith(beginning) and (name := path.removeprefix(beginning)) in files:
            return 200, {"ETag": f'"{oid(files[name])}"', "X-Repo-Commit": self.commit}, files[name]
        known = path.startswith((model, f"/{self.repo}/"))
        return 404, {"X-Error-Code": "RevisionNotFound" if known else "RepoNotFound"}, b"{}"


def oid(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


@contextmanager
def serving_hub(hub: Hub) -> Iterator[str]:
    """Its address, while it runs. As a proxy for ``http://`` it answers for every host."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_request(self) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            path = unquote(urlsplit(self.path).path)
            status, headers, body = hub.answer(path)
            if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                status, headers, body = 401, {"X-Error-Code": "GatedRepo"}, b"{}"
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_GET = do_HEAD = handle_request

        def do_CONNECT(self) -> None:
            hub.asked.append(f"CONNECT {self.path}")
            self.send_error(403)

        def log_message(self, *_: object) -> None:
            """Nothing: pytest shows what matters."""

    with answering(Handler) as port:
        yield f"http://127.0.0.1:{port}"
