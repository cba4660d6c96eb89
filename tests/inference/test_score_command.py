"""``python -m puzzle_study.score``: tables of scores, damaged files, overlays, mistakes of the command line."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from rich.console import Console

from puzzle_study.datasets.images import decode
from puzzle_study.datasets.records import Sizing
from puzzle_study.detectors.files import load_detector
from puzzle_study.detectors.puzzle_ae.detector import PuzzleDetector
from puzzle_study.inference.calibration import Calibration
from puzzle_study.score import main

from ..core import tiny
from .conftest import save_detector
from .pictures import write_all_kinds, write_damaged, write_many


def score(*words: str | Path, code: int = 0) -> Result:
    """Run the command in this process; it must end with this exit code."""
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


def rows(text: str) -> list[dict[str, str]]:
    """The lines of a table."""
    return list(csv.DictReader(io.StringIO(text)))


def test_images_of_every_kind_get_the_score_of_their_decoded_pixels(best: Path, tmp_path: Path) -> None:
    paths = write_all_kinds(tmp_path / "images")
    result = score(best / "3", tmp_path / "images", "--fpr", "0.2")
    detector = load_detector(best / "3", device=tiny.CPU)
    images = torch.stack([torch.from_numpy(decode(path, Sizing(16, 1)).copy()) for path in paths])
    expected = detector.scores(detector.error_matrix(images)).double().numpy()
    calibration = Calibration.of(detector)
    table = rows(result.stdout)
    assert result.stdout.startswith("path,score,percentile,flagged,error\n")
    assert [row["path"] for row in table] == list(map(str, paths))
    assert [float(row["score"]) for row in table] == pytest.approx(expected.tolist(), rel=1e-5)
    assert [float(row["percentile"]) for row in table] == pytest.approx(
        calibration.percentile(expected).tolist(), abs=0.06
    )
    assert [row["flagged"] == "true" for row in table] == (expected > calibration.threshold(0.2)).tolist()
    assert {row["flagged"] for row in table} == {"true", "false"}
    assert all(row["error"] == "" for row in table)


def test_damaged_images_are_listed_and_the_others_scored(best: Path, tmp_path: Path) -> None:
    good = write_many(tmp_path / "images", 3)
    bad = write_damaged(tmp_path / "images")
    result = score(best, tmp_path / "images")
    table = rows(result.stdout)
    assert [row["path"] for row in table] == [str(path) for path in good + bad]
    for row in table[:3]:
        assert row["score"]
        assert not row["error"]
    for path, row in zip(bad, table[3:], strict=True):
        assert (row["score"], row["percentile"], row["flagged"]) == ("", "", "")
        assert row["error"].startswith(f"{path} is not a readable image (")
        assert f"not scored: {row['error']}\n" in result.stderr
    assert "of 3 images flagged: their scores are above " in result.stderr
    assert "for a false-positive rate of 5 % by 19 validation images; 3 not scored\n" in result.stderr
    assert "note:" not in result.stderr


@pytest.mark.parametrize(
    ("side", "aspect", "far"),
    [
        ((10, 20), (1, 1), 0),
        ((40, 60), (1, 1), 2),
        ((6, 8), (1, 1), 1),
        ((4, 7), (1, 1), 3),
        ((16, 16), (1.2, 1.4), 0),
        ((16, 16), (1.3, 1.4), 3),
    ],
)
def test_images_far_from_the_training_images_are_counted_once(
    best: Path, tmp_path: Path, side: tuple[float, float], aspect: tuple[float, float], far: int
) -> None:
    write_many(tmp_path / "images", 2, side=16)
    Image.new("L", (24, 24)).save(tmp_path / "images" / "z.png")
    path = best / "3" / "detector.json"
    description = json.loads(path.read_text())
    path.write_text(json.dumps(description | {"original_sizes": {"side": side, "aspect": aspect}}))
    result = score(best, tmp_path / "images")
    assert result.stderr.count("warning: ") == (far > 0)
    assert far == 0 or f"warning: {far} of 3 images are far in size or aspect ratio" in result.stderr
    path.write_text(json.dumps(description | {"original_sizes": {"side": 3}}))
    assert "original_sizes that are not sizes" in score(best, tmp_path / "images", code=2).stderr


def test_where_nothing_can_be_scored_the_exit_code_is_1(best: Path, tmp_path: Path) -> None:
    write_damaged(tmp_path / "images")
    assert len(rows(score(best, tmp_path / "images", code=1).stdout)) == 3


def test_a_rate_that_the_validation_images_cannot_hold_is_said(best: Path, tmp_path: Path) -> None:
    write_many(tmp_path / "images", 2)
    result = score(best, tmp_path / "images", "--fpr", "0.01")
    assert "note: 19 validation images cannot hold a rate below 5 %; flagged is what scores above all" in result.stderr


def test_the_table_goes_into_a_file_and_nothing_to_standard_output(best: Path, tmp_path: Path) -> None:
    write_many(tmp_path / "images", 2)
    target = tmp_path / "tables" / "scores.csv"
    result = score(best, tmp_path / "images", "--output", target)
    assert result.stdout == ""
    assert target.read_text() == score(best, tmp_path / "images").stdout
    assert list(target.parent.iterdir()) == [target]


def test_a_table_that_cannot_be_finished_leaves_the_one_before(
    best: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_many(tmp_path / "images", 2)
    target = tmp_path / "scores.csv"
    target.write_text("before\n")

    def interrupted(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PuzzleDetector, "error_matrix", interrupted)
    score(best, tmp_path / "images", "--output", target, code=130)
    assert target.read_text() == "before\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "results", "scores.csv"]


def test_overlays_are_written_for_every_image_that_can_be_read(best: Path, tmp_path: Path) -> None:
    write_all_kinds(tmp_path / "images" / "a")
    write_damaged(tmp_path / "images" / "b")
    write_many(tmp_path / "images" / "b", 2)
    plain = score(best, tmp_path / "images")
    result = score(best, tmp_path / "images", "--overlay", tmp_path / "maps")
    assert [row["path"] for row in rows(result.stdout)] == [row["path"] for row in rows(plain.stdout)]
    for one, other in zip(rows(result.stdout), rows(plain.stdout), strict=True):
        assert float(one["score"] or 0) == pytest.approx(float(other["score"] or 0), rel=1e-4)
    written = sorted(str(path.relative_to(tmp_path / "maps")) for path in (tmp_path / "maps").rglob("*.*"))
    assert written == [
        "a/a_16bit.png",
        "a/b_rgba.png",
        "a/c_palette.png",
        "a/d_colour.png",
        "a/e_narrow.png",
        "a/f_bits.png",
        "a/g_tiny.png",
        "b/00.png",
        "b/01.png",
    ]
    for name in written:
        with Image.open(tmp_path / "maps" / name) as picture:
            assert (max(picture.size), picture.mode) == (512, "RGB")


def test_a_colour_detector_scores_grey_files(tmp_path: Path) -> None:
    save_detector(tmp_path / "detector", channels=3, side=18)
    write_many(tmp_path / "images", 2, side=30)
    result = score(tmp_path / "detector", tmp_path / "images", "--overlay", tmp_path / "maps")
    assert all(float(row["score"]) > 0 for row in rows(result.stdout))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["results/tiny/best"], "no images were given; add files, folders or glob patterns, or use --export FILE"),
        (["results/tiny/best", "--export", "m.onnx", "--output", "s.csv"], "--output and --overlay need images"),
        (["results/tiny/best", "nowhere.png"], "nowhere.png does not exist; give image files, folders or glob"),
        (["images", "images"], "images holds no detector (detector.json is missing); give a folder like results/NAME"),
        (["results/tiny/best", "images", "--overlay", "images"], "--overlay images holds an image to be scored"),
        (["results/tiny/best", "images", "--output", "images/00.png/s.csv"], "images/00.png/s.csv cannot be written"),
        (["results/tiny/best", "images", "--device", "cuda"], "device cuda is missing: PyTorch sees 0 GPUs"),
        (["broken", "images"], "broken/detector.json cannot be read"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(
    words: list[str], sentence: str, best: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    write_many(Path("images"), 2)
    Path("broken").mkdir()
    Path("broken/detector.json").write_text("{")
    before = sorted(map(str, Path().rglob("*")))
    result = score(*words, code=2)
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {sentence}")
    assert result.stderr.count("\n") == 1
    assert sorted(map(str, Path().rglob("*"))) == before


@pytest.mark.parametrize(
    ("rate", "sentence"), [("nan", "nan is not a share between 0 and 1"), ("1", "1.0 is not in the")]
)
def test_a_rate_that_is_no_share_is_a_sentence(rate: str, sentence: str, best: Path, tmp_path: Path) -> None:
    write_many(tmp_path / "images", 1)
    result = score(best / "3", tmp_path / "images", "--fpr", rate, code=2)
    assert result.stdout == ""
    assert f"Invalid value for '--fpr': {sentence}" in result.stderr


def test_on_a_terminal_a_bar_runs_on_standard_error_and_the_table_stays_clean(
    best: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_many(tmp_path / "images", 2)
    write_damaged(tmp_path / "images")
    plain = score(best, tmp_path / "images")
    monkeypatch.setattr(Console, "is_terminal", property(lambda console: True))
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    result = score(best, tmp_path / "images")
    assert result.stdout == plain.stdout
    assert "scoring" in result.stderr
    assert "5/5" in result.stderr
    for row in rows(result.stdout)[2:]:
        assert f"not scored: {row['error']}\n" in result.stderr


def test_without_a_readable_image_the_summary_is_one_line(best: Path, tmp_path: Path) -> None:
    bad = write_damaged(tmp_path / "images")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = score(best, tmp_path / "images", code=1)
    assert len(rows(result.stdout)) == len(bad)
    assert result.stderr.splitlines()[len(bad) :] == [f"no image was scored; {len(bad)} cannot be read"]


@pytest.mark.slow
def test_a_process_of_its_own_writes_a_clean_table_even_for_names_that_are_no_text(best: Path, tmp_path: Path) -> None:
    (path,) = write_many(tmp_path / "images", 1)
    strange = os.fsencode(tmp_path / "images") + b'/\xff, "\n.png'
    path.rename(os.fsdecode(strange))
    done = subprocess.run(
        [sys.executable, "-m", "puzzle_study.score", best, tmp_path / "images"],
        capture_output=True,
        check=False,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    (row,) = rows(done.stdout.decode(errors="surrogateescape"))
    assert os.fsencode(row["path"]) == strange
    assert b"\x1b" not in done.stderr
    assert b"1 images flagged" in done.stderr


def test_help_has_an_example_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from puzzle_study.score import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'rich', 'sklearn', 'PIL', 'onnx'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "puzzle-study score results/digits/best/3 photos/ --output scores.csv" in done.stdout
