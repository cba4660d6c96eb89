"""The whole report: what it says first, what it leaves out, and that it touches nothing else."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from puzzle_study.errors import UserError
from puzzle_study.reporting import build_report, drawing
from puzzle_study.results import Results
from tests.reporting.conftest import Small
from tests.reporting.pages import Page, edited

pytestmark = pytest.mark.slow


def reported(results: Results) -> Page:
    return Page(build_report(results))


def test_first_sentence_says_that_a_reference_wins(report: Page) -> None:
    first = report.paragraphs("summary")[0]
    assert first.startswith("Nearest neighbour beats the winner (configuration ")
    assert "selection: pseudo-anomalies" in first
    assert re.search(r"AUROC \d+\.\d % against \d+\.\d % \[\d+\.\d, \d+\.\d\] \(n = 6\)", first)
    assert "So do PCA" in first


def test_first_sentence_says_that_the_winner_wins(small: Small) -> None:
    page = reported(small(classes=("0", "1", "2"), seeds=(0, 1), reference_strength=0.3, configurations=2))
    first = page.paragraphs("summary")[0]
    assert re.match(
        r"The winner \(configuration \d+ \(\w+\), (min|avg|max); selection: pseudo-anom\w+\) reaches AUROC", first
    )
    assert "; the best reference, " in first


def test_one_training_is_held_against_the_others_over_its_test_images(small: Small) -> None:
    """A clear loss with one seed must not read like luck."""
    page = reported(small(inverted_class="0"))
    first = page.starting("summary", "PCA beats the winner")
    found = re.search(r"over the 60 test images \[\+(\S+), \+\S+\], which covers images, not trainings", first)
    assert found, first
    (row,) = page.table("image_differences")
    assert (row["against"], row["images"], row["pairs"]) == ("PCA", "60", "1")
    assert float(row["difference"]) < float(row["difference_high"]) == pytest.approx(-float(found[1]) / 100, abs=6e-4)


def test_the_difference_over_images_is_that_of_the_trials(report: Page) -> None:
    """References and default, three classes, two seeds, one class inverted."""
    default, *references = report.table("image_differences")
    assert default["against"] == "the default"
    assert [row["against"] for row in references] == ["nearest neighbour", "PCA", "one-class SVM", "untrained network"]
    pairs = {row["against"]: float(row["difference"]) for row in report.table("paired_differences")}
    for row in references:
        assert float(row["difference"]) == pytest.approx(pairs[row["against"]], abs=1e-6)
        assert float(row["difference_low"]) < float(row["difference"]) < float(row["difference_high"])


def test_summary_says_where_an_attack_is_weaker_than_noise(report: Page) -> None:
    text = report.paragraphs("summary")[1]
    assert re.match(r"attack2 on \d \(\w+\), winner \(normal images\) is weaker than random sign noise of the", text)
    assert "fgsm at 3 of 3 ε, widest at ε = 0.2 with AUROC " in text
    assert not any(text.startswith("attack1 on") for text in report.paragraphs("summary"))


def test_summary_names_inverted_scores_and_failures(report: Page) -> None:
    inverted = report.starting("summary", "Inverted scores: ")
    assert re.search(r"in \d of 6 trials of the winner .* \(class 8", inverted)
    assert "1 of 78 trials failed" in report.paragraphs("summary")[-1]


def test_numbers_are_those_of_the_files(study: Results, report: Page) -> None:
    ranked = pd.read_csv(study.summary_file).dropna(subset=["rank"]).sort_values("rank")
    best = ranked.drop_duplicates("configuration")
    rows = [row for row in report.table("ranking") if row["rank"]]
    assert [row["rank"] for row in rows] == [str(place) for place in range(1, 9)]
    assert [row["configuration"] for row in rows] == [
        f"{number:.0f} ({name})" for number, name in zip(best["number"], best["configuration"], strict=True)
    ]
    assert [row["reading"] for row in rows] == list(best["aggregation"])
    assert [float(row["auroc"]) for row in rows] == pytest.approx(list(best["auroc_mean"]))
    assert all(float(row["auroc_low"]) <= float(row["auroc"]) <= float(row["auroc_high"]) for row in rows)
    (incomplete,) = [row for row in report.table("ranking") if row["trials"] == "5"]
    assert not incomplete["rank"]


def test_the_other_readings_are_folded_into_the_row_of_a_configuration(study: Results, report: Page) -> None:
    ranked = pd.read_csv(study.summary_file).dropna(subset=["rank"]).sort_values("rank")
    own = ranked[ranked["configuration"] == ranked["configuration"].iloc[0]]
    (first, *_) = re.findall(r"<td[^>]*><details><summary>(.*?)</summary>(.*?)</details>", report.html)
    told = [(way, float(value)) for way, value in re.findall(r"<div>(\w+): AUROC ([\d.]+)", first[1])]
    assert [first[0], *(way for way, _ in told)] == list(own["aggregation"])
    assert [value for _, value in told] == pytest.approx(list(100 * own["auroc_mean"].iloc[1:]), abs=0.05)


def test_p_values_are_of_classes_and_the_report_says_what_they_can_show(report: Page) -> None:
    rows = report.table("paired_differences")
    assert {(row["pairs"], row["tasks"]) for row in rows} == {("6", "3")}
    assert all(float(row["p"]) >= 0.25 for row in rows)
    assert re.search(r"With 3 tasks the smallest p-value .* is 0.25", report.markdown("paired_differences"))
    text = report.starting("summary", "Against the default")
    assert re.search(r"\(Wilcoxon over 3 tasks: p = \S+, at least 0\.25 whatever the trials\)", text)


def test_a_seed_of_another_class_counts_as_another_one(report: Page) -> None:
    _, *rows = report.table("variance")
    levels = [("normal class", "3"), ("seed within class", "6"), ("interactions and noise", "")]
    assert [(row["source"], row["levels"]) for row in rows] == levels
    assert sum(float(row["share"]) for row in report.table("variance")) == pytest.approx(1)


def test_every_table_says_how_its_intervals_were_had(report: Page) -> None:
    how = r"bootstrap over (seeds|classes|configurations|test images)|Interval over test images: DeLong"
    for name in {Path(file).stem for file in report.files("tables")}:
        text = report.markdown(name)
        assert "[95 %]" not in text or re.search(how, text), name


def test_maps_stand_beside_masks_with_what_they_find(report: Page) -> None:
    found = {(row["aggregation"], row["pixel_auroc"][:6], row["aupro"][:6]) for row in report.table("located")}
    assert found == {("max", "0.912", "0.634")}
    assert ", rows original, mask, view, reconstruction, anomaly map:" in report.html


@pytest.mark.parametrize(
    ("folder", "suffixes", "names"),
    [
        (
            "tables",
            ("csv", "md", "tex"),
            "ranking paired_differences classes_winner fpr_winner robustness corruptions cost",
        ),
        (
            "figures",
            ("png", "svg"),
            "verdict roc precision_recall slices robustness corruptions gallery_worst_anomalous scores cost selection",
        ),
    ],
)
def test_tables_and_figures_come_in_all_formats(
    report: Page, folder: str, suffixes: tuple[str, ...], names: str
) -> None:
    files = report.files(folder)
    stems = {Path(name).stem for name in files}
    assert stems >= set(names.split())
    assert files == {f"{stem}.{suffix}" for stem in stems for suffix in suffixes}


def test_corruptions_become_tolerances_and_a_score_in_the_ranking(report: Page) -> None:
    """False alarms of 5 % rise by 15 points a severity of shift, catches of 80 % fall as much for a dim lamp."""
    doubled = {row["corruption"]: row for row in report.table("tolerance_false_alarms_double")}
    halved = {row["corruption"]: row for row in report.table("tolerance_catches_halve")}
    assert set(doubled) == set(halved) == {"shift", "dim lamp"}
    one, *others = (name for name in doubled["shift"] if name != "corruption")
    assert len(others) == 5, "winner, default and four references"
    # 10 % is a third of the way to severity 1, 0.42 pixels; 40 % is at severity 2.67, between × 0.95 and × 0.8.
    assert float(doubled["shift"][one]) == pytest.approx(0.42 / 3)
    assert float(halved["dim lamp"][one]) == pytest.approx(0.825)
    assert "0.14 pixels" in report.markdown("tolerance_false_alarms_double")
    assert "> × 0.5" in report.markdown("tolerance_false_alarms_double")
    text = report.starting("summary", "Corruptions of the test images, ")
    assert "winner: false alarms double at shift 0.14 pixels; catches halve at dim lamp × 0.83 (clean: " in text
    rows = report.table("corruptions")
    assert {row["corruption"] for row in rows} == {"none", "shift", "dim lamp"}
    assert {row["strength"] for row in rows if row["corruption"] == "shift"} == {"1.7 pixels"}, "severity 3"
    scores = [(row["configuration"], row["corrupted"]) for row in report.table("ranking")]
    (measured,) = (float(score) for name, score in scores if name == "PCA" and score)
    assert measured == pytest.approx(float(next(r for r in rows if r["detector"] == "PCA")["auroc"]) - 0.15)
    assert any(not score for _, score in scores), "configurations that were not measured"


def test_texts_of_a_study_are_escaped(report: Page) -> None:
    assert "<script>alert" not in report.html
    assert "&lt;script&gt;alert" in report.html


def test_page_is_self_contained(report: Page) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', report.html)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; img-src data:;")
    assert "http:" not in policy[1]
    assert not re.search(r'(?:src|href)="(?:https?:)?//', report.html)
    sources = re.findall(r'<image [^>]*href="([^"]{0,30})', report.html)
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert all(len(alt) > 40 for alt in re.findall(r'<svg [^>]*aria-label="([^"]*)"', report.html))
    assert not re.search(r'<[^>]+ style="', report.html), "the policy forbids style attributes"


def test_one_line_says_what_a_study_did_not_do(small: Small) -> None:
    page = reported(small(references=(), epochs=False, matrices=False))
    for anchor, text in (
        ("summary", "The study ran no reference"),
        ("ranking", "This study trained one configuration"),
        ("training", "This study stored no epochs"),
        ("provenance", "All 1 trials finished."),
    ):
        assert any(text in paragraph for paragraph in page.paragraphs(anchor)), anchor
    for title, text in (
        ("Selection against test AUROC", "Fewer than three configurations are complete"),
        ("Stability over seeds", "This study has one seed, or no error matrices of several"),
        ("Searched settings", "This study searched no setting."),
        ("Ablations", "This study did not vary the method"),
        ("Data efficiency", "This study did not vary the number of training images."),
        ("Robustness", "This study attacked no test images"),
        ("Corruptions", "This study changed no test images"),
        ("Gallery", "This study kept no gallery"),
        ("Scores", "This study kept no error matrices"),
    ):
        assert any(told.startswith(f"{title}: {text}") for told in page.paragraphs("absent")), title
    assert 'id="gallery"' not in page.html


def test_study_without_a_winner_is_reported(small: Small) -> None:
    page = reported(small(classes=("0", "1"), failed=1))
    none, failed = page.paragraphs("summary")
    assert none.startswith("No configuration finished all of its trials")
    assert failed.startswith("1 of 4 trials failed")
    assert page.table("failed_trials")[0]["error"].startswith("<script>")


def test_trials_that_were_given_up_did_not_fail(small: Small) -> None:
    results = small(configurations=3, failed=1, references=(), epochs=False)
    with edited(results.trials_file) as trials:
        trials.loc[trials["status"] == "failed", ["status", "error"]] = ["stopped", "lost the race"]
    page = reported(results)
    assert not any("failed" in text for text in page.paragraphs("summary"))
    assert "No trial failed; 1 of 3 were given up (see Ranking)." in page.paragraphs("provenance")


def test_oracle_is_labelled_everywhere(small: Small) -> None:
    page = reported(small(configurations=3, selection="oracle"))
    assert page.starting("summary", "The winner was selected by the test AUROC itself (oracle)")
    assert page.starting("ranking", "Selection: oracle. The winner was chosen by its AUROC on the test")
    for name in ("ranking", "classes_winner", "searched_settings"):
        assert "oracle" in page.markdown(name), name


@pytest.mark.parametrize(
    ("selection", "objectives", "chosen", "value"),
    [
        ("pseudo_anomalies", ("val_error",), "objective val_error", "0.0375"),
        ("oracle", ("robust_auroc", "auroc"), "objective robust_auroc (oracle)", "25.0 %"),
    ],
)
def test_sentences_name_the_objective_that_chose(
    small: Small, selection: str, objectives: tuple[str, ...], chosen: str, value: str
) -> None:
    settings = {"evaluate": {"robust": {"epsilon": 0.1}}}
    results = small(configurations=3, selection=selection, objectives=objectives, epochs=False, settings=settings)
    with edited(results.trials_file) as trials:
        trials["robust_auroc_min"] = trials["robust_auroc_avg"] = trials["robust_auroc_max"] = 0.25
        trials["val_error"] = 0.0375
    page = reported(results)
    summary = " ".join(page.paragraphs("summary"))
    assert f"; selection: {chosen})" in summary
    assert f"election by {chosen} " in summary
    assert "selected by the test AUROC itself" not in summary
    one = page.starting("ranking", "One-standard-error choice")
    assert f"whose {chosen} is within one standard error of the best: {value}; " in one
    assert f"Winner: chosen by {chosen}." in page.markdown("searched_settings")


def test_error_norms_are_recomputed_from_the_matrices(small: Small) -> None:
    results = small(errors=("l2", "mse"), configurations=2, epochs=False)
    summary = pd.read_csv(results.summary_file).query("role == 'configuration'").sort_values("rank")
    rows = [row for row in reported(results).table("ranking") if row["rank"]]
    best = summary.drop_duplicates("configuration")
    assert [row["reading"] for row in rows] == list(best["aggregation"] + ", " + best["error"])
    assert [float(row["auroc"]) for row in rows] == pytest.approx(list(best["auroc_mean"]))


def test_a_winner_under_another_error_norm_is_described_under_that_norm(small: Small) -> None:
    results = small(classes=("0", "8"), inverted_class="8", errors=("l2", "mse"), references=())
    with edited(results.summary_file) as summary:
        summary["rank"] = summary["rank"].where(summary["error"] != "mse").fillna(summary["rank"].max() + 1)
        summary["label"] = ""
        won = (summary["error"] == "mse") & (summary["aggregation"] == "max")
        summary.loc[won, "label"], summary.loc[won, "rank"] = "winner", 1
    # Under the study's own norm it is the other class whose scores are inverted.
    with edited(results.trials_file) as trials:
        for name in ("auroc_max", "auroc_max_low", "auroc_max_high", "inverted_max"):
            trials[name] = list(trials[name])[::-1]
    page = reported(results)
    inverted = page.starting("summary", "Inverted")
    assert "in 1 of 2 trials" in inverted
    assert "(class 8; " in inverted
    norm = "error norm l2, the study's own, although mse won"
    assert any(norm in text for text in page.paragraphs("training"))
    assert norm.capitalize() in page.html.replace("&#39;", "'")
    assert "under the error norm mse, which won." in page.paragraphs("training")[-1]


def test_class_table_has_references_and_the_papers_values(report: Page) -> None:
    rows = report.table("classes_winner")
    assert [row["class"] for row in rows] == ["0", "1", "8", "mean"]
    assert float(rows[2]["auroc_max"]) < 0.5
    assert float(rows[2]["paper_max"] or rows[2].get("paper_avg", 0)) == pytest.approx(0.9414)
    assert float(rows[0]["auroc_nearest_neighbour"]) > 0.5
    assert "inverted" in report.markdown("classes_winner")


def test_ablations_stand_beside_the_papers(small: Small) -> None:
    levels = {"variant": ("PAE", "CPAE", "CPAE-G")}
    page = reported(
        small(dataset="cifar10", classes=("airplane", "ship"), seeds=(0, 1), configurations=3, axes=(), levels=levels)
    )
    rows = page.table("ablations")
    assert [row["variant"] for row in rows] == ["PAE", "CPAE", "CPAE-G"]
    assert float(rows[0]["paper_min"]) == pytest.approx(0.6951)
    assert [row["class"] for row in page.table("classes_winner")] == ["airplane", "ship", "mean"]


def test_numbers_of_training_images_stand_beside_table_9(small: Small) -> None:
    page = reported(small(configurations=3, axes=(), levels={"data.train_fraction": (0.1, 0.5, 1.0)}, epochs=False))
    assert [row["value"] for row in page.table("data_train_fraction")] == ["0.1", "0.5", "1.0"]
    assert "Puzzle-AE 94.9 %" in page.markdown("data_train_fraction")


def test_a_twelfth_of_the_images_stands_beside_table_9(small: Small) -> None:
    page = reported(small(classes=("0", "8"), epochs=False, settings={"data": {"train_fraction": 1 / 12}}))
    assert page.starting("summary", "The paper reports 94.7 % (Table 9, mean of the same 2 classes)")
    classes, last, fpr = (page.table(name) for name in ("classes_winner", "last20", "fpr_winner"))
    (paper,) = (name for name in classes[0] if name.startswith("paper"))
    assert [float(row[paper]) for row in classes] == pytest.approx([0.9954, 0.8981, 0.94675])
    assert float(last[1]["paper_mean"]) == pytest.approx(0.8981)
    assert float(last[1]["paper_spread"]) == pytest.approx(0.00676)
    assert not any(name.startswith("paper") for name in fpr[0])
    text = page.starting("absent", "Data efficiency: ")
    assert "It trained with data.train_fraction 0.0833." in text
    assert "(Table 9, mean over ten classes): LSA 88.9 %; DSVDD 92.6 %; Puzzle-AE 94.9 %." in text


def test_the_papers_means_over_20_epochs_stand_beside_ours_of_that_kind(report: Page) -> None:
    rows = report.table("classes_winner")
    (way,) = (name.removeprefix("paper_") for name in rows[0] if name.startswith("paper_"))
    for row in rows:
        # The made-up evaluations are one point below the end of the training.
        assert float(row[f"last20_{way}"]) == pytest.approx(float(row[f"auroc_{way}"]) - 0.01)
    text = report.markdown("classes_winner")
    assert "94.14 ± 0.073" in text
    assert " ± 0.400" in text
    assert "mean and variance over the last 20 epochs (section 4.3)" in text
    for name in ("classes_winner", "last20"):
        assert "fraction" not in report.markdown(name)
    text = report.starting("summary", "The paper reports 97.9 % (Table 1, mean of the same 3 classes)")
    assert " over the last 20 epochs" in text


def test_a_quick_run_stands_beside_the_papers_values_and_says_that_it_is_one(small: Small) -> None:
    settings = {"data": {"max_train_images": 1200}, "train": {"epochs": 6}, "model": {"base_channels": 8}}
    page = reported(small(classes=("0", "8"), settings=settings))
    short = "6 of 600 epochs, 8 of 64 base channels, at most 1200 training images"
    assert f"at a fraction of the budget: {short}." in page.starting("summary", "The paper reports")
    for name in ("classes_winner", "last20", "fpr_winner"):
        assert any(column.startswith("paper") for column in page.table(name)[0]), name
        assert "; here at a fraction of the budget)" in page.markdown(name), name
        assert f"at a fraction of the paper's budget: {short}." in page.markdown(name), name


def test_table_4_stands_beside_the_medical_sets(small: Small) -> None:
    page = reported(small(dataset="head_ct", classes=("normal",), epochs=False))
    (column,) = (name for name in page.table("fpr_winner")[0] if name.startswith("paper"))
    assert [float(row[column]) for row in page.table("fpr_winner")] == [0.7, 0.7]
    assert "TPR not stated (Table 4" in page.markdown("fpr_winner")
    assert "86.43 ± 0.040" in page.markdown("classes_winner")


def test_settings_that_the_paper_does_not_have_are_held_against_nothing(small: Small) -> None:
    page = reported(small(settings={"puzzle": {"grid": 3}}, epochs=False))
    assert "The paper has no AUROC for mnist with puzzle.grid 3." in page.paragraphs("summary")
    for name, what in (("classes_winner", "AUROC"), ("last20", "AUROC"), ("fpr_winner", "FPR")):
        assert not any(column.startswith("paper") for column in page.table(name)[0]), name
        assert f"The paper has no {what} for mnist with puzzle.grid 3." in page.markdown(name), name


def test_studies_side_by_side(tmp_path: Path, study: Results, small: Small) -> None:
    other = small(name="other", classes=("0", "8"), seeds=(0, 1))
    foreign = small(name="foreign", dataset="cifar10", classes=("ship",))
    page = Page(build_report(study, others=[other, foreign], output=tmp_path / "compared"))
    assert page.path == tmp_path / "compared" / "index.html"
    assert [row["study"] for row in page.table("studies")] == ["made_up", "other", "foreign"]
    assert [row["class"] for row in page.table("studies_by_class")] == ["0", "1", "8"]
    differences = page.table("studies_differences")[0]
    assert (differences["pairs"], differences["tasks"]) == ("4", "2")
    assert float(differences["p"]) >= 0.5
    assert float(differences["over_images"]) == pytest.approx(float(differences["difference"]), abs=1e-6)
    assert float(differences["over_images_low"]) < float(differences["over_images_high"])
    assert re.search(r"With 2 tasks the smallest p-value .* is 0.5", page.markdown("studies_differences"))
    assert "Studies of different data sets are not compared class by class." in page.paragraphs("comparison")


def test_second_report_removes_only_what_the_first_wrote(tmp_path: Path, study: Results, small: Small) -> None:
    output = tmp_path / "report"
    build_report(study, output=output)
    assert (output / "figures" / "robustness.png").exists()
    (output / "figures" / "mine.png").write_bytes(b"mine")
    build_report(small(), output=output)
    assert not (output / "figures" / "robustness.png").exists()
    assert (output / "figures" / "mine.png").read_bytes() == b"mine"


def test_logarithmic_axes_have_plain_numbers() -> None:
    with drawing.drawing() as (figure, (axes,)):
        axes.plot([0.001, 1], [0.02, 0.07])
        axes.set(xscale="log", yscale="log")
        drawing.finished(figure, name="log", alt="", caption="")
        labels = {text.get_text() for text in (*axes.get_xticklabels(), *axes.get_yticklabels(which="minor"))}
    assert {"0.001", "0.01", "0.1", "1", "0.03"} <= labels
    assert not any("$" in label for label in labels)


def test_same_results_give_the_same_page_and_leave_the_style_of_other_figures_alone(small: Small) -> None:
    results, style = small(), dict(mpl.rcParams)
    first = build_report(results).read_bytes()
    assert build_report(results).read_bytes() == first
    assert dict(mpl.rcParams) == style


@pytest.mark.parametrize("name", ["US$_$", "NA", "None", "null", "nan"])
def test_any_folder_name_is_a_class(small: Small, name: str) -> None:
    page = reported(small(dataset="folder", classes=(name, "screws"), attacks=True, gallery=True))
    assert [row["class"] for row in page.table("classes_winner")] == [name, "screws", "mean"]
    assert all(row["trials"] == "2" for row in page.table("robustness"))


def test_missing_tables_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trials.csv is not there; run the study first"):
        build_report(Results(tmp_path))


def test_damaged_files_are_one_sentence(tmp_path: Path, study: Results) -> None:
    copy = Results(tmp_path / "copy")
    shutil.copytree(study.root, copy.root)
    copy.environment_file.write_text("{", encoding="utf-8")
    assert reported(copy).starting("provenance", "environment.json is missing or damaged")
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
        ("trials.csv", r"trials.csv has no column trial; delete it .* tune"),
        ("summary.csv", r"summary.csv has no column configuration; delete it"),
        ("attacks.csv", r"attacks.csv has no column configuration; delete it"),
        ("corruptions.csv", r"corruptions.csv has no column configuration; delete it"),
        ("transfer.csv", r"transfer.csv has no column configuration; delete it"),
        ("aggregation_matrix.csv", r"aggregation_matrix.csv has no column configuration; delete it"),
        ("epochs.parquet", r"epochs.parquet has no column trial; delete it"),
        ("gallery.npz", r"gallery.npz has no array original; delete it .* --resume"),
        ("errors", r"errors/\w+.npz is missing or damaged; delete records/\w+.json and use --resume"),
    ],
)
def test_files_without_what_the_report_reads_are_one_sentence(small: Small, name: str, sentence: str) -> None:
    results = small()
    files = [*(results.root / "errors").iterdir()] if name == "errors" else [results.root / name]
    for path in files:
        if path.suffix == ".npz":
            np.savez(path, foo=np.zeros(1))
        else:
            results.write_table(path, pd.DataFrame({"foo": [1]}))
    with pytest.raises(UserError, match=sentence):
        build_report(results)


def test_a_trials_table_without_its_numbers_is_one_sentence(small: Small) -> None:
    results = small()
    with edited(results.trials_file) as trials:
        del trials["selection_max"]
    with pytest.raises(UserError, match=r"trials.csv has no column selection_max; delete it"):
        build_report(results)


def test_a_study_whose_trials_all_failed_is_reported(small: Small) -> None:
    results = small(references=(), epochs=False)
    kept = ["trial", "configuration", "role", "detector", "dataset", "normal_class", "seed"]
    trials = pd.read_csv(results.trials_file)[kept].assign(repeat=0, status="failed", error="why")
    trials.to_csv(results.trials_file, index=False)
    summary = pd.read_csv(results.summary_file).assign(complete=False, rank=None, label="default")
    summary.drop(columns=["auroc_mean", "selection_mean"]).to_csv(results.summary_file, index=False)
    page = reported(results)
    assert "1 of 1 trials failed" in page.paragraphs("summary")[1]
    for title in ("Classes and aggregations", "Training"):
        assert f"{title}: No configuration finished." in page.paragraphs("absent")


@pytest.fixture
def attacked(small: Small) -> Results:
    """A search with attacks on its winner and its default."""
    return small(configurations=4, attacks=True, epochs=False, matrices=False)


def test_attacked_configurations_have_the_name_that_they_have_everywhere(attacked: Results) -> None:
    with edited(attacked.attacks_file) as attacks:
        attacks.loc[attacks["label"] == "default", "label"] = ""
    page = reported(attacked)
    names = {row["label"] for row in page.table("robustness")}
    ranked = {row["configuration"] for row in page.table("ranking")}
    assert {name.removesuffix(", winner") for name in names} <= ranked
    assert sum(name.endswith(", winner") for name in names) == 1


def test_two_readings_of_one_attacked_configuration_are_told_apart(attacked: Results) -> None:
    attacks = pd.read_csv(attacked.attacks_file, dtype={"configuration": str, "trial": str})
    first = attacks[attacks["label"] == "default"].assign(label="")
    # Under the other reading noise does no harm at all: held against the first one's, attack1 would be weaker.
    noise = first["method"] == "noise"
    second = first.assign(aggregation="min", error="mse", auroc=first["auroc"].where(noise, 0.3).where(~noise, 0.9))
    pd.concat([first, second]).to_csv(attacked.attacks_file, index=False)
    page = reported(attacked)
    rows = [row for row in page.table("robustness") if (row["attack"], row["method"]) == ("attack1", "fgsm")]
    expected = first.query("attack == 'attack1' and method == 'fgsm'").sort_values("epsilon")["auroc"]
    assert {row["reading"] for row in rows} == {"max, l2", "min, mse"}
    assert len({row["label"] for row in rows}) == 2
    assert [float(row["auroc"]) for row in rows if row["reading"] == "max, l2"] == pytest.approx(list(expected))
    assert {float(row["auroc"]) for row in rows if row["reading"] == "min, mse"} == {0.3}
    weaker = " ".join(page.paragraphs("robustness"))
    assert "max, l2)" in weaker
    assert "min, mse)" not in weaker


def test_whose_score_an_attack_breaks_is_told_if_the_study_asked_for_it(attacked: Results) -> None:
    assert "Whose score" not in reported(attacked).html
    attacks = pd.read_csv(attacked.attacks_file, dtype={"configuration": str, "trial": str})
    attacks = attacks[(attacks["attack"] == "attack1") & (attacks["method"] == "fgsm") & (attacks["epsilon"] == 0.2)]
    cells = [
        attacks.assign(attacked_aggregation=attacked, scoring_aggregation=scoring, error="l2")
        for attacked in ("min", "max")
        for scoring in ("min", "max")
    ]
    pd.concat(cells).to_csv(attacked.matrix_file, index=False)
    winner = attacks[attacks["label"] == "winner"]
    # The same aggregation under another norm is another score, of the same configuration too.
    other = attacks[attacks["label"] == "default"].assign(configuration=winner["configuration"].iloc[0], error="mse")
    of_source = ("configuration", "label", "trial", "aggregation", "error")
    pairs = [
        judge.assign(**{f"source_{name}": source[name].iloc[0] for name in of_source})
        for source in (winner, other)
        for judge in (winner, other)
    ]
    pd.concat(pairs).to_csv(attacked.transfer_file, index=False)
    page = reported(attacked)
    matrix, transfer = page.table("aggregation_matrix"), page.table("transfer")
    told = [
        (row["attacked"], row["scoring"], row["adaptive"]) for row in matrix if row["configuration"].endswith("winner")
    ]
    assert told == [("min", "min", "yes"), ("min", "max", "no"), ("max", "min", "no"), ("max", "max", "yes")]
    assert [
        (row["source"].split(", ")[-1], row["configuration"].split(", ")[-1], row["adaptive"]) for row in transfer
    ] == [
        ("winner", "winner", "yes"),
        ("winner", "default", "no"),
        ("default", "winner", "no"),
        ("default", "default", "yes"),
    ]
    assert float(transfer[1]["auroc"]) == pytest.approx(other["auroc"].mean(), abs=1e-3)
