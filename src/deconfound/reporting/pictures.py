"""Feature pictures and saliency as CSV, terminal table, a grid of pictures and a part of the page."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterator
from typing import Any

from rich.console import Group
from rich.text import Text

from deconfound.records import FeaturePicture, PicturedImage, PicturesRecord, Saliency
from deconfound.reporting.figures import png
from deconfound.reporting.inline_png import panel
from deconfound.reporting.picture_grid import Tile, grid_figure
from deconfound.reporting.plain import plain_table
from deconfound.reporting.style_rows import plain
from deconfound.reporting.text import (
    analysis_labels,
    class_name,
    clean,
    count,
    settings_text,
    threat_text,
)

NAMES = {"adversarial_causal": "adversarial causal (AC)", "counterfactual": "counterfactual (CF)"}
_BRIEF = {"adversarial": "F adv.", "adversarial_causal": "AC", "counterfactual": "CF"}

IMAGE, ATTACKED, SALIENCY, ATTACKED_SALIENCY = "image", "adversarial", "saliency", "saliency adv."


def setting(record: PicturesRecord) -> str:
    """What must be known to read the pictures, on one line."""
    where = clean(record.layer) or "the network's own cut"
    return (
        f"{clean(record.data)}, {threat_text(record.threat)}, {clean(record.attack.name)}, {where}"
        f" ({count(record.dimension, 'feature')}), {count(record.n, 'image')}, seed {record.seed}"
    )


def kinds(record: PicturesRecord) -> list[str]:
    """The kinds of features in their order."""
    return list(dict.fromkeys(picture.kind for image in record.images for picture in image.features))


def kind_name(kind: str) -> str:
    """A kind of features in words.

    >>> kind_name("natural"), kind_name("counterfactual")
    ('natural', 'counterfactual (CF)')
    """
    return NAMES.get(kind, clean(kind))


def _of(record: PicturesRecord, kind: str) -> list[tuple[PicturedImage, FeaturePicture]]:
    return [(image, picture) for image in record.images for picture in image.features if picture.kind == kind]


def summary(record: PicturesRecord) -> list[dict[str, str]]:
    """For each kind how well its pictures match, and how often picture and features are of the label's class."""
    rows = []
    for kind in kinds(record):
        found = _of(record, kind)
        alike = [picture.cosine for _, picture in found]
        rows.append(
            {
                "kind": kind_name(kind),
                "cosine": f"{statistics.median(alike):.3f}",
                "least": f"{min(alike):.3f}",
                "distance": f"{statistics.median(picture.distance for _, picture in found):.3f}",
                "decoded": f"{sum(picture.decoded == image.label for image, picture in found)} of {len(found)}",
                "pictured": f"{sum(picture.prediction == image.label for image, picture in found)} of {len(found)}",
                "agree": f"{sum(picture.prediction == picture.decoded for _, picture in found)} of {len(found)}",
            }
        )
    return rows


_HEADINGS = {
    "kind": "features",
    "cosine": "cosine, median",
    "least": "least",
    "distance": "distance",
    "decoded": "label by head",
    "pictured": "label by picture",
    "agree": "both agree",
}


def completeness_text(record: PicturesRecord) -> str:
    """The largest error of the integration, beside the largest difference that it explains; nothing without any."""
    found = [s for image in record.images for s in (image.saliency, image.adversarial_saliency) if s is not None]
    if not found:
        return ""
    error, difference = max(abs(s.error) for s in found), max(abs(s.difference) for s in found)
    return f"sums of attributions miss the difference of logits by {error:.2g} at most, of up to {difference:.3g}"


def _class(names: tuple[str, ...], label: int) -> str:
    return "none" if label < 0 else class_name(names, label)


def _tiles(record: PicturesRecord, image: PicturedImage) -> Iterator[tuple[Tile, str]]:
    """Each picture of an image with what is seen in words."""
    names, label = record.class_names, class_name(record.class_names, image.label)
    for kind, encoded, seen in (
        (IMAGE, image.png, image.prediction),
        (ATTACKED, image.adversarial_png, image.adversarial_prediction),
    ):
        word = _class(names, seen)
        what = "" if kind == IMAGE else " attacked"
        yield Tile(encoded, kind, word, seen != image.label), f"Image {image.index}, a {label},{what} predicted {word}"
    for picture in image.features:
        word, kind = _class(names, picture.prediction), kind_name(picture.kind)
        words = f"Picture of the {kind} features of image {image.index}, cosine {picture.cosine:.2f}, predicted {word}"
        yield Tile(picture.png, _BRIEF.get(picture.kind, f"F {kind}"), word, picture.prediction != image.label), words
    for kind, found in ((SALIENCY, image.saliency), (ATTACKED_SALIENCY, image.adversarial_saliency)):
        if found is not None:
            yield Tile(found.png, kind), _saliency_words(kind, image, label, found)


def _saliency_words(kind: str, image: PicturedImage, label: str, found: Saliency) -> str:
    version = f"image {image.index}" if kind == SALIENCY else f"image {image.index} attacked"
    return (
        f"What speaks for {label} (blue) and against it (orange) in {version}, logit difference {found.difference:.3g}"
    )


def pictures_csv(record: PicturesRecord) -> str:
    """One line for each image and kind of features, full precision; the saliency's sums stand in each line."""
    about: dict[str, Any] = {"model": plain(record.model), "defence": plain(record.defence), "data": plain(record.data)}
    about |= {"layer": plain(record.layer), "seed": record.seed}
    lines = []
    for image in record.images:
        cells: dict[str, Any] = {"index": image.index, "label": image.label, "prediction": image.prediction}
        cells |= {"adversarial_prediction": image.adversarial_prediction}
        for name, found in (("saliency", image.saliency), ("adversarial_saliency", image.adversarial_saliency)):
            values = ("", "") if found is None else (found.difference, found.error)
            cells |= dict(zip((f"{name}_difference", f"{name}_error"), values, strict=True))
        for picture in image.features:
            found_there = picture.model_dump(exclude={"png", "kind", "prediction"})
            lines.append(
                {"features": plain(picture.kind)} | cells | {"picture": picture.prediction} | found_there | about
            )
    out = io.StringIO()
    writer = csv.DictWriter(out, list(lines[0]) if lines else ["features"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def pictures_files(record: PicturesRecord) -> dict[str, bytes]:
    """The figures as CSV, and the grid."""
    rows = [[tile for tile, _ in _tiles(record, image)] for image in record.images]
    return {"pictures.csv": pictures_csv(record).encode(), "pictures.png": png(grid_figure(rows))}


def pictures_table(record: PicturesRecord) -> Group:
    """How well the pictures match, by kind of features."""
    table = plain_table(f"{analysis_labels([record])[0]}: {setting(record)}")
    for key, heading in _HEADINGS.items():
        if key == "kind":
            table.add_column(heading, overflow="fold", min_width=min(20, max(map(len, kinds(record)), default=0)))
        else:
            table.add_column(heading, justify="right", overflow="fold")
    for row in summary(record):
        table.add_row(*(Text(row[key]) for key in _HEADINGS))
    complete = completeness_text(record)
    remarks = [f"Integrated gradients: {complete}"] if complete else []
    remarks += [f"Note: {clean(note)}" for note in record.notes]
    return Group(table, *map(Text, remarks))


def pictures_view(prefix: str, name: str, record: PicturesRecord, budget: int) -> dict[str, Any]:
    """Setting, rows, and the images whose pictures fit the budget, always the first."""
    shown: list[dict[str, Any]] = []
    spent = 0
    for image in record.images:
        tiles = list(_tiles(record, image))
        spent += sum(len(tile.png) for tile, _ in tiles)
        if shown and spent > budget:
            break
        panels = [panel(tile.kind, tile.png, tile.word, words) for tile, words in tiles]
        shown.append({"index": image.index, "label": class_name(record.class_names, image.label), "panels": panels})
    return {
        "setting": setting(record),
        "headings": list(_HEADINGS.values()),
        "rows": [list(row.values()) for row in summary(record)],
        "causal": any(kind in NAMES for kind in kinds(record)),
        "complete": completeness_text(record),
        "pictures": shown,
        "layout": "near",
        "left_out": len(record.images) - len(shown),
        "attack": settings_text(record.attack.settings),
        "facts": [
            ("Search", settings_text(record.optimisation)),
            ("Integrated gradients", settings_text(record.integration) or "left out"),
        ],
    }


__all__ = [
    "kind_name",
    "kinds",
    "pictures_csv",
    "pictures_files",
    "pictures_table",
    "pictures_view",
    "summary",
]
