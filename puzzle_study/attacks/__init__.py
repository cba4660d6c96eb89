"""White-box and black-box attacks on anomaly scores (paper, section 4.3), and the reasons to distrust them.

Importing this package is light; torch is imported with :func:`run_attacks` and :class:`AttackResult`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from puzzle_study.attacks.specs import AttackSpec, attack_spec, attack_specs

if TYPE_CHECKING:
    from puzzle_study.attacks.running import AttackResult, run_attacks

__all__ = ["AttackResult", "AttackSpec", "attack_spec", "attack_specs", "run_attacks"]


def __getattr__(name: str) -> Any:
    if name in ("AttackResult", "run_attacks"):
        from puzzle_study.attacks import running

        return getattr(running, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
