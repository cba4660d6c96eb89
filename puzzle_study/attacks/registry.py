"""Every place to attack by name. To add one: a module with a :class:`~.places.base.Place`, and a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from puzzle_study.registry import Registry

if TYPE_CHECKING:
    from puzzle_study.attacks.places.base import Place

PLACES: Registry[type[Place]] = Registry(
    "attack",
    {
        "attack1": "puzzle_study.attacks.places.attack1:Attack1",
        "attack2": "puzzle_study.attacks.places.attack2:Attack2",
        "attack2_averaged": "puzzle_study.attacks.places.attack2_averaged:Attack2Averaged",
    },
)
"""Classes of :class:`~puzzle_study.attacks.places.base.Place` by their names in ``attacks.attacks``."""
