"""CiiV's gradients on photographs, behind a trained network."""

from __future__ import annotations

import pytest
import torch

from deconfound import data, models
from deconfound.core.streams import Streams
from deconfound.functional import losses, sampling
from deconfound.models.ciiv import CiiV
from deconfound.models.ciiv_surrogates import SampledSurrogate
from deconfound.models.sampler import Sampling


@pytest.fixture(scope="module")
def photographs(shared):
    test = data.load(str(shared / "data" / "cifar10"), parts=("test",)).test
    return next(test.batches([torch.arange(6)])).images


@pytest.fixture(scope="module")
def sampled(shared):
    """A trained network behind the sampler: the mean view, spread to [-a, a] again, is the clipped image."""
    inner = models.build("resnet20", classes=10, channels=3, size=32, mean=0.5, std=1 / 1.8)
    weights = shared / "weights" / "cifar10_resnet20_clean.th"
    models.fit_state(inner, torch.load(weights, weights_only=True, map_location="cpu"), "weights")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return CiiV(inner, Sampling(loops=3), channels=3, size=32, mean=mean, std=std).eval()


class TestGradientsOnPhotographs:
    """The claim that the layer cannot mask gradients, tested: it does."""

    def test_nearly_no_pixel_has_a_gradient(self, sampled, photographs):
        x = sampled.sampled_input(photographs)
        noise = 2 * torch.rand(27, *x.shape) - 1
        share = (sampling.raw_slope(x, noise, 0.9) < 1e-3).float().mean()
        assert share > 0.9
        inside = (x.abs() < 0.9).expand_as(noise)
        assert (sampling.raw_slope(x, noise, 0.9)[inside] < 1e-3).float().mean() > 0.9

    def test_signs(self, sampled, photographs):
        """Agreement with the mean of other draws' expected-slope gradients, on the half where it is largest."""
        images = photographs[:1]
        true = self.gradients(SampledSurrogate(sampled), images, 60, "true").mean(dim=0)
        chosen = true.abs() > true[true != 0].abs().median()
        raw = self.gradients(sampled, images, 100, "raw")
        slope = self.gradients(SampledSurrogate(sampled), images, 100, "expected")
        found = {}
        for name, values in (("raw", raw), ("sign-averaged", raw.sign()), ("expected", slope)):
            signs = [values[:draws].mean(dim=0).sign() for draws in (1, 10, 100)]
            found[name] = [float((sign == true.sign())[chosen].float().mean()) for sign in signs]
        assert max(found["raw"]) < 0.7  # chance is a half, and more draws do not leave it
        assert found["expected"][0] < found["expected"][1] < found["expected"][2]
        assert found["expected"][2] > 0.85
        assert found["sign-averaged"][2] > found["raw"][2] + 0.1

    def gradients(self, model, images, draws, name):
        labels, streams, found = torch.tensor([3]), Streams(0, range(1)).fold(name), []
        for draw in range(draws):
            x = images.clone().requires_grad_()
            loss = losses.cross_entropy(model.draw(x, streams.fold("one", draw), 1)[0], labels).sum()
            found.append(torch.autograd.grad(loss, x)[0])
        return torch.stack(found)
