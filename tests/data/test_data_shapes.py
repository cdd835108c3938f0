"""Generated shapes: the causal model that they claim, and do-operations that change one variable alone.

Statistical tests have fixed seeds, so they cannot flicker; each states how often it would fail by chance.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from scipy import stats

from deconfound.core.protocols import ImageSource, Intervenable
from deconfound.core.streams import Streams
from deconfound.data.confounding import confounder
from deconfound.data.drawing import CELL, DARK, NOISE, outlines, placed
from deconfound.data.sources import load
from deconfound.data.synthetic import CLASSES, Shapes, ShapesSettings, shapes
from deconfound.errors import InputError

MILLIONTH = 1e-6  # the rate at which a test of this file that is statistical would fail by chance


def images_of(source, count=None, size=64):
    plan = torch.arange(count or len(source)).split(size)
    return torch.cat([(batch.images * 255).round().to(torch.uint8) for batch in source.batches(plan)])


def scene_of(source, count):
    streams = source._streams(source.index[:count])
    return placed(source.labels[:count], source.confounder[:count], streams)


@pytest.fixture(scope="module")
def split():
    return Shapes("test", ShapesSettings(test=150))


@pytest.fixture(scope="module")
def observed(split):
    return images_of(split)


def test_by_name():
    data = load("shapes")
    assert (data.family, data.shape, data.class_names) == ("shapes", (3, 64, 64), ("disc", "square", "triangle"))
    assert (len(data.train), len(data.test)) == (3000, 600)
    assert (data.train.name, data.test.name) == ("shapes[train]", "shapes[test]")
    other = load("shapes:rho=1/3,train=40,test=20,seed=7")
    assert (len(other.train), len(other.test)) == (40, 20)
    assert other.test.name == "shapes:rho=0.333333,train=40,test=20,seed=7[test]"
    assert isinstance(other.test, Intervenable)
    source: ImageSource = other.test
    assert source.digest() == load("shapes:seed=7,test=20,train=40,rho=1/3").test.digest()


# the causal model


@pytest.mark.parametrize("rho", [0.0, 1 / 3, 0.5, 0.917, 1.0])
def test_the_colour_agrees_with_the_class_at_the_stated_rate(rho):
    train, _ = shapes(ShapesSettings(rho=rho, train=3000))
    agree = int((train.labels == train.confounder).sum())
    assert stats.binomtest(agree, 3000, rho).pvalue > MILLIONTH


def test_what_disagrees_is_spread_over_the_other_classes():
    train, _ = shapes(ShapesSettings(rho=0.5, train=3000))
    counts = torch.zeros(CLASSES, CLASSES, dtype=torch.int64)
    counts.index_put_((train.labels, train.confounder), torch.tensor(1), accumulate=True)
    for label in range(CLASSES):
        others = [int(counts[label, k]) for k in range(CLASSES) if k != label]
        assert stats.chisquare(others).pvalue > MILLIONTH


@pytest.mark.parametrize("source", ["chance", "random"])
def test_without_confounding_class_and_colour_are_independent(source):
    train, _ = shapes(ShapesSettings(rho=1 / 3 if source == "chance" else 0.99, train=6000))
    colours = (train if source == "chance" else train.do("confounder", "random")).confounder
    counts = torch.zeros(CLASSES, CLASSES, dtype=torch.int64)
    counts.index_put_((train.labels, colours), torch.tensor(1), accumulate=True)
    assert stats.chi2_contingency(counts.numpy()).pvalue > MILLIONTH
    assert stats.chisquare(counts.sum(0).numpy()).pvalue > MILLIONTH


def test_classes_are_balanced_everywhere():
    for split in shapes(ShapesSettings(train=300, test=99)):
        blocks = split.labels.view(-1, CLASSES)
        assert torch.equal(blocks.sort(dim=1).values, torch.arange(CLASSES).expand_as(blocks))
        assert len({tuple(block) for block in blocks.tolist()}) == 6  # in every order
    uneven, _ = shapes(ShapesSettings(train=100))
    assert sorted(uneven.labels.bincount().tolist()) == [33, 33, 34]


def test_radius_and_place_are_as_stated_and_independent_of_the_class():
    train, _ = shapes(ShapesSettings(train=1500))
    scene = scene_of(train, 1500)
    assert stats.kstest(scene.radius.numpy(), stats.uniform(15, 10).cdf).pvalue > MILLIONTH
    for centre in (scene.row, scene.column):
        share = (centre - scene.radius) / (64 - 2 * scene.radius)
        assert stats.kstest(share.numpy(), stats.uniform().cdf).pvalue > MILLIONTH
    radii = [scene.radius[train.labels == label].numpy() for label in range(CLASSES)]
    assert stats.kruskal(*radii).pvalue > MILLIONTH


def test_outlines_have_the_areas_of_geometry():
    train, _ = shapes(ShapesSettings(train=300))
    scene = scene_of(train, 300)
    area = outlines(scene).flatten(1).sum(1).double()
    exact = torch.tensor([torch.pi, 2.0, 0.75 * 3**0.5], dtype=torch.float64)[scene.shape] * scene.radius.square()
    # Counting pixels errs by the boundary: a pixel's width along a perimeter of at most 2 pi r, rarely a tenth of that.
    assert (area - exact).abs().max() < 0.5 * (2 * torch.pi * scene.radius).max()
    assert abs(float((area / exact).mean()) - 1) < 0.01


def test_shapes_are_dark_and_patches_bright(split, observed):
    inside = outlines(scene_of(split, len(split)))
    dark = observed.permute(0, 2, 3, 1)[inside]
    bright = observed.permute(0, 2, 3, 1)[~inside]
    assert int(dark.max()) <= DARK + NOISE
    assert int(bright.min()) >= 130
    # Within a patch only the noise varies.
    blocks = observed.unfold(2, CELL, CELL).unfold(3, CELL, CELL).flatten(4).to(torch.int64)
    clear = ~inside.unfold(1, CELL, CELL).unfold(2, CELL, CELL).flatten(3).any(dim=3)
    spread = (blocks.amax(4) - blocks.amin(4)).permute(0, 2, 3, 1)[clear]
    assert int(spread.max()) <= 2 * NOISE


# randomness belongs to the example


def test_images_do_not_depend_on_batches_order_or_subset(split, observed):
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(1))
    for size in (1, 7, 150):
        found = list(split.batches(order[:40].split(size)))
        assert torch.equal(torch.cat([(b.images * 255).round().byte() for b in found]), observed[order[:40]])
        assert torch.equal(torch.cat([b.index for b in found]), order[:40])
        assert torch.equal(torch.cat([b.labels for b in found]), split.labels[order[:40]])
    part = split.subset(order[:9])
    again = part.subset([3, 1])
    assert torch.equal(images_of(part), observed[order[:9]])
    assert torch.equal(images_of(again), observed[order[[3, 1]]])
    assert again.index.tolist() == order[[3, 1]].tolist()
    assert images_of(Shapes("test", ShapesSettings(test=600)), 150).equal(observed)  # more images change no image


def test_another_process_makes_the_same_images(split):
    code = (
        "from deconfound.data.synthetic import Shapes, ShapesSettings\n"
        "print(Shapes('test', ShapesSettings(test=150)).digest())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == split.digest()


def test_splits_and_seeds_have_no_image_in_common():
    one, two = ShapesSettings(train=200, test=200), ShapesSettings(train=200, test=200, seed=1)
    every = [images_of(part) for settings in (one, two) for part in shapes(settings)]
    distinct = torch.unique(torch.cat(every).flatten(1), dim=0)
    assert len(distinct) == 800


def test_the_images_are_those_of_the_first_version(split):
    """What is published on these images means nothing once they change; a change on purpose changes this line."""
    assert split.digest().startswith("9db2ed7984dac8b9")


def test_digests_tell_what_differs_and_nothing_else(split):
    base = split.digest()
    assert base == Shapes("test", ShapesSettings(test=150)).digest()
    assert base == split.subset(torch.arange(150)).digest()
    assert base == Shapes("test", ShapesSettings(test=150, train=5)).digest()
    others = [
        Shapes("test", ShapesSettings(test=151)),
        Shapes("test", ShapesSettings(test=150, rho=0.9)),
        Shapes("test", ShapesSettings(test=150, seed=1)),
        Shapes("train", ShapesSettings(train=150)),
        split.subset(torch.arange(149)),
        split.subset(torch.arange(150).flip(0)),
        split.do("confounder", "random"),
        split.do("confounder", "other"),
        split.do("shape", "other"),
    ]
    assert len({base, *(other.digest() for other in others)}) == len(others) + 1


# do-operations


def test_setting_the_confounder_recolours_patches_and_nothing_else(split, observed):
    scene = scene_of(split, len(split))
    inside = outlines(scene)[:, None]
    for value in split.interventions()["confounder"]:
        done = split.do("confounder", value)
        changed = images_of(done) != observed
        assert not (changed & inside).any()
        moved = done.confounder != split.confounder
        assert torch.equal(changed.flatten(1).any(1), moved)
        assert torch.equal(done.labels, split.labels)
        assert torch.equal(done.index, split.index)
        # The brightness of patches and the noise stay: patches differ by the difference of two colours, all alike.
        step = (images_of(done).int() - observed.int())[changed].abs().unique().tolist()
        assert step == [70]


def test_setting_the_shape_moves_only_what_one_of_the_two_covers(split, observed):
    done = split.do("shape", "other")
    assert (done.labels != split.labels).all()
    assert torch.equal(done.confounder, split.confounder)
    before, after = outlines(scene_of(split, len(split))), outlines(scene_of(done, len(split)))
    changed = (images_of(done) != observed).any(1)
    assert torch.equal(changed, before ^ after)
    assert done.labels.bincount(minlength=CLASSES).min() > 0


def test_the_other_colour_is_neither_that_of_the_class_nor_the_one_observed():
    train, _ = shapes(ShapesSettings(rho=0.5, train=900))
    other = train.do("confounder", "other").confounder
    assert (other != train.labels).all()
    assert (other != train.confounder).all()


def test_other_confounders_are_uniform_over_what_is_left():
    labels, streams = torch.full((6000,), 3), Streams(1, range(6000))
    observed = confounder(labels, streams, 0.5, 6)
    other = confounder(labels, streams, 0.5, 6, "other")
    for seen in range(6):
        counts = other[observed == seen].bincount(minlength=6)
        left = [k for k in range(6) if k not in (3, seen)]
        assert counts.sum() == counts[left].sum()
        assert stats.chisquare(counts[left].numpy()).pvalue > MILLIONTH


def test_of_two_classes_the_other_one_is_the_one_not_observed():
    labels, streams = torch.arange(100) % 2, Streams(0, range(100))
    assert torch.equal(confounder(labels, streams, 0.6, 2, "other"), 1 - confounder(labels, streams, 0.6, 2))


def test_operations_combine_in_any_order_and_the_last_value_counts(split):
    one = split.do("shape", "other").do("confounder", "other")
    two = split.do("confounder", "random").do("confounder", "other").do("shape", "other")
    assert one.digest() == two.digest()
    assert one.name == two.name == "shapes:test=150[test] do(confounder=other) do(shape=other)"
    assert torch.equal(one.confounder, split.do("confounder", "other").confounder)
    assert torch.equal(one.labels, split.do("shape", "other").labels)
    part = split.subset([5, 2]).do("shape", "other")
    assert part.digest() == split.do("shape", "other").subset([5, 2]).digest()


def test_a_model_that_reads_only_the_confounder(split):
    """Linear: the mean of each channel, centred. It is right at the rate rho, and follows every do(confounder)."""

    def predict(source):
        means = torch.cat([batch.images.mean(dim=(2, 3)) for batch in source.batches([torch.arange(len(source))])])
        return means.argmax(dim=1)

    source = Shapes("test", ShapesSettings(test=600))
    seen, other = predict(source), predict(source.do("confounder", "other"))
    assert torch.equal(seen, source.confounder)
    assert (seen != other).all()  # reliance 1
    assert not (other == source.labels).any()
    assert stats.binomtest(int((seen == source.labels).sum()), 600, 0.917).pvalue > MILLIONTH
    assert torch.equal(predict(source.do("shape", "other")), seen)
    random = int((predict(source.do("confounder", "random")) == source.labels).sum())
    assert stats.binomtest(random, 600, 1 / 3).pvalue > MILLIONTH


def test_a_model_that_reads_only_the_shape_does_not_notice():
    def predict(source):  # area over the squared height of what is dark: pi/4, 1, 1/sqrt 3
        dark = torch.cat([b.images.amax(1) < 0.3 for b in source.batches([torch.arange(len(source))])])
        height = dark.any(2).sum(1)
        ratio = dark.sum((1, 2)) / height.square()
        return (ratio[:, None] - torch.tensor([torch.pi / 4, 1.0, 3**-0.5])).abs().argmin(1)

    source = Shapes("test", ShapesSettings(test=150))
    for done in (source, source.do("confounder", "other"), source.do("shape", "other")):
        assert (predict(done) == done.labels).double().mean() > 0.98


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.do("colour", "other"), "do: got 'colour'; expected one of confounder, shape"),
        (lambda s: s.do("confounder", "red"), "do: confounder: got 'red'; expected one of random, other"),
        (lambda s: s.do("shape", "random"), "do: shape: got 'random'; expected one of other"),
        (lambda s: s.subset([]), "expected"),
        (lambda s: s.subset([150]), "positions: got 150"),
        (lambda s: next(s.batches([torch.tensor([-1])])), "positions: got -1"),
        (lambda _: Shapes("val"), "data: shapes: split: got 'val'"),
        (lambda _: ShapesSettings(rho=float("nan")), "data: shapes: rho: got nan"),
        (lambda _: ShapesSettings(rho=True), "data: shapes: rho: got True"),
        (lambda _: ShapesSettings(test=0), "data: shapes: test: got 0"),
        (lambda _: ShapesSettings(seed=-1), "data: shapes: seed: got -1"),
    ],
)
def test_bad_input(split, call, message):
    with pytest.raises(InputError, match=message):
        call(split)


def test_another_rho_recolours_only_where_the_colour_begins_to_agree(split):
    more = split.at_rho(1.0)
    assert (split.rho, more.rho) == (0.917, 1.0)
    assert torch.equal(more.confounder, more.labels)
    same = (images_of(split) == images_of(more)).flatten(1).all(1)
    assert torch.equal(same, split.confounder == split.labels)
    with pytest.raises(InputError, match="rho: got 2"):
        split.at_rho(2)
