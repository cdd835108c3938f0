"""Facts about real data, as published."""

from __future__ import annotations

import pytest
import torch

from deconfound.data.sources import load

FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def only(shared, tmp_path, name, shard):
    """A folder with one shard of a data set."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / shard).symlink_to((shared / "data" / name / shard).resolve())
    return str(folder)


def test_mnist(shared):
    data = load(str(shared / "data" / "mnist"))
    assert (data.family, data.shape, data.class_names) == ("mnist", (1, 28, 28), tuple("0123456789"))
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert data.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert data.train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    pixels = data.train.images.to(torch.float32).div_(255)
    assert pixels.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert pixels.std().item() == pytest.approx(0.3081, abs=5e-5)


def test_fashion(shared, tmp_path):
    data = load(only(shared, tmp_path, "fashion_mnist", "test-00000-of-00001.parquet"))
    assert (data.family, data.shape, data.class_names) == ("fashion", (1, 28, 28), FASHION)
    assert data.train is None
    assert data.test.labels.bincount().tolist() == [1000] * 10
    assert data.test.labels[:5].tolist() == [9, 2, 1, 1, 6]


def test_cifar_held_and_streamed(shared, tmp_path):
    folder = only(shared, tmp_path, "cifar10", "test-00000-of-00001.parquet")
    data = load(folder)
    assert (data.family, data.shape, data.class_names) == ("cifar", (3, 32, 32), CIFAR)
    assert data.test.labels.bincount().tolist() == [1000] * 10
    assert data.test.labels[:8].tolist() == [3, 8, 8, 0, 6, 6, 1, 6]
    assert data.test.images[0, :, 0, 0].tolist() == [158, 112, 49]  # the upper left pixel of the first cat
    streamed = load(folder, limit_memory=0).test
    plan = torch.randperm(10_000, generator=torch.Generator().manual_seed(0))[:1000].split(100)
    for wanted, found in zip(data.test.batches(plan), streamed.batches(plan), strict=True):
        assert torch.equal(wanted.images, found.images)
        assert torch.equal(wanted.labels, found.labels)
        assert torch.equal(wanted.index, found.index)
