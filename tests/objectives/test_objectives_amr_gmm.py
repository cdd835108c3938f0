"""The ordered game in a network's features: recorded gradients, who moves when, what stays, what is logged."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deconfound.attacks import FGSMRS, PGD
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Progress
from deconfound.errors import InputError
from deconfound.functional.moments import Moment, distance_penalty, log_product
from deconfound.models import CausalFeatureMap, build, causal_net, probed_shape
from deconfound.objectives import AMRGMM
from deconfound.training import LoopSettings, OptimizerSettings, SelectionSettings, fit
from toys import SplitNet, ToySource, tiny_net

ATTACK = PGD(ThreatModel("linf", 0.1), steps=2, keep="last")
BEGIN = Progress(epoch=0, epochs=1)


def digest(module):
    parts = (tensor.detach().numpy().tobytes() for _, tensor in sorted(module.state_dict().items()))
    return hashlib.sha256(b"".join(parts)).hexdigest()


NETWORKS = {
    "maps": ("resnet18", {"width": 2}),
    "tokens": ("vit", {"width": 12, "depth": 1, "patch": 2}),
    "vectors": ("mlp", {"width": 24}),
}


def game(form="maps", seed=0, attack=ATTACK, **settings):
    """A game on a network with BatchNorm; g and h start apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        name, options = NETWORKS[form]
        network = build(name, classes=4, channels=1, size=8, **options)
    shape = probed_shape(CausalFeatureMap(network, nn.Identity()), torch.zeros(1, 1, 8, 8))
    g = None if settings.get("test") == "none" else causal_net(shape, role="g", seed=seed)
    return AMRGMM(CausalFeatureMap(network, causal_net(shape, seed=seed)), g, attack, **settings)


def batch_of(count=16):
    return next(ToySource(count, 4).batches([torch.arange(count)]))


def take(objective, batch, rate=0.1):
    """The steps of a batch by plain gradient descent; yields the player and its loss after its step."""
    for player in objective.players().values():
        player.train()
    for step in objective.steps(batch, BEGIN, Streams(0, batch.index)):
        parameters = list(objective.players()[step.player].parameters())
        loss = step.loss()
        gradients = torch.autograd.grad(loss.total, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= rate * gradient
        yield step.player, loss


@pytest.mark.parametrize("form", ["maps", "tokens", "vectors"])
def test_each_step_moves_its_player_and_h_meets_the_new_g(form):
    objective, batch = game(form), batch_of()
    players = objective.players()
    start = {name: digest(player) for name, player in players.items()}
    before = copy.deepcopy(players["g"])
    steps = take(objective, batch)
    assert next(steps)[0] == "g"
    assert digest(players["g"]) != start["g"]
    assert digest(players["h"]) == start["h"]
    middle, fixed = copy.deepcopy(players["h"]), digest(players["g"])
    player, loss = next(steps)
    assert player == "h"
    assert digest(players["h"]) != start["h"]
    assert digest(players["g"]) == fixed
    assert digest(players["model"]) == start["model"]
    assert next(steps, None) is None
    play = objective._play(batch, objective.craft(batch, BEGIN, Streams(0, batch.index)))

    def j(g):
        tested = g(play.instrument)
        with torch.no_grad():
            logits = [objective.causal.head(play.natural + r) for r in (middle(tested), tested)]
        return float(torch.stack([F.cross_entropy(z, batch.labels, reduction="none") for z in logits]).prod(0).mean())

    players["model"].eval()
    assert float(loss.total.detach()) == pytest.approx(j(players["g"]), rel=1e-5)
    assert abs(j(before) - j(players["g"])) > 1e-4  # else the two could not be told apart


def test_no_gradient_reaches_anyone_else():
    objective, batch = game(), batch_of()
    for step in objective.steps(batch, BEGIN, Streams(0, batch.index)):
        step.loss().total.backward()
        for name, player in objective.players().items():
            touched = any(p.grad is not None for p in player.parameters())
            assert touched == (name == step.player)
            player.zero_grad()


def test_what_is_logged():
    objective, batch = game(), batch_of()
    for player, loss in take(objective, batch):
        assert {"moment", "causal_cross_entropy", "counterfactual_cross_entropy", "distance"} <= loss.parts.keys()
        assert ("penalty" in loss.parts) == (player == "g")
        assert ("adversarial_causal_cross_entropy" in loss.parts) == (player == "h")
        if player == "g":
            expected = objective.penalty * loss.parts["penalty"] - loss.parts["moment"]
            torch.testing.assert_close(loss.total.detach(), expected)
        else:
            torch.testing.assert_close(loss.total.detach(), loss.parts["moment"])


def momentum_mean(net, inputs):
    """First running mean after one batch from its start, by hand: 0.1 of the batch mean."""
    with torch.no_grad():
        return 0.1 * net.encoder[0][0](inputs).mean(dim=(0, 2, 3))


@pytest.mark.parametrize("norm", ["instrument", "shared"])
def test_running_statistics_of_h_are_of_the_sources_asked_for(norm):
    objective, batch = game(norm=norm), batch_of()
    h, g = objective.players()["h"], objective.players()["g"]
    steps = objective.steps(batch, BEGIN, Streams(0, batch.index))
    next(steps).loss()
    assert int(h.encoder[0][1].num_batches_tracked) == 0
    assert int(g.encoder[0][1].num_batches_tracked) == 1
    step = next(steps)
    first, after = step.loss(), copy.deepcopy(h.state_dict())
    second = step.loss()  # evaluated again, it gives the same and moves nothing
    assert torch.equal(first.total, second.total)
    assert all(torch.equal(value, after[key]) for key, value in h.state_dict().items())
    assert int(g.encoder[0][1].num_batches_tracked) == 1
    play = objective._play(batch, objective.craft(batch, BEGIN, Streams(0, batch.index)))
    expected = momentum_mean(h, play.instrument)
    if norm == "shared":
        expected = expected + 0.9 * momentum_mean(h, g(play.instrument))
    torch.testing.assert_close(h.encoder[0][1].running_mean, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", ["train", "keep"])
@pytest.mark.parametrize("attack", [ATTACK, FGSMRS(ATTACK.threat, keep="last")])
def test_an_attack_that_would_move_the_frozen_network_is_refused(attack, mode):
    with pytest.raises(InputError, match=f"^attack_mode: got '{mode}'; expected eval, because the network is frozen"):
        game(attack=replace(attack, mode=mode))


@pytest.mark.parametrize("attack", [ATTACK, FGSMRS(ATTACK.threat, keep="last")])
def test_the_frozen_network_never_changes_in_the_loop_and_h_learns(attack):
    objective, source = game(attack=attack), ToySource(64)
    network = objective.players()["model"]
    before = digest(network)
    adamw = OptimizerSettings(name="adamw", amsgrad=True, weight_decay=1e-5)
    settings = LoopSettings(
        epochs=8, batch_size=32, lr=5e-3, players={"h": adamw, "g": adamw}, selection=SelectionSettings(keep="last")
    )
    result = fit(objective, source, settings)
    assert digest(network) == before
    assert all(torch.equal(value, result.model[key]) for key, value in network.state_dict().items())
    first, last = result.history[0], result.history[-1]
    assert last["h_causal_cross_entropy"] < 0.85 * first["h_causal_cross_entropy"]
    for name in (
        "h_adversarial_causal_cross_entropy",
        "g_moment",
        "g_penalty",
        "g_distance",
        "g_counterfactual_cross_entropy",
        "h_distance",
        "h_accuracy",
    ):
        assert np.isfinite(last[name])


def test_passes_of_the_network_are_as_few_as_can_be():
    network = SplitNet(width=8)
    objective = AMRGMM(CausalFeatureMap(network, causal_net((8,))), causal_net((8,), role="g"), ATTACK)
    network.passes = 0
    list(take(objective, batch_of()))
    assert network.passes == ATTACK.steps + 2


def test_the_network_is_in_evaluation_and_modes_come_back():
    objective, batch = game(), batch_of()
    modules = [m for player in objective.players().values() for m in player.modules()]
    seen = []
    norm = next(m for m in objective.network.modules() if isinstance(m, nn.BatchNorm2d))
    norm.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    list(take(objective, batch))
    assert seen
    assert not any(seen)
    assert all(module.training for module in modules)


def test_without_a_test_function_and_with_a_random_one():
    plain, batch = game(test="none"), batch_of()
    assert plain.players().keys() == {"model", "h"}
    ((player, loss),) = take(plain, batch)
    assert player == "h"
    assert float(loss.parts["distance"]) == 0
    fixed = game(test="random")
    before = [p.clone() for p in fixed.players()["g"].parameters()]
    ((player, loss),) = take(fixed, batch)
    assert player == "h"
    assert float(loss.parts["distance"]) > 0
    g = fixed.players()["g"]
    assert all(torch.equal(*pair) for pair in zip(before, g.parameters(), strict=True))
    assert int(g.encoder[0][1].num_batches_tracked) == 1  # so that it can be evaluated


def test_lambda_bounds_the_test_function():
    distances = []
    for penalty in (0.1, 10.0):
        objective, batch = game("vectors", penalty=penalty), batch_of(32)
        found = [loss for _ in range(20) for player, loss in take(objective, batch, 0.02) if player == "g"]
        distances.append(float(found[-1].parts["distance"]))
    assert distances[1] < 0.8 * distances[0]


def gradients(objective, batch):
    """Player, loss and the gradient of each of the player's parameters, at the weights as they are."""
    for step in objective.steps(batch, BEGIN, Streams(0, batch.index)):
        loss = step.loss()
        yield step.player, loss, torch.autograd.grad(loss.total, list(objective.players()[step.player].parameters()))


def test_saturated_logits_and_lower_precision_leave_finite_gradients_that_say_something():
    objective, batch = game(), batch_of()
    with torch.no_grad():
        objective.network.linear.weight.mul_(1e6)
    for player, loss, found in gradients(objective, batch):
        assert float(loss.parts["counterfactual_cross_entropy"]) > 1e3
        assert loss.total.isfinite()
        assert all(gradient.isfinite().all() for gradient in found), player
        assert max(float(gradient.abs().max()) for gradient in found) > 1  # probabilities of 0 would have none
    with torch.autocast("cpu", torch.bfloat16):
        for player, loss, found in gradients(game(), batch):
            assert loss.total.isfinite()
            assert all(gradient.isfinite().all() for gradient in found), player
            assert any(gradient.any() for gradient in found)


def test_a_moment_of_ones_own():
    mine = Moment("mine", lambda *given: 2 * log_product(*given), distance_penalty)
    batch = batch_of()
    twice = [loss.parts["moment"] for _, loss in take(game(moments=mine), batch, 0.0)]
    once = [loss.parts["moment"] for _, loss in take(game(), batch, 0.0)]
    torch.testing.assert_close(torch.stack(twice), 2 * torch.stack(once))


def test_without_a_penalty_g_climbs_j_alone_and_its_distance_is_still_logged():
    batch = batch_of()
    free, bound = game("vectors", penalty=0.0), game("vectors", penalty=1.0)
    (_, first), *_ = take(free, batch)
    (_, other), *_ = take(bound, batch)
    torch.testing.assert_close(first.total.detach(), -first.parts["moment"], rtol=0, atol=0)
    assert first.parts == other.parts  # both begin alike, and what is measured is the same
    assert float(first.parts["penalty"]) > 0
    names = {"distance", "causal_cross_entropy", "counterfactual_cross_entropy"}
    assert names <= first.parts.keys()
    for _ in range(40):
        for objective in (free, bound):
            for _, loss in take(objective, batch, 0.01):
                assert loss.total.isfinite()
    (_, far), *_ = take(free, batch, 0.0)
    (_, near), *_ = take(bound, batch, 0.0)
    assert far.parts["penalty"] > near.parts["penalty"]
    assert far.parts["moment"] > near.parts["moment"]


def test_a_penalty_that_overflows_is_no_nan_without_weight():
    objective, batch = game("vectors", penalty=0.0), batch_of()
    play = objective._play(batch, objective.craft(batch, BEGIN, Streams(0, batch.index)))
    free = objective.ascent(play._replace(instrument=play.instrument + 1e25))
    assert free.parts["penalty"].isinf()  # which the training loop reports as a divergence
    assert free.total.isfinite()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"moments": "residuals"}, "moment: got 'residuals'; expected one of"),
        ({"penalty": -0.1}, "penalty: got -0.1; expected a number of at least 0"),
        ({"penalty": float("nan")}, "penalty: got nan; expected a number of at least 0"),
        ({"test": "frozen"}, "test: got 'frozen'; expected one of learned, random, none"),
        ({"norm": "both"}, "norm: got 'both'; expected one of instrument, shared"),
    ],
)
def test_bad_settings(settings, line):
    with pytest.raises(InputError, match=f"^{line}"):
        game(**settings)


def test_a_test_function_too_few_or_too_many():
    causal = CausalFeatureMap(SplitNet(), causal_net((16,)))
    with pytest.raises(InputError, match="test_function: got None"):
        AMRGMM(causal, None, ATTACK)
    with pytest.raises(InputError, match="test_function: got 'Sequential'"):
        AMRGMM(causal, tiny_net(), ATTACK, test="none")
