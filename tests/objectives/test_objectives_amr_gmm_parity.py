"""The game of AMR-GMM against what the authors' code was recorded to do."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from deconfound.attacks import PGD
from deconfound.core.threat import ThreatModel
from deconfound.models import CausalFeatureMap
from deconfound.objectives import AMRGMM
from deconfound.objectives.amr_gmm import Play
from recorded_game import Maps, ours, recorded_net, recording

ATTACK = PGD(ThreatModel("linf", 0.1), steps=2, keep="last")


def test_both_updates_follow_the_recorded_gradients(shared):
    recorded = recording(shared, "cafe_game_gradients")
    network = Maps(recorded["head_weight"], recorded["head_bias"])
    h, g = recorded_net(recorded, "h"), recorded_net(recorded, "g")
    game = AMRGMM(CausalFeatureMap(network, h), g, ATTACK, penalty=float(recorded["lambda_"]))
    play = Play(recorded["features_natural"], recorded["residual"], recorded["labels"])
    for role, net, loss in (("g", g, game.ascent(play)), ("h", h, game.descent(play))):
        assert float(loss.total.detach()) == pytest.approx(float(recorded[f"loss_{role}"]), rel=1e-5)
        names = [name for name, _ in net.named_parameters()]
        found = dict(zip(names, torch.autograd.grad(loss.total, list(net.parameters())), strict=True))
        expected = {
            ours(k.removeprefix(f"grad_{role}.")): v for k, v in recorded.items() if k.startswith(f"grad_{role}.")
        }
        assert found.keys() == expected.keys()
        largest = max(float(value.abs().max()) for value in expected.values())
        for name, value in expected.items():
            # A bias before BatchNorm has no gradient but rounding, so it is compared with the largest one.
            size = largest if name.endswith("0.bias") else float(value.abs().max())
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-4 * size, msg=name)


def test_what_is_played_for_is_as_recorded(shared):
    recorded = recording(shared, "cafe_amr_gmm")
    network = Maps(recorded["head_weight"], recorded["head_bias"])
    h, g = (recorded_net(recorded, role).eval() for role in "hg")
    natural = recorded["features_natural"]
    play = Play(natural, recorded["features_adversarial"] - natural, recorded["labels"])
    objective = AMRGMM(CausalFeatureMap(network, h), g, ATTACK)
    up, down = objective.ascent(play), objective.descent(play)
    for name, value in (("moment", "moment"), ("penalty", "regulariser")):
        assert float(up.parts[name]) == pytest.approx(float(recorded[value]), rel=1e-5)
    assert float(up.total.detach()) == pytest.approx(float(recorded["regulariser"] - recorded["moment"]), rel=1e-5)
    assert float(down.total.detach()) == pytest.approx(float(recorded["moment"]), rel=1e-5)
    for found, kind in ((up.logits, "counterfactual"), (down.logits, "adversarial_causal")):
        expected = recorded[f"logits_{kind}"]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    for parts in (up.parts, down.parts):
        for name, kind in (("causal", "causal"), ("counterfactual", "counterfactual")):
            entropy = float(F.cross_entropy(recorded[f"logits_{kind}"], play.labels))
            assert float(parts[f"{name}_cross_entropy"]) == pytest.approx(entropy, rel=1e-5)
