"""Defaults by data set, presets and variants: plain nested settings, merged under a study file.

Order, weakest first: the classes of :mod:`puzzle_study.config`, the data set, the preset, the study file,
its ``quick:`` section, ``--set``, the variant's own settings, the values of a search.
"""

from __future__ import annotations

from typing import Any

Layer = dict[str, Any]

TOY_SETS = ("digits", "mnist", "fashion_mnist")

DATASETS: dict[str, Layer] = {
    "digits": {
        "model": {"base_channels": 8},
        "train": {"epochs": 40, "batch_size": 32, "adversary": {"epsilon": 0.1}},
        "score": {"aggregation": "max"},
    },
    "mnist": {
        "train": {"epochs": 600, "plateau_factor": 0.5, "plateau_patience": 30, "adversary": {"epsilon": 0.1}},
        "score": {"aggregation": "max"},
    },
    "fashion_mnist": {"train": {"epochs": 600, "adversary": {"epsilon": 0.07}}, "score": {"aggregation": "max"}},
    "cifar10": {"train": {"epochs": 2000, "adversary": {"epsilon": 10 / 255}}, "score": {"aggregation": "avg"}},
    "coil100": {"train": {"epochs": 2000, "adversary": {"epsilon": 10 / 255}}, "score": {"aggregation": "avg"}},
    "mvtec": {
        "data": {"augment_to": 800},
        "train": {"epochs": 3000, "batch_size": 8, "adversary": {"epsilon": 0.01}},
        "score": {"aggregation": "avg"},
    },
    "folder": {
        "data": {"augment_to": 800},
        "train": {"epochs": 3000, "batch_size": 8, "adversary": {"epsilon": 0.01}},
        "score": {"aggregation": "avg"},
    },
    "head_ct": {
        "train": {"epochs": 3000, "batch_size": 8, "adversary": {"epsilon": 0.07}},
        "score": {"aggregation": "avg"},
    },
    "brain_mri": {
        "train": {"epochs": 3000, "batch_size": 8, "adversary": {"epsilon": 0.07}},
        "score": {"aggregation": "avg"},
    },
}

PRESETS: dict[str, Layer] = {
    "paper": {},
    "authors_code": {
        "puzzle": {"per_batch": True},
        "train": {
            "feature_loss": "elementwise",
            "adversary": {"noise": "twice", "target": "noisy", "alpha": 2.0},
        },
        "score": {"error": "mse", "puzzle_set": "all"},
    },
    "fast": {
        "model": {"initialisation": "he"},
        "train": {"batch_size": 32, "schedule": "one_cycle", "learning_rate": 3e-3},
    },
}

VARIANTS: dict[str, Layer] = {
    "PAE": {"puzzle": {"hide": "none"}, "train": {"lambda": 0.0}},
    "CPAE": {"train": {"lambda": 0.0}},
    "CPAE-G": {},
    "Rot-AE": {"puzzle": {"kind": "rotation"}},
}


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
