"""CausalAdv against recorded gradients, steps by hand, the objectives it contains, and wrappers around it."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deconfound import models
from deconfound.attacks import PGD
from deconfound.attacks.losses import kl_to_reference
from deconfound.core.streams import Streams
from deconfound.core.threat import ThreatModel
from deconfound.core.types import Batch, Progress, Step
from deconfound.errors import InputError
from deconfound.functional.style import Basis
from deconfound.models.style_branch import StyleBranch
from deconfound.objectives import AdversarialTraining, CausalAdv, Trades
from deconfound.objectives.styled import Styled, StyleLoss, linear_layer, style_context
from deconfound.training import Hooks, LoopSettings, OptimizerSettings, SelectionSettings, fit
from toys import MemoryCheckpoints, Sharpness, SplitNet, ToySource, tiny_net

THREAT = ThreatModel("linf", 0.1)
CONTENT = {"m": "cross_entropy", "t": "kl"}
MIDDLE = Progress(epoch=2, epochs=4, step=1, steps=3)


def causal(variant="m", seed=0, norm=False, steps=3, classes=4, width=16, bias=True, **settings):
    model = SplitNet(seed, classes, norm=norm, width=width, bias=bias)
    style = StyleBranch(width, classes, seed=seed)
    with torch.no_grad():
        style.head.weight.mul_(10)  # so that the marginalisation, quadratic in it, is seen
    beta, alpha = settings.get("beta", {"m": 1.0, "t": 6.0}[variant]), settings.get("alpha", 1.0)
    loss = StyleLoss(CONTENT[variant], beta, alpha)
    start = "uniform" if variant == "m" else "gaussian"
    return CausalAdv(model, style, PGD(THREAT, steps=steps, keep="last", loss=loss, start=start), variant, **settings)


def toy_batch(count=16, classes=4):
    return next(ToySource(count, classes).batches([torch.arange(count)]))


def streams(batch):
    return Streams(0, batch.index)


def state(objective):
    return {
        f"{name}/{key}": value.clone()
        for name, player in objective.players().items()
        for key, value in player.state_dict().items()
    }


def same(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def train_step(objective, batch, progress=MIDDLE, rate=0.1):
    """All steps of a batch by plain gradient descent, as the loop takes them."""
    found = []
    for step in objective.steps(batch, progress, streams(batch)):
        parameters = list(objective.players()[step.player].parameters())
        for parameter in parameters:
            parameter.grad = None
        with step.scope():
            loss = step.loss()
            loss.total.backward(inputs=parameters)
        with torch.no_grad():
            for parameter in parameters:
                parameter -= rate * parameter.grad
        found.append((step.player, loss))
    return found


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
        return Basis(self.matrix, 4, 0.0)


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
        target = style.logits(style.style(model.features(batch.images), matrix), batch.labels, 0.7).softmax(1)
        z, features = model(images), model.features(images)
        moved = style.logits(style.style(features, matrix), batch.labels, 0.7).log_softmax(1)
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


def test_passes_of_a_batch_are_as_few_as_can_be():
    """Train mode: one clean, one adversarial; eval mode: one for the target and one for each attack step."""
    for variant in ("m", "t"):
        objective, batch = causal(variant, norm=True, steps=5), toy_batch()
        train_step(objective, batch)
        objective.model.passes = 0
        before = objective.model.norm.num_batches_tracked.item()
        train_step(objective, batch)
        assert objective.model.passes == 1 + 1 + 5 + 1
        assert objective.model.norm.num_batches_tracked.item() == before + 2


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("variant", ["m", "t"])
def test_the_kept_graph_gives_the_gradient_of_a_fresh_one(variant, autocast):
    found = []
    for fresh in (False, True):
        objective, batch = causal(variant), toy_batch()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            steps = objective.steps(batch, MIDDLE, streams(batch))
            next(steps).loss()
            step = next(steps)
        objective.model.passes = 0
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            if fresh:
                assert objective._held.take() is not None  # spent: the loss has to make its own
            loss = step.loss()
        assert objective.model.passes == 1 + fresh
        loss.total.backward(inputs=list(objective.model.parameters()))
        found.append([loss.total.detach(), *(p.grad for p in objective.model.parameters())])
        assert all(bool(p.grad.any()) for p in objective.model.parameters())
    # Under autocast one cast of a weight serves both passes of one context, and its gradient is summed in bfloat16.
    tolerance = 2e-2 if autocast else 0.0
    for kept, made in zip(*found, strict=True):
        torch.testing.assert_close(kept, made, rtol=0, atol=tolerance * float(made.abs().max()))


def test_a_written_weight_is_noticed():
    objective, batch = causal(), toy_batch()
    steps = objective.steps(batch, MIDDLE, streams(batch))
    next(steps).loss()
    step = next(steps)
    with torch.no_grad():
        objective.model.wide.weight.add_(0.1)
    twin, adversarial = causal(), objective.craft(batch, MIDDLE, streams(batch))
    twin.model.load_state_dict(objective.model.state_dict())
    twin.players()["style"].load_state_dict(objective.players()["style"].state_dict())
    objective.model.passes = 0
    assert objective._held.take() is None
    held = objective._held.basis.matrix
    found = step.loss()
    assert objective.model.passes == 2
    features = twin.model.features(batch.images)
    natural = twin._shift(features, twin.model.features(adversarial), held, batch.labels, 0.5)
    assert torch.isfinite(natural)
    assert torch.equal(found.total, step.loss().total)


def test_loss_and_craft_work_without_their_steps():
    objective, batch = causal(), toy_batch()
    train_step(objective, batch)
    made = objective.craft(batch, MIDDLE, streams(batch))
    before = state(objective)
    first, second = (objective.loss(batch, made, MIDDLE, streams(batch)) for _ in range(2))
    assert torch.equal(first.total, second.total)
    first.total.backward()
    assert same(state(objective), before)
    other = toy_batch(8)
    steps = objective.steps(batch, MIDDLE, streams(batch))
    next(steps)
    apart = objective.loss(other, other.images, MIDDLE, streams(other))  # another batch than the one under way
    assert torch.isfinite(apart.total)
    assert objective._held.take() is not None
    steps.close()
    assert objective._held is None


def test_wrappers_that_evaluate_twice_under_moved_weights():
    """Both players' losses are evaluated again inside the scope; statistics move once."""
    objective, batch = causal(norm=True), toy_batch()
    wrapped = Sharpness(objective, rho=0.05)
    for _ in range(2):
        before = objective.players()["style"].own.count.sum().item()
        taken = train_step(wrapped, batch)
        assert [player for player, _ in taken] == ["style", "model"]
        assert objective.players()["style"].own.count.sum().item() == before + 16
        assert objective.players()["style"].norm.num_batches_tracked.item() == before // 16 + 1
    plain = causal(norm=True)
    train_step(plain, batch)
    assert not same(state(plain), state(objective))


def test_a_zero_perturbation_by_a_wrapper_changes_nothing():
    wrapped, plain, batch = causal(), causal(), toy_batch()
    for _ in range(3):
        train_step(Sharpness(wrapped, rho=0.0), batch)
        train_step(plain, batch)
    for name, value in state(plain).items():
        torch.testing.assert_close(state(wrapped)[name], value, rtol=0, atol=1e-6)


def loop(**changes):
    settings = {"epochs": 4, "batch_size": 16, "lr": 0.05, "selection": SelectionSettings(keep="last")}
    return LoopSettings(**(settings | changes))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("variant", ["m", "t"])
def test_without_style_it_is_the_objective_it_extends(variant, norm):
    if variant == "m":
        attack = PGD(THREAT, steps=3, keep="last")
        reference = AdversarialTraining(SplitNet(norm=norm), attack, warmup=0.5)
    else:
        attack = PGD(THREAT, steps=3, keep="last", loss=kl_to_reference, start="gaussian")
        reference = Trades(SplitNet(norm=norm), attack, warmup=0.5)
    objective = CausalAdv(SplitNet(norm=norm), None, attack, variant, alpha=0.0, warmup=0.5)
    batch = toy_batch()
    assert torch.equal(*(o.craft(batch, MIDDLE, streams(batch)) for o in (reference, objective)))
    first, second = (fit(o, ToySource(), loop()) for o in (reference, objective))
    assert all(torch.equal(first.model[name], second.model[name]) for name in first.model)
    assert first.history == second.history
    assert objective.declared_attacks() == ()
    assert set(objective.players()) == {"model"}
    start = SplitNet(norm=norm).state_dict()
    assert float((second.model["wide.weight"] - start["wide.weight"]).abs().max()) > 0.01


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


@pytest.mark.parametrize("variant", ["m", "t"])
def test_training_learns_and_logs_every_part(variant):
    objective = causal(variant, norm=True)
    result = fit(objective, ToySource(), loop(epochs=10, optimizer=OptimizerSettings(weight_decay=2e-4)))
    row = result.history[-1]
    parts = {"m": {"adversarial_cross_entropy"}, "t": {"cross_entropy", "kl"}}[variant]
    assert parts | {"style_shift", "style_loss", "style_leakage", "style_accuracy", "accuracy"} <= row.keys()
    assert row["accuracy"] > 0.9
    assert row["style_loss"] < result.history[0]["style_loss"]
    assert row["style_leakage"] < 1e-4
    assert objective.players()["style"].own.count.sum().item() == 640


@pytest.mark.parametrize("variant", ["m", "t"])
def test_a_continued_run_is_the_same_run(variant):
    whole = causal(variant, norm=True)
    fit(whole, ToySource(), loop())
    kept, asked = MemoryCheckpoints(), []
    first = causal(variant, norm=True)
    stop = lambda: len(asked) >= 6 or asked.append(1)  # noqa: E731
    fit(first, ToySource(), loop(), hooks=Hooks(checkpointer=kept, should_stop=stop))
    second = causal(variant, seed=7, norm=True)
    assert not same(state(first), state(second))
    result = fit(second, ToySource(), loop(), hooks=Hooks(checkpointer=MemoryCheckpoints(kept.states)))
    assert result.resumed == 1
    assert same(state(second), state(whole))


def test_double_precision_holds_throughout():
    objective = causal(norm=True)
    fit(objective, ToySource(), loop(epochs=1, precision="64-true"))
    floats = [value for value in state(objective).values() if value.is_floating_point()]
    assert {value.dtype for value in floats} == {torch.float64}


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
        target = style.logits(style.style(model.features(batch.images), matrix), batch.labels, 1.0).softmax(1)
        moved = style.logits(style.style(model.features(made), matrix), batch.labels, 1.0).log_softmax(1)
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


def test_a_step_is_data():
    objective, batch = causal(), toy_batch()
    assert all(isinstance(step, Step) for step in objective.steps(batch, MIDDLE, streams(batch)))
