"""BatchNorm statistics of averaged weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deconfound.attacks import PGD
from deconfound.core.threat import ThreatModel
from deconfound.objectives import AdversarialTraining
from deconfound.training import (
    AveragingSettings,
    Hooks,
    LoopSettings,
    OptimizerSettings,
    SelectionSettings,
    fit,
    statistics,
)
from deconfound.training.plan import epoch_plan
from deconfound.training.statistics import normalisers, standing_in
from toys import PlainCE, Sharpness, ToySource, tiny_net

SOURCE = ToySource()
PLAIN = OptimizerSettings(momentum=0.9, weight_decay=0.0)


class Shifted(PlainCE):
    """Trains on brighter images, as adversarial training does on its own."""

    def loss(self, batch):
        return super().loss(type(batch)(batch.images + 0.3, batch.labels, batch.index))


def settings(name="swa", **changes):
    averaging = AveragingSettings(name=name, start=0.0, decay=0.9)
    base = {"epochs": 3, "batch_size": 16, "lr": 0.3, "optimizer": PLAIN, "averaging": averaging}
    return LoopSettings(**(base | {"selection": SelectionSettings(keep="last")} | changes))


def kept(objective, chosen, **hooks):
    net = tiny_net(norm=True)
    net.load_state_dict(fit(objective, SOURCE, chosen, hooks=Hooks(**hooks)).model)
    return net


def of_batches(net, images, plan):
    """Means over batches of the mean and the unbiased variance of each channel of the convolution."""
    with torch.no_grad():
        maps = [net[0](images[part]).transpose(0, 1).flatten(1) for part in plan]
    return (torch.stack([fold(m) for m in maps]).mean(dim=0) for fold in (lambda m: m.mean(1), lambda m: m.var(1)))


@pytest.mark.parametrize("averaging", ["ema", "swa"])
@pytest.mark.parametrize("batch_size", [16, 64])
@pytest.mark.parametrize(
    ("make", "shift"),
    [(PlainCE, 0.0), (Shifted, 0.3), (lambda model: Sharpness(PlainCE(model), 0.5), 0.0)],
    ids=["plain", "shifted", "perturbed"],
)
def test_they_are_of_the_averaged_weights_on_the_images_that_are_trained_on(averaging, batch_size, make, shift):
    """Not the means of statistics; a perturbation of the weights, a step's scope, has no part in them."""
    net = kept(make(tiny_net(norm=True)), settings(averaging, batch_size=batch_size))
    mean, variance = of_batches(net, SOURCE.images + shift, epoch_plan(64, batch_size, 0, 2))
    torch.testing.assert_close(net[1].running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net[1].running_var, variance, rtol=1e-4, atol=1e-5)


def test_enough_images_suffice(monkeypatch):
    monkeypatch.setattr(statistics, "IMAGES", 20)  # two batches of sixteen
    net = kept(PlainCE(tiny_net(norm=True)), settings())
    mean, _ = of_batches(net, SOURCE.images, epoch_plan(64, 16, 0, 2)[:2])
    torch.testing.assert_close(net[1].running_mean, mean, rtol=1e-4, atol=1e-5)


def test_what_is_validated_has_them():
    seen = []
    kept(PlainCE(tiny_net(norm=True)), settings(), validate=lambda m: seen.append((m, m[1].running_mean.clone())) or {})
    assert len(seen) == 3
    net, last = seen[-1]
    mean, _ = of_batches(net, SOURCE.images, epoch_plan(64, 16, 0, 2))
    torch.testing.assert_close(last, mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_training_goes_on_as_if_nobody_had_averaged(mode):
    attack = PGD(ThreatModel("linf", 0.1), steps=2, keep="last", mode=mode)
    models = [tiny_net(norm=True) for _ in range(2)]
    rows = [
        fit(AdversarialTraining(model, attack), SOURCE, settings(name)).history
        for model, name in zip(models, ("none", "swa"), strict=True)
    ]
    assert rows[0] == rows[1]
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert models[1][1].momentum == 0.1


def test_the_model_comes_back_after_an_error_and_the_average_is_left():
    model, average = nn.Sequential(nn.BatchNorm1d(3)), nn.Sequential(nn.BatchNorm1d(3))
    model[0].eval()
    nn.init.constant_(average[0].weight, 2.0)

    def failing():
        with standing_in(model, average):
            assert model[0].weight.tolist() == [2.0] * 3
            model(torch.rand(5, 3))
            raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        failing()
    assert model[0].weight.tolist() == [1.0] * 3
    assert (model[0].momentum, model[0].training, int(model[0].num_batches_tracked)) == (0.1, False, 0)
    assert model[0].running_mean.tolist() == average[0].running_mean.tolist() == [0.0] * 3
    assert normalisers(nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.Linear(3, 3))) == []
