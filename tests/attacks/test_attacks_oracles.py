"""Results that are known in closed form or from a loop written by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from deconfound.attacks import FGSM, FGSMRS, PGD
from deconfound.attacks.losses import cross_entropy, kl_to_reference, margin
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError

EPS = {"linf": 0.05, "l2": 0.3, "l1": 0.35}
DUAL = {"linf": 1, "l2": 2, "l1": torch.inf}


def linear(seed=0, classes=2, size=16):
    """A linear classifier in double precision, and its weight difference for two classes."""
    torch.manual_seed(seed)
    layer = nn.Linear(size, classes).double()
    return nn.Sequential(nn.Flatten(), layer), (layer.weight[1] - layer.weight[0]).detach()


def interior(count=20, seed=1):
    """Images so far from 0 and 1 that no ball of the test touches the box."""
    generator = torch.Generator().manual_seed(seed)
    return 0.4 + 0.2 * torch.rand(count, 1, 4, 4, generator=generator, dtype=torch.float64)


def margins(model, images, labels):
    with torch.no_grad():
        z = model(images)
    return (z.gather(1, 1 - labels[:, None]) - z.gather(1, labels[:, None])).squeeze(1)


@pytest.mark.parametrize("loss", [cross_entropy, margin])
@pytest.mark.parametrize("norm", list(EPS))
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_pgd_reaches_the_worst_case_of_a_linear_classifier(norm, loss, momentum):
    model, difference = linear()
    images = interior()
    labels = (torch.arange(20) % 2).to(torch.int64)
    threat, step = ThreatModel(norm, EPS[norm]), EPS[norm] / 4  # long steps: what is tangential shrinks to 4/5 by each
    attack = PGD(threat, steps=60, step_size=step, keep="last", momentum=momentum, loss=loss)
    reached = margins(model, attack(model, images, labels), labels)
    worst = margins(model, images, labels) + EPS[norm] * torch.linalg.vector_norm(difference, DUAL[norm])
    torch.testing.assert_close(reached, worst, rtol=0, atol=1e-4)


@pytest.mark.parametrize("norm", list(EPS))
def test_pgd_breaks_exactly_what_can_be_broken(norm):
    model, difference = linear()
    images = interior(200)
    labels = torch.zeros(200, dtype=torch.int64)
    reach = EPS[norm] * torch.linalg.vector_norm(difference, DUAL[norm])
    with torch.no_grad():
        model[1].bias[1] -= (margins(model, images, labels) + reach).median()
    clean = margins(model, images, labels)
    decided = (clean + reach).abs() > 1e-4
    found = PGD(ThreatModel(norm, EPS[norm]), steps=60, step_size=EPS[norm] / 4)(model, images, labels)
    broken = margins(model, found, labels) > 0
    assert torch.equal(broken[decided], (clean + reach > 0)[decided])
    assert 0 < int(broken.sum()) < 200


@pytest.mark.parametrize(("size", "eps"), [(256, 10), (784, 10), (3072, 12), (256, 0.5), (256, 2.5)])
def test_l1_pgd_comes_near_the_optimum_also_where_the_box_matters(size, eps):
    """Linear loss over ball and box: the optimum moves the pixels with the largest |w| to the border until eps is used.

    A PGD of 20 steps must get nine tenths of the gain; steps on a hundredth of the pixels get two fifths at 256.
    """
    generator = torch.Generator().manual_seed(size)
    weight = torch.randn(size, generator=generator)
    images = torch.rand(8, 1, 1, size, generator=generator)
    room = torch.where(weight > 0, 1 - images, images).flatten(1)
    order = weight.abs().argsort(descending=True)
    before = room[:, order].cumsum(1) - room[:, order]
    best = ((eps - before).clamp_min(0).minimum(room[:, order]) * weight.abs()[order]).sum(1)

    def loss(model, x, labels, context):
        return (x.flatten(1) * weight).sum(1)

    attack = PGD(ThreatModel("l1", eps), steps=20, keep="last", loss=loss)
    found = attack(lambda x: x, images, torch.zeros(8, dtype=torch.int64))
    gain = ((found - images).flatten(1) * weight).sum(1)
    assert bool((gain >= 0.9 * best).all()), (gain / best).tolist()
    assert bool((gain <= best * (1 + 1e-5)).all())


def test_fgsm_is_one_sign_step_and_takes_two_forwards():
    model, difference = linear()
    images, labels = interior(), torch.zeros(20, dtype=torch.int64)
    with torch.no_grad():
        model[1].bias[1] -= margins(model, images, labels).median()
    found = FGSM(ThreatModel("linf", 0.05), keep="last")(model, images, labels)
    torch.testing.assert_close(found, images + 0.05 * difference.sign().view(1, 1, 4, 4), rtol=0, atol=1e-12)
    calls = []
    FGSM(ThreatModel("linf", 0.05))(lambda x: calls.append(len(x)) or model(x), images, labels)
    right = int((margins(model, images, labels) < 0).sum())
    assert calls == [20, right]
    assert 0 < right < 20


def test_fgsm_rs_is_a_uniform_start_and_one_step_of_a_quarter_more_than_eps():
    model, difference = linear()
    images, labels = interior(), torch.zeros(20, dtype=torch.int64)
    threat, streams = ThreatModel("linf", 0.05), Streams(4, range(20))
    start = threat.random_start(images, streams.fold("restart", 0))
    step = 0.0625 * difference.sign().view(1, 1, 4, 4)
    expected = torch.clamp(start + step, images - 0.05, images + 0.05)
    found = FGSMRS(threat, keep="last")(model, images, labels, streams)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def nonlinear(dtype=torch.float32):
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).to(dtype)


def digits(count=16):
    generator = torch.Generator().manual_seed(5)
    return torch.rand(count, 1, 8, 8, generator=generator), torch.arange(count) % 5


def test_keep_last_in_linf_is_bit_for_bit_a_bare_loop():
    model, (images, labels) = nonlinear(), digits()
    eps, step, steps = 8 / 255, 2 / 255, 10
    generator = torch.Generator().manual_seed(6)
    start = (images + eps * (2 * torch.rand(images.shape, generator=generator) - 1)).clamp(0, 1)
    bare = start.clone()
    for _ in range(steps):
        bare.requires_grad_()
        loss = nn.functional.cross_entropy(model(bare), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, bare)
        moved = bare.detach() + step * gradient.sign()
        bare = torch.min(torch.max(moved, images - eps), images + eps).clamp(0, 1)
    attack = PGD(ThreatModel("linf", eps), steps=steps, step_size=step, start="given", keep="last")
    assert torch.equal(attack(model, images, labels, context={"start": start}), bare)


def test_momentum_is_dong_et_als_accumulation():
    model, (images, labels) = nonlinear(torch.float64), digits()
    images = images.double()
    x, velocity = images.clone(), torch.zeros_like(images)
    for _ in range(5):
        x.requires_grad_()
        (g,) = torch.autograd.grad(nn.functional.cross_entropy(model(x), labels, reduction="sum"), x)
        velocity = 0.7 * velocity + g / g.abs().flatten(1).sum(1).view(-1, 1, 1, 1)
        x = (x.detach() + 0.01 * velocity.sign()).clamp(images - 0.03, images + 0.03).clamp(0, 1)
    attack = PGD(ThreatModel("linf", 0.03), steps=5, step_size=0.01, momentum=0.7, start="none", keep="last")
    torch.testing.assert_close(attack(model, images, labels), x, rtol=0, atol=1e-12)
    plain = PGD(ThreatModel("linf", 0.03), steps=5, step_size=0.01, start="none", keep="last")
    assert not torch.equal(plain(model, images, labels), x)


def test_restarts_never_lose_and_later_ones_see_only_what_stands():
    model, (images, labels) = nonlinear(torch.float64), digits(60)
    images = images.double()
    with torch.no_grad():
        labels = model(images).argmax(1)
    sizes = []

    def watched(x):
        sizes.append(len(x))
        return model(x)

    broken = []
    for restarts in (1, 2, 4):
        attack = PGD(ThreatModel("linf", 0.03), steps=3, restarts=restarts)
        found = attack(watched, images, labels)
        with torch.no_grad():
            broken.append(model(found).argmax(1) != labels)
    assert all((~few | many).all() for few, many in pairwise(broken))
    assert int(broken[-1].sum()) > 0
    four = sizes[-(1 + 4 * 4) :]
    assert four == sorted(four, reverse=True)
    assert four[-1] < four[0]


def test_dropping_points_keeps_labels_streams_and_context_together():
    """A loss whose target is in the context: any misalignment after the first drop changes the result."""
    model, (images, _) = nonlinear(torch.float64), digits(40)
    images = images.double()
    with torch.no_grad():
        labels = model(images).argmax(1)
        reference = model(images.flip(0))
    attack = PGD(ThreatModel("linf", 0.06), steps=6, restarts=2, loss=kl_to_reference)
    together = attack(model, images, labels, Streams(1, range(40)), {"reference_logits": reference})
    alone = [
        attack(model, images[i : i + 1], labels[i : i + 1], Streams(1, [i]), {"reference_logits": reference[i : i + 1]})
        for i in range(40)
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-9)
    assert int((together != images).flatten(1).any(1).sum()) > 0


def test_gaussian_start_gives_trades_a_gradient_where_the_image_has_none():
    model, (images, labels) = nonlinear(torch.float64), digits()
    images = images.double()
    with torch.no_grad():
        context = {"reference_logits": model(images)}

    def run(start):
        attack = PGD(ThreatModel("linf", 0.03), steps=5, loss=kl_to_reference, start=start, keep="last")
        with torch.no_grad():
            return kl_to_reference(model, attack(model, images, labels, context=context), labels, context)

    assert (run("gaussian") > 1e-4).all()
    start = PGD(ThreatModel("linf", 0.03), steps=1, step_size=1e-9, start="gaussian", keep="last", loss=kl_to_reference)
    moved = start(model, images, labels, context=context) - images
    inside = (images > 0.01) & (images < 0.99)
    assert 0.0008 < float(moved[inside].std()) < 0.0012


def test_start_given_is_projected_and_required():
    model, (images, labels) = nonlinear(), digits()
    threat = ThreatModel("linf", 0.05)
    attack = PGD(threat, steps=1, step_size=1e-9, start="given", keep="last")
    found = attack(model, images, labels, context={"start": torch.ones_like(images)})
    torch.testing.assert_close(found, (images + 0.05).clamp(0, 1), rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="start"):
        attack(model, images, labels)


def test_mode_decides_what_the_network_is_in_meanwhile():
    seen = []

    class Watching(nn.Module):
        def forward(self, images):
            seen.append(self.training)
            return images.flatten(1)[:, :3]

    images, labels = digits()
    for training in (True, False):
        for mode in ("eval", "train", "keep"):
            attack = PGD(ThreatModel("linf", 0.03), steps=1, keep="last", mode=mode)
            attack(Watching().train(training), images, labels % 3)
    assert seen == [False, True, True, False, True, False]


def test_saturated_gradients_still_make_full_steps_in_l2():
    """Gradients of 1e-25, whose squares are 0 in float32."""

    def faint(images):
        score = images.flatten(1).sum(1) * 1e-25
        return torch.stack([score, torch.zeros_like(score)], dim=1)

    images, labels = 0.5 * torch.ones(3, 1, 4, 4), torch.zeros(3, dtype=torch.int64)
    threat = ThreatModel("l2", 0.4)
    found = PGD(threat, steps=10, keep="last", loss=margin)(faint, images, labels)
    torch.testing.assert_close(threat.distance(found, images), torch.full((3,), 0.4), rtol=0, atol=1e-4)


@pytest.mark.parametrize("norm", list(EPS))
@pytest.mark.parametrize("keep", ["first_adversarial", "last"])
def test_a_gradient_that_is_not_finite_counts_as_zero_and_the_other_pixels_still_move(norm, keep):
    """The root of a black pixel has gradient infinity, its product with 0 NaN."""
    model, _ = linear()

    def rooted(images):
        return model(images) + torch.stack([images[:, 0, 0, 0].sqrt() * 0, images[:, 0, 3, 3].sqrt()], dim=1)

    images, labels = interior(), torch.zeros(20, dtype=torch.int64)
    images[:, 0, 0, 0] = images[:, 0, 3, 3] = 0
    with torch.no_grad():
        model[1].bias[1] -= margins(rooted, images, labels).amax() + 1e-3
    assert (margins(rooted, images, labels) < 0).all()
    threat = ThreatModel(norm, EPS[norm])
    found = PGD(threat, steps=10, start="none", keep=keep)(rooted, images, labels)
    assert threat.contains(found, images).all()
    assert (found[:, 0, 0, 0] == 0).all()
    assert (margins(rooted, found, labels) > margins(rooted, images, labels)).any()
