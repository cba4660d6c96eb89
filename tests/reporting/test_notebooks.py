"""The notebooks run from top to bottom on any finished study, and are kept with the outputs that the site shows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from puzzle_study.errors import UserError
from puzzle_study.reporting import chosen_results
from puzzle_study.results import Results

nbformat = pytest.importorskip("nbformat", reason="needs the extra notebooks")
nbclient = pytest.importorskip("nbclient", reason="needs the extra notebooks")

FOLDER = Path(__file__).parents[2] / "analysis"
FILLED = "06_selection"
"""The notebook of tables that lie beside it; the others read a study."""
LARGEST = 300_000
"""Bytes of a notebook with its outputs."""
NOTEBOOKS = ("01_sweep", "02_stability", "03_robustness", "04_gallery", "05_reproduction", FILLED)


def test_these_are_all_notebooks() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == list(NOTEBOOKS)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs(name: str, study: Results, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PUZZLE_STUDY_RESULTS", str(study.root))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FOLDER.parent), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    # The tables and pictures of one real execution, of every cell in order, without errors.
    assert (FOLDER / f"{name}.ipynb").stat().st_size < LARGEST
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    assert {output.output_type for cell in cells for output in cell.outputs} <= {
        *("stream", "display_data", "execute_result")
    }
    client = nbclient.NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(FOLDER if name == FILLED else tmp_path)}}
    )
    client.execute()
    assert all(cell.execution_count for cell in cells)


def test_folder_is_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PUZZLE_STUDY_RESULTS", str(tmp_path))
    assert chosen_results() == tmp_path
    monkeypatch.delenv("PUZZLE_STUDY_RESULTS")
    with pytest.raises(UserError, match=r"results/digits is missing; run python -m puzzle_study.tune"):
        chosen_results()
    (tmp_path / "results" / "digits").mkdir(parents=True)
    assert chosen_results() == Path("results") / "digits"
