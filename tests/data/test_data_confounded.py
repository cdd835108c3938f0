"""Confounders on real images: agreement, do-operations that change one variable alone, textures and tints.

Statistical tests have fixed seeds, so they cannot flicker; each fails by chance once in a million (``MILLIONTH``).
"""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from deconfound.core.protocols import Intervenable
from deconfound.core.streams import Streams
from deconfound.data.confounded import Confounded, Confounding
from deconfound.data.memory import MemoryImages
from deconfound.data.overlays import OVERLAYS, VEIL, Patch, Tint, overlay
from deconfound.data.sources import load
from deconfound.data.streamed import StreamedImages
from deconfound.errors import InputError

MILLIONTH = 1e-6


def images_of(source, size=100):
    return torch.cat([batch.images for batch in source.batches(torch.arange(len(source)).split(size))])


def labels_of(source):
    return torch.cat([batch.labels for batch in source.batches([torch.arange(len(source))])])


def grey(count, classes=4, side=16, channels=1):
    """Images that are the same everywhere, so that a mark is all there is to read."""
    names = tuple(str(k) for k in range(classes))
    images = torch.full((count, channels, side, side), 0.5)
    return MemoryImages(images, torch.arange(count) % classes, names, "grey[test]")


@pytest.fixture(scope="module", params=OVERLAYS)
def pair(request):
    """Digits of the test split, and the same with a confounder."""
    return load("digits").test, load(f"digits+{request.param}:rho=0.8").test


def test_by_name(pair):
    plain, marked = pair
    assert isinstance(marked, Intervenable)
    assert (marked.shape, marked.class_names, len(marked)) == (plain.shape, plain.class_names, len(plain))
    assert marked.name in {f"digits+{kind}:rho=0.8[test]" for kind in OVERLAYS}
    assert torch.equal(labels_of(marked), plain.labels)
    assert torch.equal(marked.labels, plain.labels)
    data = load("digits+patch")
    assert (data.family, data.train.name) == ("digits", "digits+patch:rho=0.9[train]")
    assert load("digits+tint:rho=1", size=20, channels=3).shape == (3, 20, 20)


@pytest.mark.parametrize("rho", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_mark_agrees_with_the_class_at_the_stated_rate(rho):
    source = Confounded(grey(4000, 10), Confounding(kind="tint", rho=rho), "train")
    assert stats.binomtest(int((source.labels == source.confounder).sum()), 4000, rho).pvalue > MILLIONTH


@pytest.mark.parametrize("random", [False, True])
def test_without_confounding_class_and_mark_are_independent(random):
    source = Confounded(grey(6000, 10), Confounding(kind="patch", rho=0.99 if random else 0.1), "train")
    marks = (source.do("confounder", "random") if random else source).confounder
    counts = torch.zeros(10, 10, dtype=torch.int64)
    counts.index_put_((source.labels, marks), torch.tensor(1), accumulate=True)
    assert stats.chi2_contingency(counts.numpy()).pvalue > MILLIONTH


def test_the_marks_of_train_and_test_and_of_two_seeds_are_drawn_apart():
    images, half = grey(2000, 10), Confounding(kind="patch", rho=0.5)
    marks = [
        Confounded(images, half, "train").confounder,
        Confounded(images, half, "test").confounder,
        Confounded(images, Confounding(kind="patch", rho=0.5, seed=1), "train").confounder,
        Confounded(images, Confounding(kind="tint", rho=0.5), "train").confounder,
    ]
    chance = 0.5**2 + 9 * (0.5 / 9) ** 2  # two independent marks are the same class
    for place, one in enumerate(marks):
        for two in marks[:place]:
            assert stats.binomtest(int((one == two).sum()), 2000, chance).pvalue > MILLIONTH


def test_images_do_not_depend_on_batches_order_or_subset(pair):
    _, marked = pair
    whole, order = images_of(marked), torch.randperm(360, generator=torch.Generator().manual_seed(2))
    for size in (1, 13):
        found = list(marked.batches(order[:40].split(size)))
        assert torch.equal(torch.cat([batch.images for batch in found]), whole[order[:40]])
        assert torch.equal(torch.cat([batch.index for batch in found]), order[:40])
    part = marked.subset(order[:30]).subset([4, 2])
    assert torch.equal(images_of(part), whole[order[[4, 2]]])
    assert torch.equal(part.index, order[[4, 2]])
    for variable, values in marked.interventions().items():  # the partner of an example is one of the whole split
        for value in values:
            one, two = marked.subset(order[:9]).do(variable, value), marked.do(variable, value).subset(order[:9])
            assert torch.equal(images_of(one), images_of(two))
            assert one.digest() == two.digest()


def test_images_that_are_decoded_as_needed_get_the_same_marks(make_folder):
    folder = make_folder({"train": {"a": list(range(9)), "b": list(range(9, 18))}})
    name = f"{folder}+patch:rho=0.5"
    held, streamed = load(name).train.do("shape", "other"), load(name, limit_memory=0, workers=1).train
    assert isinstance(streamed._source, StreamedImages)
    plan = torch.randperm(18, generator=torch.Generator().manual_seed(0)).split(5)
    for one, two in zip(held.batches(plan), streamed.do("shape", "other").batches(plan), strict=True):
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.labels, two.labels)
        assert torch.equal(one.index, two.index)


def test_digests_tell_what_differs_and_nothing_else(pair):
    _, marked = pair
    kind = marked._confounding.kind
    same = load(f"digits+{kind}:seed=0,rho=4/5").test
    assert marked.digest() == same.digest() == marked.subset(torch.arange(360)).digest()
    others = [
        load(f"digits+{kind}:rho=0.8").train,
        load(f"digits+{kind}:rho=0.81").test,
        load(f"digits+{kind}:rho=0.8,seed=1").test,
        load(f"digits+{'tint' if kind == 'patch' else 'patch'}:rho=0.8").test,
        load(f"digits+{kind}:rho=0.8", size=17).test,
        marked.subset(torch.arange(359)),
        marked.do("confounder", "other"),
        marked.do("confounder", "random"),
        marked.do("shape", "other"),
        load("digits").test,
    ]
    assert len({marked.digest(), *(other.digest() for other in others)}) == len(others) + 1


# do-operations


def test_setting_the_confounder_leaves_all_else(pair):
    plain, marked = pair
    before = images_of(marked)
    for value in ("random", "other"):
        done = marked.do("confounder", value)
        after = images_of(done)
        assert torch.equal(labels_of(done), plain.labels)
        moved = (after != before).flatten(1).any(1)
        assert torch.equal(moved, done.confounder != marked.confounder)
        if marked._confounding.kind == "patch":  # 4x4 pixels in one corner, the same one
            corners = (images_of(plain) != before) | (images_of(plain) != after)
            assert ((after != before) <= corners).all()
            assert int((after != before).flatten(1).sum(1).max()) <= 16
        else:  # the veil's level, and the image under it as it was
            shift = (after - before).flatten(1)
            torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), rtol=0, atol=1e-6)
    other = marked.do("confounder", "other").confounder
    assert (other != marked.confounder).all()
    assert (other != plain.labels).all()


def test_setting_the_shape_shows_another_class_under_the_same_mark(pair):
    plain, marked = pair
    done = marked.do("shape", "other")
    assert torch.equal(done.confounder, marked.confounder)
    assert torch.equal(done.index, marked.index)
    assert (labels_of(done) != plain.labels).all()
    assert torch.equal(labels_of(done), done.labels)
    # What is shown is an image of the split; its mark is that of the example, in its place.
    base = images_of(plain)[done._shown]
    expected = marked._overlay(base, marked.confounder, marked._streams(marked.index))
    assert torch.equal(images_of(done), expected)
    if marked._confounding.kind == "patch":
        mine, theirs = (images_of(s) == images_of(s).round() for s in (marked, done))
        assert int((mine & theirs & (images_of(marked) == images_of(done))).flatten(1).sum(1).min()) >= 16


def test_partners_are_uniform_over_all_images_of_other_classes():
    labels = torch.tensor([2] * 10 + [0] * 20 + [1] * 30)
    images = MemoryImages(torch.rand(60, 1, 16, 16), labels, ("a", "b", "c"), "x")
    counts = torch.zeros(60, dtype=torch.int64)
    for seed in range(100):
        shown = Confounded(images, Confounding(kind="tint", seed=seed), "train").do("shape", "other")._shown
        assert (labels[shown] != labels).all()
        counts += shown.bincount(minlength=60)
    sizes = torch.tensor([20, 30, 10])
    expected = torch.tensor(
        [100 * sum(int(sizes[k]) / (60 - int(sizes[k])) for k in range(3) if k != y) for y in labels]
    )
    for label in range(3):
        ours = counts[labels == label]
        assert stats.chisquare(ours.numpy()).pvalue > MILLIONTH
        total, wanted = int(ours.sum()), float(expected[labels == label].sum())
        assert stats.poisson(wanted).sf(total) > MILLIONTH < stats.poisson(wanted).cdf(total)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", OVERLAYS)
def test_a_linear_model_that_reads_only_the_confounder(kind, channels):
    """On images with nothing else in them it reads every mark, and so follows every do(confounder)."""
    source = Confounded(grey(300, 4, 16, channels), Confounding(kind=kind, rho=0.7), "test")

    def predict(source):
        images = images_of(source) - 0.5
        if kind == "tint":
            weight = source._overlay.colours - 0.5
            means = images.mean(dim=(2, 3))
            return (means @ weight.T / VEIL - weight.square().sum(1) / 2).argmax(1)
        textures = source._overlay.codes - 0.5
        return sum(
            torch.einsum("bchw,khw->bk", images[:, :, rows, columns], textures)
            for rows in (slice(None, 4), slice(-4, None))
            for columns in (slice(None, 4), slice(-4, None))
        ).argmax(1)

    seen, other = predict(source), predict(source.do("confounder", "other"))
    assert torch.equal(seen, source.confounder)
    assert (seen != other).all()
    assert torch.equal(predict(source.do("shape", "other")), seen)
    assert stats.binomtest(int((seen == source.labels).sum()), 300, 0.7).pvalue > MILLIONTH


# overlays


@pytest.mark.parametrize(("classes", "side"), [(2, 8), (10, 16), (10, 28), (10, 32), (100, 32), (200, 64), (1000, 224)])
def test_textures_differ_in_half_of_their_cells(classes, side):
    patch = Patch(classes, (3, side, side))
    codes = patch.codes.flatten(1)
    assert len(codes) == classes
    ones = codes.sum(1)
    apart = ones[:, None] + ones - 2 * codes @ codes.T + codes.shape[1] * torch.eye(classes)
    assert apart.min() >= codes.shape[1] / 2
    assert patch.codes.shape[1] * patch.cell <= side / 2


def test_a_mirrored_texture_is_mistaken_for_no_other():
    codes = Patch(10, (3, 32, 32)).codes
    for mirrored in (codes.flip(2), codes.flip(1)):
        for place, code in enumerate(mirrored):
            same = [k for k, known in enumerate(codes) if torch.equal(code, known)]
            assert same in ([], [place])


def test_every_corner_is_drawn_alike_and_kept():
    images, patch = torch.full((4000, 1, 16, 16), 0.5), Patch(3, (1, 16, 16))
    marked = patch(images, torch.arange(4000) % 3, Streams(0, range(4000)))
    corners = [marked[:, 0, rows, columns] != 0.5 for rows in (0, -1) for columns in (0, -1)]
    assert torch.equal(torch.stack(corners).sum(0), torch.ones(4000, dtype=torch.int64))
    assert stats.chisquare([int(corner.sum()) for corner in corners]).pvalue > MILLIONTH
    assert (images == 0.5).all()  # what is given is not written to


def test_a_tint_is_a_veil_over_the_whole_image():
    images = torch.rand(6, 3, 8, 8)
    tinted = Tint(6, (3, 8, 8))(images, torch.arange(6), Streams(0, range(6)))
    colours = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1.0]])
    torch.testing.assert_close(tinted, 0.75 * images + 0.25 * colours[:, :, None, None])
    assert tinted.min() >= 0
    assert tinted.max() <= 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Confounded(grey(4, 1), Confounding(kind="tint"), "train"), "data: tint: classes: got 1"),
        (lambda: Confounded(grey(9, side=7), Confounding(kind="patch"), "train"), "data: patch: got '7x7'; .*8 pixels"),
        (lambda: Patch(1000, (3, 32, 32)), "data: patch: got '32x32'; expected images of at least 64 pixels"),
        (lambda: Tint(3, (2, 8, 8)), "data: tint: got '2 channels'"),
        (lambda: overlay("stripe", 3, (1, 16, 16)), "data: confounder: got 'stripe'"),
        (lambda: Confounding(kind="tint", rho=1.5), "data: tint: rho: got 1.5"),
        (lambda: Confounding(kind="tint", seed=-1), "data: tint: seed: got -1"),
        (lambda: load("digits+tint").test.do("colour", "other"), "do: got 'colour'"),
        (lambda: load("digits+tint").test.do("confounder", "x"), "do: confounder: got 'x'"),
        (lambda: load("digits+tint").test.subset([]), "expected"),
        (lambda: load("digits+tint").test.subset([360]), "positions: got 360"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_one_class_has_no_other_shape():
    images = MemoryImages(torch.rand(3, 1, 16, 16), torch.zeros(3, dtype=torch.int64), ("a", "b"), "x")
    with pytest.raises(InputError, match="do: shape: got 'images of one class only'"):
        Confounded(images, Confounding(kind="tint"), "train").do("shape", "other")


@pytest.mark.parametrize(("folder", "family"), [("mnist", "mnist"), ("cifar10", "cifar")])
def test_real_folders(shared, tmp_path, folder, family):
    place = tmp_path / folder
    place.mkdir()
    shard = "test-00000-of-00001.parquet"
    (place / shard).symlink_to((shared / "data" / folder / shard).resolve())
    data = load(f"{place}+patch:rho=0.9")
    assert (data.family, data.train, data.test.name) == (family, None, f"{folder}+patch:rho=0.9[test]")
    plain, few = data.test._source, torch.arange(0, 10_000, 50)
    for source in (data.test, Confounded(plain, Confounding(kind="tint"), "test")):
        agree = int((source.labels == source.confounder).sum())
        assert stats.binomtest(agree, 10_000, 0.9).pvalue > MILLIONTH
        marked, clean = images_of(source.subset(few)), images_of(plain.subset(few))
        share = float((marked != clean).any(1).double().mean())
        assert share < 1 / 16 if source is data.test else share > 0.9  # a quarter of the side; the whole image


def test_another_rho_turns_disagreement_to_agreement_and_nothing_else():
    grey = MemoryImages(torch.full((300, 1, 16, 16), 0.5), torch.arange(300) % 5, tuple("abcde"), "grey[test]")
    few = Confounded(grey, Confounding(kind="patch", rho=0.2, seed=3), "test")
    more = few.at_rho(0.7)
    assert (few.rho, more.rho) == (0.2, 0.7)
    agrees = (few.confounder == few.labels, more.confounder == more.labels)
    assert bool((agrees[1] | ~agrees[0]).all())
    kept = ~(agrees[1] & ~agrees[0])
    (first,), (second,) = (list(source.batches([torch.arange(300)])) for source in (few, more))
    assert torch.equal((first.images == second.images).flatten(1).all(1), kept)
    assert torch.equal(few.at_rho(0.7).at_rho(0.2).confounder, few.confounder)
    assert more.do("confounder", "random").digest() != few.do("confounder", "random").digest()
    assert torch.equal(more.do("confounder", "random").confounder, few.do("confounder", "random").confounder)
    part = few.subset(torch.tensor([4, 2])).at_rho(0.7)
    assert torch.equal(part.confounder, more.confounder[[4, 2]])
    with pytest.raises(InputError, match=r"rho: got 1\.5"):
        few.at_rho(1.5)
