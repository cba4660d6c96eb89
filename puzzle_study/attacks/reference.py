"""The tables of docs/attacks.md, written from the tables in code; a test keeps the two the same."""

from __future__ import annotations

from puzzle_study.attacks.flags import FLAGS
from puzzle_study.attacks.methods import METHODS, REFUSED, Method


def methods_table() -> str:
    """Return every method with its traits, as Markdown."""
    lines = [
        "| method | torchattacks | ball | needs | random start | note |",
        "|---|---|---|---|---|---|",
    ]
    for name, method in METHODS.items():
        ball = "max-norm" if method.norm == "linf" else "Euclidean"
        chance = "yes" if method.random else "no"
        lines.append(
            f"| `{name}` | {method.torchattacks or '–'} | {ball} | {_needs(method)} | {chance} | {method.note} |"
        )
    return "\n".join(lines)


def refused_table() -> str:
    """Return every attack of torchattacks that is not run, with the reason, as Markdown."""
    return "\n".join(
        [
            "| torchattacks | not run because it |",
            "|---|---|",
            *(f"| {name} | {why} |" for name, why in REFUSED.items()),
        ]
    )


def flags_table() -> str:
    """Return every flag with its meaning, as Markdown."""
    return "\n".join(["| flag | meaning |", "|---|---|", *(f"| `{name}` | {what} |" for name, what in FLAGS.items())])


def _needs(method: Method) -> str:
    if method.torchattacks is None:
        return "nothing"
    if method.black_box:
        return "`queries` scores"
    return "`steps` gradients" if method.iterated else "one gradient"
