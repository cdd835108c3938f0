"""Certificates: the closed form, linear classifiers whose radius is known, attacks that must fail, and the level."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import nn

from deconfound.attacks import PGD
from deconfound.core.origin import Origin
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Batch
from deconfound.errors import InputError
from deconfound.evaluation import Certification, certify
from deconfound.functional.smoothing import certificates, certified_radius
from deconfound.functional.statistics import clopper_pearson_lower
from deconfound.models import Smoothed
from deconfound.objectives import Smoothing
from deconfound.records import CertificationRecord, Machine
from deconfound.training import LoopSettings, SelectionSettings, fit
from toys import Rows, ToySource, tiny_net

SIGMA = 0.25
ORIGIN = Origin(
    model="net",
    model_digest="m",
    data="toy",
    data_digest="d",
    class_names=("0", "1"),
    machine=Machine(device="cpu", processor="p", threads=1, versions={}),
)


class Source:
    """Given images."""

    def __init__(self, images, labels):
        self.images, self.labels, self.asked = images, labels, []
        self.name, self.shape, self.class_names = "given", tuple(images.shape[1:]), ("0", "1")

    def __len__(self):
        return len(self.labels)

    def batches(self, plan, device="cpu"):
        for places in plan:
            self.asked += places.tolist()
            yield Batch(self.images[places], self.labels[places], places)


def linear(scale=1.0, seed=0):
    """z = (0, w x + b): class 1 on one side of a hyperplane, at any scale of the logits."""
    layer = nn.Linear(16, 2)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[1] = scale * torch.randn(16, generator=torch.Generator().manual_seed(seed))
        layer.bias.copy_(torch.tensor([0.0, -float(layer.weight[1].sum()) / 2]))
    return nn.Sequential(nn.Flatten(), layer)


def at_distances(net, distances):
    """Images (N, 1, 4, 4) at these signed distances from the hyperplane, around the middle of the box."""
    w = net[1].weight[1].detach()
    points = 0.5 + distances[:, None] * (w / w.norm())[None]
    return points.view(-1, 1, 4, 4)


class TestClosedForm:
    def test_the_radius(self):
        for p, sigma in ((0.51, 0.1), (0.9, 0.25), (1 - 1e-9, 2.0)):
            assert certified_radius(p, sigma) == pytest.approx(sigma * stats.norm.ppf(p), rel=1e-12)
        assert certified_radius(0.5, 1.0) == certified_radius(0.1, 1.0) == 0

    @pytest.mark.parametrize(("k", "n", "alpha"), [(0, 10, 0.01), (7, 10, 0.05), (10, 10, 0.001), (990, 1000, 0.001)])
    def test_clopper_pearson_is_the_exact_inversion(self, k, n, alpha):
        """At the bound, k or more successes have the probability alpha; one that is larger would be refuted."""
        low = clopper_pearson_lower(k, n, alpha)
        if k == 0:
            assert low == 0
        else:
            assert stats.binom.sf(k - 1, n, low) == pytest.approx(alpha, rel=1e-6)
            test = stats.binomtest(k, n).proportion_ci(confidence_level=1 - 2 * alpha, method="exact")
            assert low == pytest.approx(test.low, rel=1e-9)

    @pytest.mark.parametrize("alpha", [0.1, 0.001])
    def test_the_level_is_kept_for_every_probability(self, alpha):
        """Exactly, summed over all outcomes of n draws: the certified radius is too large at rate alpha or less.

        Where the class is not the true largest one (p <= 1/2) every certificate is wrong.
        """
        n, worst = 60, 0.0
        counts = torch.arange(n + 1, dtype=torch.float64)
        votes = torch.stack([n - counts, counts], dim=1)
        found = certificates(torch.tensor([[0, 1]] * (n + 1)), votes, n, 1.0, alpha)
        for p in [x / 200 for x in range(1, 200)]:
            true = stats.norm.ppf(p) if p > 0.5 else 0.0
            chance = stats.binom.pmf(counts.numpy(), n, p)
            wrong = sum(c for c, one in zip(chance, found, strict=True) if one.radius > true + 1e-12)
            worst = max(worst, wrong)
        assert worst <= alpha
        assert worst > alpha / 4  # a bound that is far too careful certifies too little

    def test_abstention_is_where_the_bound_is_not_above_a_half(self):
        n, alpha = 100, 0.001
        votes = torch.tensor([[n - k, k] for k in range(n + 1)])
        found = certificates(torch.tensor([[0, 9]] * (n + 1)), votes, n, SIGMA, alpha)
        for k, one in enumerate(found):
            certain = stats.binomtest(k, n).proportion_ci(1 - 2 * alpha, method="exact").low > 0.5
            assert one.prediction == (1 if certain else -1)
            assert (one.radius > 0) == certain
        assert found[100].radius == pytest.approx(SIGMA * stats.norm.ppf(alpha ** (1 / n)))

    def test_the_first_votes_choose_and_the_second_bound(self):
        (one,) = certificates(torch.tensor([[9, 1]]), torch.tensor([[100, 900]]), 1000, SIGMA, 0.001)
        assert one.prediction == -1  # the class that was chosen has a tenth; the other one was not asked about


class TestLinear:
    """True radius |margin| / |w|, whatever sigma and the scale of the logits."""

    @pytest.mark.parametrize("sigma", [0.1, 0.5])
    @pytest.mark.parametrize("scale", [0.01, 100.0])
    def test_the_radius_is_near_the_true_one_and_not_above_it(self, sigma, scale):
        """80 certificates in all at alpha 1e-6 above the true radius, and 5.5 deviations of the vote below:
        wrong by chance once in 10^4."""
        net, n, alpha = linear(scale), 2000, 1e-6
        distances = sigma * torch.tensor([-2.0, -1.0, -0.5, -0.3, 0.3, 0.5, 0.8, 1.2, 1.6, 2.0] * 2)
        source = Source(at_distances(net, distances), (distances > 0).long())
        record = certify(Smoothed(net, sigma), source, ORIGIN, Certification(draws=n, alpha=alpha))
        for point, distance in zip(record.points, distances.tolist(), strict=True):
            true = abs(distance)
            assert point.prediction == int(distance > 0)
            assert point.radius <= true
            p = stats.norm.cdf(true / sigma)
            few = max(0, math.floor(n * p - 5.5 * math.sqrt(n * p * (1 - p))))
            assert point.radius >= certified_radius(clopper_pearson_lower(few, n, alpha), sigma)

    def test_on_the_hyperplane_it_abstains(self):
        """Each of 30 points is certified with probability at most alpha = 1e-4: wrong once in 300."""
        net = linear()
        source = Source(at_distances(net, torch.zeros(30)), torch.ones(30, dtype=torch.int64))
        record = certify(Smoothed(net, SIGMA), source, ORIGIN, Certification(draws=500, alpha=1e-4))
        assert record.abstained == 30
        assert {point.prediction for point in record.points} == {-1}
        assert record.certified[0].accuracy == 0

    def test_no_attack_reaches_the_certified_radius_and_one_beyond_the_true_radius_does(self):
        """The attack is exact on a linear net: the straight way to the hyperplane. 5 deviations of the vote."""
        net, draws = linear(), 501
        model, distances = Smoothed(net, SIGMA), torch.linspace(0.15, 0.4, 6)
        images, labels = at_distances(net, distances), torch.ones(6, dtype=torch.int64)
        record = certify(model, Source(images, labels), ORIGIN, Certification(draws=1000, alpha=1e-6))
        radii = torch.tensor([point.radius for point in record.points])
        assert float(radii.min()) > 0.02
        for reach, broken in ((radii, False), (distances + 0.15, True)):
            votes = worst_votes(model, images, labels, reach, draws)
            edge = 5 * math.sqrt(draws) / 2
            assert ((votes < draws / 2 + edge) if broken else (votes > draws / 2 - edge)).all()
            assert ((votes < draws / 2 - edge / 5) == broken).float().mean() > 0.8


def worst_votes(model, images, labels, radii, draws):
    """Votes for the label after PGD in L2 on the expected loss, brought to exactly these radii."""
    streams = Streams(9, range(len(labels)))
    threat = ThreatModel("l2", float(radii.max()), box=(-9.0, 9.0))
    made = PGD(threat, steps=10, draws=4, keep="last")(model, images, labels, streams)
    way = (made - images).flatten(1)
    moved = images + (way * (radii / way.norm(dim=1))[:, None]).view_as(images)
    votes = model.draw(moved, streams.fold("vote"), draws).argmax(-1)
    return (votes == labels).sum(dim=0)


@pytest.fixture(scope="module")
def trained():
    """A small network trained under noise, and its images."""
    with torch.random.fork_rng(devices=[]):
        model, source = Smoothed(tiny_net(seed=1), SIGMA), ToySource()
        settings = LoopSettings(epochs=25, batch_size=16, lr=0.05, selection=SelectionSettings(keep="last"))
        fit(Smoothing(model), source, settings)
    return model.eval(), source


class TestTrained:
    def test_no_attack_reaches_the_certified_radius(self, trained):
        """12 certificates at alpha 1e-6 and the vote of 501 after the attack.

        A true certificate leaves the class more than half, of which the vote may fall short by 5 deviations (once in
        10^6). The same attack four times as far wins.
        """
        model, source = trained
        record = certify(model, source, ORIGIN, Certification(draws=500, alpha=1e-6), index=torch.arange(12))
        points = [point for point in record.points if point.prediction == point.label]
        assert len(points) >= 8
        radii = torch.tensor([point.radius for point in points])
        assert float(radii.min()) > 0.2 * SIGMA
        batch = next(source.batches([torch.tensor([point.index for point in points])]))
        votes = worst_votes(model, batch.images, batch.labels, radii, 501)
        assert float(votes.min()) >= 501 / 2 - 5 * math.sqrt(501) / 2
        beyond = worst_votes(model, batch.images, batch.labels, 4 * radii, 501)
        assert (beyond < 501 / 2).float().mean() > 0.5

    def test_nothing_depends_on_the_batch(self, trained):
        model, source = trained
        whole = certify(model, source, ORIGIN, Certification(draws=150, batch_size=256))
        small = certify(model, source, ORIGIN, Certification(draws=150, batch_size=7))
        some = certify(model, source, ORIGIN, Certification(draws=150), index=torch.tensor([3, 41]))
        assert whole.points == small.points
        assert some.points == (whole.points[3], whole.points[41])
        other = certify(model, source, ORIGIN, Certification(draws=150, seed=1))
        assert other.points != whole.points

    def test_the_record_adds_up(self, trained):
        model, source = trained
        radii = (0.0, 0.1, 0.3, 9.0)
        record = certify(model, source, ORIGIN, Certification(draws=200, alpha=0.01, radii=radii))
        assert [share.radius for share in record.certified] == list(radii)
        for share in record.certified:
            right = sum(p.prediction == p.label and p.radius > share.radius for p in record.points)
            assert share.accuracy == right / 64
            assert share.interval[0] <= share.accuracy <= share.interval[1]
        accuracies = [share.accuracy for share in record.certified]
        assert accuracies == sorted(accuracies, reverse=True)
        assert accuracies[0] > 0.5
        assert accuracies[-1] == 0
        assert record.largest_radius == pytest.approx(SIGMA * stats.norm.ppf(0.01 ** (1 / 200)))
        assert max(point.radius for point in record.points) <= record.largest_radius
        assert record.abstained == sum(p.prediction == -1 for p in record.points)
        assert record.forwards == 64 * 300
        assert CertificationRecord.from_json(record.to_json()) == record

    def test_an_interrupted_call_goes_on_where_it_was(self, trained):
        model, source = trained
        given = Source(source.images, source.labels)
        settings, journal = Certification(draws=50, batch_size=10), Rows()

        class Impatient:
            def start(self, *_):
                pass

            def update(self, done, values):
                if done >= 30:
                    raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            certify(model, given, ORIGIN, settings, journal=journal, monitor=Impatient())
        assert given.asked == list(range(30))
        again = certify(model, given, ORIGIN, settings, journal=journal)
        assert given.asked == list(range(64))
        assert again.points == certify(model, source, ORIGIN, settings).points
        with pytest.raises(InputError, match=r"^journal: draws: got 50; expected 51, as in this call$"):
            certify(model, given, ORIGIN, Certification(draws=51, batch_size=10), journal=journal)
        line = r"^journal: places: got '64 images (\w{16})'; expected '9 images (?!\1)\w{16}', as in this call$"
        with pytest.raises(InputError, match=line):
            certify(model, given, ORIGIN, settings, index=torch.arange(9), journal=journal)


def test_a_draw_that_is_not_a_number_votes_for_nothing():
    class Sometimes(nn.Module):
        def forward(self, images):
            good = (torch.arange(len(images)) % 2 == 0).float()
            logits = torch.stack([torch.zeros(len(images)), torch.ones(len(images))], dim=1)
            return logits / good[:, None].where(good[:, None] > 0, torch.nan)

    source = Source(torch.full((2, 1, 4, 4), 0.5), torch.ones(2, dtype=torch.int64))
    record = certify(Smoothed(Sometimes(), SIGMA), source, ORIGIN, Certification(draws=400))
    by_example = sorted(point.radius for point in record.points)
    assert by_example[0] == 0  # half of its rows, or all, are no numbers


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"draws": 0}, "draws: got 0; expected a whole number of at least 1"),
        ({"selection_draws": 0}, "selection_draws: got 0"),
        ({"alpha": 1.0}, "alpha: got 1.0; expected a level between 0 and 1"),
        ({"seed": -1}, "seed: got -1"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"radii": (-1.0,)}, "radii: got"),
        ({"radii": ()}, "radii: got"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(InputError, match=message):
        Certification(**changes)
