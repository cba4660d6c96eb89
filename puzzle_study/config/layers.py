"""Layers of settings: plain nested dictionaries, merged under a study file.

Order, weakest first: the classes, the data set, the preset, the preset for the data set, the study file, its
``quick:`` section, ``--set``, a search's values, the variant. Each detector's settings have its own
defaults, presets and variants (:class:`~puzzle_study.config.types.DetectorSettings`).
"""

from __future__ import annotations

from typing import Any

from puzzle_study.config.types import DetectorSettings, Layer
from puzzle_study.errors import UserError, cut


def resolved(settings: type[DetectorSettings], own: Layer, dataset: str, *, variant_is_chosen: bool = False) -> Layer:
    """Merge a detector's defaults under its settings in the study file, and the variant's settings over them.

    Defaults may include a ``data`` section.

    Args:
        settings: the class of the detector's settings.
        own: the detector's settings in the study file.
        dataset: name of the data set.
        variant_is_chosen: a search has chosen the variant, which may then contradict the file.

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
                    f"variant {own.get('variant')} means {dotted} = {value}, but {says}; remove one of the two"
                )
    by_dataset = settings.DATASETS.get(dataset, {})
    name = str(own.get("preset", by_dataset.get("preset", _default(settings, "preset"))))
    preset = merge(settings.PRESETS.get(name, {}), settings.PRESETS_BY_DATASET.get(name, {}).get(dataset, {}))
    return merge(by_dataset, preset, own, forced)


def _default(settings: type[DetectorSettings], name: str) -> Any:
    return settings.model_fields[name].default if name in settings.model_fields else None


def merge(*layers: Layer) -> Layer:
    """Return nested settings in which later layers win; the layers are unchanged."""
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
