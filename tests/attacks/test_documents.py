"""docs/attacks.md holds the tables of the code; refused attacks are refused with their reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from puzzle_study.attacks.methods import REFUSED
from puzzle_study.attacks.reference import flags_table, methods_table, refused_table
from puzzle_study.attacks.specs import attack_spec
from puzzle_study.errors import UserError

PAGE = Path(__file__).parents[2] / "docs" / "attacks.md"


@pytest.mark.parametrize("table", [methods_table, refused_table, flags_table])
def test_the_page_holds_the_tables_of_the_code(table: object) -> None:
    assert callable(table)
    assert table() in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_with_its_reason(name: str) -> None:
    with pytest.raises(UserError, match=f"attack method {name.lower()} is not run: {name} ") as caught:
        attack_spec("attack1", name.lower(), epsilon=0.1)
    assert REFUSED[name] in str(caught.value)


def test_unknown_methods_get_a_suggestion() -> None:
    with pytest.raises(UserError, match=r"attack method fsgm is unknown; did you mean fgsm\?"):
        attack_spec("attack1", "fsgm", epsilon=0.1)
