"""What an evaluation shows besides its accuracy: the curve over radii, the gallery, and progress."""

from __future__ import annotations

import base64
import io

import pytest
import torch
from PIL import Image

from deconfound.core.pictures import png
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError
from deconfound.evaluation import Probes
from deconfound.evaluation.curve import curve_radii
from deconfound.evaluation.examples import spread
from deconfound.functional.statistics import wilson_interval
from linear_case import THREAT, Ascent, examples, run


class Listener:
    def __init__(self):
        self.told = []

    def start(self, task, total, done=0):
        self.told.append((task, total))

    def update(self, done, values):
        assert all(isinstance(value, float) for value in values.values())
        self.told.append(done)

    def message(self, text): ...

    def finish(self):
        self.told.append("finished")


def test_curve_measures_every_radius_and_keeps_what_a_smaller_one_broke():
    model, images, labels, difference, lead = examples(300)
    record = run(model, images, labels, curve_attack=Ascent)
    assert [point.eps for point in record.curve] == pytest.approx([0, 0.0125, 0.025, 0.0375, 0.05, 0.075, 0.1, 0.2, 1])
    chosen = spread(300, 200)
    assert len(set(chosen.tolist())) == 200
    right = (chosen >= 10).sum()
    assert record.curve[0].accuracy == int(right) / 200
    for point in record.curve[:5]:  # no pixel meets the box there
        stands = (lead[chosen] > point.eps * difference.abs().sum()) & (chosen >= 10)
        assert point.accuracy == int(stands.sum()) / 200
        assert point.interval == wilson_interval(int(stands.sum()), 200)
        assert (point.n, point.attack) == (200, "ascent")

    class Forgetful(Ascent):
        """Finds nothing at large radii."""

        def __call__(self, model, images, *rest, **more):
            return images if self.threat.eps > 0.06 else super().__call__(model, images, *rest, **more)

    record = run(model, images, labels, curve_attack=Forgetful, probes=Probes(single_step=Ascent, iterative=Ascent))
    assert record.curve[4].accuracy == record.curve[5].accuracy < record.curve[0].accuracy
    (check,) = [check for check in record.verdict.checks if check.name == "accuracy falls with eps"]
    assert check.passed is False  # which looks at what each radius found by itself


def test_radii_are_capped_at_the_box():
    assert curve_radii(ThreatModel("linf", 0.5), 4) == (0, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
    assert curve_radii(ThreatModel("l2", 1), 4)[-1] == 2
    assert curve_radii(ThreatModel("l1", 3), 4)[-1] == 4
    assert curve_radii(ThreatModel("linf", 0.2, (0, 0.25)), 4)[-1] == 0.25
    with pytest.raises(InputError, match="curve_radii"):
        curve_radii(THREAT, 4, [-1])


def test_gallery_shows_what_broke():
    model, images, labels, _, _ = examples()
    record = run(model, images, labels, batch_size=16, gallery=5)
    broken = [outcome for outcome in record.outcomes if outcome.broken_by == "ascent"]
    assert len(record.gallery) == 5
    for shown, outcome in zip(record.gallery, broken, strict=False):
        assert (shown.index, shown.label, shown.adversarial) == (outcome.index, outcome.label, outcome.adversarial)
        assert shown.prediction == outcome.prediction
        assert shown.distance == outcome.distance
        clean = Image.open(io.BytesIO(base64.b64decode(shown.clean_png)))
        assert clean.size == (6, 6)
        assert clean.getpixel((2, 1)) == round(float(images[outcome.index, 0, 1, 2]) * 255)
        change = Image.open(io.BytesIO(base64.b64decode(shown.perturbation_png)))
        assert change.getpixel((0, 0)) in (0, 255)  # 0.5 +- 10 * 0.05
    assert run(model, images, labels, gallery=0).gallery == ()


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (2, "L"), (4, "L")])
def test_large_pictures_are_shrunk_and_odd_channels_averaged(channels, mode):
    shown = Image.open(io.BytesIO(base64.b64decode(png(torch.full((channels, 200, 100), 0.5)))))
    assert shown.size == (48, 96)
    assert shown.mode == mode
    assert shown.getextrema() in ((128, 128), ((128, 128),) * 3)


def test_monitor_hears_of_every_task():
    model, images, labels, _, _ = examples()
    listener = Listener()
    record = run(model, images, labels, batch_size=100, monitor=listener)
    assert listener.told == [("clean images", 150), 100, 150, "finished", ("ascent", 140), 100, 140, "finished"]
    assert record.robust_accuracy == run(model, images, labels).robust_accuracy
