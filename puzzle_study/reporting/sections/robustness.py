"""What is left of the AUROC when the test images are attacked, beside random noise of the same size."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from puzzle_study.reporting import drawing
from puzzle_study.reporting.blocks import (
    Column,
    Figure,
    Paragraph,
    Section,
    Table,
    absent,
    count,
    number,
    percent,
    section,
    share,
    significant,
    word,
)
from puzzle_study.statistics import intervals

if TYPE_CHECKING:
    from puzzle_study.reporting.study_data import StudyData
    from puzzle_study.statistics.intervals import Mean

VICTIM = ["configuration", "aggregation", "error"]
GROUP = [*VICTIM, "target", "attack", "method", "epsilon"]
NOISE = "noise"
TITLE_WIDTH = 46
"""Characters above a panel; a configuration that is named by its settings takes several lines."""


@dataclass(frozen=True)
class AttackCell:
    """One attack on one configuration under one reading, over all of its trials; ``values`` has each trial's AUROC."""

    label: str
    configuration: str
    aggregation: str
    error: str
    target: str
    attack: str
    method: str
    epsilon: float
    steps: int
    auroc: Mean
    clean: float
    fpr_at_tpr99: float
    images: int
    max_perturbation: float
    flags: str
    values: pd.Series[float]

    @property
    def victim(self) -> tuple[str, str, str]:
        """What was attacked; two victims may be called alike."""
        return self.configuration, self.aggregation, self.error


def build(data: StudyData, figures: Path) -> Section:
    """Return the section."""
    found = cells(data)
    if not found and data.attacks is not None:
        why = f"The AUROC under attack cannot be measured: {data.lacking() or 'see the notes in attacks.csv'}."
        return section("robustness", "Robustness", [absent(f"{why} attacks.csv has how far scores moved (strength).")])
    if not found:
        return section(
            "robustness",
            "Robustness",
            [absent("This study attacked no test images (its study file has no section attacks).")],
        )
    return section("robustness", "Robustness", [*weaker_than_noise(data), _figure(found, figures), attack_table(found)])


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
        strata = list(rows[["dataset", "normal_class", "repeat"]].itertuples(index=False, name=None))
        mean = intervals.mean_interval(rows["auroc"].to_numpy(), strata, bounds=(0, 1))
        lows, highs = rows["auroc_low"].to_numpy(), rows["auroc_high"].to_numpy()
        mean = intervals.with_image_interval(mean, rows["auroc"].to_numpy(), lows, highs, strata)
        configuration, aggregation, error, target, attack, method, _ = key
        found.append(
            AttackCell(
                label=str(rows["title"].iloc[0]),
                configuration=str(configuration),
                aggregation=str(aggregation),
                error=str(error),
                target=str(target),
                attack=str(attack),
                method=str(method),
                epsilon=float(rows["epsilon"].iloc[0]),
                steps=int(rows["steps"].max()),
                auroc=mean,
                clean=float(rows["auroc_clean"].mean()),
                fpr_at_tpr99=float(rows["fpr_at_tpr99"].mean()),
                images=int(rows["images"].sum()),
                max_perturbation=float(rows["max_perturbation"].max()),
                flags=_flags(rows["flags"]),
                values=rows.set_index("trial")["auroc"],
            )
        )
    methods = {NOISE: "~"}
    return sorted(
        found,
        key=lambda cell: (
            "winner" not in cell.label,
            cell.label,
            cell.target,
            cell.attack,
            methods.get(cell.method, cell.method),
            cell.epsilon,
        ),
    )


def named(data: StudyData) -> pd.DataFrame | None:
    """Return attacks.csv with the repeat of each task and a title for each victim, or None without attacks.

    Where the labels and settings of two victims are alike, their titles also have the configuration and the reading.
    """
    if data.attacks is None:
        return None
    attacks = data.attacks.merge(data.trials[["trial", "repeat"]].drop_duplicates("trial"), on="trial", how="left")
    victims = attacks[[*VICTIM, "label"]].drop_duplicates(VICTIM)
    victims["title"] = [
        configuration_title(data, label, configuration)
        for label, configuration in zip(victims["label"], victims["configuration"], strict=True)
    ]
    alike = victims["title"].duplicated(keep=False)
    told = victims["title"] + " (" + victims[VICTIM].astype(str).agg(", ".join, axis=1) + ")"
    victims["title"] = victims["title"].where(~alike, told)
    return attacks.merge(victims[[*VICTIM, "title"]], on=VICTIM, how="left")


def configuration_title(data: StudyData, label: object, configuration: object) -> str:
    """Return the labels of an attacked configuration; one that is neither winner nor default is named by its axes."""
    if isinstance(label, str) and label:
        return label.replace(";", " and ")
    values = data.values_of(str(configuration))
    shown = (
        f"{name.rsplit('.', 1)[-1]} {value if isinstance(value, str) else significant(value)}"
        for name, value in values.items()
        if value == value
    )
    return ", ".join(shown) or f"configuration {configuration}"


def weaker_than_noise(data: StudyData, labels: tuple[str, ...] = ()) -> list[Paragraph]:
    """Return one paragraph for each attack on each configuration that random sign noise of the same ε beats.

    Args:
        data: the study.
        labels: only attacks on configurations that carry one of these labels; empty: all.
    """
    found = cells(data)
    groups: dict[tuple[tuple[str, str, str], str, str], dict[str, list[tuple[AttackCell, AttackCell, float]]]] = {}
    for cell in found:
        noise = _noise_beside(cell, found)
        if noise is not None and (not labels or any(label in cell.label for label in labels)):
            common = cell.values.index.intersection(noise.values.index)
            gap = float((cell.values[common] - noise.values[common]).mean())
            methods = groups.setdefault((cell.victim, cell.target, cell.attack), {})
            methods.setdefault(cell.method, []).append((cell, noise, gap))
    sentences = []
    titles = {cell.victim: cell.label for cell in found}
    for (victim, target, attack), methods in groups.items():
        parts = [part for method, triples in methods.items() if (part := _beaten(method, triples))]
        if parts:
            text = (
                f"{attack} on the {titles[victim]} ({target} images) is weaker than random sign noise of the same ε: "
            )
            text += "; ".join(parts) + ". Where noise does more harm, such an attack is no evidence of robustness."
            sentences.append(Paragraph(text, kind="finding"))
    return sentences


def _beaten(method: str, triples: list[tuple[AttackCell, AttackCell, float]]) -> str | None:
    """Return how often noise beats a method, and the widest gap."""
    weaker = [triple for triple in triples if triple[2] > 0]
    if not weaker:
        return None
    cell, noise, _ = max(weaker, key=lambda triple: triple[2])
    return (
        f"{method} at {len(weaker)} of {len(triples)} ε, widest at ε = {significant(cell.epsilon)} with AUROC "
        f"{share(cell.auroc.value)} % where noise leaves {share(noise.auroc.value)} % (clean {share(cell.clean)} %, "
        f"n = {cell.auroc.n} trials)"
    )


def _noise_beside(cell: AttackCell, found: list[AttackCell]) -> AttackCell | None:
    """Return the noise to which an attack is held: on the image itself (attack1) where that was run."""
    if cell.method == NOISE:
        return None
    same = [
        other
        for other in found
        if other.method == NOISE
        and (other.victim, other.target, other.epsilon) == (cell.victim, cell.target, cell.epsilon)
    ]
    same.sort(key=lambda other: (other.attack != "attack1", other.attack != cell.attack))
    return same[0] if same else None


def attack_table(found: list[AttackCell]) -> Table:
    """Return every attack with its interval and its flags."""
    several_targets = len({cell.target for cell in found}) > 1
    columns = (
        Column("label", "Configuration", numeric=False),
        Column("reading", "Reading", numeric=False),
        *((Column("target", "Target", numeric=False),) if several_targets else ()),
        Column("attack", "Attack", numeric=False),
        Column("method", "Method", numeric=False),
        Column("epsilon", "ε"),
        Column("steps", "Steps"),
        Column("auroc", "AUROC % [95 %]"),
        Column("clean", "Clean %"),
        Column("fpr_at_tpr99", "FPR % at TPR 99 %"),
        Column("flags", "Flags (trials)", numeric=False),
        Column("trials", "Trials (n)"),
        Column("images", "Attacked images (n)"),
        Column("max_perturbation", "Largest |δ|"),
    )
    rows = tuple(
        (
            word(cell.label),
            word(f"{cell.aggregation}, {cell.error}"),
            *((word(cell.target),) if several_targets else ()),
            word(cell.attack),
            word(cell.method),
            number(cell.epsilon),
            count(cell.steps),
            percent(cell.auroc.value, cell.auroc.low, cell.auroc.high),
            percent(cell.clean),
            percent(cell.fpr_at_tpr99),
            word(cell.flags),
            count(cell.auroc.n),
            count(cell.images),
            number(cell.max_perturbation),
        )
        for cell in found
    )
    methods = intervals.method_note(cell.auroc.method for cell in found)
    target = f" Attacked: {found[0].target} images." if not several_targets else ""
    return Table(
        "robustness",
        "AUROC under attack",
        columns,
        rows,
        f"Mean over trials. {methods} Reading: aggregation and error norm of the attacked score. Clean: the same "
        f"images without an attack. ε bounds every pixel of images in [0, 1].{target} Flags are doubts that the "
        "attack code itself raised, with the number of trials that carry them; noise is random signs of size ε, the "
        f"control.{_meanings(found)}",
    )


def _figure(found: list[AttackCell], figures: Path) -> Figure:
    panels = {(cell.victim, cell.target): cell.label for cell in found}
    combinations = list(dict.fromkeys((cell.attack, cell.method) for cell in found))
    drawn = [pair for pair in combinations if pair[1] != NOISE]
    colours = {pair: drawing.PALETTE[i % len(drawing.PALETTE)] for i, pair in enumerate(drawn)}
    markers = {pair: "os^Dv<>Pp*"[i % 10] for i, pair in enumerate(drawn)}
    grey_dashes = {"attack1": (0, (5, 2)), "attack2": (0, (1, 1.5))}
    width = 5.6 if len(panels) == 1 else 4.8 * min(2, len(panels))
    rows = -(-len(panels) // 2)
    with drawing.drawing(width, 3.7 * rows + 0.5, rows=rows, columns=min(2, len(panels)), sharey=True) as (
        figure,
        axes,
    ):
        for place in axes[len(panels) :]:
            place.set_visible(False)
        for place, ((victim, target), label) in zip(axes, panels.items(), strict=False):
            for pair in combinations:
                line = [c for c in found if (c.victim, c.target, c.attack, c.method) == (victim, target, *pair)]
                if not line:
                    continue
                x = [0.0, *(cell.epsilon for cell in line)]
                y = [100 * line[0].clean, *(100 * cell.auroc.value for cell in line)]
                low = [y[0], *(100 * cell.auroc.low for cell in line)]
                high = [y[0], *(100 * cell.auroc.high for cell in line)]
                if pair[1] == NOISE:
                    style = grey_dashes.get(pair[0], (0, (3, 1)))
                    place.plot(x, y, color=drawing.GREY, linestyle=style, label=f"{pair[0]}, noise (control)")
                else:
                    place.plot(
                        x, y, color=colours[pair], marker=markers[pair], markersize=5, label=f"{pair[0]}, {pair[1]}"
                    )
                    place.fill_between(x, low, high, color=colours[pair], alpha=0.15, linewidth=0)
            place.axhline(50, color="black", linewidth=0.8, linestyle=":")
            title = textwrap.fill(f"{label}, {target} images attacked", TITLE_WIDTH)
            place.set(title=title, xlabel="ε (pixels in [0, 1])", ylabel="AUROC, %")
            used = sorted({0.0, *(c.epsilon for c in found)})
            place.set_xticks(used, [significant(value) for value in used])
        handles, texts = axes[0].get_legend_handles_labels()
        figure.legend(handles, texts, loc="outside lower center", ncols=min(3, len(texts)), fontsize=8)
        worst = min(
            (cell for cell in found if cell.method != NOISE), key=lambda cell: cell.auroc.value, default=found[0]
        )
        return drawing.finished(
            figure,
            figures,
            name="robustness",
            alt=f"Lines of AUROC against epsilon for each attack and method, one panel for each of "
            f"{', '.join(dict.fromkeys(cell.label for cell in found))}; the lowest point is {worst.attack} "
            f"{worst.method} at epsilon {significant(worst.epsilon)} with {share(worst.auroc.value)} %, from "
            f"{share(worst.clean)} % clean.",
            caption=f"AUROC under attack against ε, mean over trials (n = {found[0].auroc.n} each at most); ε = 0 is "
            f"clean. Band: {found[0].auroc.method}. Grey: random sign noise; dotted: chance. An attack above the noise "
            "is no evidence of robustness.",
        )


def _meanings(found: list[AttackCell]) -> str:
    """Return what the flags that occur mean."""
    from puzzle_study.attacks.flags import FLAGS

    seen = [name for name in FLAGS if any(name in cell.flags for cell in found)]
    return " Of those here: " + "; ".join(f"{name}: {FLAGS[name]}" for name in seen) + "." if seen else ""


def _flags(values: pd.Series[str]) -> str:
    """Return each flag with the share of trials that carry it."""
    counted: dict[str, int] = {}
    for value in values.fillna(""):
        for flag in filter(None, (part.strip() for part in str(value).split(";"))):
            counted[flag] = counted.get(flag, 0) + 1
    return ", ".join(f"{flag} ({number}/{len(values)})" for flag, number in counted.items())
