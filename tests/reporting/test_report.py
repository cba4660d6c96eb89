"""The whole report: what it says first, what it leaves out, and that it touches nothing else."""

from __future__ import annotations

import csv
import re
import shutil
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from puzzle_study.errors import UserError
from puzzle_study.reporting import build_report, drawing
from puzzle_study.results import Results
from tests.reporting.synthetic import Recipe, write_study

pytestmark = pytest.mark.slow

SMALL = Recipe(
    classes=("0",), seeds=(0,), configurations=1, references=("pca",), attacks=False, gallery=False, failed=0
)


def paragraphs(page: Path, anchor: str) -> list[str]:
    """Return the paragraphs of a section as text."""
    html = page.read_text(encoding="utf-8")
    part = re.search(rf'<section id="{anchor}">(.*?)</section>', html, re.DOTALL)
    assert part is not None
    found = re.findall(r"<p(?: class=\"(?:finding|absent)\")?>(.*?)</p>", part[1], re.DOTALL)
    return [text.replace("\u00a0", " ").replace("&#39;", "'") for text in found]


def table(page: Path, name: str) -> list[dict[str, str]]:
    """Return a table that the report wrote."""
    with (page.parent / "tables" / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_first_sentence_says_that_a_reference_wins(report: Path) -> None:
    first = paragraphs(report, "summary")[0]
    assert first.startswith("Nearest neighbour beats the winner (configuration ")
    assert "selection: pseudo-anomalies" in first
    assert re.search(r"AUROC \d+\.\d % against \d+\.\d % \[\d+\.\d, \d+\.\d\] \(n = 6\)", first)
    assert "So do PCA" in first


def test_first_sentence_says_that_the_winner_wins(tmp_path: Path) -> None:
    recipe = Recipe(reference_strength=0.3, configurations=2, attacks=False, gallery=False, epochs=False, failed=0)
    first = paragraphs(build_report(write_study(tmp_path / "x", recipe)), "summary")[0]
    assert re.match(
        r"The winner \(configuration \w+, (min|avg|max); selection: pseudo-anomalies\) reaches AUROC", first
    )
    assert "; the best reference, " in first


def test_one_training_is_held_against_the_others_over_its_test_images(tmp_path: Path) -> None:
    """A clear loss with one seed must not read like luck."""
    page = build_report(write_study(tmp_path / "x", replace(SMALL, inverted_class="0")))
    first = paragraphs(page, "summary")[0]
    found = re.search(r"over the 60 test images \[\+(\S+), \+\S+\], which speaks of images, not of trainings", first)
    assert first.startswith("PCA beats the winner")
    assert found, first
    (row,) = table(page, "image_differences")
    assert (row["against"], row["images"], row["pairs"]) == ("PCA", "60", "1")
    assert float(row["difference"]) < float(row["difference_high"]) == pytest.approx(-float(found[1]) / 100, abs=6e-4)


def test_the_difference_over_images_is_that_of_the_trials(report: Path) -> None:
    """References and default, three classes, two seeds, one class inverted."""
    over_images = table(report, "image_differences")
    assert [row["against"] for row in over_images] == [
        *("the default", "nearest neighbour", "PCA", "one-class SVM", "untrained network")
    ]
    pairs = {row["against"]: float(row["difference"]) for row in table(report, "paired_differences")}
    for row in over_images[1:]:
        assert float(row["difference"]) == pytest.approx(pairs[row["against"]], abs=1e-6)
        assert float(row["difference_low"]) < float(row["difference"]) < float(row["difference_high"])


def test_summary_says_where_an_attack_is_weaker_than_noise(report: Path) -> None:
    text = paragraphs(report, "summary")[1]
    assert text.startswith("attack2 on the winner (normal images) is weaker than random sign noise of the same ε: ")
    assert "fgsm at 3 of 3 ε, widest at ε = 0.2 with AUROC " in text
    assert not any("attack1 on the winner" in text for text in paragraphs(report, "summary"))


def test_summary_names_inverted_scores_and_failures(report: Path) -> None:
    texts = " ".join(paragraphs(report, "summary"))
    assert re.search(
        r"Inverted scores: in \d of 6 trials of the winner normal images score higher than anomalies \(class 8", texts
    )
    assert "1 of 78 trials failed" in texts
    assert "The paper reports 97.9 % (Table 1, mean of the same 3 classes)" in texts


def test_numbers_are_those_of_the_files(study: Results, report: Path) -> None:
    summary = pd.read_csv(study.summary_file)
    ranked = summary.dropna(subset=["rank"]).sort_values("rank")
    rows = [row for row in table(report, "ranking") if row["rank"]]
    assert [row["configuration"] for row in rows] == list(ranked["configuration"])
    assert [float(row["auroc"]) for row in rows] == pytest.approx(list(ranked["auroc_mean"]))
    assert all(float(row["auroc_low"]) <= float(row["auroc"]) <= float(row["auroc_high"]) for row in rows)
    incomplete = [row for row in table(report, "ranking") if row["trials"] == "5"]
    assert incomplete
    assert all(not row["rank"] for row in incomplete)


def test_class_table_has_references_and_the_papers_values(report: Path) -> None:
    rows = table(report, "classes_winner")
    assert [row["class"] for row in rows] == ["0", "1", "8", "mean"]
    assert float(rows[2]["auroc_max"]) < 0.5
    assert float(rows[2]["paper_max"] or rows[2].get("paper_avg", 0)) == pytest.approx(0.9414)
    assert float(rows[0]["auroc_nearest_neighbour"]) > 0.5
    assert "inverted" in (report.parent / "tables" / "classes_winner.md").read_text(encoding="utf-8")


def test_p_values_are_of_classes_and_the_report_says_what_they_can_show(report: Path) -> None:
    rows = table(report, "paired_differences")
    assert {(row["pairs"], row["tasks"]) for row in rows} == {("6", "3")}
    assert all(float(row["p"]) >= 0.25 for row in rows)
    note = (report.parent / "tables" / "paired_differences.md").read_text(encoding="utf-8")
    assert "With 3 tasks the smallest p-value that this test can give is 0.25: nothing here can be significant" in note
    (text,) = (text for text in paragraphs(report, "summary") if text.startswith("Against the default"))
    assert re.search(r"\(Wilcoxon over 3 tasks: p = \S+, at least 0\.25 whatever the trials\)", text)


def test_a_seed_of_another_class_counts_as_another_one(report: Path) -> None:
    rows = table(report, "variance")
    assert [(row["source"], row["levels"]) for row in rows[1:]] == [
        *(("normal class", "3"), ("seed within class", "6"), ("interactions and noise", ""))
    ]
    assert sum(float(row["share"]) for row in rows) == pytest.approx(1)


def test_every_table_says_how_its_intervals_were_had(report: Path) -> None:
    for path in (report.parent / "tables").glob("*.md"):
        text = path.read_text(encoding="utf-8")
        assert "[95 %]" not in text or re.search(
            r"bootstrap over (seeds|classes|configurations|test images)|Interval over test images: DeLong", text
        ), path


def test_maps_stand_beside_masks_with_what_they_find(report: Path) -> None:
    rows = table(report, "located")
    assert {(row["aggregation"], row["pixel_auroc"][:6], row["aupro"][:6]) for row in rows} == {
        ("max", "0.912", "0.634")
    }
    assert ", rows original, mask, view, reconstruction, anomaly map:" in report.read_text(encoding="utf-8")


def test_tables_and_figures_come_in_all_formats(report: Path) -> None:
    tables = {path.stem for path in (report.parent / "tables").iterdir()}
    assert {
        "ranking",
        "paired_differences",
        "classes_winner",
        "fpr_winner",
        "robustness",
        "cost",
    } <= tables
    assert all(
        (report.parent / "tables" / f"{name}.{suffix}").exists() for name in tables for suffix in ("csv", "md", "tex")
    )
    figures = {path.stem for path in (report.parent / "figures").iterdir()}
    assert {
        "auroc_by_epoch",
        "slices",
        "robustness",
        "gallery_worst_anomalous",
        "scores",
        "cost",
        "selection",
    } <= figures
    assert all(
        (report.parent / "figures" / f"{name}.{suffix}").exists() for name in figures for suffix in ("png", "svg")
    )


def test_texts_of_a_study_are_escaped(report: Path) -> None:
    html = report.read_text(encoding="utf-8")
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html


def test_page_is_self_contained(report: Path) -> None:
    html = report.read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; img-src data:;")
    assert "http:" not in policy[1]
    assert not re.search(r'(?:src|href)="(?:https?:)?//', html)
    sources = re.findall(r'<img src="([^"]{0,30})', html)
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert all(len(alt) > 40 for alt in re.findall(r'<img [^>]*alt="([^"]*)"', html))


def test_report_says_what_a_study_did_not_do(tmp_path: Path) -> None:
    page = build_report(write_study(tmp_path / "x", replace(SMALL, references=(), epochs=False, matrices=False)))
    for anchor, text in (
        ("summary", "The study ran no reference, so that this cannot be judged."),
        ("ranking", "This study trained one configuration: there is nothing to rank it against but references."),
        ("selection", "Fewer than three configurations are complete: no agreement to show."),
        ("training", "This study stored no epochs of this configuration (epochs.parquet)."),
        ("stability", "This study has one seed, or no error matrices of several"),
        ("axes", "This study searched no setting."),
        ("ablations", "This study did not vary the method (setting variant)."),
        ("data-efficiency", "This study did not vary the number of training images."),
        ("robustness", "This study attacked no test images (its study file has no section attacks)."),
        ("gallery", "This study kept no gallery (gallery.npz)."),
        ("scores", "This study kept no error matrices (errors/), from which scores come."),
        ("provenance", "All 1 trials finished."),
    ):
        assert any(text in paragraph for paragraph in paragraphs(page, anchor)), anchor


def test_study_without_a_winner_is_reported(tmp_path: Path) -> None:
    page = build_report(write_study(tmp_path / "x", replace(SMALL, classes=("0", "1"), failed=1)))
    assert paragraphs(page, "summary") == [
        "No configuration finished all of its trials, so that none was selected.",
        "1 of 4 trials failed; their configurations have no rank (see Provenance).",
    ]
    assert table(page, "failed_trials")[0]["error"].startswith("<script>")


def test_trials_that_were_given_up_did_not_fail(tmp_path: Path) -> None:
    results = write_study(tmp_path / "x", replace(SMALL, configurations=3, failed=1, references=(), epochs=False))
    trials = pd.read_csv(results.trials_file)
    trials.loc[trials["status"] == "failed", ["status", "error"]] = ["stopped", "lost the race"]
    trials.to_csv(results.trials_file, index=False)
    page = build_report(results)
    assert not any("failed" in text for text in paragraphs(page, "summary"))
    assert "No trial failed; 1 of 3 were given up (see Ranking)." in paragraphs(page, "provenance")


def test_oracle_is_labelled_everywhere(tmp_path: Path) -> None:
    page = build_report(write_study(tmp_path / "x", replace(SMALL, configurations=3, selection="oracle")))
    assert any(
        "The winner was selected by the test AUROC itself (oracle)" in text for text in paragraphs(page, "summary")
    )
    assert paragraphs(page, "ranking")[0].startswith(
        "Selection: oracle. The winner was chosen by its AUROC on the test"
    )
    for name in ("ranking", "classes_winner", "searched_settings"):
        assert "oracle" in (page.parent / "tables" / f"{name}.md").read_text(encoding="utf-8"), name


@pytest.mark.parametrize(
    ("selection", "objectives", "chosen"),
    [
        ("pseudo_anomalies", ("val_error",), "objective val_error"),
        ("oracle", ("robust_auroc", "auroc"), "objective robust_auroc (oracle)"),
    ],
)
def test_sentences_name_the_objective_that_chose(
    tmp_path: Path, selection: str, objectives: tuple[str, ...], chosen: str
) -> None:
    settings = {"evaluate": {"robust": {"epsilon": 0.1}}}
    recipe = replace(
        SMALL, configurations=3, selection=selection, objectives=objectives, epochs=False, settings=settings
    )
    results = write_study(tmp_path / "x", recipe)
    trials = pd.read_csv(results.trials_file)
    trials["robust_auroc_min"] = trials["robust_auroc_avg"] = trials["robust_auroc_max"] = 0.25
    trials["val_error"] = 0.0375
    trials.to_csv(results.trials_file, index=False)
    page = build_report(results)
    summary, ranking = " ".join(paragraphs(page, "summary")), paragraphs(page, "ranking")
    assert f"; selection: {chosen})" in summary
    assert f"election by {chosen} " in summary
    assert "selected by the test AUROC itself" not in summary
    one = next(text for text in ranking if text.startswith("One-standard-error choice"))
    value = {"val_error": "0.0375", "robust_auroc": "25.0 %"}[objectives[0]]
    assert f"whose {chosen} is within one standard error of the best: {value}; " in one
    assert f"Winner: chosen by {chosen}." in (page.parent / "tables" / "searched_settings.md").read_text(
        encoding="utf-8"
    )


def test_error_norms_are_recomputed_from_the_matrices(tmp_path: Path) -> None:
    results = write_study(
        tmp_path / "x", replace(SMALL, errors=("l2", "mse"), configurations=2, attacks=False, epochs=False)
    )
    summary = pd.read_csv(results.summary_file).query("role == 'configuration'").sort_values("rank")
    rows = [row for row in table(build_report(results), "ranking") if row["rank"]]
    assert [row["error"] for row in rows] == list(summary["error"])
    assert [float(row["auroc"]) for row in rows] == pytest.approx(list(summary["auroc_mean"]))


def test_a_winner_under_another_error_norm_is_described_under_that_norm(tmp_path: Path) -> None:
    recipe = replace(SMALL, classes=("0", "8"), inverted_class="8", errors=("l2", "mse"), references=())
    results = write_study(tmp_path / "x", recipe)
    summary = pd.read_csv(results.summary_file)
    summary["rank"] = summary["rank"].where(summary["error"] != "mse").fillna(summary["rank"].max() + 1)
    summary["label"] = ""
    won = (summary["error"] == "mse") & (summary["aggregation"] == "max")
    summary.loc[won, "label"], summary.loc[won, "rank"] = "winner", 1
    summary.to_csv(results.summary_file, index=False)
    # Under the study's own norm it is the other class whose scores are inverted.
    trials = pd.read_csv(results.trials_file)
    for name in ("auroc_max", "auroc_max_low", "auroc_max_high", "inverted_max"):
        trials[name] = list(trials[name])[::-1]
    trials.to_csv(results.trials_file, index=False)
    page = build_report(results)
    inverted = next(text for text in paragraphs(page, "summary") if text.startswith("Inverted"))
    assert "in 1 of 2 trials" in inverted
    assert "(class 8; " in inverted
    norm = "error norm l2, the study's own, and not mse, which won"
    assert any(norm in text for text in paragraphs(page, "training"))
    assert norm.capitalize() in page.read_text(encoding="utf-8").replace("&#39;", "'")
    assert "under the error norm mse, which won." in paragraphs(page, "training")[-1]


def test_ablations_stand_beside_the_papers(tmp_path: Path) -> None:
    recipe = replace(
        SMALL, dataset="cifar10", classes=("airplane", "ship"), seeds=(0, 1), configurations=3, axes=(),
        levels={"variant": ("PAE", "CPAE", "CPAE-G")},
    )  # fmt: skip
    page = build_report(write_study(tmp_path / "x", recipe))
    rows = table(page, "ablations")
    assert [row["variant"] for row in rows] == ["PAE", "CPAE", "CPAE-G"]
    assert float(rows[0]["paper_min"]) == pytest.approx(0.6951)
    classes = table(page, "classes_winner")
    assert [row["class"] for row in classes] == ["airplane", "ship", "mean"]


def test_numbers_of_training_images_stand_beside_table_9(tmp_path: Path) -> None:
    recipe = replace(SMALL, configurations=3, axes=(), levels={"data.train_fraction": (0.1, 0.5, 1.0)}, epochs=False)
    page = build_report(write_study(tmp_path / "x", recipe))
    assert [row["value"] for row in table(page, "data_train_fraction")] == ["0.1", "0.5", "1.0"]
    assert "Puzzle-AE 94.9 %" in (page.parent / "tables" / "data_train_fraction.md").read_text(encoding="utf-8")


def test_a_twelfth_of_the_images_stands_beside_table_9(tmp_path: Path) -> None:
    recipe = replace(SMALL, classes=("0", "8"), epochs=False, settings={"data": {"train_fraction": 1 / 12}})
    page = build_report(write_study(tmp_path / "x", recipe))
    assert any(
        "The paper reports 94.7 % (Table 9, mean of the same 2 classes)" in text for text in paragraphs(page, "summary")
    )
    classes, last, fpr = (table(page, name) for name in ("classes_winner", "last20", "fpr_winner"))
    papers = [name for name in classes[0] if name.startswith("paper")]
    assert [float(row[papers[0]]) for row in classes] == pytest.approx([0.9954, 0.8981, 0.94675])
    assert float(last[1]["paper_mean"]) == pytest.approx(0.8981)
    assert float(last[1]["paper_spread"]) == pytest.approx(0.00676)
    assert not any(name.startswith("paper") for name in fpr[0])
    text = " ".join(paragraphs(page, "data-efficiency"))
    assert "It trained with data.train_fraction 0.0833." in text
    assert "(Table 9, mean over ten classes): LSA 88.9 %; DSVDD 92.6 %; Puzzle-AE 94.9 %." in text


def test_the_papers_means_over_20_epochs_stand_beside_ours_of_that_kind(report: Path) -> None:
    rows = table(report, "classes_winner")
    (way,) = (name.removeprefix("paper_") for name in rows[0] if name.startswith("paper_"))
    for row in rows:
        # The made-up evaluations are one point below the end of the training.
        assert float(row[f"last20_{way}"]) == pytest.approx(float(row[f"auroc_{way}"]) - 0.01)
    text = (report.parent / "tables" / "classes_winner.md").read_text(encoding="utf-8")
    assert "94.14 ± 0.073" in text
    assert " ± 0.400" in text
    assert "mean and the variance over the last 20 epochs (section 4.3)" in text
    for name in ("classes_winner", "last20"):
        assert "fraction" not in (report.parent / "tables" / f"{name}.md").read_text(encoding="utf-8")
    (text,) = (text for text in paragraphs(report, "summary") if text.startswith("The paper reports"))
    assert " over the last 20 epochs where this study reaches " in text


def test_a_quick_run_stands_beside_the_papers_values_and_says_that_it_is_one(tmp_path: Path) -> None:
    settings = {"data": {"max_train_images": 1200}, "train": {"epochs": 6}, "model": {"base_channels": 8}}
    page = build_report(write_study(tmp_path / "x", replace(SMALL, classes=("0", "8"), settings=settings)))
    short = "6 of 600 epochs, 8 of 64 base channels, at most 1200 training images"
    (text,) = (text for text in paragraphs(page, "summary") if text.startswith("The paper reports"))
    assert f"at a fraction of the budget: {short}." in text
    for name in ("classes_winner", "last20", "fpr_winner"):
        assert any(column.startswith("paper") for column in table(page, name)[0]), name
        text = (page.parent / "tables" / f"{name}.md").read_text(encoding="utf-8")
        assert "; here at a fraction of the budget)" in text, name
        assert f"at a fraction of the paper's budget: {short}." in text, name


def test_table_4_stands_beside_the_medical_sets(tmp_path: Path) -> None:
    recipe = replace(SMALL, dataset="head_ct", classes=("normal",), epochs=False)
    page = build_report(write_study(tmp_path / "x", recipe))
    (column,) = (name for name in table(page, "fpr_winner")[0] if name.startswith("paper"))
    assert [float(row[column]) for row in table(page, "fpr_winner")] == [0.7, 0.7]
    text = (page.parent / "tables" / "fpr_winner.md").read_text(encoding="utf-8")
    assert "TPR not stated (Table 4" in text
    assert "86.43 ± 0.040" in (page.parent / "tables" / "classes_winner.md").read_text(encoding="utf-8")


def test_settings_that_the_paper_does_not_have_are_held_against_nothing(tmp_path: Path) -> None:
    recipe = replace(SMALL, settings={"puzzle": {"grid": 3}}, epochs=False)
    page = build_report(write_study(tmp_path / "x", recipe))
    assert "The paper has no AUROC for mnist with puzzle.grid 3." in paragraphs(page, "summary")
    for name, what in (("classes_winner", "AUROC"), ("last20", "AUROC"), ("fpr_winner", "FPR")):
        assert not any(column.startswith("paper") for column in table(page, name)[0]), name
        text = (page.parent / "tables" / f"{name}.md").read_text(encoding="utf-8")
        assert f"The paper has no {what} for mnist with puzzle.grid 3." in text, name


def test_studies_side_by_side(tmp_path: Path, study: Results) -> None:
    other = write_study(tmp_path / "other", replace(SMALL, name="other", classes=("0", "8"), seeds=(0, 1)))
    foreign = write_study(tmp_path / "foreign", replace(SMALL, name="foreign", dataset="cifar10", classes=("ship",)))
    page = build_report(study, others=[other, foreign], output=tmp_path / "compared")
    assert page == tmp_path / "compared" / "index.html"
    assert [row["study"] for row in table(page, "studies")] == ["made_up", "other", "foreign"]
    assert [row["class"] for row in table(page, "studies_by_class")] == ["0", "1", "8"]
    differences = table(page, "studies_differences")[0]
    assert (differences["pairs"], differences["tasks"]) == ("4", "2")
    assert float(differences["p"]) >= 0.5
    assert float(differences["over_images"]) == pytest.approx(float(differences["difference"]), abs=1e-6)
    assert float(differences["over_images_low"]) < float(differences["over_images_high"])
    note = (page.parent / "tables" / "studies_differences.md").read_text(encoding="utf-8")
    assert "With 2 tasks the smallest p-value that this test can give is 0.5" in note
    assert "Studies of other data sets are not compared class by class." in paragraphs(page, "comparison")


def test_second_report_removes_only_what_the_first_wrote(tmp_path: Path, study: Results) -> None:
    output = tmp_path / "report"
    build_report(study, output=output)
    assert (output / "figures" / "robustness.png").exists()
    (output / "figures" / "mine.png").write_bytes(b"mine")
    build_report(write_study(tmp_path / "small", SMALL), output=output)
    assert not (output / "figures" / "robustness.png").exists()
    assert (output / "figures" / "mine.png").read_bytes() == b"mine"


def test_logarithmic_axes_have_plain_numbers(tmp_path: Path) -> None:
    with drawing.drawing() as (figure, (axes,)):
        axes.plot([0.001, 1], [0.02, 0.07])
        axes.set(xscale="log", yscale="log")
        drawing.finished(figure, tmp_path, name="log", alt="", caption="")
        labels = {text.get_text() for text in (*axes.get_xticklabels(), *axes.get_yticklabels(which="minor"))}
    assert {"0.001", "0.01", "0.1", "1", "0.03"} <= labels
    assert not any("$" in label for label in labels)


def test_same_results_give_the_same_page(tmp_path: Path) -> None:
    results = write_study(tmp_path / "x", SMALL)
    first = build_report(results).read_bytes()
    assert build_report(results).read_bytes() == first


@pytest.mark.parametrize("name", ["US$_$", "NA", "None", "null", "nan"])
def test_any_folder_name_is_a_class(tmp_path: Path, name: str) -> None:
    recipe = replace(SMALL, dataset="folder", classes=(name, "screws"), attacks=True, gallery=True, references=("pca",))
    page = build_report(write_study(tmp_path / "x", recipe))
    assert [row["class"] for row in table(page, "classes_winner")] == [name, "screws", "mean"]
    assert all(row["trials"] == "2" for row in table(page, "robustness"))


def test_style_of_other_figures_is_left_alone(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    build_report(write_study(tmp_path / "x", SMALL))
    assert dict(mpl.rcParams) == before


def test_missing_tables_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trials.csv is not there; run the study first"):
        build_report(Results(tmp_path))


def test_damaged_files_are_one_sentence(tmp_path: Path, study: Results) -> None:
    copy = Results(tmp_path / "copy")
    shutil.copytree(study.root, copy.root)
    copy.environment_file.write_text("{", encoding="utf-8")
    assert any(
        "environment.json is missing or damaged" in text for text in paragraphs(build_report(copy), "provenance")
    )
    copy.gallery_file.write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(UserError, match=r"gallery.npz is damaged; delete it"):
        build_report(copy)
    copy.gallery_file.unlink()
    copy.epochs_file.write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"epochs.parquet is damaged; delete it"):
        build_report(copy)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("trials.csv", r"trials.csv has no column trial; delete it and write it anew from the records with tune"),
        ("summary.csv", r"summary.csv has no column configuration; delete it and write it anew"),
        ("attacks.csv", r"attacks.csv has no column configuration; delete it and write it anew"),
        ("transfer.csv", r"transfer.csv has no column configuration; delete it and write it anew"),
        ("aggregation_matrix.csv", r"aggregation_matrix.csv has no column configuration; delete it"),
        ("epochs.parquet", r"epochs.parquet has no column trial; delete it and write it anew"),
        ("gallery.npz", r"gallery.npz has no array original; delete it and build it anew with --resume"),
        ("errors", r"errors/\w+.npz is missing or damaged; delete records/\w+.json and use --resume"),
    ],
)
def test_files_without_what_the_report_reads_are_one_sentence(tmp_path: Path, name: str, sentence: str) -> None:
    results = write_study(tmp_path / "x", SMALL)
    files = [*(results.root / "errors").iterdir()] if name == "errors" else [results.root / name]
    for path in files:
        if path.suffix == ".npz":
            np.savez(path, foo=np.zeros(1))
        else:
            results.write_table(path, pd.DataFrame({"foo": [1]}))
    with pytest.raises(UserError, match=sentence):
        build_report(results)


def test_a_trials_table_without_its_numbers_is_one_sentence(tmp_path: Path) -> None:
    results = write_study(tmp_path / "x", SMALL)
    pd.read_csv(results.trials_file).drop(columns="selection_max").to_csv(results.trials_file, index=False)
    with pytest.raises(UserError, match=r"trials.csv has no column selection_max; delete it"):
        build_report(results)


def test_a_study_whose_trials_all_failed_is_reported(tmp_path: Path) -> None:
    results = write_study(tmp_path / "x", replace(SMALL, references=(), epochs=False))
    kept = ["trial", "configuration", "role", "detector", "dataset", "normal_class", "seed"]
    pd.read_csv(results.trials_file)[kept].assign(repeat=0, status="failed", error="why").to_csv(
        results.trials_file, index=False
    )
    summary = pd.read_csv(results.summary_file).assign(complete=False, rank=None, label="default")
    summary.drop(columns=["auroc_mean", "selection_mean"]).to_csv(results.summary_file, index=False)
    page = build_report(results)
    assert "1 of 1 trials failed" in paragraphs(page, "summary")[1]
    for anchor in ("classes", "training"):
        assert paragraphs(page, anchor) == ["No configuration finished."]


def test_attacked_configurations_that_are_neither_winner_nor_default_are_named_by_what_was_searched(
    tmp_path: Path,
) -> None:
    recipe = Recipe(classes=("0",), seeds=(0,), configurations=4, gallery=False, epochs=False, matrices=False, failed=0)
    results = write_study(tmp_path / "x", recipe)
    attacks = pd.read_csv(results.attacks_file)
    attacks.loc[attacks["label"] == "default", "label"] = ""
    attacks.to_csv(results.attacks_file, index=False)
    names = {row["label"] for row in table(build_report(results), "robustness")}
    assert "winner" in names
    assert any(name.startswith("lambda ") and ", epsilon " in name for name in names), names


def test_two_readings_of_one_attacked_configuration_are_told_apart(tmp_path: Path) -> None:
    recipe = Recipe(classes=("0",), seeds=(0,), configurations=4, gallery=False, epochs=False, matrices=False, failed=0)
    results = write_study(tmp_path / "x", recipe)
    attacks = pd.read_csv(results.attacks_file, dtype={"configuration": str, "trial": str})
    first = attacks[attacks["label"] == "default"].assign(label="")
    # Under the other reading noise does no harm at all: held against the first one's, attack1 would be weaker.
    noise = first["method"] == "noise"
    second = first.assign(aggregation="min", error="mse", auroc=first["auroc"].where(noise, 0.3).where(~noise, 0.9))
    pd.concat([first, second]).to_csv(results.attacks_file, index=False)
    page = build_report(results)
    rows = [row for row in table(page, "robustness") if (row["attack"], row["method"]) == ("attack1", "fgsm")]
    expected = first.query("attack == 'attack1' and method == 'fgsm'").sort_values("epsilon")["auroc"]
    assert {row["reading"] for row in rows} == {"max, l2", "min, mse"}
    assert len({row["label"] for row in rows}) == 2
    assert [float(row["auroc"]) for row in rows if row["reading"] == "max, l2"] == pytest.approx(list(expected))
    assert {float(row["auroc"]) for row in rows if row["reading"] == "min, mse"} == {0.3}
    weaker = " ".join(paragraphs(page, "robustness"))
    assert "max, l2)" in weaker
    assert "min, mse)" not in weaker


def test_whose_score_an_attack_breaks_is_told_where_the_study_asked_for_it(tmp_path: Path) -> None:
    recipe = Recipe(classes=("0", "1"), seeds=(0,), configurations=4, gallery=False, epochs=False, matrices=False)
    results = write_study(tmp_path / "x", recipe)
    assert "Whose score" not in build_report(results).read_text(encoding="utf-8")
    attacks = pd.read_csv(results.attacks_file, dtype={"configuration": str, "trial": str})
    attacks = attacks[(attacks["attack"] == "attack1") & (attacks["method"] == "fgsm")]
    attacks = attacks[attacks["epsilon"] == attacks["epsilon"].max()]
    cells = [
        attacks.assign(attacked_aggregation=attacked, scoring_aggregation=scoring, error="l2")
        for attacked in ("min", "max")
        for scoring in ("min", "max")
    ]
    pd.concat(cells).to_csv(results.matrix_file, index=False)
    winner = attacks[attacks["label"] == "winner"]
    # The same aggregation under another norm is another score, of the same configuration too.
    other = attacks[attacks["label"] == "default"].assign(configuration=winner["configuration"].iloc[0], error="mse")
    pairs = [
        judge.assign(
            source_configuration=source["configuration"].iloc[0],
            source_label=source["label"].iloc[0],
            source_trial=source["trial"].iloc[0],
            source_aggregation=source["aggregation"].iloc[0],
            source_error=source["error"].iloc[0],
        )
        for source in (winner, other)
        for judge in (winner, other)
    ]
    pd.concat(pairs).to_csv(results.transfer_file, index=False)
    page = build_report(results)
    matrix, transfer = table(page, "aggregation_matrix"), table(page, "transfer")
    assert [
        (row["attacked"], row["scoring"], row["adaptive"]) for row in matrix if row["configuration"] == "winner"
    ] == [
        ("min", "min", "yes"),
        ("min", "max", "no"),
        ("max", "min", "no"),
        ("max", "max", "yes"),
    ]
    assert [(row["source"], row["configuration"], row["adaptive"]) for row in transfer] == [
        ("winner", "winner", "yes"),
        ("winner", "default", "no"),
        ("default", "winner", "no"),
        ("default", "default", "yes"),
    ]
    assert float(transfer[1]["auroc"]) == pytest.approx(other["auroc"].mean(), abs=1e-3)
