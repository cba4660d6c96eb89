"""Layers of settings: plain nested dictionaries, merged under a study file.

Order, weakest first: the classes, the data set, the preset, what the preset says of the data set, the study file, its
``quick:`` section, ``--set``, the values of a search, the variant's own settings. Each detector's settings hold its own
defaults, presets and variants (:class:`~puzzle_study.config.types.DetectorSettings`).
"""

from __future__ import annotations

from typing import Any

from puzzle_study.config.types import DetectorSettings, Layer
from puzzle_study.errors import UserError, cut


def resolved(settings: type[DetectorSettings], own: Layer, dataset: str, *, variant_is_chosen: bool = False) -> Layer:
    """Merge a detector's defaults under what a study file says of it, and the variant's own settings over it.

    A layer of defaults may hold a ``data`` section as well.

    Args:
        settings: the class of the detector's settings.
        own: what the study file says of the detector.
        dataset: name of the data set.
        variant_is_chosen: whether a search has chosen the variant, which may then contradict the file.

    Raises:
        UserError: the file contradicts its variant.
    """
    forced = settings.VARIANTS.get(str(own.get("variant", _default(settings, "variant"))), {})
    if not variant_is_chosen:
        given = leaves(own)
        for dotted, value in leaves(forced).items():
            if dotted in given and given[dotted] != value:
                says = f"{dotted} is set to {cut(str(given[dotted]))}"
                raise UserError(
                    f"variant {own.get('variant')} means {dotted} = {value}, but {says}; leave one of the two out"
                )
    by_dataset = settings.DATASETS.get(dataset, {})
    name = str(own.get("preset", by_dataset.get("preset", _default(settings, "preset"))))
    preset = merge(settings.PRESETS.get(name, {}), settings.PRESETS_BY_DATASET.get(name, {}).get(dataset, {}))
    return merge(by_dataset, preset, own, forced)


def _default(settings: type[DetectorSettings], name: str) -> Any:
    return settings.model_fields[name].default if name in settings.model_fields else None


def merge(*layers: Layer) -> Layer:
    """Return nested settings in which later layers win; the layers themselves stay as they are."""
    merged: Layer = {}
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, dict) and isinstance(merged.get(key), dict):
                merged[key] = merge(merged[key], value)
            else:
                merged[key] = merge(value) if isinstance(value, dict) else value
    return merged


def nested(dotted: str, value: Any) -> Layer:
    """Return ``{"a": {"b": value}}`` for ``a.b``."""
    for key in reversed(dotted.split(".")):
        value = {key: value}
    return dict(value)


def leaves(layer: Layer, prefix: str = "") -> dict[str, Any]:
    """Return the values of nested settings by dotted name."""
    flat: dict[str, Any] = {}
    for key, value in layer.items():
        if isinstance(value, dict):
            flat.update(leaves(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
