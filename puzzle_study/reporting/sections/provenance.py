"""Where the numbers come from: software, hardware, seeds, what failed."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from puzzle_study.reporting.blocks import Block, Column, Paragraph, Section, Table, absent, count, section, word

if TYPE_CHECKING:
    from pathlib import Path

    from puzzle_study.reporting.study_data import StudyData


def build(data: StudyData, figures: Path) -> Section:
    """Return the section."""
    if not data.environment:
        return section("provenance", "Provenance", [absent("environment.json is missing or damaged."), _failed(data)])
    return section("provenance", "Provenance", [_environment(data), _versions(data), _failed(data)])


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
