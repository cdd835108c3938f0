"""Causal reliance: the known truth is found on linear readers of the cause and of the confounder alone."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import nn

from deconfound.analysis import Predictor, measure_reliance, sweep
from deconfound.core.origin import Origin
from deconfound.data.confounded import Confounded, Confounding
from deconfound.data.memory import MemoryImages
from deconfound.data.synthetic import Shapes, ShapesSettings
from deconfound.errors import InputError
from deconfound.functional.predictions import predicted
from deconfound.functional.statistics import paired_interval, wilson_interval
from deconfound.models.smoothed import Smoothed
from deconfound.recipes.relying import predictor_of
from deconfound.records import Machine
from toys import ToySource

CLASSES, COUNT = 4, 240
MILLIONTH = 1e-6  # error rate of each statistical test here; the seeds are fixed


def origin(source):
    machine = Machine(device="cpu", processor="x", threads=1, versions={})
    return Origin(
        model="m", model_digest="d", data=source.name, data_digest="e", class_names=source.class_names, machine=machine
    )


def bars(rho=0.9, count=COUNT, classes=CLASSES):
    """Grey images under a tint; the cause is the place of the one bright column, the last column is always dark."""
    labels = torch.arange(count) % classes
    images = torch.full((count, 1, 8, 8), 0.2)
    images[torch.arange(count), :, :, labels] = 0.8
    names = tuple(str(k) for k in range(classes))
    return Confounded(MemoryImages(images, labels, names, "bars[test]"), Confounding(kind="tint", rho=rho), "test")


def linear(weight, bias=None):
    """images (B, 1, 8, 8) -> weight @ pixels + bias."""
    layer = nn.Linear(64, len(weight))
    with torch.no_grad():
        layer.weight.copy_(weight.reshape(len(weight), 64))
        layer.bias.copy_(torch.zeros(len(weight)) if bias is None else bias)
    return nn.Sequential(nn.Flatten(), layer)


def reads_cause():
    weight = torch.zeros(CLASSES, 8, 8)
    for k in range(CLASSES):
        weight[k, :, k] = 1.0  # a tint adds the same to all of them
    return linear(weight)


def reads_confounder():
    """-(x - c_k)^2 up to what does not depend on k, of the pixel x = 0.75 * 0.2 + 0.25 t in the dark column."""
    levels = 0.15 + 0.25 * torch.arange(CLASSES) / (CLASSES - 1)
    weight = torch.zeros(CLASSES, 8, 8)
    weight[:, 0, 7] = 2 * levels
    return linear(weight, -levels.square())


def asking(model):
    return Predictor(predict=lambda images, streams: predicted(model(images)), modules=(model,))


def measured(model, source, **settings):
    predictor = model if isinstance(model, Predictor) else asking(model)
    return measure_reliance(predictor, source, torch.arange(len(source)), origin(source), **settings)


def test_who_reads_only_the_confounder_relies_on_it_altogether():
    source = bars()
    record = measured(reads_confounder(), source)
    assert record.mark == "a tint of the whole image, 25 % of each pixel"
    assert record.own.reliance.share == 1.0
    assert record.own.find("confounder", "other").accuracy.share == 0.0
    assert record.own.find("shape", "other").changed.share == 0.0
    right = round(record.own.observed.share * COUNT)
    assert right == int((source.confounder == source.labels).sum())
    assert stats.binomtest(right, COUNT, 0.9).pvalue > MILLIONTH
    random = record.own.find("confounder", "random")
    assert stats.binomtest(round(random.accuracy.share * COUNT), COUNT, 1 / CLASSES).pvalue > MILLIONTH
    assert random.gap == pytest.approx(record.own.observed.share - random.accuracy.share)


def test_who_reads_only_the_cause_does_not_rely_on_it():
    record = measured(reads_cause(), bars(), rhos=sweep(CLASSES))
    assert [point.rho for point in record.points] == [0.25, 0.5, 0.9, 0.99]
    for point in record.points:
        assert point.observed.share == 1.0
        assert point.reliance.share == 0.0
        assert [done.accuracy.share for done in point.interventions] == [1.0, 1.0, 1.0]
        assert point.find("shape", "other").changed.share == 1.0
    assert [point.own for point in record.points] == [False, False, True, False]


def test_the_sweep_moves_the_accuracy_of_who_reads_the_confounder_and_not_its_reliance():
    record = measured(reads_confounder(), bars(), rhos=sweep(CLASSES))
    shares = [point.observed.share for point in record.points]
    assert shares == sorted(shares)
    for point in record.points:
        assert stats.binomtest(round(point.observed.share * COUNT), COUNT, point.rho).pvalue > MILLIONTH
        assert point.reliance.share == 1.0
    # a random confounder does not depend on rho
    assert len({point.find("confounder", "random").accuracy.share for point in record.points}) == 1


def test_shapes_by_their_colour():
    class Colour(nn.Module):
        def forward(self, images):
            return images.mean(dim=(2, 3))

    record = measured(Colour(), Shapes("test", ShapesSettings(test=90)), rhos=(1 / 3,))
    assert [point.reliance.share for point in record.points] == [1.0, 1.0]
    assert record.own.rho == 0.917


def test_every_share_has_its_interval_and_gaps_are_paired():
    model, source = reads_confounder(), bars(rho=0.5)
    done = measured(model, source).own.find("confounder", "random")

    def right(images):
        (batch,) = images.batches([torch.arange(COUNT)])
        return model(batch.images).argmax(1) == batch.labels

    before, after = right(source), right(source.do("confounder", "random"))
    lost, won = int((before & ~after).sum()), int((after & ~before).sum())
    assert done.gap_interval == paired_interval(lost, won, COUNT)
    assert done.gap == (lost - won) / COUNT
    for found in (done.accuracy, done.changed):
        assert found.interval == wilson_interval(round(found.share * COUNT), COUNT)


def test_batch_size_and_order_do_not_matter():
    first = measured(reads_confounder(), bars(), seed=3)
    again = measured(reads_confounder(), bars(), seed=3, batch_size=7)
    assert first.points == again.points


def noisy(model, amplitude):
    def predict(images, streams):
        logits = model(images)
        return predicted(logits + amplitude * streams.normal((logits.shape[1],)))

    return Predictor(predict=predict, modules=(model,), random=True, settings={"kind": "majority", "draws": 9})


def test_noise_that_belongs_to_the_image_is_not_taken_for_reliance():
    record = measured(noisy(reads_cause(), 3.0), bars(), seed=1)
    assert record.own.observed.share < 0.9
    assert record.own.reliance.share == 0.0
    assert record.unsteady.share > 0.1
    assert record.judge["draws"] == 9
    assert measured(reads_cause(), bars()).unsteady is None


def test_a_network_comes_back_as_it_was():
    model = reads_cause().train()
    measured(model, bars(count=8))
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


class Broken(nn.Module):
    """NaN wherever the first pixel is dark enough."""

    def __init__(self, below=2.0):
        super().__init__()
        self.inner, self.below = reads_confounder(), below

    def forward(self, images):
        return self.inner(images).masked_fill(images[:, 0, 0, 7, None] < self.below, float("nan"))


@pytest.mark.parametrize("below", [2.0, 0.2])
def test_an_output_that_is_nan_is_refused(below):
    with pytest.raises(
        InputError, match=r"^model: got 'no prediction on \d+ images'; expected outputs that are not NaN"
    ):
        measured(Broken(below), bars(count=16))


def silent_on(model, chosen):
    """The model, that predicts nothing where ``chosen(images)`` holds."""

    def predict(images, streams):
        return predicted(model(images)).masked_fill(chosen(images), -1)

    return Predictor(predict=predict, modules=(model,), abstains=True)


def test_who_predicts_nothing_is_not_said_to_keep_its_prediction():
    """A reader of the confounder alone that is silent on two tints of four: what it does predict always changes."""
    source = bars(rho=0.5)
    own = measured(silent_on(reads_confounder(), lambda x: x[:, 0, 0, 7] < 0.26), source).own
    done = own.find("confounder", "other")
    before, after = source.confounder < 2, source.do("confounder", "other").confounder < 2
    assert own.abstained.share == float(before.double().mean())
    assert done.abstained.share == float(after.double().mean())
    assert done.compared == int((~before & ~after).sum())
    assert own.reliance.share == 1.0
    assert own.reliance.interval == wilson_interval(done.compared, done.compared)
    assert done.bounds == (done.compared / COUNT, 1.0)


def test_who_never_predicts_has_no_reliance():
    own = measured(silent_on(reads_confounder(), lambda x: x[:, 0, 0, 7] < 2), bars(count=8)).own
    done = own.find("confounder", "other")
    assert math.isnan(own.reliance.share)
    assert (own.reliance.interval, done.bounds, done.compared) == ((0.0, 1.0), (0.0, 1.0), 0)
    assert (own.observed.share, own.abstained.share) == (0.0, 1.0)


def test_a_reader_of_the_confounder_relies_on_it_however_often_it_abstains():
    """The smoothed network under much noise, asked as everywhere: 100 draws that may abstain."""
    source = bars(classes=2, rho=0.5, count=60)
    for sigma, silent in ((0.01, (0.0, 0.0)), (0.3, (0.2, 0.8))):
        own = measured(predictor_of(Smoothed(Two(), sigma)), source).own
        assert own.reliance.share == 1.0
        assert silent[0] <= own.abstained.share <= silent[1]
    with pytest.raises(InputError, match=r"^model: got 'NaN on 60 of 60 images'; expected outputs that are not NaN"):
        measured(predictor_of(Smoothed(Broken(), 0.01)), source)


def test_two_classes_and_a_thousand():
    two = measured(Two(), bars(classes=2, rho=0.5))
    assert two.own.reliance.share == 1.0
    thousand = MemoryImages(torch.rand(20, 3, 4, 6), torch.arange(20) * 50, tuple(map(str, range(1000))), "many[test]")
    source = Confounded(thousand, Confounding(kind="tint", rho=0.9), "test")
    assert sweep(1000)[0] == 0.001
    assert len(measured(nn.Sequential(nn.Flatten(), nn.Linear(72, 1000)), source, rhos=sweep(1000)).points) == 4


class Two(nn.Module):
    """The darker tint is class 0."""

    def forward(self, images):
        level = images[:, 0, 0, 7]
        return torch.stack([torch.full_like(level, 0.275), level], dim=1)


def test_data_without_do_operations_are_refused():
    with pytest.raises(
        InputError, match=r"^data: got 'toy'; expected data with do-operations: shapes, or a name with \+"
    ):
        measured(nn.Flatten(), ToySource())


def test_a_source_that_has_no_rho():
    class Plain:
        """Do-operations, and no probability of agreement."""

        def __init__(self, source):
            self.source = source
            self.name, self.class_names, self.shape = source.name, source.class_names, source.shape

        def __len__(self):
            return len(self.source)

        def batches(self, plan, device="cpu"):
            return self.source.batches(plan, device)

        def interventions(self):
            return {"confounder": ("other",)}

        def do(self, variable, value):
            return self.source.do(variable, value)

    record = measured(reads_confounder(), Plain(bars()))
    assert (record.own.rho, record.own.reliance.share, record.mark) == (None, 1.0, "")
    assert record.own.find("shape", "other") is None
    with pytest.raises(InputError, match=r"^rho: "):
        measured(reads_confounder(), Plain(bars()), rhos=(0.5,))
