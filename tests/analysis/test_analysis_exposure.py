"""Instrument exposure: the spread against closed forms, and views that are those the network looks at."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from deconfound.analysis import ExposureParts, analyse_exposure
from deconfound.analysis.exposure import SIDE, relative_spread
from deconfound.core.origin import Origin
from deconfound.core.pictures import png
from deconfound.core.streams import Streams
from deconfound.errors import InputError
from deconfound.functional.consistency import pooled
from deconfound.models.ciiv import CiiV
from deconfound.models.sampler import Sampling
from deconfound.records import Machine
from deconfound.reporting.inline_png import png_size
from toys import SplitNet, ToySource

EXPOSURE = torch.tensor([0.25, 0.5, 1.0])


class Proportional(nn.Module):
    """Three looks whose features are exactly z f(x), plus an offset that breaks it."""

    def __init__(self, offset=0.0):
        super().__init__()
        self.offset = offset

    def views(self, images, streams):
        base = images.flatten(1)[:, :4]
        features = EXPOSURE[:, None, None] * base + self.offset
        return features, features * torch.arange(1.0, 5.0), EXPOSURE[:, None].expand(3, len(images))


def parts(model):
    return ExposureParts(
        model=model, sample=lambda images, streams: images[:, None].expand(-1, 3, -1, -1, -1), policy="grid",
        consistency=1.0,
    )  # fmt: skip


def analysed(model, source=None, **settings):
    source = source or ToySource()
    machine = Machine(device="cpu", processor="x", threads=1, versions={})
    origin = Origin(
        model="m", model_digest="d", data=source.name, data_digest="e", class_names=source.class_names, machine=machine
    )
    how = model if isinstance(model, ExposureParts) else parts(model)
    return analyse_exposure(how, source, torch.arange(len(source)), origin, **settings)


def test_features_in_proportion_to_exposure_have_no_spread_and_their_raw_ones_have():
    record = analysed(Proportional())
    assert record.spread.value == pytest.approx(0.0, abs=1e-7)
    z = EXPOSURE.double()
    expected = float(((z - z.mean()).square().mean()).sqrt() / z.mean())
    assert record.raw_spread.value == pytest.approx(expected, rel=1e-6)
    assert [centre.exposure for centre in record.centres] == EXPOSURE.tolist()


def test_features_that_do_not_know_the_exposure_have_spread():
    constant = analysed(Proportional(offset=100.0))
    assert constant.spread.value == pytest.approx(
        float(relative_spread((1 / EXPOSURE)[:, None, None].double())[0]), rel=0.01
    )
    assert constant.raw_spread.value < 0.01


def test_the_spread_has_no_scale():
    features = torch.rand(3, 5, 4)
    assert torch.allclose(relative_spread(1e-3 * features), relative_spread(features))


def test_where_it_is_not_defined():
    assert relative_spread(torch.zeros(3, 2, 4)).isnan().all()
    assert relative_spread(torch.ones(1, 2, 4)).isnan().all()
    half = torch.stack([torch.zeros(3, 4), torch.ones(3, 4)], dim=1)
    assert relative_spread(half).isnan().tolist() == [True, False]


def ciiv(**settings):
    return CiiV(SplitNet(channels=3, size=8), Sampling(**({"loops": 4} | settings)), channels=1, size=8).eval()


def of(model):
    def sample(images, streams):
        return model.sampler(model.sampled_input(images), streams)[0]

    return ExposureParts(model=model, sample=sample, policy="grid", consistency=0.0)


def test_of_a_real_network():
    model, source = ciiv(), ToySource()
    record = analysed(of(model), source, seed=3, batch_size=10)
    (batch,) = source.batches([torch.arange(64)])
    streams = Streams(3, batch.index).fold("exposure")
    with torch.no_grad():
        features, logits, exposure = model.views(batch.images, streams)
        views, _ = model.sampler(model.sampled_input(batch.images), streams)
    ratio = (features / exposure[..., None]).double()
    expected = (ratio.var(dim=0, correction=0).sum(1).sqrt() / ratio.mean(0).norm(dim=1)).mean()
    assert record.spread.value == pytest.approx(float(expected), rel=1e-5)
    low, high = record.spread.interval
    assert low < record.spread.value < high
    right = (pooled(logits, exposure).argmax(1) == batch.labels).double().mean()
    assert record.together.share == float(right)
    for place, centre in enumerate(record.centres):
        assert centre.accuracy.share == float((logits[place].argmax(1) == batch.labels).double().mean())
        assert centre.exposure == pytest.approx(float(exposure[place].mean()))
    assert [looks.label for looks in record.looks] == [0, 2, 3]
    for looks in record.looks:
        assert len(looks.views) == 4
        for place, view in enumerate(looks.views):
            assert view.png == png(views[looks.index, place])
            assert view.exposure == float(exposure[place, looks.index])
            assert view.prediction == int(logits[place, looks.index].argmax())


def test_batch_size_does_not_matter():
    first, again = (analysed(of(ciiv()), seed=1, batch_size=size) for size in (64, 7))
    assert again.together == first.together
    assert again.spread.value == pytest.approx(first.spread.value, rel=1e-5)
    assert [x.png for x in again.looks[0].views] == [x.png for x in first.looks[0].views]


def test_one_look_first_version_and_other_sizes():
    one = analysed(of(ciiv(loops=1)))
    assert math.isnan(one.spread.value)
    old = CiiV(SplitNet(channels=2), Sampling(version="v1", loops=3), channels=1, size=8).eval()
    record = analysed(of(old))
    assert record.spread.value == record.raw_spread.value  # it knows no exposure
    large = ToySource(size=96, count=8)
    wide = CiiV(SplitNet(channels=3, size=96), Sampling(loops=2), channels=1, size=96).eval()
    assert max(map(len, (view.png for view in analysed(of(wide), large).looks[0].views))) < SIDE * SIDE * 3 * 1.5


def test_not_square():
    class Wide(ToySource):
        def __init__(self):
            super().__init__(count=12)
            self.images, self.shape = torch.rand(12, 1, 30, 70), (1, 30, 70)

    looks = analysed(Proportional(), Wide()).looks[0]
    assert png_size(looks.png) == (70, 30)
    assert png_size(looks.views[0].png) == (48, 21)


def test_a_thousand_classes_and_bad_images():
    many = ToySource(classes=4)
    many.class_names = tuple(map(str, range(1000)))
    assert len(analysed(Proportional(), many).class_names) == 1000
    many.images = many.images * 9
    with pytest.raises(InputError, match="images"):
        analysed(Proportional(), many)
