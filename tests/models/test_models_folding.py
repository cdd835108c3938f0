"""Folding BatchNorm, replicas without parametrisations: in closed form and over the catalogue."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from deconfound.models import build
from deconfound.models.folding import fold
from deconfound.models.lowering import lower
from deconfound.models.replica import replica
from foldable import Body, Weightnormed, awakened, images, norms


def test_fold_in_closed_form():
    model = awakened(nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2)))
    conv, norm = model[0], model[1]
    folded = next(m for m in fold(replica(model), images(1, 1)).modules() if isinstance(m, nn.Conv2d))
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    torch.testing.assert_close(folded.weight.flatten(), scale * conv.weight.flatten())
    torch.testing.assert_close(folded.bias, norm.bias - norm.running_mean * scale)


@pytest.mark.parametrize("name", ["small", "lenet5", "smallcnn", "resnet20", "preact-resnet18", "vgg11", "wrn"])
def test_networks_of_the_catalogue_fold(name):
    channels, side = (1, 28) if name in ("small", "lenet5", "smallcnn") else (3, 32)
    options = {"depth": 10, "widen": 1} if name == "wrn" else {}
    model = awakened(build(name, classes=10, channels=channels, size=side, mean=0.4, std=0.2, **options))
    x = images(channels, side, 2)
    for dtype, error in ((torch.float32, 1e-5), (torch.bfloat16, 0.05)):
        made = lower(fold(replica(model), x), dtype)
        exact = model(x)
        assert float((made(x) - exact).norm() / exact.norm()) < error
    assert norms(made) == {"preact-resnet18": 9, "wrn": 4}.get(name, 0)
    assert type(made.get_submodule("normalise")) is nn.Module
    assert made.normalise.mean.dtype == torch.float32, "the iterate is normalised in float32"
    last = [module for module in made.modules() if isinstance(module, nn.Linear)][-1]
    assert last.weight.dtype == torch.float32, "logits are not rounded to 8 bits"


def test_parametrised_layers_of_the_model_stay_so():
    model = Weightnormed().eval()
    first, second = replica(model), replica(model)
    assert type(first.second) is nn.Conv2d
    assert parametrize.is_parametrized(model.second)
    assert torch.allclose(first(images()), model(images()), atol=1e-6)
    assert torch.equal(first(images()), second(images()))


def test_old_weight_norms_are_made_plain():
    layer = nn.Conv2d(3, 6, 3, padding=1)
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(layer)
    model = awakened(Body())
    model.first = layer
    double = replica(model)
    assert [name for name, _ in double.first.named_parameters()] == ["bias", "weight"]
    assert torch.allclose(double(images()), model(images()), atol=1e-6)
    assert not parametrize.is_parametrized(double.first)
