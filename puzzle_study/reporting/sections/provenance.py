"""The settings, and where the numbers come from: software, hardware, seeds, what failed."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from puzzle_study.reporting.blocks import (
    NOTHING,
    Block,
    Cell,
    Column,
    Listing,
    Paragraph,
    Section,
    Table,
    absent,
    count,
    section,
    significant,
    word,
)
from puzzle_study.reporting.sections.ranking import axis_cell

if TYPE_CHECKING:
    from puzzle_study.reporting.study_data import StudyData


def build_settings(data: StudyData) -> Section:
    """Return the section on the study's settings."""
    blocks: list[Block | None] = [_searched(data)]
    if data.results.study_file.exists():
        text = data.results.study_file.read_text(encoding="utf-8")
        blocks.append(Listing("study.yaml, the resolved study: it can be run again as it is", text))
    else:
        blocks.append(absent("study.yaml is not in the folder."))
    return section("settings", "Settings", blocks)


def build_provenance(data: StudyData) -> Section:
    """Return the section on software, hardware, seeds and failures."""
    if not data.environment:
        return section("provenance", "Provenance", [absent("environment.json is missing or damaged."), _failed(data)])
    return section("provenance", "Provenance", [_environment(data), _versions(data), _failed(data)])


def _searched(data: StudyData) -> Table | None:
    winner, default = data.winner, data.default
    if not data.axes or winner is None:
        return None
    ours = data.values_of(winner.configuration)
    theirs = data.values_of(default.configuration) if default else {}
    axes = data.study.search.space if data.study and data.study.search else {}
    rows = []
    for name in data.axes:
        axis = axes.get(name)
        values = " – ".join(map(_short, axis.values)) if axis and "uniform" in axis.kind else ""
        values = values or (", ".join(map(_short, axis.values)) if axis else "")
        rows.append(
            (
                word(name),
                word(f"{axis.kind} {values}" if axis else ""),
                axis_cell(theirs.get(name)),
                axis_cell(ours.get(name)),
            )
        )
    rows.append((word("score.aggregation"), word("min, avg, max"), _way(default), _way(winner)))
    return Table(
        "searched_settings",
        "Searched settings",
        (
            Column("setting", "Setting", numeric=False),
            Column("range", "Range", numeric=False),
            Column("default", "Default"),
            Column("winner", "Winner"),
        ),
        tuple(rows),
        f"Winner: chosen by {data.selected_by}. {NOTHING}: not in play under the other settings.",
    )


def _environment(data: StudyData) -> Table:
    content = data.environment
    raw = content.get("hardware")
    hardware: dict[str, Any] = raw if isinstance(raw, dict) else {}
    command, notes = content.get("command"), content.get("notes")
    facts = {
        "command": shlex.join(map(str, command)) if isinstance(command, list) else command,
        "git commit": content.get("git_commit") or "not a git checkout",
        "started": content.get("started"),
        "finished": content.get("finished") or "not finished",
        "wall time, s": _rounded(content.get("wall_seconds")),
        "seeds": _seeds(content.get("seeds")),
        "Python": content.get("python"),
        "platform": content.get("platform"),
        "CPU": hardware.get("cpu"),
        "cores": hardware.get("cores"),
        "threads a trial": hardware.get("threads"),
        "memory, GiB": hardware.get("memory_gib"),
        "GPU": hardware.get("gpu") or "none",
        "precision": hardware.get("precision"),
        **({"notes on the images": "; ".join(notes)} if isinstance(notes, list) and notes else {}),
    }
    return Table(
        "environment",
        "How the study was run",
        (Column("what", "What", numeric=False), Column("value", "Value", numeric=False)),
        tuple((word(name), word(value)) for name, value in facts.items()),
        "As written by the study itself (environment.json).",
    )


def _versions(data: StudyData) -> Table | None:
    versions = data.environment.get("versions")
    if not isinstance(versions, dict) or not versions:
        return None
    return Table(
        "versions",
        "Versions of the packages",
        (Column("package", "Package", numeric=False), Column("version", "Version", numeric=False)),
        tuple((word(name), word(version)) for name, version in sorted(versions.items())),
        "Of the process that ran the study.",
        collapsed=True,
    )


def _failed(data: StudyData) -> Block:
    if not len(data.failed):
        stopped = len(data.trials) - len(data.finished)
        if stopped:
            return Paragraph(f"No trial failed; {stopped} of {len(data.trials)} were given up (see Ranking).")
        return Paragraph(f"All {len(data.trials)} trials finished.")
    rows = tuple(
        (
            word(row["trial"]),
            word(row["configuration"]),
            word(row["normal_class"]),
            count(float(row["seed"])),
            word(row.get("error") if isinstance(row.get("error"), str) else row["status"]),
        )
        for _, row in data.failed.iterrows()
    )
    return Table(
        "failed_trials",
        "Trials that failed",
        (
            Column("trial", "Trial", numeric=False),
            Column("configuration", "Configuration", numeric=False),
            Column("class", "Normal class", numeric=False),
            Column("seed", "Seed"),
            Column("error", "Why", numeric=False),
        ),
        rows,
        "A configuration with a failed trial is incomplete: it has no rank, and nothing was averaged over what is "
        "missing.",
    )


def _rounded(value: object) -> str:
    return f"{value:.0f}" if isinstance(value, (int, float)) else ""


def _seeds(content: object) -> str:
    """Return the seeds, which may be listed or named by what they are for."""
    if isinstance(content, dict):
        return "; ".join(f"{name} {_seeds(value)}" for name, value in content.items())
    return ", ".join(map(str, content)) if isinstance(content, list) else str(content)


def _way(choice: Any) -> Cell:
    return word(choice.aggregation) if choice else Cell(NOTHING)


def _short(value: object) -> str:
    return significant(float(value), 3) if isinstance(value, float) else str(value)
