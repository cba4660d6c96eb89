"""What the detector sees: image, puzzle, reconstruction and error of the best and worst cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from puzzle_study.reporting import drawing
from puzzle_study.reporting.blocks import Blocks, Column, Figure, Paragraph, Table, absent, section, table, words
from puzzle_study.reporting.cells import count, percent, word
from puzzle_study.reporting.study_data import StudyData
from puzzle_study.reporting.values import natural

Gallery = dict[str, NDArray[Any]]

MOST = 10
KINDS = {
    "best_validation": ("validation images with the lowest score", "normal ones, in place of test images"),
    "worst_validation": ("validation images with the highest score", "normal ones, in place of test images"),
    "best_normal": ("normal images with the lowest score", "correctly found normal"),
    "worst_normal": ("normal images with the highest score", "the most likely false alarms"),
    "best_anomalous": ("anomalous images with the highest score", "correctly found anomalous"),
    "worst_anomalous": ("anomalous images with the lowest score", "the most likely to be missed"),
}
COLUMNS = {
    "original": "original",
    "mask": "mask",
    "puzzle": "view",
    "reconstruction": "reconstruction",
    "error_map": "anomaly map",
}
"""What a gallery may show of an image, in this order; parts that a detector lacks are left out."""


@section("gallery", "Gallery")
def build(data: StudyData) -> Blocks:
    gallery = data.gallery
    if gallery is None or not len(gallery.get("kind", ())):
        yield absent("This study kept no gallery (gallery.npz).")
        return
    yield Paragraph(
        "Examples from the winner's trials, with the highest and lowest scores of each class. They show where it works "
        "and where it fails, not what is typical. All anomaly maps of a figure have one scale."
    )
    maps = gallery.get("error_map")
    limit = 1.0 if maps is None else float(np.quantile(maps, 0.995)) or 1.0
    for kind in KINDS:
        yield _examples(gallery, kind, limit)
    yield _located(data)
    yield _attacked(gallery)


def _examples(gallery: Gallery, kind: str, limit: float) -> Figure | None:
    chosen = [int(index) for index in np.flatnonzero(gallery["kind"] == kind)]
    chosen.sort(key=lambda index: natural(str(gallery["normal_class"][index])))
    if not chosen:
        return None
    shown = chosen[:MOST]
    rows = [name for name in COLUMNS if name in gallery]
    pictures = [
        [_heat(gallery[name][index], limit) if name == "error_map" else _rgb(gallery[name][index]) for index in shown]
        for name in rows
    ]
    named = [(gallery["normal_class"][i], gallery["true_class"][i], float(gallery["score"][i])) for i in shown]
    labels = [f"{own}{f' ← {true}' if 'anomalous' in kind else ''}\n{score:.2f}" for own, true, score in named]
    title, meaning = KINDS[kind]
    described = "; ".join(f"class {own}, image of {true}, score {score:.2f}" for own, true, score in named)
    more = f" The first {MOST} of {len(chosen)}; gallery.npz has all of them." if len(chosen) > MOST else ""
    below = "the normal class, the image's own class after the arrow, and" if "anomalous" in kind else "the class and"
    return _montage(
        pictures,
        [COLUMNS[name] for name in rows],
        labels,
        name=f"gallery_{kind}",
        alt=f"Pictures of {title}, rows {', '.join(COLUMNS[name] for name in rows)}: {described}.",
        caption=f"{title[:1].upper()}{title[1:]}: {meaning}. Below each column: {below} the anomaly score (1: "
        f"typical).{more}",
    )


def _located(data: StudyData) -> Table | None:
    """Return how well anomaly maps find the anomalous pixels, if there are masks."""
    if "pixel_auroc" not in data.summary or data.summary["pixel_auroc"].isna().all():
        return None
    rows = []
    for _, row in data.summary.dropna(subset=["pixel_auroc"]).iterrows():
        choice = data.choice(row)
        trials = data.of(choice)
        rows.append(
            {
                words("detector", "Detector"): word(choice.title),
                words("configuration", "Configuration"): word(data.called(choice)),
                words("aggregation", "Aggregation"): word(choice.aggregation),
                Column("pixel_auroc", "Pixel AUROC %"): percent(float(row["pixel_auroc"])),
                Column("aupro", "AUPRO %"): percent(float(row["aupro"])),
                Column("masks", "Masks (n)"): count(trials["n_masks"].sum() if "n_masks" in trials else None),
                Column("trials", "Trials (n)"): count(len(trials)),
            }
        )
    return table(
        "located",
        "Anomaly maps against masks",
        rows,
        "Mean over trials, no interval: the pixels of an image are not independent. AUPRO: overlap with each anomalous "
        "region, up to 30 % false positives. Anomalous images without a mask are left out.",
    )


def _attacked(gallery: Gallery) -> Figure | None:
    if not len(gallery.get("attacked", ())):
        return None
    shown = _spread(list(zip(gallery["attacked_attack"].tolist(), gallery["attacked_method"].tolist(), strict=True)))
    before, after = gallery["attacked_original"][shown], gallery["attacked"][shown]
    delta = after.astype(int) - before.astype(int)
    # Mid-gray means no change; the perturbation is far too faint to see at its own scale.
    largest = max(1, int(np.abs(delta).max()))
    change = (127.5 + 127.5 * delta / largest).astype(np.uint8)
    pictures = [[_rgb(image) for image in images] for images in (before, after, change)]
    told = ("attack", "method", "epsilon", "score_before", "score_after")
    columns = (gallery[f"attacked_{name}"][shown] for name in told)
    labels = [
        f"{attack} {method}\nε {float(epsilon):.3g}\n{float(score):.2f} → {float(after):.2f}"
        for attack, method, epsilon, score, after in zip(*columns, strict=True)
    ]
    return _montage(
        pictures,
        ("original", "attacked", "difference"),
        labels,
        name="gallery_attacked",
        alt="Pictures before and after an attack and their difference: "
        + "; ".join(label.replace("\n", ", ").replace("→", "to") for label in labels)
        + ".",
        caption=f"Attacked images: before, after, and the difference magnified {255 / largest / 2:.1f} times around "
        "gray. Below each column: attack, ε, anomaly score before and after.",
    )


def _spread(kinds: list[tuple[str, str]]) -> list[int]:
    """Return at most MOST positions, equally many of each attack and method."""
    turn = [kinds[:index].count(kind) for index, kind in enumerate(kinds)]
    chosen = sorted(range(len(kinds)), key=lambda index: (turn[index], index))[:MOST]
    return sorted(chosen, key=lambda index: kinds[index])


def _montage(
    pictures: list[list[NDArray[np.uint8]]],
    rows: Sequence[str],
    labels: list[str],
    *,
    name: str,
    alt: str,
    caption: str,
) -> Figure:
    """Draw rows of pictures as one image, because forty separate axes would take seconds."""
    height, width = pictures[0][0].shape[:2]
    gap = max(1, height // 14)
    step_y, step_x = height + gap, width + gap
    # What lies between the pictures is transparent, so that a dark page stays dark.
    canvas = np.zeros((len(rows) * step_y - gap, len(labels) * step_x - gap, 4), np.uint8)
    for y, line in enumerate(pictures):
        for x, picture in enumerate(line):
            place_YX = np.s_[y * step_y : y * step_y + height, x * step_x : x * step_x + width]
            canvas[place_YX] = np.concatenate((picture, np.full_like(picture[..., :1], 255)), axis=2)
    cell = 0.95
    size = (1.25 + cell * max(4, len(labels)), 0.75 + cell * len(rows) * height / width)
    with drawing.drawing(*size) as (figure, (place,)):
        place.grid(visible=False)
        place.spines[:].set_visible(False)
        place.imshow(canvas, interpolation="nearest")
        place.set_yticks([y * step_y + height / 2 for y in range(len(rows))], rows)
        place.set_xticks([x * step_x + width / 2 for x in range(len(labels))], labels, fontsize=7)
        place.tick_params(length=0)
        return drawing.finished(figure, name=name, alt=alt, caption=caption)


def _rgb(image_CHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return height × width × 3."""
    image_HWC = image_CHW.transpose(1, 2, 0)
    return np.repeat(image_HWC, 3, axis=2) if image_HWC.shape[2] == 1 else image_HWC


def _heat(error_HW: NDArray[np.float32], limit: float) -> NDArray[np.uint8]:
    """Return an error map in colours that colour-blind readers can tell apart."""
    colours = mpl.colormaps["inferno"](np.clip(error_HW / limit, 0, 1))
    return np.asarray((255 * colours[..., :3]).astype(np.uint8))
