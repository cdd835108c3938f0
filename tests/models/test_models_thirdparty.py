"""Weights that others trained load strictly and reach the accuracy that their authors report."""

import io

import pytest
import torch

from deconfound.models import build, fit_state

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.fixture(scope="module")
def first_images(shared):
    parquet = pytest.importorskip("pyarrow.parquet")
    pillow = pytest.importorskip("PIL.Image")

    def read(folder, count):
        file = parquet.ParquetFile(shared / "data" / folder / "test-00000-of-00001.parquet")
        rows = next(file.iter_batches(batch_size=count)).to_pylist()
        decoded = [pillow.open(io.BytesIO(row["image"]["bytes"])) for row in rows]
        pixels = [torch.tensor(list(picture.tobytes()), dtype=torch.uint8) for picture in decoded]
        shapes = [(picture.height, picture.width, len(picture.getbands())) for picture in decoded]
        images = [values.view(shape).permute(2, 0, 1) / 255 for values, shape in zip(pixels, shapes, strict=True)]
        return torch.stack(images), torch.tensor([row["label"] for row in rows])

    return read


def correct(model, images, labels):
    with torch.no_grad():
        return int((model.eval()(images).argmax(1) == labels).sum())


@pytest.mark.parametrize(
    ("file", "name", "accuracy"),
    [
        ("mnist_small_pgd.pth", "small", 0.9899),
        ("mnist_lenet5_adv.pt", "lenet5", 0.9864),
        ("mnist_lenet5_clean.pt", "lenet5", 0.9889),
    ],
)
def test_digit_networks(shared, first_images, file, name, accuracy):
    images, labels = first_images("mnist", 500)
    model = build(name, classes=10, channels=1, size=28)
    assert correct(model, images, labels) < 250, "untrained"
    fit_state(model, torch.load(shared / "weights" / file, weights_only=True, map_location="cpu"), file)
    deviation = (500 * accuracy * (1 - accuracy)) ** 0.5
    assert correct(model, images, labels) == pytest.approx(500 * accuracy, abs=3 * deviation)


def test_resnet20(shared, first_images):
    images, labels = first_images("cifar10", 200)
    file = "cifar10_resnet20_clean.th"
    state = torch.load(shared / "weights" / file, weights_only=True, map_location="cpu")
    model = build("resnet20", classes=10, channels=3, size=32, **IMAGENET)
    fit_state(model, state, file)
    deviation = (200 * 0.9173 * (1 - 0.9173)) ** 0.5
    assert correct(model, images, labels) == pytest.approx(200 * 0.9173, abs=3 * deviation)
    bare = build("resnet20", classes=10, channels=3, size=32)
    fit_state(bare, state, file)
    assert correct(bare, images, labels) < correct(model, images, labels), "its normalisation matters"
