"""Every kind of pseudo-anomaly by name. To add one: a module with a :class:`Kind`, and a line.

A new kind takes its share of the bank from the others, so records change: raise ``RECORD_FORMAT`` with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from puzzle_study.registry import Registry

if TYPE_CHECKING:
    from puzzle_study.criteria.kinds.base import Kind

KINDS: Registry[Kind] = Registry(
    "kind of pseudo-anomaly",
    {
        name: f"puzzle_study.criteria.kinds.{name}:KIND"
        for name in (
            "cut_paste",
            "foreign_piece",
            "local_noise",
            "scar",
            "foreign_texture",
            "elastic",
            "tone",
            "fade",
            "blur",
            "phase",
            "jigsaw",
            "rot90",
            "halves",
            "mixup",
        )
    },
)
