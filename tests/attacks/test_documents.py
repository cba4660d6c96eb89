"""docs/attacks.md holds the tables of the code; refused attacks are refused with their reason."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from puzzle_study.attacks.methods import REFUSED
from puzzle_study.attacks.reference import flags_table, methods_table, refused_table
from puzzle_study.attacks.specs import attack_spec
from puzzle_study.config import read
from puzzle_study.errors import UserError

PAGE = Path(__file__).parents[2] / "docs" / "attacks.md"


@pytest.mark.parametrize("table", [methods_table, refused_table, flags_table])
def test_the_page_holds_the_tables_of_the_code(table: object) -> None:
    assert callable(table)
    assert table() in PAGE.read_text(encoding="utf-8")


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
    with pytest.raises(UserError, match=r"attack method fsgm is unknown; did you mean fgsm\?"):
        attack_spec("attack1", "fsgm", epsilon=0.1)
