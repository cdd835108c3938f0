"""CausalAdv against recorded gradients, steps and attacks by hand, and what its terms weigh."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from causal_steps import MIDDLE, THREAT, causal, marginalised, streams, toy_batch, train_step
from deconfound.attacks import PGD
from deconfound.core.types import Batch, Progress
from deconfound.functional.style import Basis
from deconfound.models.style_branch import StyleBranch
from deconfound.objectives import CausalAdv
from deconfound.objectives.styled import Styled, StyleLoss, style_context


class Plain(nn.Module):
    """Features are the images, so that recorded features can be put in."""

    def __init__(self, weight):
        super().__init__()
        self.last = nn.Linear(weight.shape[1], len(weight), bias=False)
        self.last.weight = nn.Parameter(weight.clone())

    def features(self, images):
        return images

    def head(self, features):
        return self.last(features)

    def forward(self, images):
        return self.head(self.features(images))


class Fixed:
    """An attack that answers with given images."""

    threat = THREAT

    def __init__(self, answer):
        self.answer = answer

    def __call__(self, model, images, labels, streams=None, context=None, *, judge=None):
        return self.answer


class AtBasis(StyleBranch):
    """A branch at a recorded basis."""

    def basis(self, weight):
        return Basis(self.matrix, 0.0)


@pytest.fixture
def recorded(shared):
    with np.load(shared / "golden" / "causaladv_step_gradients.npz") as file:
        return {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}


AUTHORS = {"pred.0": "inner", "pred.1": "norm", "pred.3": "outer", "fc.0": "head"}


def close(found, expected, tolerance=1e-4):
    torch.testing.assert_close(found, expected, rtol=0, atol=max(tolerance * float(expected.abs().max()), 1e-6))


@pytest.mark.parametrize("variant", ["m", "t"])
def test_both_updates_follow_the_recorded_gradients(recorded, variant):
    style = AtBasis(8, 4, form="full")
    style.matrix = recorded["basis"]
    mine = {name: recorded[f"g.{theirs}"] for theirs, name in _pairs(recorded)}
    moments = {f"own.{name}": recorded[name] for name in ("covariance", "mean", "count")}
    style.load_state_dict(style.state_dict() | mine | moments)
    model = Plain(recorded["weight"])
    clean, moved = (recorded[name].clone().requires_grad_() for name in ("features", "features_adv"))
    alpha, ratio = float(recorded["alpha"]), float(recorded["ratio"])
    objective = CausalAdv(model, style, Fixed(moved), variant, alpha=alpha, ratio=ratio)
    batch = Batch(clean, recorded["labels"], torch.arange(len(clean)))
    update, descent = objective.steps(batch, Progress(epoch=1, epochs=1), streams(batch)), None
    for step in update:
        loss = step.loss()
        if step.player == "style":
            assert float(loss.total.detach()) == pytest.approx(float(recorded["a_loss"]), rel=1e-4)
            gradients = torch.autograd.grad(loss.total, list(style.parameters()))
            for (name, _), gradient in zip(style.named_parameters(), gradients, strict=True):
                theirs = next(theirs for theirs, own in _pairs(recorded) if own == name)
                close(gradient, recorded[f"a_grad.{theirs}"])
            close(style.own.covariance, recorded["a_covariance_after"])
        else:
            descent = loss
    assert float(descent.total.detach()) == pytest.approx(float(recorded[f"{variant}_total"]), rel=1e-4)
    assert float(descent.parts["style_shift"]) == pytest.approx(float(recorded[f"{variant}_style_loss"]), rel=1e-4)
    gradients = torch.autograd.grad(descent.total, (clean, moved, model.last.weight))
    for name, gradient in zip(("features", "features_adv", "weight"), gradients, strict=True):
        close(gradient, recorded[f"{variant}_grad_{name}"])


def _pairs(recorded):
    names = [key.removeprefix("g.") for key in recorded if key.startswith("g.")]
    return [(name, f"{AUTHORS[name.rsplit('.', 1)[0]]}.{name.rsplit('.', 1)[1]}") for name in names]


def by_hand(objective, batch, adversarial, variant, progress):
    """One batch in plain torch on copies: returns the players' states after it."""
    model, style = (copy.deepcopy(objective.players()[name]) for name in ("model", "style"))
    share, labels = progress.epoch / progress.epochs, batch.labels
    features = model.features(batch.images)
    unit = features.detach() / (features.detach().norm(dim=1, keepdim=True) + 1e-6)
    style.content.update(unit)
    crossed = model.last.weight.detach() @ style.content.covariance[0]
    space = torch.linalg.svd(crossed, full_matrices=False)[2]
    matrix = F.normalize(style.start - style.start @ space.T @ space, dim=1)

    def style_of(f):
        return f / (f.norm(dim=1, keepdim=True) + 1e-6) @ matrix.T

    def table(ratio):
        V, S = style.head.weight, style.own.covariance
        return torch.stack(
            [0.5 * ratio * torch.einsum("kd,de,ke->k", V - V[y], S[y], V - V[y]) for y in labels.tolist()]
        )

    def predictor(s):
        hidden = F.relu(style.outer(F.relu(style.norm(style.inner(s)))))
        return style.head(hidden), hidden

    style.train()
    logits, hidden = predictor(style_of(features.detach()))
    style.own.update(hidden.detach() / (hidden.detach().norm(dim=1, keepdim=True) + 1e-6), labels)
    _descend(F.cross_entropy(logits + table(share), labels), style)
    style.eval()
    perturbed = model.features(adversarial)
    with torch.no_grad():
        correction = table(share)
    target, moved = (predictor(style_of(f))[0] + correction for f in (features, perturbed))
    shift = -(target.softmax(1) * moved.log_softmax(1)).sum(1).mean()
    clean, z = model.head(features), model.head(perturbed)
    content = F.cross_entropy(z, labels)
    if variant == "t":
        content = F.cross_entropy(clean, labels) / 6 + F.kl_div(
            z.log_softmax(1), clean.softmax(1), reduction="batchmean"
        )
        content = 6 * content
    _descend(content + share * shift, model)
    return {"model": model.state_dict(), "style": style.state_dict()}


def _descend(loss, module, rate=0.1):
    parameters = list(module.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter -= rate * gradient


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("variant", ["m", "t"])
def test_a_batch_by_hand(variant, norm):
    objective, batch = causal(variant, norm=norm), toy_batch()
    train_step(objective, toy_batch())  # so that covariances are not those of this batch alone
    made = (batch.images + 0.05 * torch.randn_like(batch.images)).clamp(0, 1)
    objective.attack = Fixed(made)
    expected = by_hand(objective, batch, made, variant, MIDDLE)
    taken = train_step(objective, batch)
    assert [player for player, _ in taken] == ["style", "model"]
    for name, player in objective.players().items():
        for key, value in player.state_dict().items():
            torch.testing.assert_close(value, expected[name][key], rtol=1e-4, atol=1e-5)


def test_the_attack_climbs_both_terms_at_their_full_weight_in_evaluation():
    for variant, beta in (("m", 1.0), ("t", 6.0)):
        objective, batch = causal(variant, norm=True, ratio=0.7, alpha=2.0, steps=1), toy_batch()
        train_step(objective, batch)
        train_step(objective, batch)
        objective.attack = replace(objective.attack, start="uniform", step_size=0.01)
        model, style = objective.model, objective.players()["style"]
        matrix = style.basis(model.last.weight).matrix
        made = objective.craft(batch, MIDDLE, streams(batch))
        model.eval()
        style.eval()
        start = THREAT.random_start(batch.images, streams(batch).fold("craft").fold("restart", 0))
        images = start.clone().requires_grad_()
        target = marginalised(style, style.style(model.features(batch.images), matrix), batch.labels, 0.7).softmax(1)
        z, features = model(images), model.features(images)
        moved = marginalised(style, style.style(features, matrix), batch.labels, 0.7).log_softmax(1)
        content = F.cross_entropy(z, batch.labels, reduction="none")
        if variant == "t":
            reference = model(batch.images)
            content = (reference.softmax(1) * (reference.log_softmax(1) - z.log_softmax(1))).sum(1)
        total = beta * content - 2.0 * (target.detach() * moved).sum(1)
        (gradient,) = torch.autograd.grad(total.sum(), images)
        expected = THREAT.project(start + 0.01 * gradient.sign(), batch.images)
        sure = gradient.abs() > 1e-4 * gradient.abs().max()
        assert torch.equal(made[sure], expected[sure])
        assert sure.float().mean() > 0.7


def test_the_style_term_moves_style_logits_more_than_content_alone_does():
    objective, batch = causal("m"), toy_batch(32)
    for _ in range(10):
        train_step(objective, batch)
    styled = Styled(objective.model, objective.players()["style"], objective._basis().matrix)
    known = style_context(styled, batch.images, batch.labels, 1.0)
    shift = {}
    for weight in (0.0, 1.0):
        attack = PGD(THREAT, steps=10, keep="last", loss=StyleLoss("cross_entropy", 1 - weight, weight))
        made = attack(styled, batch.images, batch.labels, context=known)
        shift[weight] = float(StyleLoss("cross_entropy", 0.0, 1.0)(styled, made, batch.labels, known).mean().detach())
    assert shift[1.0] > shift[0.0]


def test_ramps_begin_at_zero_and_touch_the_outer_loss_alone():
    objective, batch = causal("m", norm=False), toy_batch()
    train_step(objective, batch)
    made = objective.craft(batch, MIDDLE, streams(batch))
    early, middle = (Progress(epoch=e, epochs=4) for e in (0, 2))
    assert torch.equal(made, objective.craft(batch, replace(MIDDLE, epoch=0), streams(batch)))
    for progress, share in ((early, 0.0), (middle, 0.5)):
        loss = objective.loss(batch, made, progress, streams(batch))
        expected = loss.parts["adversarial_cross_entropy"] + share * loss.parts["style_shift"]
        torch.testing.assert_close(loss.total.detach(), expected)
    steps = objective.steps(batch, early, streams(batch))
    plain = next(steps).loss()
    steps = objective.steps(batch, middle, streams(batch))
    assert not torch.equal(plain.total, next(steps).loss().total)


@pytest.mark.parametrize("variant", ["m", "t"])
def test_a_clean_term_can_be_added(variant):
    plain, more = causal(variant), causal(variant, clean_weight=0.5)
    batch = toy_batch()
    made = plain.craft(batch, MIDDLE, streams(batch))
    first, second = (o.loss(batch, made, MIDDLE, streams(batch)) for o in (plain, more))
    clean = F.cross_entropy(more.model(batch.images), batch.labels)
    torch.testing.assert_close(second.total, first.total + 0.5 * clean)
    torch.testing.assert_close(second.parts["cross_entropy"], clean.detach())


def test_no_target_is_detached():
    objective, batch = causal("m"), toy_batch()
    train_step(objective, batch)
    matrix = objective._basis().matrix
    natural, moved = (torch.randn(16, 16, requires_grad=True) for _ in range(2))
    objective.players()["style"].zero_grad()
    objective._shift(natural, moved, matrix, batch.labels, 0.5).backward()
    assert natural.grad.any()
    assert moved.grad.any()
    assert all(p.grad is None for p in objective.players()["style"].parameters())
