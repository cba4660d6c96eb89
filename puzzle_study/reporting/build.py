"""Builds ``report/index.html``, its figures and its tables from the files of a study."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puzzle_study.io import replacing, write_text
from puzzle_study.reporting import page, reading
from puzzle_study.reporting.blocks import Figure, Folded, Section, Table
from puzzle_study.reporting.sections import comparison
from puzzle_study.reporting.sections.registry import SECTIONS
from puzzle_study.reporting.write_tables import write_table

if TYPE_CHECKING:
    from puzzle_study.reporting.study_data import StudyData
    from puzzle_study.results import Results


def build(
    results: Results, *, others: Sequence[Results], output: Path, environment: Mapping[str, Any] | None = None
) -> Path:
    """Write the report into a folder; see :func:`puzzle_study.reporting.build_report`."""
    data = reading.load(results, environment)
    compared = [reading.load(other) for other in others]
    _remove_previous(output)
    sections = _sections(data, compared)
    for block in (block for section in sections for block in section.blocks):
        if isinstance(block, Table):
            write_table(block, output / "tables")
        elif isinstance(block, Figure):
            for suffix, content in (("png", block.png), ("svg", block.svg)):
                with replacing(output / "figures" / f"{block.name}.{suffix}") as temporary:
                    temporary.write_bytes(content)
    target = output / "index.html"
    write_text(target, page.render(title=f"Study {data.name}", subtitle=_subtitle(data), sections=sections))
    return target


def _remove_previous(output: Path) -> None:
    """Remove the files that an earlier report in this folder links to, and nothing else.

    Old files would contradict the new page; a folder given by the user may contain other files.
    """
    page_before = output / "index.html"
    try:
        html = page_before.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return
    if page.GENERATOR in html:
        for path in re.findall(r'href="((?:figures|tables)/\w+\.(?:png|svg|csv|md|tex))"', html):
            (output / path).unlink(missing_ok=True)


def _sections(data: StudyData, others: Sequence[StudyData]) -> list[Section]:
    sections = [build_section(data) for build_section in SECTIONS]
    if others:
        # The comparison was requested, so it comes directly below verdict and summary.
        sections.insert(2, comparison.build([data, *others]))
    kept = [section for section in sections if section.blocks and not section.absences]
    missing = [section for section in sections if section.absences]
    return [*kept, Section("absent", "Not in this study", (_absences(missing),))] if missing else kept


def _absences(missing: Sequence[Section]) -> Folded:
    """Return one line on the sections that would say only that the study did not do something."""
    names = ", ".join(section.title for section in missing)
    return Folded(names, tuple(f"{section.title}: {' '.join(section.absences)}" for section in missing))


def _subtitle(data: StudyData) -> str:
    environment = data.environment
    parts = [
        f"Data set {data.dataset}",
        f"{len(data.classes)} normal {'class' if len(data.classes) == 1 else 'classes'}",
        f"{len(data.finished)} of {len(data.trials)} trials finished",
        f"selection: {data.selected_by}",
    ]
    if environment.get("finished"):
        parts.append(f"finished {str(environment['finished'])[:16].replace('T', ' ')}")
    return " · ".join(parts)
