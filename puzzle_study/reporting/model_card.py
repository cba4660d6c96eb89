"""MODEL_CARD.md beside each of the winner's detectors: data, numbers, threshold and limits, from the records."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import yaml

import puzzle_study
from puzzle_study import config
from puzzle_study.config.types import Reading
from puzzle_study.corruptions.base import NONE
from puzzle_study.criteria.expecting import kind_weights
from puzzle_study.datasets.original_sizes import OriginalSizes
from puzzle_study.detectors.files import read_description
from puzzle_study.detectors.registry import COMPOSED, DETECTORS
from puzzle_study.errors import UserError
from puzzle_study.inference.calibration import FALSE_POSITIVE_RATE, Calibration, flagged_shares
from puzzle_study.inference.locating import detectors_in
from puzzle_study.io import write_text
from puzzle_study.reporting import reading
from puzzle_study.reporting.cells import share, significant
from puzzle_study.reporting.choice import Choice
from puzzle_study.reporting.page import template
from puzzle_study.reporting.scores import TrialScores, ensemble_scores, test_scores
from puzzle_study.results import MODEL_CARD
from puzzle_study.statistics import metrics
from puzzle_study.trials.record import Record, read_record
from puzzle_study.trials.worth import judged

if TYPE_CHECKING:
    from puzzle_study.reporting.study_data import StudyData
    from puzzle_study.results import Results

NUMBERS = {
    "average_precision": "average precision",
    "fpr_at_tpr95": "normal images flagged if 95 % of the anomalies are to be found",
    "fpr_at_tpr99": "normal images flagged if 99 % of the anomalies are to be found",
}
NOISE = "noise"


def write_model_cards(results: Results, environment: Mapping[str, Any]) -> None:
    """Write a card into each folder of ``best/``.

    Args:
        results: a study whose tables and ``best/`` are written.
        environment: future content of ``environment.json``.

    Raises:
        UserError: a record or an error matrix is missing or damaged.
    """
    data = reading.load(results, environment)
    for folder in detectors_in(results.best):
        write_text(folder / MODEL_CARD, card(data, folder))


def card(data: StudyData, folder: Path) -> str:
    """Return the card of a winner's detector, or of an ensemble with its members."""
    described = read_description(folder)
    key = str(described.get("trial"))
    record = read_record(data.results, key)
    if record is None:
        raise UserError(f"records/{key}.json is missing or damaged; train it again with --resume")
    if data.study is not None:
        record = judged(record, kind_weights(data.study.expect, data.study.kinds))
    own = Reading(**described["reading"])
    winner = Choice(str(described["configuration"]), record.spec.detector, own.aggregation, own.error)
    members = described.get("members", [])
    scores = ensemble_scores(data, described) if members else test_scores(data, key, winner)
    if members and scores is not None:
        record = _blended(record, scores, own, len(members))
    settings = {"detector": winner.detector, **described["settings"]["own"]}
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, loader=jinja2.FunctionLoader(template)
    )
    environment.filters["plain"] = _plain
    environment.globals["percent"] = share
    n_test, n_anomalies = record.tested
    content = {
        **_chosen(data, winner, record),
        **(_of_ensemble(described) if members else {}),
        **_threshold(winner, record, scores),
        "folder": f"results/{_plain(data.results.root.name)}/best/{folder.name}",
        "maps": DETECTORS[record.spec.detector].traits.maps and not members,
        "n_train": record.measured["n_train"],
        "n_validation": record.measured["n_validation"],
        "n_test": n_test,
        "n_normal": n_test - n_anomalies,
        "n_anomalies": n_anomalies,
        "side": described["image"]["height"],
        "channels": described["image"]["channels"],
        "sizes": OriginalSizes.from_json(described.get("original_sizes")),
        "numbers": list(_numbers(record, winner.reading)),
        "lacks": data.lacking(data.trials[data.trials["trial"] == key]),
        "references": list(_references(data, record)),
        "attacks": [] if members else list(_attacks(data, key)),
        "limits": list(_limits(data, record, winner)),
        "settings": yaml.safe_dump({"members": members} if members else settings, sort_keys=False),
    }
    return re.sub(r"\n{3,}", "\n\n", environment.get_template("MODEL_CARD.md.jinja").render(content))


def _chosen(data: StudyData, winner: Choice, record: Record) -> dict[str, Any]:
    """Return what the detector is, and how the study chose it."""
    selection = record.value(winner.reading, "selection")
    by_auroc = data.ranks_by_selection and not data.criterion.compares and data.objectives[0] == "selection"
    shown = selection is not None and not math.isnan(selection) and by_auroc
    return {
        "title": winner.title,
        "source": DETECTORS[winner.detector].source,
        "normal_class": record.spec.task.normal_class,
        "dataset": record.spec.task.dataset,
        "study": data.name,
        "version": puzzle_study.__version__,
        "ended": str(data.environment.get("finished") or "")[:10],
        "configuration": data.called(winner),
        "aggregation": winner.aggregation,
        "views": winner.reading.views or record.measured["k"],
        "seed": record.spec.seed,
        "configurations": len(data.configurations["configuration"].unique()),
        "selected_by": data.selected_by,
        "selection": f" (AUROC {share(selection)} %)" if selection is not None and shown else "",
        "uses_labels": data.objectives[0] in config.NEED_TEST_LABELS,
    }


def _blended(record: Record, scores: TrialScores, own: Reading, members: int) -> Record:
    """Return the record of an ensemble's first member with the ensemble's numbers."""
    evaluation = metrics.evaluate(scores.test, scores.labels)
    values = asdict(evaluation) if evaluation else {}
    values |= flagged_shares(scores.validation, scores.test, scores.labels)
    return replace(record, metrics={own.error: {own.aggregation: values}}, measured={**record.measured, "k": members})


def _of_ensemble(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return what differs in the card of an ensemble."""
    titles = [DETECTORS[member["detector"]].title for member in described["described"]["members"]]
    kind = COMPOSED[described["detector"]]
    return {"title": f"{kind.title} of {', '.join(titles)}", "source": kind.source, "selection": ""}


def _threshold(winner: Choice, record: Record, scores: TrialScores | None) -> dict[str, Any]:
    """Return the threshold for 5 % false alarms, and its effect on the test images."""
    calibration = None if scores is None else Calibration(np.sort(scores.validation))
    return {
        "threshold": None if calibration is None else significant(calibration.threshold(FALSE_POSITIVE_RATE), 4),
        "lowest_rate": 0.0 if calibration is None else calibration.lowest_rate,
        "flagged_normal": record.value(winner.reading, "flagged_normal"),
        "flagged_anomalous": record.value(winner.reading, "flagged_anomalous"),
    }


def _numbers(record: Record, reading: Reading) -> Iterator[tuple[str, str]]:
    """Yield the test's numbers; nothing if it has no AUROC."""
    if record.value(reading, "auroc") is not None:
        yield "AUROC", _auroc(*(record.value(reading, f"auroc{end}") for end in ("", "_low", "_high")))
        for column, name in NUMBERS.items():
            if (value := record.value(reading, column)) is not None:
                yield name, share(value)


def _references(data: StudyData, record: Record) -> Iterator[tuple[str, str]]:
    """Yield the AUROC of each reference on the same images."""
    task = record.spec.task
    rows = data.finished[data.finished["role"] == "reference"]
    same = (rows["normal_class"] == task.normal_class) & (rows["repeat"] == task.repeat)
    for key in rows[same & (rows["seed"] == record.spec.seed)]["trial"]:
        found = read_record(data.results, str(key))
        if found is not None and found.value(own := found.spec.settings.own.reading, "auroc") is not None:
            ends = (found.value(own, f"auroc{end}") for end in ("", "_low", "_high"))
            yield DETECTORS[found.spec.detector].title, _auroc(*ends)


def _attacks(data: StudyData, key: str) -> Iterator[tuple[str, str, str]]:
    """Yield the strongest attack of each place on this detector."""
    if data.attacks is None:
        return
    rows = data.attacks[(data.attacks["trial"] == key) & (data.attacks["method"] != NOISE)].dropna(subset=["auroc"])
    for place, part in rows.groupby("attack", sort=False):
        worst = part.iloc[int(part["auroc"].argmin())]
        value = _auroc(worst["auroc"], worst["auroc_low"], worst["auroc_high"])
        yield f"{place}, {worst['method']}, target {worst['target']}", significant(worst["epsilon"]), value


def _limits(data: StudyData, record: Record, winner: Choice) -> Iterator[str]:
    """Yield the detector's limits, as far as the study knows."""
    yield "Meant for images taken like the training images: same camera, light, distance and size."
    yield _worst_corruption(data, record.spec.key)
    yield "Everything that was not among the training images is an anomaly to it, harmless or not."
    validation = record.measured["n_validation"]
    if 1 / (validation + 1) > FALSE_POSITIVE_RATE:
        yield f"The threshold rests on only {validation} images; more normal images would make it more reliable."
    auroc = record.value(winner.reading, "auroc")
    if auroc is not None and auroc < 0.5:
        yield "On the test images anomalies score lower than normal images. Do not use it."
    if (n_test := record.tested[0]) and n_test < 100:
        yield f"{n_test} test images say little; see the interval."
    if len(data.of(winner)["seed"].unique()) == 1:
        yield "One seed was trained, so how much another training would differ is unknown."


def _worst_corruption(data: StudyData, key: str) -> str:
    """Return which natural change of the images leaves least, or flags most normal images if there is no AUROC."""
    rows = None if data.corruptions is None else data.corruptions[data.corruptions["trial"] == key]
    if rows is None or (rows := rows[rows["severity"] != NONE]).empty:
        return "What another lamp, focus or noise does to it was not measured (`corruptions` in a study file)."
    by_auroc = bool(rows["auroc"].notna().all())
    worst = rows.iloc[int(rows["auroc"].argmin() if by_auroc else rows["flagged_normal"].argmax())]
    parts = [f"AUROC {share(worst['auroc'])} %"] if by_auroc else []
    if not math.isnan(alarms := float(worst["flagged_normal"])):
        parts.append(f"{share(alarms)} % false alarms")
    changed = f"{_plain(worst['corruption'])} at severity {int(worst['severity'])} of 5"
    left = ", ".join(parts) or "nothing that can be measured"
    return f"Worst of the corruptions measured: {changed}, which leaves {left}."


def _auroc(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "–"
    ends = "" if low is None or high is None else f" [{share(low)}, {share(high)}]"
    return f"{share(value)}{ends}"


def _plain(text: object) -> str:
    """Return text as one line without Markdown syntax, because names come from folders."""
    return re.sub(r"[`|<>*\[\]\\]", "_", " ".join(str(text).split()))
