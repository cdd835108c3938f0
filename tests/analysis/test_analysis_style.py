"""The content/style analysis where the truth is known: linear networks, planted predictors, planted pictures."""

from __future__ import annotations

import base64
import io

import pytest
import torch
from PIL import Image
from torch import nn

from deconfound.analysis import StyleParts, analyse_style, bases_of
from deconfound.attacks import PGD
from deconfound.core.origin import Origin
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError
from deconfound.functional.style import Basis, unit
from deconfound.records import Machine, StyleRecord
from toys import ToySource

THREAT = ThreatModel("linf", 0.05)
ORIGIN = Origin(
    model="toy",
    model_digest="m",
    data="toy",
    data_digest="d",
    class_names=("0", "1", "2", "3"),
    machine=Machine(device="cpu", processor="x", threads=1, versions={}),
    notes=("a note",),
)


class Linear(nn.Module):
    """Features are pixels; a BatchNorm and a dropout that do nothing in eval mode tell which mode was on."""

    def __init__(self, weight):
        super().__init__()
        self.last = nn.Linear(weight.shape[1], len(weight), bias=False)
        self.last.weight.data.copy_(weight)
        self.norm, self.drop = nn.BatchNorm1d(weight.shape[1], affine=False, eps=0.0), nn.Dropout(0.5)

    def features(self, images):
        return self.drop(self.norm(images.flatten(1)))

    def head(self, features):
        return self.last(features)

    def forward(self, images):
        return self.head(self.features(images))


def quadrants(size=8):
    """A classifier that sums each quadrant, which is what ToySource's classes are."""
    weight, half = torch.zeros(4, size, size), size // 2
    for k in range(4):
        row, column = divmod(k, 2)
        weight[k, row * half : (row + 1) * half, column * half : (column + 1) * half] = 1
    return weight.flatten(1)


@pytest.fixture(scope="module")
def source():
    return ToySource(count=200)


def parts_of(model, source, predict=None, trained="exact", bases=None):
    """As a run would have them, with the covariance of the very images that are looked at."""
    with torch.no_grad():
        points = unit(model.eval().features(source.images)).double()
    covariance = (points.T @ points / len(points) - torch.outer(points.mean(0), points.mean(0))).float()
    anchors = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(3))).Q
    weight = model.last.weight.detach()
    return StyleParts(
        model=model,
        weight=weight,
        covariance=covariance,
        bases=bases or bases_of(weight, covariance, anchors),
        trained=trained,
        predict=predict or (lambda style: style[:, :4]),
        modules=(),
    )


def analysed(parts, source, index=None, attack=None, **settings):
    index = torch.arange(len(source)) if index is None else index
    attack = attack or PGD(THREAT, steps=3, keep="last")
    return analyse_style(parts, source, index, attack, ORIGIN, **settings)


def test_exact_does_not_correlate_and_deflation_does(source):
    record = analysed(parts_of(Linear(quadrants()), source), source)
    exact, deflated = record.bases
    assert (exact.name, exact.trained, deflated.name, deflated.trained) == ("exact", True, "deflation", False)
    assert exact.stored.largest < 1e-4
    assert exact.held_out.largest < 1e-3  # the same images gave the covariance
    assert exact.leakage < 1e-5
    assert deflated.stored.largest > 0.1
    assert deflated.held_out.largest == pytest.approx(deflated.stored.largest, abs=1e-3)
    assert deflated.leakage > 0.05
    assert exact.stored.canonical_mean_square < 1e-6
    assert exact.recovered == pytest.approx(0, abs=1e-4)
    assert deflated.stored.canonical_mean_square == pytest.approx(3 / 4, abs=1e-3)  # all but the last row of W S
    assert deflated.held_out.canonical_mean_square == pytest.approx(3 / 4, abs=1e-3)
    assert deflated.recovered > 0.5
    assert deflated.held_out.above(deflated.chance, "largest")
    assert not exact.held_out.above(exact.chance, "largest")
    assert (exact.removed, deflated.removed) == (4, 1)  # the four rows of W S are not orthogonal


def test_the_record_says_what_was_done(source):
    record = analysed(parts_of(Linear(quadrants()), source, trained="deflation"), source, seed=4)
    assert (record.n, record.seed, record.dimension) == (200, 4, 64)
    assert (record.threat.norm, record.threat.eps) == ("linf", 0.05)
    assert (record.attack.name, record.attack.settings["steps"], record.attack.settings["keep"]) == ("pgd-3", 3, "last")
    assert (record.model, record.notes, record.trained.name) == ("toy", ("a note",), "deflation")
    assert record.content.natural.share == 1
    assert record.content.adversarial.share <= 1
    low, high = record.content.natural.interval
    assert 0.97 < low < high == 1
    assert StyleRecord.from_json(record.to_json()) == record


def test_a_predictor_that_reads_leaking_content_is_caught(source):
    """Whitened content in the first four coordinates: the identity leaves it in style, the exact basis takes it out."""
    weight = torch.cat([torch.eye(4), torch.zeros(4, 60)], dim=1)
    covariance = torch.eye(64)
    planted = ToySource(count=200)
    planted.images = Streams(5, range(200)).uniform((1, 8, 8)) * 0.2
    planted.images.flatten(1)[torch.arange(200), planted.labels] = 0.9
    model = Linear(weight)
    bases = {
        "leaky": Basis(torch.eye(64), 1.0),
        "exact": bases_of(weight, covariance, torch.eye(64))["exact"],
    }
    parts = parts_of(model, planted, predict=lambda style: style @ weight.T, trained="leaky", bases=bases)
    leaky, exact = analysed(parts, planted).bases
    assert leaky.predictor.natural.share == 1
    assert exact.predictor.natural.share == pytest.approx(1 / 4)
    assert leaky.same_class == 1
    assert exact.same_class < 0.5
    assert leaky.predictor.divergence > 1e-6
    assert exact.predictor.divergence == pytest.approx(0, abs=1e-9)


def test_adversarial_style_is_taken_in_the_natural_basis(source):
    class Shift:
        name, threat = "shift", THREAT

        def settings(self):
            return {"steps": 1}

        def __call__(self, model, images, labels, streams=None, context=None, *, judge=None):
            return images.flip(3)

    model = Linear(quadrants())
    parts = parts_of(model, source, predict=lambda style: 3 * style[:, :4])
    record = analysed(parts, source, attack=Shift())
    with torch.no_grad():
        moved = unit(model.features(source.images.flip(3)))
        first = unit(model.features(source.images))
        p, q = (3 * x @ parts.bases["exact"].matrix.T[:, :4] for x in (first, moved))
    shift = -(p.softmax(1) * q.log_softmax(1)).sum(1).mean()
    assert record.bases[0].predictor.shift == pytest.approx(float(shift), rel=1e-5)
    assert record.bases[0].predictor.adversarial.share == pytest.approx(
        float((q.argmax(1) == source.labels).float().mean())
    )
    assert record.content.adversarial.share == 0  # mirrored quadrants


def close(first, second):
    """Equal but for time and the rounding of kernels at other shapes."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(close(first[k], second[k]) for k in first if k != "seconds")
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(close, first, second))
    return first == pytest.approx(second, rel=1e-5, abs=1e-6) if isinstance(first, float) else first == second


def test_neither_batch_size_nor_order_matters(source):
    parts = parts_of(Linear(quadrants()), source)
    index = torch.arange(0, 200, 3)
    attack = PGD(THREAT, steps=1, step_size=0.001, keep="last")  # so short that its random start still shows
    whole = analysed(parts, source, index, attack).model_dump()
    assert close(whole, analysed(parts, source, index, attack, batch_size=7).model_dump())
    turned = analysed(parts, source, index.flip(0), attack, batch_size=11).model_dump()
    assert close(whole["content"], turned["content"])
    assert close(whole["bases"], turned["bases"])
    assert not close(whole["content"], analysed(parts, source, index, attack, seed=1).model_dump()["content"])


def test_queries_show_the_planted_twin(source):
    planted = ToySource(count=200)
    planted.images[101] = planted.images[40]  # another class, the same picture
    parts = parts_of(Linear(quadrants()), planted)
    index = torch.arange(40, 140)
    record = analysed(parts, planted, index)
    assert len(record.queries) == 4
    query = next(query for query in record.queries if query.index == 40)
    assert (query.label, query.neighbours[0].index, query.neighbours[0].label) == (0, 101, 1)
    assert query.neighbours[0].distance == 0
    assert query.neighbours[0].png == query.png
    away = [near.distance for near in query.neighbours]
    assert away == sorted(away)
    assert len(away) == 5
    pixels = Image.open(io.BytesIO(base64.b64decode(query.png)))
    assert pixels.size == (8, 8)
    assert pixels.getpixel((1, 0)) == round(float(planted.images[40, 0, 0, 1]) * 255)


def test_one_image_is_enough(source):
    record = analysed(parts_of(Linear(quadrants()), source), source, torch.tensor([3]))
    assert (record.n, record.queries, record.bases[0].same_class) == (1, (), 0)


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_put_back(source, fails):
    class Fails(PGD):
        def __call__(self, *arguments, **more):
            raise FloatingPointError

    model, branch = Linear(quadrants()), nn.Sequential(nn.BatchNorm1d(64), nn.Linear(64, 4))
    parts = parts_of(model, source)
    parts = StyleParts(**{**vars(parts), "predict": branch, "modules": (branch,)})
    for module in (model, branch):
        module.train()
    model.drop.eval()
    branch[1].weight.requires_grad_(False)
    before = [value.clone() for module in (model, branch) for value in module.state_dict().values()]
    random = torch.get_rng_state()
    if fails:
        with pytest.raises(FloatingPointError):
            analysed(parts, source, attack=Fails(THREAT, steps=1, keep="last"))
    else:
        analysed(parts, source)
    assert (model.training, model.norm.training, model.drop.training, branch[0].training) == (True, True, False, True)
    assert [p.requires_grad for p in branch.parameters()] == [True, True, False, True]
    assert all(p.grad is None for module in (model, branch) for p in module.parameters())
    after = [value for module in (model, branch) for value in module.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(random, torch.get_rng_state())


class TestBadInput:
    def test_features_that_are_maps(self, source):
        model = Linear(quadrants())
        parts = parts_of(model, source)
        model.features = lambda images: images
        with pytest.raises(InputError, match=r"^features: got \(.*\); expected vectors \(B, d\)"):
            analysed(parts, source)

    def test_features_that_are_not_finite(self, source):
        model = Linear(quadrants())
        parts = parts_of(model, source)
        plain = model.features
        model.features = lambda images: plain(images).clone().index_fill_(1, torch.tensor([5]), float("nan"))
        with pytest.raises(InputError, match=r"^features: got '200 of 12800 not finite'; expected finite numbers"):
            analysed(parts, source)

    def test_images_outside_the_box(self, source):
        wrong = ToySource(count=8)
        wrong.images = wrong.images * 255
        with pytest.raises(InputError, match="divide by 255"):
            analysed(parts_of(Linear(quadrants()), source), wrong)

    def test_a_basis_that_is_not_there(self, source):
        parts = parts_of(Linear(quadrants()), source, trained="pca")
        with pytest.raises(InputError, match=r"^trained: got 'pca'; expected one of exact, deflation"):
            analysed(parts, source)

    def test_batches_of_nothing(self, source):
        with pytest.raises(InputError, match=r"^batch_size: got 0"):
            analysed(parts_of(Linear(quadrants()), source), source, batch_size=0)
