"""Makes the paths in a study file absolute, once, when the file is read."""

from __future__ import annotations

import os
from pathlib import Path

from puzzle_study.config import layers
from puzzle_study.config.forms import Form
from puzzle_study.config.types import Layer
from puzzle_study.datasets.catalogue import DATASETS, DEFAULT_ROOT


def is_url(storage: str | None) -> bool:
    """Whether a study's `storage` is a URL and not a folder."""
    return storage is not None and "://" in storage


def with_absolute_paths(document: Layer, form: Form) -> Layer:
    """Return a document with absolute paths, from the current folder, so that all workers use the same files.

    Anything that is not a path, or has the wrong type, is unchanged.
    """
    found: Layer = {}
    if isinstance(data := document.get("data"), dict):
        info, root = DATASETS.get(str(data.get("name"))), data.get("root")
        if root is None and info is not None and info.in_a_folder:
            root = DEFAULT_ROOT
        if isinstance(root, str):
            found["data"] = {"root": _absolute(root)}
    if isinstance(storage := document.get("storage"), str) and not is_url(storage):
        found["storage"] = _absolute(storage)
    for name in form.names:
        own = form.own(document, name)
        for setting in form.settings_class(name).PATHS if isinstance(own, dict) else ():
            if isinstance(path := own.get(setting), str):
                place = ".".join((*form.place(name), setting))
                found = layers.merge(found, layers.nested(place, _absolute(path)))
    return layers.merge(document, found)


def _absolute(path: str) -> str:
    """Return an absolute path; links are kept, because they may lead elsewhere on another node."""
    return str(Path(os.path.expanduser(path)).absolute())  # noqa: PTH111 - Path's own raises for an unknown user
