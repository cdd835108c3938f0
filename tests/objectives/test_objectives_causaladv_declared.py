"""What CausalAdv declares and refuses: its own attacks, bad settings, models and which layer is the linear one."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from causal_steps import MIDDLE, THREAT, causal, loop, marginalised, same, state, streams, toy_batch, train_step
from deconfound import models
from deconfound.attacks import PGD
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Batch
from deconfound.errors import InputError
from deconfound.models.style_branch import StyleBranch
from deconfound.objectives import CausalAdv
from deconfound.objectives.styled import linear_layer
from deconfound.training import fit
from toys import SplitNet, ToySource, tiny_net


class TestDeclared:
    def trained(self):
        objective = causal(norm=True)
        fit(objective, ToySource(), loop(epochs=2))
        for player in objective.players().values():
            player.eval()
        return objective

    def test_one_for_each_weight_both_terms_per_example(self):
        objective, batch = self.trained(), toy_batch()
        declared = objective.declared_attacks()
        assert [item.name for item in declared] == ["style-0", "style-0.2", "style-0.5", "style-0.8"]
        model, style = objective.model, objective.players()["style"]
        matrix = style.basis(model.last.weight).matrix
        made = (batch.images + 0.05).clamp(0, 1)
        target = marginalised(style, style.style(model.features(batch.images), matrix), batch.labels, 1.0).softmax(1)
        moved = marginalised(style, style.style(model.features(made), matrix), batch.labels, 1.0).log_softmax(1)
        content = F.cross_entropy(model(made), batch.labels, reduction="none")
        for item, weight in zip(declared, (0.0, 0.2, 0.5, 0.8), strict=True):
            known = item.context(model, batch.images, batch.labels)
            found = item.loss(item.surrogate, made, batch.labels, known)
            torch.testing.assert_close(found, (1 - weight) * content - weight * (target * moved).sum(1))
            part = {name: value[3:5] for name, value in known.items()}
            torch.testing.assert_close(item.loss(item.surrogate, made[3:5], batch.labels[3:5], part), found[3:5])
            assert torch.equal(item.surrogate(made), model(made))
            assert weight == 0 or f"+{weight:g}*style" in item.loss.__name__

    def test_the_saved_state_decides(self):
        objective, other, batch = self.trained(), causal(seed=5, norm=True), toy_batch()
        for name, player in other.players().items():
            player.load_state_dict(objective.players()[name].state_dict())
            player.eval()
        first, second = (o.declared_attacks()[3] for o in (objective, other))
        known = [item.context(item.surrogate, batch.images, batch.labels) for item in (first, second)]
        assert all(torch.equal(known[0][name], known[1][name]) for name in known[0])

    def test_a_hunt_hears_each_forward_and_moves_nothing(self):
        objective, batch = self.trained(), toy_batch()
        item, before = objective.declared_attacks()[2], state(objective)
        known = item.context(objective.model, batch.images, batch.labels)
        objective.model.passes = 0
        attack = PGD(ThreatModel("linf", 0.02), steps=4, loss=item.loss)
        attack(item.surrogate, batch.images, batch.labels, context=known)
        assert objective.model.passes <= 1 + 4 + 1
        assert same(state(objective), before)

    def test_a_context_without_targets_is_refused(self):
        objective, batch = self.trained(), toy_batch()
        item = objective.declared_attacks()[1]
        with pytest.raises(InputError, match=r"^context: got \[\]; expected 'reference_logits'"):
            item.loss(item.surrogate, batch.images, batch.labels, {})


class TestBadInput:
    @pytest.mark.parametrize(
        ("settings", "line"),
        [
            ({"alpha": -1.0}, "alpha: got -1.0; expected a number of at least 0"),
            ({"alpha": float("nan")}, "alpha: got nan"),
            ({"ratio": -0.1}, "ratio: got -0.1"),
            ({"ratio": float("inf")}, "ratio: got inf"),
            ({"beta": -1.0}, "beta: got -1.0"),
            ({"clean_weight": -1.0}, "clean_weight: got -1.0"),
            ({"warmup": 1.5}, "warmup: got 1.5"),
        ],
    )
    def test_settings(self, settings, line):
        with pytest.raises(InputError, match=f"^{line}"):
            CausalAdv(SplitNet(), StyleBranch(16, 4), PGD(THREAT, keep="last"), **settings)

    def test_variant_and_branch(self):
        attack = PGD(THREAT, keep="last")
        with pytest.raises(InputError, match=r"^variant: got 'x'; expected m or t"):
            CausalAdv(SplitNet(), StyleBranch(16, 4), attack, "x")
        with pytest.raises(InputError, match=r"^style: got None; expected a style branch, because alpha = 1"):
            CausalAdv(SplitNet(), None, attack)

    def test_a_model_without_a_split_is_told_how_to_name_one(self):
        attack = PGD(THREAT, keep="last")
        for model in (tiny_net(), nn.Sequential(nn.Flatten(), nn.ReLU())):
            with pytest.raises(InputError, match=r"^model: got 'Sequential'; .*model_options.layer=NAME") as caught:
                CausalAdv(model, StyleBranch(256, 4), attack)
            assert "\n" not in str(caught.value)

    def test_maps_are_not_features(self):
        model = SplitNet()
        model.features = lambda images: torch.zeros(len(images), 16, 2, 2)
        objective, batch = CausalAdv(model, StyleBranch(16, 4), PGD(THREAT, keep="last")), toy_batch()
        with pytest.raises(InputError, match=r"^model: got 'features of shape \(16, 16, 2, 2\)'; .*layer=NAME"):
            next(objective.steps(batch, MIDDLE, streams(batch)))

    def test_one_class_in_a_batch_and_a_dead_feature_work(self):
        objective, batch = causal(norm=True), toy_batch()
        with torch.no_grad():
            objective.model.wide.bias.fill_(-100)  # every feature is 0
        one = Batch(batch.images, torch.full_like(batch.labels, 2), batch.index)
        for _ in range(2):
            for player, loss in train_step(objective, one):
                assert torch.isfinite(loss.total), player
        assert all(torch.isfinite(value).all() for value in state(objective).values())


class Unnamed(SplitNet):
    """Nothing says which of its layers is the head; it has another one of the same size, used inside."""

    def __init__(self):
        super().__init__()
        self.final, self.other = self.last, nn.Linear(16, 4)
        del self.last

    def features(self, images):
        features = super().features(images)
        return features + self.other(features).sum(dim=1, keepdim=True)

    def head(self, features):
        return self.final(features)


def test_the_linear_layer_is_found_from_the_head():
    objective, batch = causal(bias=False), toy_batch()
    assert [player for player, _ in train_step(objective, batch)] == ["style", "model"]
    model = Unnamed()
    assert linear_layer(model) is model.final
    named = CausalAdv(model, StyleBranch(16, 4), objective.attack)
    assert [player for player, _ in train_step(named, batch)] == ["style", "model"]
    with pytest.raises(InputError, match=r"^model: got 'Unnamed'"):
        linear_layer(model, model.other)


def test_cut_networks():
    split = models.split_model(tiny_net(), probe=toy_batch(2).images)
    assert linear_layer(split).in_features == 256
    early = models.split_model(tiny_net(), "0")
    with pytest.raises(InputError, match=r"^model: got 'Sequential'; .*model_options.layer=NAME"):
        linear_layer(early)
