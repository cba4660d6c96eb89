"""A study's trials on Ray Tune."""

from __future__ import annotations

from typing import Any


class OutOfSnapshots:
    """Leaves its state out of Ray's snapshots: a study continues from its records, never from Ray's state."""

    def __getstate__(self) -> dict[str, Any]:
        return {}
