"""Shows what trials write to their logs, as it is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


class LogFollower:
    """Prints whole lines as they come, each behind the name of its trial; what is there already is not shown.

    Args:
        folder: where the logs are.
        say: prints a line.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._folder, self._say = folder, say
        self._shown = {path: path.stat().st_size for path in folder.glob("*.log")}

    def print_new(self) -> None:
        """Print the lines that were added since the last call."""
        for path in sorted(self._folder.glob("*.log")):
            start = self._shown.get(path, 0)
            if path.stat().st_size <= start:
                continue
            with path.open("rb") as file:
                file.seek(start)
                lines, newline, _ = file.read().rpartition(b"\n")
            self._shown[path] = start + len(lines) + len(newline)
            for line in lines.decode(errors="replace").splitlines():
                self._say(f"{path.stem} {line}")
