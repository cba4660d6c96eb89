"""The two forms of a study file: one detector with its sections at the top, or several below ``detectors``.

The form decides the names of settings: ``train.epochs``, or ``puzzle_ae.train.epochs`` with several detectors.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from puzzle_study.config.study import Settings, Study
from puzzle_study.config.types import DetectorSettings, Layer
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.errors import UserError

ONE, SEVERAL = "detector", "detectors"
SHARED = ("data", "evaluate")
"""Sections of a configuration that all detectors share."""
Tree = dict[str, "Tree | None"]


@dataclass(frozen=True)
class Form:
    """A study file's detectors, in its order, and whether they are below ``detectors``."""

    names: tuple[str, ...]
    several: bool

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Form:
        """Return the form of a document."""
        if SEVERAL not in document:
            named = document.get(ONE, DETECTORS.default)
            if not isinstance(named, str):
                raise UserError("`detector` must be one detector's name; `detectors` lists several")
            return cls((named,), several=False)
        listed = document[SEVERAL]
        if ONE in document:
            raise UserError("`detector` names one and `detectors` lists several; remove one of the two")
        if not isinstance(listed, dict) or not listed:
            raise UserError("`detectors` must be a section whose keys are detectors, such as `pca: {}`")
        return cls(tuple(map(str, listed)), several=True)

    @classmethod
    def of_study(cls, study: Study) -> Form:
        """Return the form of a resolved study."""
        searched = study.search.space if study.search is not None else {}
        return cls(tuple(study.detectors), several=len(study.detectors) > 1 or ONE in searched)

    def settings_class(self, detector: str) -> type[DetectorSettings]:
        """Return the class of a detector's settings."""
        return DETECTORS[detector].Settings

    def place(self, detector: str) -> tuple[str, ...]:
        """Return where a detector's settings are in the document."""
        return (SEVERAL, detector) if self.several else ()

    def prefix(self, detector: str) -> str:
        """Return the prefix of a detector's setting names."""
        return f"{detector}." if self.several else ""

    def own(self, document: Mapping[str, Any], detector: str) -> Any:
        """Return a detector's own settings in a document."""
        if self.several:
            return {} if document[SEVERAL][detector] is None else document[SEVERAL][detector]
        return own_part(self.settings_class(detector), document)

    def shared(self, document: Mapping[str, Any]) -> Layer:
        """Return a document's settings other than the detectors'."""
        if self.several:
            return {name: value for name, value in document.items() if name != SEVERAL}
        keys = section_keys(self.settings_class(self.names[0]))
        return {name: value for name, value in document.items() if name not in keys and name != ONE}

    def tree(self) -> Tree:
        """Return a document's allowed keys with those below them, the detectors' own first."""
        own: Tree = {SEVERAL: {name: key_tree(self.settings_class(name)) for name in self.names}}
        if not self.several:
            own = {ONE: None} | key_tree(self.settings_class(self.names[0]))
        return own | {name: below for name, below in key_tree(Study).items() if name != SEVERAL}

    def resolve(self, setting: str) -> tuple[type[BaseModel], str] | None:
        """Return a setting's class and its name within it, or None if no detector here has it."""
        head, _, rest = setting.partition(".")
        if head in SHARED:
            return Settings, setting
        if self.several:
            return (self.settings_class(head), rest) if head in self.names and rest else None
        return self.settings_class(self.names[0]), setting

    def detector_of(self, setting: str) -> str | None:
        """Return the detector that owns a setting, or None if all share it."""
        head = setting.partition(".")[0]
        if not self.several:
            return None if head in (*SHARED, ONE) else self.names[0]
        return head if head in self.names else None

    def setting_names(self) -> list[str]:
        """Return the names of all settings except the detector, the detectors' own first."""
        shared = {section: key_tree(Settings)[section] for section in SHARED}
        own = [leaf_names(key_tree(self.settings_class(name)), self.prefix(name)) for name in self.names]
        return [*itertools.chain.from_iterable(own), *leaf_names(shared)]

    def free(self) -> dict[str, str]:
        """Return the settings that need no training: the name in this form, and the detector's own name."""
        return {
            f"{self.prefix(detector)}{name}": name
            for detector in self.names
            for name in self.settings_class(detector).FREE
        }


def section_keys(model: type[BaseModel]) -> dict[str, type[BaseModel] | None]:
    """Return the YAML keys of a section, each with its own section class if it has one."""
    return {
        (entry.alias or name): (None if name in ("space", SEVERAL) else _model(entry.annotation))
        for name, entry in model.model_fields.items()
    }


def own_part(model: type[BaseModel], layer: Mapping[str, Any]) -> Layer:
    """Return the part of a layer that belongs to a section."""
    keys = section_keys(model)
    return {name: value for name, value in layer.items() if name in keys}


def key_tree(model: type[BaseModel]) -> Tree:
    """Return the YAML keys of a section, each with those below it."""
    return {name: key_tree(below) if below else None for name, below in section_keys(model).items()}


def leaf_names(tree: Tree, prefix: str = "") -> list[str]:
    """Return the dotted names of the leaves of a tree of keys."""
    names = []
    for key, below in tree.items():
        names += leaf_names(below, f"{prefix}{key}.") if below else [f"{prefix}{key}"]
    return names


def _model(annotation: Any) -> type[BaseModel] | None:
    """Return the section class inside an annotation such as ``Search | None``."""
    parts = getattr(annotation, "__args__", ())
    # Python 3.10 takes tuple[int, ...] for a class.
    if not parts and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return None if annotation is DetectorSettings else annotation
    for part in parts:
        if (found := _model(part)) is not None:
            return found
    return None
