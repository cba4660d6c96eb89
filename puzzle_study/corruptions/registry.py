"""Every corruption by name. To add one: a :class:`~puzzle_study.corruptions.base.Corruption`, and its line here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from puzzle_study.registry import Registry

if TYPE_CHECKING:
    from puzzle_study.corruptions.base import Corruption

_KINDS = "puzzle_study.corruptions.kinds"
CORRUPTIONS: Registry[type[Corruption]] = Registry(
    "corruption",
    {
        "brighter": f"{_KINDS}.light:Brighter",
        "darker": f"{_KINDS}.light:Darker",
        "contrast": f"{_KINDS}.light:Contrast",
        "dim_lamp": f"{_KINDS}.light:DimLamp",
        "gamma": f"{_KINDS}.light:Gamma",
        "colour_cast": f"{_KINDS}.light:ColourCast",
        "vignette": f"{_KINDS}.light:Vignette",
        "gaussian_noise": f"{_KINDS}.sensor:GaussianNoise",
        "shot_noise": f"{_KINDS}.sensor:ShotNoise",
        "dead_pixels": f"{_KINDS}.sensor:DeadPixels",
        "jpeg": f"{_KINDS}.sensor:Jpeg",
        "gaussian_blur": f"{_KINDS}.blur:GaussianBlur",
        "defocus_blur": f"{_KINDS}.blur:DefocusBlur",
        "motion_blur": f"{_KINDS}.blur:MotionBlur",
        "shift": f"{_KINDS}.geometry:Shift",
        "rotation": f"{_KINDS}.geometry:Rotation",
        "scale": f"{_KINDS}.geometry:Scale",
        "occlusion": f"{_KINDS}.occlusion:Occlusion",
    },
)
"""Classes of :class:`~puzzle_study.corruptions.base.Corruption` by their names in ``corruptions.kinds``."""


def misfit(kind: str, channels: int) -> str | None:
    """Return why a corruption cannot be made of images with so many channels, or None if it can."""
    allowed = CORRUPTIONS[kind].channels
    if not allowed or channels in allowed:
        return None
    wanted = " or ".join(map(str, allowed))
    return f"corruption {kind} needs images with {wanted} channels, and these have {channels}"
