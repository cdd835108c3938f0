"""Networks and images given as they are."""

from __future__ import annotations

import pytest
import torch

import deconfound
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError
from judged import untimed
from toys import tiny_net

THREAT = ThreatModel("linf", 0.1)


def examples(count=24, classes=4, size=8):
    generator = torch.Generator().manual_seed(5)
    return torch.rand(count, 1, size, size, generator=generator), torch.arange(count) % classes


class TestTensors:
    def judged(self, images, labels, model=None, **settings):
        settings = {"checks": False, "curve": False, "gallery": 0} | settings
        return deconfound.evaluate(model or tiny_net(), images, labels, threat=THREAT, **settings)

    def test_repeats_itself_whatever_the_batch_size(self):
        images, labels = examples()
        model = tiny_net().double()
        one = self.judged(images.double(), labels, model)
        two = self.judged(images.double(), labels, model, batch_size=7)
        assert untimed(one, "notes") == untimed(two, "notes")
        assert one.model == "Sequential"
        assert one.class_names == ("0", "1", "2", "3")
        assert model.training  # as it came

    def test_bad_tensors_are_one_line(self):
        images, labels = examples()
        nan = images.clone()
        nan[3, 0, 0, 0] = torch.nan
        for wrong, match in (
            ((images * 255, labels), "divide by 255"),
            (((images - 0.5) / 0.3, labels), "leave normalisation to the model"),
            ((nan, labels), "NaN or infinite pixels in image 3"),
            (((images * 255).to(torch.uint8), labels), "dtype uint8"),
            ((images[0], labels[:1]), "shape"),
            ((images[:0], labels[:0]), "at least one image"),
            ((images.repeat(1, 3, 1, 1), labels), "images that the model accepts"),
            ((images[:, :, :7], labels), "images that the model accepts"),
            ((images, labels + 1), r"labels within 0\.\.3"),
            ((images, labels - 1), r"labels within 0\.\.3"),
            ((images, labels[:-1]), "one label for each image"),
            ((images, labels.float()), "labels: got"),
            ((images, None), "labels: got"),
        ):
            with pytest.raises(InputError, match=match) as caught:
                self.judged(*wrong)
            assert "\n" not in str(caught.value)

    def test_bad_models_are_one_line(self):
        images, labels = examples()
        for model, match in (
            (torch.nn.Flatten(0), "logits of shape"),
            (torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 1)), "K of at least 2"),
            (torch.nn.Linear(3, 3), "images that the model accepts"),
        ):
            with pytest.raises(InputError, match=match):
                self.judged(images, labels, model)

    def test_class_names_fit_the_model(self):
        images, labels = examples()
        with pytest.raises(InputError, match="class_names"):
            self.judged(images, labels, class_names=["a", "b"])

    def test_unknown_settings(self):
        images, labels = examples()
        with pytest.raises(InputError, match="suite: got 'nope'"):
            self.judged(images, labels, suite="nope")
        with pytest.raises(TypeError, match="batchsize"):
            self.judged(images, labels, batchsize=3)
        with pytest.raises(InputError, match="threat: got 'linf'"):
            deconfound.evaluate(tiny_net(), images, labels, threat="linf")
