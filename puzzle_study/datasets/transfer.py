"""One download over HTTP that resumes after an interruption."""

from __future__ import annotations

import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puzzle_study import __version__

ATTEMPTS = 4
TIMEOUT_S = 30.0
PAUSE_S = 2.0
"""Wait before the second attempt; doubled for each further one."""
CHUNK = 1 << 18


class TransferError(Exception):
    """A failed download; the text gives the reason as part of a sentence."""


@dataclass(frozen=True)
class Resuming:
    """Downloader for :func:`pooch.retrieve` that writes to ``partial``, which is kept after an interruption.

    A partial file is continued only if the server still has the same version (by ETag or date). Pooch compares
    the checksum at the end.
    """

    partial: Path
    max_bytes: int
    progress: Callable[[int, int | None], None]
    """Called with the bytes there and, if the server states it, the bytes in total."""

    def __call__(self, url: str, output_file: Any, pooch: object) -> None:
        """Download ``url`` into ``output_file``."""
        reason = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(PAUSE_S * 2 ** (attempt - 1))
            try:
                self._continue(url)
            except urllib.error.HTTPError as error:
                reason = f"the server answers {error.code} {error.reason}"
                if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                    self.partial.unlink(missing_ok=True)  # it is complete or too long: start again
                elif error.code < 500 and error.code != http.client.TOO_MANY_REQUESTS:
                    raise TransferError(reason) from None
            except (OSError, http.client.HTTPException) as error:
                reason = str(getattr(error, "reason", None) or error) or type(error).__name__
            else:
                self.partial.replace(output_file)
                self._marks.unlink(missing_ok=True)
                return
        there = self.partial.stat().st_size if self.partial.exists() else 0
        raise TransferError(f"{reason}; {there:,} bytes are kept and the next attempt continues from there")

    @property
    def _marks(self) -> Path:
        """File beside the partial one with its URL and version."""
        return self.partial.with_name(self.partial.name + ".json")

    def _continue(self, url: str) -> None:
        """Fetch the missing part; raise OSError if the connection ends early."""
        request = urllib.request.Request(url, headers={"User-Agent": f"puzzle-study/{__version__}"})
        version, start = self._resumable(url)
        if start:
            request.add_header("Range", f"bytes={start}-")
            request.add_header("If-Range", version)
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            if response.status != http.client.PARTIAL_CONTENT:
                start = 0
            elif not (response.headers.get("Content-Range") or "").startswith(f"bytes {start}-"):
                self.partial.unlink()
                raise ConnectionError("the server continued at the wrong position")
            self._note(url, response.headers)
            length = response.headers.get("Content-Length")
            total = start + int(length) if length else None
            self._append(response, start, total)

    def _append(self, response: http.client.HTTPResponse, start: int, total: int | None) -> None:
        there, chunk = start, b"first"
        with self.partial.open("ab" if start else "wb") as file:
            while chunk:
                if max(there, total or 0) > self.max_bytes:
                    raise TransferError(f"the server sends more than the expected maximum of {self.max_bytes:,} bytes")
                self.progress(there, total)
                chunk = response.read(CHUNK)
                there += file.write(chunk)
        if total is not None and there < total:
            raise ConnectionError(f"the connection ended after {there:,} of {total:,} bytes")

    def _resumable(self, url: str) -> tuple[str, int]:
        """Return version and size of the partial file, or nothing if it cannot be continued."""
        try:
            marks = json.loads(self._marks.read_text())
            if marks["url"] == url and marks["version"]:
                return str(marks["version"]), self.partial.stat().st_size
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return "", 0

    def _note(self, url: str, headers: http.client.HTTPMessage) -> None:
        # A weak ETag (W/...) does not guarantee equal bytes.
        strong = [tag for tag in headers.get_all("ETag", []) if re.fullmatch(r'"[^"]*"', tag)]
        version = strong[0] if strong else headers.get("Last-Modified", "")
        self._marks.write_text(json.dumps({"url": url, "version": version}))
