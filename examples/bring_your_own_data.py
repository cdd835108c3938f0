"""Bring your own data: a folder of images, or a function ``module:callable`` that returns arrays.

Both names work wherever data are named, on the command line too:

    python examples/bring_your_own_data.py
    deconfound train pgd-at --data my/folder
"""

import tempfile
from pathlib import Path

import numpy as np
import rich
from PIL import Image

import deconfound
from deconfound.reporting import evaluation_table

CLASSES, SIDE = ("bars", "stripes"), 12


def draw(label: int, random: np.random.Generator) -> np.ndarray:
    """Upright bars or level stripes with noise, (SIDE, SIDE) uint8."""
    wave = 128 + 70 * np.sign(np.sin(np.arange(SIDE) * 1.6 + random.uniform(0, 6)))
    picture = np.tile(wave, (SIDE, 1)) + random.normal(0, 20, (SIDE, SIDE))
    return (picture if label == 0 else picture.T).clip(0, 255).astype(np.uint8)


def arrays() -> dict[str, tuple[np.ndarray, np.ndarray, tuple[str, ...]]]:
    """Split -> images (N, C, H, W) uint8, labels (N,), names of the classes: what a data function returns."""
    random, splits = np.random.default_rng(0), {}
    for split, count in (("train", 400), ("test", 100)):
        labels = np.arange(count) % len(CLASSES)
        splits[split] = np.stack([draw(label, random)[None] for label in labels]), labels, CLASSES
    return splits


def write_folder(folder: Path) -> None:
    """SPLIT/CLASS/NUMBER.png, the layout of an image folder."""
    for split, (images, labels, names) in arrays().items():
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            file = folder / split / names[label] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0]).save(file)


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        write_folder(Path(place))
        for name in (place, "bring_your_own_data:arrays"):
            data = deconfound.data.load(name)
            print(f"{len(data.train)} and {len(data.test)} images {data.shape}: {', '.join(data.class_names)}")
    changes = {"family": "digits", "epochs": 4, "steps": 3}  # the family decides network, schedule and radius
    trained = deconfound.train("pgd-at", data="bring_your_own_data:arrays", changes=changes)
    threat = deconfound.ThreatModel("linf", 0.1)
    rich.print(evaluation_table(deconfound.evaluate(trained.model, data.test, threat=threat, suite="quick")))


if __name__ == "__main__":
    main()
