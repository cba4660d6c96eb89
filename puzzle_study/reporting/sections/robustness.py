"""What is left of the AUROC when the test images are attacked, beside random noise of the same size."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from dataclasses import dataclass

import pandas as pd

from puzzle_study.attacks.flags import FLAGS
from puzzle_study.attacks.registry import PLACES
from puzzle_study.reporting import drawing
from puzzle_study.reporting.blocks import (
    Blocks,
    Column,
    Figure,
    Paragraph,
    Table,
    absent,
    finding,
    section,
    table,
    words,
)
from puzzle_study.reporting.cells import (
    NOTHING,
    Cell,
    count,
    estimated,
    number,
    percent,
    plural,
    share,
    significant,
    word,
)
from puzzle_study.reporting.choice import title_of
from puzzle_study.reporting.study_data import StudyData
from puzzle_study.reporting.values import mean_auroc
from puzzle_study.statistics import intervals

VICTIM = ["configuration", "aggregation", "error"]
GROUP = [*VICTIM, "target", "attack", "method", "epsilon"]
NOISE = "noise"
REFERENCE = "reference"
TITLE_WIDTH = 46
"""Characters above a panel; a configuration that is named by its settings takes several lines."""


@dataclass(frozen=True)
class AttackCell:
    """One attack on one configuration under one reading, over all of its trials; ``values`` has each trial's AUROC.

    ``victim`` is the configuration, aggregation and error norm; two victims may be called alike. ``fpr`` and ``tpr``
    are the shares of normal and of anomalous images above the calibrated threshold, before the attack and under it.
    """

    label: str
    victim: tuple[str, ...]
    target: str
    attack: str
    method: str
    epsilon: float
    steps: int
    auroc: intervals.Mean
    clean: float
    fpr_at_tpr99: float
    fpr: tuple[float, float]
    tpr: tuple[float, float]
    images: int
    max_perturbation: float
    flags: str
    values: pd.Series[float]
    is_reference: bool


@section("robustness", "Robustness")
def build(data: StudyData) -> Blocks:
    found = cells(data)
    if found:
        yield Paragraph(f"{'; '.join(f'{name}: {meaning}' for name, meaning in meanings(data).items())}.")
        yield from weaker_than_noise(data)
        yield _figure([cell for cell in found if not cell.is_reference] or found)
        yield attack_table(found)
    elif data.attacks is None:
        yield absent("This study attacked no test images (its study file has no section attacks).")
    else:
        why = data.lacking() or "see the notes in attacks.csv"
        yield absent(
            f"The AUROC under attack cannot be measured: {why}. attacks.csv says how far scores moved (strength)."
        )


def meanings(data: StudyData) -> dict[str, str]:
    """Return what is perturbed by each attack of a study, by its name."""
    used = [] if data.attacks is None else sorted(map(str, data.attacks["attack"].unique()))
    return {name: PLACES[name].meaning for name in used if name in PLACES and PLACES[name].meaning}


def cells(data: StudyData) -> list[AttackCell]:
    """Return every attack with its mean over trials, in the order of label, attack, method and ε."""
    attacks = named(data)
    if attacks is None:
        return []
    found = []
    for key, rows in attacks.groupby(GROUP, sort=False):
        rows = rows.dropna(subset=["auroc"])
        if not len(rows):
            continue
        target, attack, method = map(str, key[3:6])
        found.append(
            AttackCell(
                label=str(rows["title"].iloc[0]),
                victim=tuple(map(str, key[:3])),
                target=target,
                attack=attack,
                method=method,
                epsilon=float(rows["epsilon"].iloc[0]),
                steps=int(rows["steps"].max()),
                auroc=mean_auroc(rows),
                clean=float(rows["auroc_clean"].mean()),
                fpr_at_tpr99=float(rows["fpr_at_tpr99"].mean()),
                fpr=_shares(rows, "flagged_normal"),
                tpr=_shares(rows, "flagged_anomalous"),
                images=int(rows["images"].sum()),
                max_perturbation=float(rows["max_perturbation"].max()),
                flags=_flags(rows["flags"]),
                values=rows.set_index("trial")["auroc"],
                is_reference=bool((rows["label"] == REFERENCE).all()),
            )
        )
    return sorted(
        found,
        key=lambda cell: (
            *("winner" not in cell.label, cell.label, cell.target, cell.attack),
            *(cell.method == NOISE, cell.method, cell.epsilon),
        ),
    )


def _shares(rows: pd.DataFrame, name: str) -> tuple[float, float]:
    """Return the mean shares of images above the threshold before and under an attack; NaN in older tables."""
    before, under = (
        float(pd.to_numeric(rows[column], errors="coerce").mean()) if column in rows else math.nan
        for column in (f"{name}_clean", name)
    )
    return before, under


def named(data: StudyData) -> pd.DataFrame | None:
    """Return attacks.csv with a title for each victim, or None without attacks.

    If the labels and settings of two victims are alike, their titles also have the configuration and the reading.
    """
    if data.attacks is None:
        return None
    victims = data.attacks[[*VICTIM, "label"]].drop_duplicates(VICTIM)
    victims["title"] = [
        configuration_title(data, label, configuration)
        for label, configuration in zip(victims["label"], victims["configuration"], strict=True)
    ]
    alike = victims["title"].duplicated(keep=False)
    told = victims["title"] + " (" + victims[VICTIM].astype(str).agg(", ".join, axis=1) + ")"
    victims["title"] = victims["title"].where(~alike, told)
    return data.attacks.merge(victims[[*VICTIM, "title"]], on=VICTIM, how="left")


Beside = tuple[AttackCell, AttackCell, float]
"""An attack, the noise it is held to, and by how much more of the AUROC it leaves."""


def configuration_title(data: StudyData, label: object, configuration: object) -> str:
    """Return what an attacked configuration is called: by its detector if there are several, its name, its labels."""
    detectors = data.trials.loc[data.trials["configuration"] == configuration, "detector"]
    detector = title_of(str(detectors.iloc[0])) if len(detectors) else ""
    if label == REFERENCE and detector:
        return f"{detector} ({REFERENCE})"
    labels = label.replace(";", " and ") if isinstance(label, str) else ""
    parts = (detector if data.compares_detectors else "", data.called(str(configuration)), labels)
    return ", ".join(filter(None, parts))


def weaker_than_noise(data: StudyData, labels: tuple[str, ...] = ()) -> list[Paragraph]:
    """Return one paragraph for each attack on each configuration that random sign noise of the same ε beats.

    Args:
        data: the study.
        labels: only attacks on configurations that carry one of these labels; empty: all.
    """
    found = cells(data)
    groups: dict[tuple[str, tuple[str, ...], str, str], dict[str, list[Beside]]] = {}
    for cell in found:
        noise = _noise_beside(cell, found)
        if noise is not None and (not labels or any(label in cell.label for label in labels)):
            common = cell.values.index.intersection(noise.values.index)
            gap = float((cell.values[common] - noise.values[common]).mean())
            methods = groups.setdefault((cell.label, cell.victim, cell.target, cell.attack), {})
            methods.setdefault(cell.method, []).append((cell, noise, gap))
    sentences = []
    for (label, _, target, attack), methods in groups.items():
        parts = [part for method, triples in methods.items() if (part := _beaten(method, triples))]
        if parts:
            text = (
                f"{attack} on {label} ({target} images) is weaker than random sign noise of the same ε: "
                f"{'; '.join(parts)}. If noise does more harm, the attack is not evidence of robustness."
            )
            sentences.append(finding(text))
    return sentences


def _beaten(method: str, triples: list[Beside]) -> str | None:
    """Return how often noise beats a method, and the widest gap."""
    weaker = [triple for triple in triples if triple[2] > 0]
    if not weaker:
        return None
    cell, noise, _ = max(weaker, key=lambda triple: triple[2])
    return (
        f"{method} at {len(weaker)} of {len(triples)} ε, widest at ε = {significant(cell.epsilon)} with AUROC "
        f"{share(cell.auroc.value)} %, while noise leaves {share(noise.auroc.value)} % (clean {share(cell.clean)} %, "
        f"n = {plural(cell.auroc.n, 'trial')})"
    )


def _noise_beside(cell: AttackCell, found: list[AttackCell]) -> AttackCell | None:
    """Return the noise to which an attack is held: on the image itself (attack1) if that was run."""
    if cell.method == NOISE:
        return None
    beside = (NOISE, cell.victim, cell.target, cell.epsilon)
    same = [one for one in found if (one.method, one.victim, one.target, one.epsilon) == beside]
    return min(same, key=lambda one: (one.attack != "attack1", one.attack != cell.attack), default=None)


def attack_table(found: list[AttackCell]) -> Table:
    """Return every attack with its interval and its flags."""
    targets = {cell.target for cell in found}
    rows = [
        {
            words("label", "Configuration"): word(cell.label),
            words("reading", "Reading"): word(", ".join(cell.victim[1:])),
            **({words("target", "Target"): word(cell.target)} if len(targets) > 1 else {}),
            words("attack", "Attack"): word(cell.attack),
            words("method", "Method"): word(cell.method),
            Column("epsilon", "ε"): number(cell.epsilon),
            Column("steps", "Steps"): count(cell.steps),
            Column("auroc", "AUROC % [95 %]"): estimated(cell.auroc),
            Column("clean", "Clean %"): percent(cell.clean),
            Column("fpr_at_tpr99", "FPR % at TPR 99 %"): percent(cell.fpr_at_tpr99),
            Column("fpr", "FPR % at the threshold"): _from_to(cell.fpr),
            Column("tpr", "TPR % at the threshold"): _from_to(cell.tpr),
            words("flags", "Flags (trials)"): _folded(cell.flags),
            Column("trials", "Trials (n)"): count(cell.auroc.n),
            Column("images", "Attacked images (n)"): count(cell.images),
            Column("max_perturbation", "Largest |δ|"): number(cell.max_perturbation),
        }
        for cell in found
    ]
    methods = intervals.method_note(cell.auroc for cell in found)
    target = f" Attacked: {found[0].target} images." if len(targets) == 1 else ""
    seen = [name for name in FLAGS if any(name in cell.flags for cell in found)]
    meanings = " Of those here: " + "; ".join(f"{name}: {FLAGS[name]}" for name in seen) + "." if seen else ""
    return table(
        "robustness",
        "AUROC under attack",
        rows,
        f"Mean over trials. {methods} Reading: aggregation and error norm of the attacked score. Clean: the same "
        "images without an attack. FPR and TPR at the threshold: shares of normal and of anomalous images above the "
        "threshold for 5 % false alarms, without → under the attack. ε bounds every pixel of images in [0, 1]."
        f"{target} Flags are doubts that the attack code itself raised, with the number of trials that carry them; "
        f"noise is random signs of size ε, the control.{meanings}",
        collapsed=len(rows) > 20,
    )


def _folded(flags: str) -> Cell:
    """Return a cell with a flag, or with the number of several, which it opens into."""
    told = tuple(flags.split(", "))
    return word(flags) if len(told) < 2 else Cell(f"{len(told)} flags", flags, more=told)


def _from_to(shares: tuple[float, float]) -> Cell:
    """Return a cell with a share before and under an attack, sorted by the latter."""
    before, under = shares
    if math.isnan(under):
        return Cell(NOTHING)
    return Cell(f"{share(before, digits=0)} → {share(under, digits=0)}", under)


def _figure(found: list[AttackCell]) -> Figure:
    panels = {(cell.victim, cell.target): cell.label for cell in found}
    used = sorted({0.0, *(cell.epsilon for cell in found)})
    combinations = list(dict.fromkeys((cell.attack, cell.method) for cell in found))
    drawn = [pair for pair in combinations if pair[1] != NOISE]
    colours = {pair: drawing.PALETTE[i % len(drawing.PALETTE)] for i, pair in enumerate(drawn)}
    markers = {pair: "os^Dv<>Pp*"[i % 10] for i, pair in enumerate(drawn)}
    grey_dashes = {"attack1": (0, (5, 2)), "attack2": (0, (1, 1.5))}
    with drawing.panels(len(panels), most=3, width=4.5, height=3.6, above=0.5, sharey=True) as (figure, axes):
        for place, ((victim, target), label) in zip(axes, panels.items(), strict=True):
            for pair in combinations:
                line = [c for c in found if (c.victim, c.target, c.attack, c.method) == (victim, target, *pair)]
                if not line:
                    continue
                x = [0.0, *(cell.epsilon for cell in line)]
                y, low, high = (
                    [100 * line[0].clean, *(100 * getattr(cell.auroc, name) for cell in line)]
                    for name in ("value", "low", "high")
                )
                if pair[1] == NOISE:
                    style = grey_dashes.get(pair[0], (0, (3, 1)))
                    place.plot(x, y, color=drawing.GREY, linestyle=style, label=f"{pair[0]}, noise (control)")
                else:
                    (drawn_line,) = place.plot(
                        x, y, color=colours[pair], marker=markers[pair], markersize=5, label=f"{pair[0]}, {pair[1]}"
                    )
                    told = [
                        f"{', '.join(pair)}, ε = {significant(at)}: AUROC {left:.1f} %"
                        for at, left in zip(x, y, strict=True)
                    ]
                    drawing.tell(drawn_line, told)
                    place.fill_between(x, low, high, color=colours[pair], alpha=0.15, linewidth=0)
            place.axhline(50, color="black", linewidth=0.8, linestyle=":")
            title = textwrap.fill(f"{label}, {target} images attacked", TITLE_WIDTH)
            place.set(title=title, xlabel="ε (pixels in [0, 1])", ylabel="AUROC, %")
            place.set_xticks(used, [significant(value) for value in used])
        handles, texts = axes[0].get_legend_handles_labels()
        figure.legend(handles, texts, loc="outside lower center", ncols=min(3, len(texts)), fontsize=8)
        worst = min(
            (cell for cell in found if cell.method != NOISE), key=lambda cell: cell.auroc.value, default=found[0]
        )
        return drawing.finished(
            figure,
            name="robustness",
            alt=f"Lines of AUROC against epsilon for each attack and method, one panel for each of "
            f"{', '.join(dict.fromkeys(cell.label for cell in found))}; the lowest point is {worst.attack} "
            f"{worst.method} at epsilon {significant(worst.epsilon)} with {share(worst.auroc.value)} %, from "
            f"{share(worst.clean)} % clean.",
            caption=f"AUROC under attack against ε, mean over trials (n = {found[0].auroc.n} each at most); ε = 0 is "
            f"clean. Band: {found[0].auroc.method}. Grey: random sign noise; dotted: chance. An attack above the noise "
            "is not evidence of robustness.",
        )


def _flags(values: pd.Series[str]) -> str:
    """Return each flag with the share of trials that carry it."""
    flags = Counter(flag for value in values.fillna("") for flag in map(str.strip, str(value).split(";")) if flag)
    return ", ".join(f"{flag} ({number}/{len(values)})" for flag, number in flags.items())
