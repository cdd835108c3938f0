"""What every objective owes the loop. The list is the registry: joining it means being tested."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from deconfound.core.protocols import AdversarialObjective
from deconfound.core.streams import Streams
from deconfound.core.types import DeclaredAttack, Progress
from deconfound.recipes import resolve
from deconfound.recipes.loading import build_model
from deconfound.recipes.registry import OBJECTIVES, build_objective
from toys import ToySource, stand_ins

COUNT, CLASSES = 12, 4


AWP = ["pgd-at+awp", "trades+awp"]


def recipe_of(name):
    """The first recipe of the book that trains this objective; an objective that nobody can ask for is not finished."""
    for recipe in [name] if name in AWP else resolve.names():
        found = resolve.resolve({"recipe": recipe}, data="digits", family="digits")
        if name in AWP or (found.objective.name == name and found.awp is None):
            return found
    raise AssertionError(f"no recipe trains {name!r}")


@pytest.fixture(params=[*sorted(OBJECTIVES), *AWP])
def case(request):
    """An objective of the registry in the middle of training, a batch and its streams."""
    recipe = recipe_of(request.param)
    torch.manual_seed(3)
    model = build_model(recipe, CLASSES, (1, 8, 8))
    objective = build_objective(model, recipe, stand_ins(recipe, CLASSES, (1, 8, 8)))
    for player in objective.players().values():
        player.train()
    batch = next(ToySource(COUNT, CLASSES).batches([torch.arange(COUNT)]))
    progress = Progress(epoch=recipe.epochs // 2, epochs=recipe.epochs, step=1, steps=3)
    return recipe, objective, batch, progress, Streams(recipe.seed, batch.index)


def state_of(player):
    return {name: value.clone() for name, value in player.state_dict().items()}


def weights_of(player):
    return {name: value.detach().clone() for name, value in player.named_parameters()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_players_hold_the_model(case):
    _, objective, *_ = case
    players = objective.players()
    assert "model" in players
    assert all(isinstance(player, nn.Module) for player in players.values())
    assert objective.players()["model"] is players["model"]
    owners = [id(p) for player in players.values() for p in player.parameters()]
    assert len(set(owners)) == len(owners)  # no two players share a weight, or two optimisers would move it


def test_declared_attacks_are_a_sequence_of_data(case):
    _, objective, *_ = case
    declared = objective.declared_attacks()
    assert isinstance(declared, Sequence)
    assert all(isinstance(attack, DeclaredAttack) for attack in declared)
    assert len({attack.name for attack in declared}) == len(declared)


def test_steps_are_lazy(case):
    _, objective, batch, progress, streams = case
    calls = []
    for player in objective.players().values():
        for module in player.modules():  # a network that looks several times is asked by another method
            module.register_forward_pre_hook(lambda *_: calls.append(1))
    steps = objective.steps(batch, progress, streams)
    assert not calls
    assert iter(steps) is steps
    step = next(steps)
    before = len(calls)
    step.loss()
    assert len(calls) > before or step.player != "model"


def test_losses_can_be_evaluated_again_and_say_what_they_are(case):
    _, objective, batch, progress, streams = case
    taken = []
    for step in objective.steps(batch, progress, streams):
        taken.append(step.player)
        with step.scope():
            first, second = step.loss(), step.loss()
        assert first.total.shape == ()
        assert first.total.requires_grad
        assert torch.isfinite(first.total)
        assert torch.equal(first.total, second.total)
        assert first.parts.keys() == second.parts.keys()
        for name, part in first.parts.items():
            assert part.shape == ()
            assert not part.requires_grad
            assert torch.equal(part, second.parts[name])
        if first.logits is not None:
            assert first.logits.shape == (COUNT, CLASSES)
            assert not first.logits.requires_grad
    assert taken
    assert set(taken) <= set(objective.players())
    assert ("model" in taken) == any(p.requires_grad for p in objective.players()["model"].parameters())


def test_a_step_moves_its_player_and_no_other(case):
    _, objective, batch, progress, streams = case
    players = objective.players()
    for step in objective.steps(batch, progress, streams):
        before = {name: weights_of(player) for name, player in players.items()}
        parameters = [p for p in players[step.player].parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        optimizer.zero_grad()
        with step.scope():
            step.loss().total.backward(inputs=parameters)
        assert any(p.grad is not None and bool(p.grad.any()) for p in parameters)
        frozen = [p for name, player in players.items() for p in player.parameters() if not p.requires_grad]
        assert all(p.grad is None for p in frozen)
        others = [p for name, player in players.items() if name != step.player for p in player.parameters()]
        assert all(p.grad is None or not p.grad.any() for p in others)
        for name, player in players.items():
            assert same(before[name], weights_of(player)), "a scope must put the weights back"
        optimizer.step()
        for name, player in players.items():
            assert same(before[name], weights_of(player)) == (name != step.player)
        for player in players.values():
            player.zero_grad()


def test_modes_flags_and_random_state_are_left_alone(case):
    _, objective, batch, progress, streams = case
    modules = [m for player in objective.players().values() for m in player.modules()]
    parameters = [p for player in objective.players().values() for p in player.parameters()]
    flags, random = [p.requires_grad for p in parameters], torch.get_rng_state()
    images = batch.images.clone()
    for step in objective.steps(batch, progress, streams):
        with step.scope():
            step.loss()
        assert all(m.training for m in modules)
        assert [p.requires_grad for p in parameters] == flags
        assert all(p.grad is None for p in parameters)
        assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(batch.images, images)


def test_the_same_streams_give_the_same_loss_and_order_does_not_matter(case):
    _, objective, batch, progress, streams = case
    states = {name: state_of(player) for name, player in objective.players().items()}

    def losses(batch, streams):
        for name, player in objective.players().items():  # estimators move; their state is the players' state
            player.load_state_dict(states[name])
        return [step.loss().total.item() for step in objective.steps(batch, progress, streams)]

    first = losses(batch, streams)
    torch.manual_seed(99)
    assert first == pytest.approx(losses(batch, streams), rel=1e-5)
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(1))
    shuffled = type(batch)(batch.images[order], batch.labels[order], batch.index[order])
    assert first == pytest.approx(losses(shuffled, streams[order]), rel=1e-4)


def test_adversarial_images_are_inside_the_threat_model(case):
    recipe, objective, batch, progress, streams = case
    entry = OBJECTIVES[recipe.objective.name]
    if not entry.adversarial:
        assert not isinstance(objective, AdversarialObjective)
        return
    assert isinstance(objective, AdversarialObjective)
    states = {name: state_of(player) for name, player in objective.players().items()}
    made = objective.craft(batch, progress, streams)
    assert not made.requires_grad
    assert made.shape == batch.images.shape
    assert recipe.threat.contains(made, batch.images).all()
    assert float((made - batch.images).abs().mean()) > 0.01 * recipe.eps
    assert torch.equal(made, objective.craft(batch, progress, streams))
    other = objective.craft(batch, progress, streams.fold("other"))
    assert not torch.equal(made, other)
    if recipe.attack_mode == "eval":
        assert all(same(states[name], state_of(player)) for name, player in objective.players().items())
    steps = objective.steps(batch, progress, streams)
    step = next(step for step in steps if step.player == "model")
    made = objective.craft(batch, progress, streams)  # again: what observes a batch has seen it by now
    torch.testing.assert_close(objective.loss(batch, made, progress, streams).total, step.loss().total)
    assert torch.equal(step.adversarial, made)  # what a wrapper adds its term to
