"""What carries a planted confounder says so, and how much of the image it takes."""

from __future__ import annotations

import pytest
import torch

from deconfound.core.streams import Streams
from deconfound.data.confounded import Confounded, Confounding
from deconfound.data.memory import MemoryImages
from deconfound.data.overlays import OVERLAYS, Patch, overlay
from deconfound.data.synthetic import Shapes, ShapesSettings


@pytest.mark.parametrize(
    ("classes", "shape", "said"),
    [
        (10, (1, 28, 28), "a texture of 4x4 pixels in a corner of 28x28, 2.0 % of the image"),
        (10, (1, 8, 8), "a texture of 4x4 pixels in a corner of 8x8, 25.0 % of the image"),
        (10, (3, 32, 32), "a texture of 8x8 pixels in a corner of 32x32, 6.2 % of the image"),
        (10, (3, 31, 40), "a texture of 4x4 pixels in a corner of 31x40, 1.3 % of the image"),
        (31, (3, 16, 16), "a texture of 8x8 pixels in a corner of 16x16, 25.0 % of the image"),
        (1000, (3, 224, 224), "a texture of 32x32 pixels in a corner of 224x224, 2.0 % of the image"),
    ],
)
def test_how_much_of_the_image_a_patch_takes_is_said_as_it_is(classes, shape, said):
    patch = Patch(classes, shape)
    assert patch.about == said
    images = torch.full((8, *shape), 0.5)
    marked = patch(images, torch.arange(8) % classes, Streams(0, range(8)))
    taken = (marked != images).any(dim=1).flatten(1).double().mean(dim=1)
    assert torch.equal(taken, taken[:1].expand(8))
    assert f"{100 * float(taken[0]):.1f} %" in said
    assert shape[1] / 8 < float(taken[0] * shape[1] * shape[2]) ** 0.5 <= min(shape[1:]) / 2


def test_sources_say_what_carries_their_confounder():
    grey = MemoryImages(torch.full((4, 1, 16, 16), 0.5), torch.tensor([0, 1, 0, 1]), ("a", "b"), "grey[test]")
    tinted = Confounded(grey, Confounding(kind="tint", rho=1.0), "test")
    assert tinted.mark == tinted.do("confounder", "other").mark == "a tint of the whole image, 25 % of each pixel"
    assert Confounded(grey, Confounding(kind="patch"), "test").mark == Patch(2, (1, 16, 16)).about
    assert "background" in Shapes("test", ShapesSettings(test=3)).mark


@pytest.mark.parametrize("kind", OVERLAYS)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_overlay_marks_the_class_from_the_streams_of_each_example_alone(kind, channels):
    shape, some = (channels, 16, 16), torch.tensor([5, 2])
    put, streams = overlay(kind, 4, shape), Streams(0, range(8))
    images, classes = torch.rand(8, *shape), torch.arange(8) % 4
    before, found = images.clone(), put(images, classes, streams)
    assert torch.equal(images, before)
    assert (found.shape, found.dtype) == (images.shape, images.dtype)
    assert 0 <= found.min() <= found.max() <= 1
    assert torch.equal(put(images[some], classes[some], streams[some]), found[some])
    assert (put(images, (classes + 1) % 4, streams) != found).flatten(1).any(dim=1).all()
    assert put.about
    assert OVERLAYS[kind].what
