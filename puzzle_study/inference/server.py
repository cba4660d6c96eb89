"""A page on this machine that scores images: drop them, see scores, maps and the threshold.

The standard library's server is enough for one page and one kind of upload, without a further package. It listens on
loopback. It answers only requests that name loopback as their host, so that no web site reaches it under its own name.
It takes uploads from its own page only, reads no more than a limit, and has no path that leads to a file.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources

from puzzle_study.errors import UserError
from puzzle_study.inference.judging import Judge

LOOPBACK = "127.0.0.1"
HOSTS = (LOOPBACK, "localhost")
MOST_BYTES = 64 << 20
"""Of an uploaded file; how many pixels it may hold is limited when it is decoded."""
MOST_AT_ONCE = 4
"""Uploads in memory at the same time."""
SECONDS = 30
"""That a client may be silent."""
UPLOAD = "application/octet-stream"
"""No form of another site can send this type without asking first, which is never allowed."""


class Server(ThreadingHTTPServer):
    """Serves the page of some detectors.

    Args:
        judges: by the name that the page shows.
        port: 0: any that is free.

    Raises:
        OSError: the port is in use.
    """

    daemon_threads = True

    def __init__(self, judges: Mapping[str, Judge], port: int) -> None:
        self.judges = dict(judges)
        self.page, self.policy = _page([(name, judge.rate) for name, judge in self.judges.items()])
        self.room = threading.BoundedSemaphore(MOST_AT_ONCE)
        super().__init__((LOOPBACK, port), _Handler)

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{LOOPBACK}:{self.server_port}/"


class _Refused(Exception):
    """A request that gets a status and a sentence instead of an answer."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = SECONDS
    server_version, sys_version = "puzzle_study", ""

    def do_GET(self) -> None:
        self._answered(self._get)

    def do_POST(self) -> None:
        self._answered(self._post)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing of requests."""

    def _answered(self, work: Callable[[], None]) -> None:
        """Do the work of a request, and say what went wrong."""
        try:
            self._require_own()
            work()
        except _Refused as refused:
            self.close_connection = True  # what is left of an upload is not read
            self._send_json(refused.status, {"error": str(refused)})
        except UserError as error:
            self._send_json(HTTPStatus.UNPROCESSABLE_ENTITY, {"error": str(error)})
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception:
            traceback.print_exc()
            self._send_json(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": "it failed; the terminal says why"})

    def _require_own(self) -> None:
        """Refuse what another web site makes a browser ask."""
        own = [f"{host}:{self.server.server_port}" for host in HOSTS]
        if self.headers.get("Host") not in own:
            raise _Refused(HTTPStatus.FORBIDDEN, f"ask for {self.server.address}")
        if self.headers.get("Origin") not in (None, *(f"http://{host}" for host in own)):
            raise _Refused(HTTPStatus.FORBIDDEN, "only the page itself may upload")

    def _get(self) -> None:
        if self.path != "/":
            raise _Refused(HTTPStatus.NOT_FOUND, "there is one page, /")
        self._send(HTTPStatus.OK, "text/html; charset=utf-8", self.server.page)

    def _post(self) -> None:
        names = list(self.server.judges)
        found = re.fullmatch(r"/score/(\d{1,6})", self.path)
        if found is None or int(found[1]) >= len(names):
            raise _Refused(HTTPStatus.NOT_FOUND, "there is no such detector")
        if self.headers.get("Content-Type") != UPLOAD:
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"send the file as {UPLOAD}")
        if not self.server.room.acquire(blocking=False):
            raise _Refused(HTTPStatus.SERVICE_UNAVAILABLE, "too many images at once; try again")
        try:
            verdict = self.server.judges[names[int(found[1])]].judge(self._upload())
        finally:
            self.server.room.release()
        self._send_json(HTTPStatus.OK, asdict(verdict))

    def _upload(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"\d{1,12}", length) or "Transfer-Encoding" in self.headers:
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "say how long the file is")
        if int(length) > MOST_BYTES:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the file has more than {MOST_BYTES >> 20} MiB")
        content = self.rfile.read(int(length))
        if len(content) != int(length):
            raise ConnectionAbortedError
        return content

    def _send_json(self, status: HTTPStatus, content: Mapping[str, object]) -> None:
        self._send(status, "application/json", json.dumps(content).encode())

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Content-Security-Policy": self.server.policy,
            "Cache-Control": "no-store",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def _page(detectors: Sequence[tuple[str, float]]) -> tuple[bytes, str]:
    """Return the page and its content security policy, which allows its own style and script and nothing else.

    Args:
        detectors: name and false-positive rate of each. Not by name: JavaScript puts names like 3 first.
    """
    text = resources.files("puzzle_study.inference").joinpath("page.html").read_text(encoding="utf-8")
    hashes = {name: _hash(re.findall(rf"<{name}>(.*?)</{name}>", text, re.DOTALL)[0]) for name in ("style", "script")}
    policy = (
        f"default-src 'none'; style-src '{hashes['style']}'; script-src '{hashes['script']}'; img-src data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    text = text.replace("{{most_bytes}}", str(MOST_BYTES)).replace("{{detectors}}", html.escape(json.dumps(detectors)))
    return text.encode(), policy


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
