"""The four kinds of features and the distances of inversion, against recorded numbers and by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from deconfound.analysis import KINDS, inversion_distances, kind_logits, observe_kinds
from deconfound.attacks import PGD, causal_inversion
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.errors import InputError
from deconfound.functional.moments import distance_penalty, log_product, moment
from deconfound.models import CausalFeatureMap, causal_net
from recorded_game import Maps, recorded_net, recording
from toys import SplitNet, ToySource

ATTACK = PGD(ThreatModel("linf", 0.1), steps=2, keep="last")


def test_the_recorded_kinds(shared):
    recorded = recording(shared, "cafe_amr_gmm")
    network = Maps(recorded["head_weight"], recorded["head_bias"])
    nets = {role: recorded_net(recorded, role).eval() for role in "hg"}
    natural, labels = recorded["features_natural"], recorded["labels"]
    instrument = recorded["features_adversarial"] - natural
    with torch.no_grad():
        found = kind_logits(CausalFeatureMap(network, nets["h"]), nets["g"], natural, instrument)
        tested = nets["g"](instrument)
    names = ("logits_adversarial", "logits_counterfactual", "logits_causal", "logits_adversarial_causal")
    for kind, name in zip(KINDS, names, strict=True):
        size = float(recorded[name].abs().max())
        torch.testing.assert_close(found[kind], recorded[name], rtol=0, atol=1e-5 * size)
    game = log_product(labels, found["counterfactual_causal"], found["counterfactual"]).mean()
    assert float(game) == pytest.approx(float(recorded["moment"]), rel=1e-5)
    assert float(distance_penalty(tested, instrument)) == pytest.approx(float(recorded["regulariser"]), rel=1e-5)


def parts():
    torch.manual_seed(1)
    return CausalFeatureMap(SplitNet(1, norm=True), causal_net((16,))), causal_net((16,), role="g")


def test_by_hand_and_whatever_the_batch_size():
    (causal, g), source, index = parts(), ToySource(24), torch.arange(3, 24)
    modes = [module.training for module in causal.modules()]
    found = observe_kinds(causal, g, source, index, ATTACK, seed=3, batch_size=5)
    assert [module.training for module in causal.modules()] == modes
    causal.eval()
    g.eval()
    images, labels = source.images[index], source.labels[index]
    moved = ATTACK(causal.network, images, labels, Streams(3, index).fold("analysis", ATTACK.name))
    with torch.no_grad():
        natural, z = causal.features(images), causal.features(moved) - causal.features(images)
        residuals = dict(zip(KINDS, (z, g(z), causal.hypothesis(g(z)), causal.hypothesis(z)), strict=True))
        expected = {kind: causal.head(natural + residual) for kind, residual in residuals.items()}
        torch.testing.assert_close(found.logits["adversarial"], causal(moved), rtol=1e-4, atol=1e-5)
    assert torch.equal(found.labels, labels)
    entropies = {kind: F.cross_entropy(logits, labels, reduction="none") for kind, logits in expected.items()}
    for kind in KINDS:
        torch.testing.assert_close(found.logits[kind], expected[kind], rtol=1e-4, atol=1e-5)
        assert found.accuracies[kind].share == float((expected[kind].argmax(1) == labels).double().mean())
        assert found.cross_entropies[kind] == pytest.approx(float(entropies[kind].mean()), rel=1e-4)
    product = entropies["counterfactual_causal"] * entropies["counterfactual"]
    assert found.moment == pytest.approx(float(product.mean()), rel=1e-4)
    torch.testing.assert_close(found.distance, (residuals["counterfactual"] - z).norm(dim=1), rtol=1e-4, atol=1e-5)
    assert found.bound == pytest.approx(float(((residuals["counterfactual"] - z) ** 2).mean()), rel=1e-4)


def test_another_games_moment_and_penalty_are_its_own():
    """By hand: J = mean (e_y - p) . q of h's and g's predictions, and g(Z)^2 is what its lambda weighs."""
    (causal, g), source, index = parts(), ToySource(64), torch.arange(64)
    given = (causal, g, source, index, ATTACK)
    usual = observe_kinds(*given, seed=0, batch_size=64)
    found = observe_kinds(*given, seed=0, batch_size=23, moments=moment("class_residual"))
    p, q = (usual.logits[kind].softmax(1) for kind in ("counterfactual_causal", "counterfactual"))
    expected = float(((torch.eye(4)[source.labels] - p) * q).sum(1).mean())
    assert found.moment == pytest.approx(expected, abs=1e-6)
    assert abs(found.moment - usual.moment) > 1
    causal.eval()
    g.eval()
    moved = ATTACK(causal.network, source.images, source.labels, Streams(0, index).fold("analysis", ATTACK.name))
    with torch.no_grad():
        size = g(causal.features(moved) - causal.features(source.images)).square().mean()
    assert found.bound == pytest.approx(float(size), rel=1e-4)
    assert found.bound != pytest.approx(usual.bound, rel=1e-2)


def test_without_a_test_function_the_counterfactual_is_the_adversarial():
    (causal, _), source = parts(), ToySource(8)
    found = observe_kinds(causal, None, source, torch.arange(8), ATTACK, seed=0, batch_size=8)
    assert torch.equal(found.logits["counterfactual"], found.logits["adversarial"])
    assert torch.equal(found.logits["counterfactual_causal"], found.logits["adversarial_causal"])
    assert float(found.distance.abs().max()) == 0


def test_inversion_comes_nearer_than_what_it_starts_from():
    (causal, _), source, index = parts(), ToySource(16), torch.arange(16)
    inversion = causal_inversion(0.2, 10)
    found = inversion_distances(causal.network, causal, inversion, source, index, ATTACK, seed=0, batch_size=7)
    assert found.keys() == {"inversion", "clean", "adversarial"}
    assert (found["inversion"] < found["clean"]).float().mean() > 0.9
    assert (found["inversion"] < found["adversarial"]).float().mean() > 0.9
    causal.eval()
    images, labels = source.images, source.labels
    moved = ATTACK(causal.network, images, labels, Streams(0, index).fold("analysis", ATTACK.name))
    with torch.no_grad():
        target = causal.causal(causal.features(images), causal.features(moved)).log_softmax(1)
        for name, one in (("clean", images), ("adversarial", moved)):
            p = causal(one).log_softmax(1)
            torch.testing.assert_close(found[name], 1000 * (p.exp() * (p - target)).sum(1), rtol=1e-3, atol=1e-2)


def test_bad_input():
    (causal, g), source = parts(), ToySource(8)
    source.images[0] += 5
    with pytest.raises(InputError, match="images: got"):
        observe_kinds(causal, g, source, torch.arange(8), ATTACK, seed=0, batch_size=8)
    with pytest.raises(InputError, match="index: got 0"):
        observe_kinds(causal, g, source, torch.arange(0), ATTACK, seed=0, batch_size=8)
    with pytest.raises(InputError, match="batch_size: got 0"):
        observe_kinds(causal, g, source, torch.arange(8), ATTACK, seed=0, batch_size=0)
