"""Where the numbers come from: software, hardware, seeds, failures."""

from __future__ import annotations

import shlex
from typing import Any

from puzzle_study.reporting.blocks import Block, Blocks, Column, Paragraph, Table, absent, section, table, words
from puzzle_study.reporting.cells import count, word
from puzzle_study.reporting.study_data import StudyData


@section("provenance", "Provenance")
def build(data: StudyData) -> Blocks:
    if data.environment:
        yield _environment(data)
        yield _versions(data)
    else:
        yield absent("environment.json is missing or damaged.")
    yield _failed(data)


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
        "threads per trial": hardware.get("threads"),
        "memory, GiB": hardware.get("memory_gib"),
        "GPU": hardware.get("gpu") or "none",
        "precision": _listed(hardware.get("precision")),
        **({"notes on the images": "; ".join(notes)} if isinstance(notes, list) and notes else {}),
    }
    rows = [{words("what", "What"): word(name), words("value", "Value"): word(value)} for name, value in facts.items()]
    note = "As written by the study itself (environment.json)."
    return table("environment", "How the study was run", rows, note)


def _versions(data: StudyData) -> Table | None:
    versions = data.environment.get("versions")
    if not isinstance(versions, dict) or not versions:
        return None
    rows = [
        {words("package", "Package"): word(name), words("version", "Version"): word(version)}
        for name, version in sorted(versions.items())
    ]
    return table("versions", "Versions of the packages", rows, "In the process that ran the study.", collapsed=True)


def _failed(data: StudyData) -> Block:
    if not len(data.failed):
        stopped = len(data.trials) - len(data.finished)
        if stopped:
            return Paragraph(f"No trial failed; {stopped} of {len(data.trials)} were given up (see Ranking).")
        return Paragraph(f"All {len(data.trials)} trials finished.")
    return table(
        "failed_trials",
        "Trials that failed",
        [
            {
                words("trial", "Trial"): word(row["trial"]),
                words("configuration", "Configuration"): word(data.called(row["configuration"])),
                words("class", "Normal class"): word(row["normal_class"]),
                Column("seed", "Seed"): count(float(row["seed"])),
                words("error", "Why"): word(row["error"] if isinstance(row.get("error"), str) else row["status"]),
            }
            for _, row in data.failed.iterrows()
        ],
        "A configuration with a failed trial is incomplete: it has no rank, and its other trials are not "
        "averaged instead.",
    )


def _listed(content: object) -> object:
    """Return names with their values in words, or what is no mapping unchanged."""
    return ", ".join(f"{name} {value}" for name, value in content.items()) if isinstance(content, dict) else content


def _rounded(value: object) -> str:
    return f"{value:.0f}" if isinstance(value, (int, float)) else ""


def _seeds(content: object) -> str:
    """Return the seeds, which may be listed or named by purpose."""
    if isinstance(content, dict):
        return "; ".join(f"{name} {_seeds(value)}" for name, value in content.items() if value is not None)
    return ", ".join(map(str, content)) if isinstance(content, list) else str(content)
