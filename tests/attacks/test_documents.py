"""docs/attacks.md holds the tables of the code; refused attacks are refused with their reason."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from puzzle_study.attacks.flags import FLAGS
from puzzle_study.attacks.methods import METHODS, REFUSED, Method
from puzzle_study.attacks.specs import attack_spec
from puzzle_study.config import read
from puzzle_study.errors import UserError

PAGE = Path(__file__).parents[2] / "docs" / "attacks.md"


def needs(method: Method) -> str:
    if method.torchattacks is None:
        return "nothing"
    if method.black_box:
        return "`queries` scores"
    return "`steps` gradients" if method.iterated else "one gradient"


def method_row(name: str, method: Method) -> tuple[str, ...]:
    ball = {"linf": "max-norm", "l2": "Euclidean"}[method.norm]
    chance = "yes" if method.random else "no"
    return f"`{name}`", method.torchattacks or "–", ball, needs(method), chance, method.note


TABLES: dict[str, Iterable[tuple[str, ...]]] = {
    "| method | torchattacks | ball | needs | random start | note |": [method_row(*one) for one in METHODS.items()],
    "| torchattacks | not run because it |": REFUSED.items(),
    "| flag | meaning |": [(f"`{name}`", meaning) for name, meaning in FLAGS.items()],
}


@pytest.mark.parametrize("head", TABLES)
def test_the_page_holds_the_tables_of_the_code(head: str) -> None:
    lines = [head, "|---" * (head.count("|") - 1) + "|", *(f"| {' | '.join(row)} |" for row in TABLES[head])]
    assert "\n".join(lines) in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_with_its_reason_in_code_and_in_a_study_file(name: str, tmp_path: Path) -> None:
    reason = f"{re.escape(name.lower())} is not run: {name} {re.escape(REFUSED[name])}"
    with pytest.raises(UserError, match=reason):
        attack_spec("attack1", name.lower(), epsilon=0.1)
    file = tmp_path / "study.yaml"
    file.write_text(f"data: {{name: digits}}\nattacks:\n  methods: [fgsm, {name.lower()}]\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"attacks\.methods\[1\].*{reason} \(.*line 3\)"):
        read.load(file)


def test_unknown_methods_get_a_suggestion() -> None:
    with pytest.raises(UserError, match=r"fsgm is unknown; did you mean fgsm\?"):
        attack_spec("attack1", "fsgm", epsilon=0.1)
