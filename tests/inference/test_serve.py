"""``puzzle-study serve``: over real HTTP, and in a real browser; who may ask, and what is refused."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from puzzle_study import score
from puzzle_study.inference import server as module
from puzzle_study.inference.judging import Judge
from puzzle_study.inference.server import LOOPBACK, UPLOAD, Server
from puzzle_study.serve import main

from ..core import tiny
from ..reporting.browser import Browser, find_chromium
from .conftest import save_detector
from .pictures import write_damaged, write_many

NAME = '"><script>alert(1)</script>'


@pytest.fixture
def server(best: Path) -> Iterator[Server]:
    """A running server of a detector in colour with a nasty name, and a gray one."""
    save_detector(best.parent / "other", channels=3, side=18)
    judges = {NAME: Judge(best.parent / "other", 0.2, tiny.CPU), "3": Judge(best / "3", 0.2, tiny.CPU)}
    with Server(judges, 0) as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def ask(
    server: Server, method: str, path: str, body: bytes = b"", changed: Mapping[str, str | None] = {}
) -> tuple[int, Any, Any]:
    """Status, headers and content of the answer to a request, with headers changed or left out."""
    names: dict[str, str | None] = {
        "Host": f"{LOOPBACK}:{server.server_port}",
        "Content-Type": UPLOAD,
        "Content-Length": str(len(body)),
    }
    names |= changed
    connection = http.client.HTTPConnection(LOOPBACK, server.server_port, timeout=60)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in names.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    kind = answer.headers["Content-Type"]
    return answer.status, answer.headers, json.loads(content) if kind == "application/json" else content.decode()


def test_an_image_gets_what_score_says_and_its_map(server: Server, best: Path, tmp_path: Path) -> None:
    paths = write_many(tmp_path / "images", 3)
    words = [str(best / "3"), str(tmp_path / "images"), "--fpr", "0.2", "--format", "json"]
    expected = map(json.loads, CliRunner().invoke(score.main, words).stdout.splitlines())
    for path, row in zip(paths, expected, strict=True):
        status, headers, found = ask(server, "POST", "/score/1", path.read_bytes())
        assert status == 200
        assert found["score"] == pytest.approx(row["score"], rel=1e-4)
        assert found["flagged"] is row["flagged"] is (found["score"] > found["threshold"])
        assert (round(found["percentile"], 1), found["validation_images"]) == (row["percentile"], 19)
        with Image.open(io.BytesIO(base64.b64decode(found["map"]))) as picture:
            assert (picture.format, picture.size) == ("PNG", (512, 512))
        assert headers["X-Content-Type-Options"] == "nosniff"
    assert ask(server, "POST", "/score/0", paths[0].read_bytes())[2]["score"] != found["score"]


def test_the_page_allows_nothing_but_itself_and_names_are_text(server: Server) -> None:
    status, headers, page = ask(server, "GET", "/")
    assert status == 200
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "<script>alert" not in page
    assert not re.search(r"https?://", page)
    assert server.server_address[0] == LOOPBACK


@pytest.mark.parametrize(
    ("method", "path", "changed", "status"),
    [
        ("GET", "/", {"Host": "evil.example:80"}, 403),
        ("GET", "/", {"Host": None}, 403),
        ("POST", "/score/0", {"Host": "evil.example"}, 403),
        ("POST", "/score/0", {"Origin": "http://evil.example"}, 403),
        ("POST", "/score/0", {"Origin": "null"}, 403),
        ("POST", "/score/0", {"Content-Type": "image/png"}, 415),
        ("POST", "/score/0", {"Content-Type": "multipart/form-data"}, 415),
        ("POST", "/score/0", {"Content-Length": None}, 411),
        ("POST", "/score/0", {"Content-Length": "-1"}, 411),
        ("POST", "/score/0", {"Content-Length": None, "Transfer-Encoding": "chunked"}, 411),
        ("POST", "/score/0", {"Content-Length": str(module.MOST_BYTES + 1)}, 413),
        ("POST", "/score/2", {}, 404),
        ("POST", "/score/-1", {}, 404),
        ("POST", "/", {}, 404),
        ("GET", "/../../etc/passwd", {}, 404),
        ("GET", "/page.html", {}, 404),
        ("OPTIONS", "/score/0", {}, 501),
    ],
)
def test_what_is_not_the_pages_own_is_refused(
    method: str, path: str, changed: dict[str, str | None], status: int, server: Server
) -> None:
    found, headers, _ = ask(server, method, path, changed=changed)
    assert found == status
    assert "Access-Control-Allow-Origin" not in headers


def test_what_cannot_be_read_is_a_sentence_without_paths_of_this_machine(server: Server, tmp_path: Path) -> None:
    Image.new("1", (10_000, 10_000)).save(tmp_path / "bomb.png")
    for path, sentence in [
        *((path, "this file is not a readable image") for path in write_damaged(tmp_path / "images")),
        (tmp_path / "bomb.png", "this file has more than 89,478,485 pixels"),
    ]:
        status, _, found = ask(server, "POST", "/score/1", path.read_bytes())
        assert status == 422
        assert found["error"].startswith(sentence)
        assert "tmp" not in found["error"]


def test_too_many_uploads_at_once_are_asked_to_wait(server: Server) -> None:
    for _ in range(module.MOST_AT_ONCE):
        assert server.room.acquire(blocking=False)
    assert ask(server, "POST", "/score/1")[0] == 503
    server.room.release()
    assert ask(server, "POST", "/score/1")[0] == 422
    # Its place is free again.
    assert ask(server, "POST", "/score/1")[0] == 422


def test_a_client_that_falls_silent_is_left(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    sent, setup = threading.Event(), module._Handler.setup

    def set_up_once_sent(handler: module._Handler) -> None:
        assert sent.wait(60)
        setup(handler)

    with monkeypatch.context() as patch:
        patch.setattr(module._Handler, "timeout", 0.05)
        patch.setattr(module._Handler, "setup", set_up_once_sent)
        client = socket.create_connection((LOOPBACK, server.server_port), timeout=60)
        head = f"POST /score/1 HTTP/1.0\r\nHost: {LOOPBACK}:{server.server_port}\r\nContent-Type: {UPLOAD}\r\n"
        client.sendall(f"{head}Content-Length: 100\r\n\r\nhalf".encode())
        sent.set()
        assert client.recv(1) == b""
        client.close()
    assert ask(server, "POST", "/score/1")[0] == 422


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere"], "nowhere is not a folder; give a folder like results/NAME/best/CLASS"),
        (["broken"], "broken/detector.json cannot be read"),
        (["results/tiny", "--fpr", "nan"], "nan is not a share"),
    ],
)
def test_a_mistake_is_one_sentence(
    words: list[str], sentence: str, best: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken").mkdir()
    Path("broken/detector.json").write_text("{")
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert sentence in done.stderr


def test_a_port_in_use_is_one_sentence(server: Server, best: Path) -> None:
    done = CliRunner().invoke(main, [str(best), "--port", str(server.server_port)])
    assert done.exit_code == 2
    assert re.search(
        rf"port {server.server_port} of 127\.0\.0\.1 cannot be used \(.*\); give another --port", done.stderr
    )


@pytest.mark.slow
def test_the_command_serves_every_detector_of_a_study_until_ctrl_c(best: Path) -> None:
    save_detector(best / "8", normal_class="8")
    process = subprocess.Popen(
        [sys.executable, "-m", "puzzle_study.serve", best.parent, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    said = process.stdout.readline()
    found = re.match(r"(http://127\.0\.0\.1:\d+/) scores images by 3, 8; Ctrl-C ends it", said)
    assert found, said
    with urllib.request.urlopen(found[1], timeout=60) as answer:
        assert b"Score images" in answer.read()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0


CHROMIUM = find_chromium()
VERDICTS = "[...document.querySelectorAll('#results .verdict')].map((one) => one.textContent)"
DROP = """
    (() => {
      const data = new DataTransfer();
      data.items.add(new File(["no image"], "<b>text</b>.png"));
      document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: data}));
    })()
"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)")
def test_in_a_browser_images_that_are_chosen_or_dropped_get_scores_and_maps(server: Server, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    paths = write_many(tmp_path / "images", 2, side=64)
    with Browser(CHROMIUM, tmp_path / "profile") as browser:
        browser.open(server.address, width=390, height=844)
        assert browser.evaluate("[...document.getElementById('detector').options].map((one) => one.text)") == [
            NAME,
            "3",
        ]
        root = browser.send("DOM.getDocument")["root"]["nodeId"]
        node = browser.send("DOM.querySelector", nodeId=root, selector="#files")["nodeId"]
        browser.send("DOM.setFileInputFiles", nodeId=node, files=list(map(str, paths)))
        browser.evaluate(DROP)
        end = time.monotonic() + 60
        while len(said := browser.evaluate(VERDICTS)) < 3:
            assert time.monotonic() < end, said
        assert said[
            0
        ] == "not scored: this file is not a readable image (its content is not a known image format); " + (
            "replace it by an undamaged copy or remove it"
        )
        assert all(re.fullmatch(r"(not )?flagged, score [\d.]+", one) for one in said[1:])
        maps = "Promise.all([...document.querySelectorAll('img[alt=\"anomaly map\"]')].map((one) => one.decode()))"
        assert len(browser.evaluate(maps)) == 2
        assert browser.evaluate("document.querySelectorAll('b').length") == 0
        inside, outside = browser.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert inside <= outside
        asked = {entry["request"]["url"] for entry in browser.named("Network.requestWillBeSent")}
        assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {
            server.address,
            f"{server.address}score/0",
        }
        assert browser.named("Runtime.exceptionThrown") == []
